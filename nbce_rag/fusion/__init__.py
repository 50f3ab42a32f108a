"""Fusion rules: n + 1 next-token distributions in, one out, with the weight of every passage.

At each decoding step a question over n passages has n + 1 rows of log-probabilities over the
vocabulary of V tokens: row 0 read no passage, row k read passage k. A rule pools the n passage rows,
usually contrasts them with row 0, and says how much each passage counts. Rules work on G questions at
once, so log-probs have the shape [G, n + 1, V].

Symbols, as in the sources: L_k the log-probs of row k, H_k its entropy in nats, beta the strength of
the contrast. Sources: 9617 and 9632 are Su Jianlin's articles at kexue.fm/archives/<number>; NAACL is
arXiv 2403.17552; PCED is arXiv 2601.08670; RAG is arXiv 2005.11401.

A rule of your own is any object with this one method (and, optionally, a `name`)::

    class Vote:
        name = "vote"

        def fuse(self, log_probs, state):
            rows = log_probs[:, 1:]                            # [G, n, V]
            weights = rows.amax(-1).softmax(-1)                # confident rows count more
            fused = (rows.exp() * weights[..., None]).sum(1).log()
            return Fused(fused, weights)

Importing this package loads nothing heavy; each name below loads what it needs when it is first used, and a
rule loads torch when it first fuses, so that who only names a rule and its numbers needs none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registry import RULES, resolve_rule, rule_fields

_HOME = {
    "Fused": "base",
    "FusionRule": "base",
    "FusionState": "base",
    "Rule": "base",
    "contrast": "truncation",
    "nucleus": "truncation",
    "responsibilities": "base",
    "truncate": "truncation",
    **RULES.classes,
}
__all__ = [
    "RULES",
    "Experts",
    "Fused",
    "FusionRule",
    "FusionState",
    "Max",
    "Mean",
    "MinEntropy",
    "Posterior",
    "Rule",
    "contrast",
    "nucleus",
    "resolve_rule",
    "responsibilities",
    "rule_fields",
    "truncate",
]
__all__ += [
    name for name in _HOME if name not in __all__
]  # rules beyond these are of any type to type checkers

if TYPE_CHECKING:
    from .base import Fused, FusionRule, FusionState, Rule, responsibilities
    from .experts import Experts
    from .min_entropy import MinEntropy
    from .pooling import Max, Mean
    from .posterior import Posterior
    from .truncation import contrast, nucleus, truncate


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
