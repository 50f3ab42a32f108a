"""What the code of an architecture does with its parts, as its source says: what no pass would tell."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from typing import Any

from torch import nn

__all__ = ["chooses_by_attention", "reads_weight"]

_BY_NAME = re.compile(r'_attn_implementation.*"sdpa"')


def reads_weight(parent: nn.Module, name: str) -> bool:
    """Whether the code around a module looks at the weight of one of its layers, beside multiplying by it."""
    # Of `self`: what draws the first weights goes over modules of any kind.
    look = rf"\bself(\.\w+)*\.{re.escape(name)}\.weight\b"
    return re.search(look, _module(type(parent).__module__)) is not None


def chooses_by_attention(model: nn.Module) -> bool:
    """Whether layers of a model do something else where the attention is called otherwise than `sdpa`.

    Sparse attention (DeepSeek V3.2 and its kin) hides keys by the mask for that name, and elsewhere expects
    a kernel to do it.
    """
    from transformers import PreTrainedModel

    kinds: set[Any] = {type(module) for module in model.modules() if not isinstance(module, PreTrainedModel)}
    kinds = {kind for kind in kinds if _BY_NAME.search(_module(kind.__module__))}
    return any(_BY_NAME.search(_class(kind)) for kind in kinds)


@cache
def _module(name: str) -> str:
    try:
        return inspect.getsource(sys.modules[name])
    except (KeyError, OSError, TypeError):  # made without a file
        return ""


@cache
def _class(kind: Any) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
