"""What the prompt alone tells of whether passages are about a question."""

from __future__ import annotations

import torch
from torch import Tensor

from ..evidence.calibration import SupportNumbers
from ..evidence.words import fold, words
from ..fusion import Posterior, Rule
from ..passages import whole_text
from .reader import Prompted

__all__ = ["support_numbers"]

_UNSEEN = 1e-8  # of the weights


def support_numbers(
    question: str, rule: Rule, prompted: Prompted, log_probs: Tensor
) -> SupportNumbers | None:
    """The numbers of one question, after its prompt was read; None without passages.

    Rows are weighed by the prior of `posterior`, with its usual numbers where the rule is another one.

    Args:
        question: what is asked.
        rule: the rule that answers.
        prompted: the prompt.
        log_probs: [n + 1, V] first log-probs of its rows.
    """
    if log_probs.shape[0] == 1:
        return None
    rows, baseline = log_probs[1:], log_probs[0]
    prior = (rule if isinstance(rule, Posterior) else Posterior()).log_prior(
        prompted.state, rows[None, :, 0]
    )[0]
    lead = int(prior.argmax())
    mixture = _mixture(rows, prior.exp())
    state = prompted.state
    # A score that was filled in for a passage without one is no score of the search.
    scores = [passage.score for passage in prompted.passages if passage.score is not None]
    members = prompted.plan.rows[1 + lead].members
    read = "\n".join(whole_text(prompted.passages[m]) for m in members)
    asked = _words(question)
    return SupportNumbers(
        question_gain=None if state.relevance is None else float(state.relevance.max()),
        retrieval_score=max(scores, default=None),
        question_words=len(asked & _words(read)) / len(asked) if asked else 0.0,
        sureness=-_expected(rows[lead], -rows[lead]),
        # Below what float32 holds as a probability a token has no say; nor must it make the sum infinite.
        divergence=_expected(mixture, mixture - baseline.clamp(min=-100.0)),
    )


def _mixture(rows: Tensor, weights: Tensor) -> Tensor:
    """Log-probs [V] of rows [n, V] mixed by weights [n]; those that float32 would not see are not read.

    Over probabilities rather than by `logsumexp`, which goes over a large vocabulary several times.
    """
    some = (weights > _UNSEEN).nonzero()[:, 0]
    if len(some) < len(weights):
        rows, weights = rows.index_select(0, some), weights.index_select(0, some)
    return (weights @ rows.exp()).log()


def _expected(log_p: Tensor, values: Tensor) -> float:
    p = log_p.exp()
    return float(torch.where(p > 0, p * values, 0.0).sum())


def _words(text: str) -> set[str]:
    return {fold(text[start:end]) for start, end in words(text)}
