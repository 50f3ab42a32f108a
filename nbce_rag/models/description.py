"""What can be said of a model before its weights are loaded."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from ..files import expand_home
from .loading import DEFAULT_MODEL

__all__ = ["ModelDescription", "describe_model"]

_SHARE = 0.9  # of the free memory, at most, as for questions


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """One model; numbers are None where only loading it would tell.

    Attributes:
        name: what the user called it.
        model_type: its family, as its configuration names it.
        architecture: its class.
        way: how its rows are read, of `families.WAYS`; "untried" for a family that the table does not have.
        keeps: what its layers keep of a context, in words; "" where that is not known.
        reason: why it is refused, or "".
        tried: the version of the library that its family was tried with, or "".
        parameters: how many.
        dtype: that it would be loaded in here.
        quantisation: how its weights are packed, such as "gptq"; "" where they are not.
        device: where it would stand.
        weight_bytes: of the weights in memory; where they are packed, of their files.
        window: tokens of a row at most.
        token_bytes: that one token's keys and values take.
        window_bytes: (tokens of a context that layers keep at most, or None for all; bytes of a token in
            them); the bytes add up to `token_bytes`. () where that is not known.
        state_bytes: that the states of one row take, whatever its length; 0 without recurrent layers.
        has_chat_template: whether its tokenizer has one.
        knows_tools: whether that tells the model of tools.
        thinks: whether that speaks of thoughts.
        thinking_off: what switches them off (`{"enable_thinking": False}`), or {} where nothing does.
        needed_bytes: about what weights and rows take.
        free_bytes: that are free on the device now.
    """

    name: str
    model_type: str
    architecture: str
    way: str
    keeps: str
    reason: str
    tried: str
    parameters: int
    dtype: str
    quantisation: str
    device: str
    weight_bytes: int
    window: int
    token_bytes: int | None
    state_bytes: int | None
    has_chat_template: bool
    knows_tools: bool
    thinks: bool
    thinking_off: dict[str, Any]
    needed_bytes: int | None
    free_bytes: int
    window_bytes: tuple[tuple[int | None, int], ...] = ()

    def context_bytes(self, tokens: int) -> int | None:
        """Bytes of what is kept of a context of so many tokens, as `Model.context_bytes` gives them; None
        where that is not known."""
        if self.state_bytes is None or self.token_bytes is None:
            return None
        kept = (
            size * (tokens if window is None else min(tokens, window)) for window, size in self.window_bytes
        )
        return self.state_bytes + sum(kept)

    @property
    def fits(self) -> bool | None:
        """Whether what is needed is free, as far as that is known."""
        return None if self.needed_bytes is None else self.needed_bytes <= _SHARE * self.free_bytes


def describe_servers(model: str) -> list[dict[str, Any]]:
    """What each of some vLLM servers says of itself, in plain types.

    It has `url`, `problem`, which is "" where the server can be asked, `name`, `root`, `window`, and `plugin`
    with its `package`, `vllm`, `rules`, `grammar` and `version`, or None.

    Args:
        model: URLs, with commas between them.

    Raises:
        InputError: what is no URL.
        MissingDependencyError: httpx is not installed (extra `[vllm]`).
    """
    backend = import_module(".vllm.loading", __package__)
    return [asdict(one) for one in backend.seen(model)]


def describe_model(
    model: str | os.PathLike[str] | None = None, *, rows: int, tokens: int, **options: Any
) -> ModelDescription:
    """What a model is, keeps and needs. Reads its configuration and its tokenizer, and no weights.

    Args:
        model: hub id, folder, or GGUF file; None is the packaged default of the `[local]` extra.
        rows: for which memory is counted.
        tokens: of each of them, prompt and answer.
        **options: `device`, `dtype`, `revision`, `trust_remote_code` and `local_files_only`, as for loading.

    Raises:
        ModelError: nothing there, or nothing that is a language model.
        InputError: an unknown dtype or device.
        MissingDependencyError: a package for the packaged default or for GGUF is not installed.
    """
    backend = import_module(".transformers.description", __package__)
    name = DEFAULT_MODEL if model is None else expand_home(model)
    described: ModelDescription = backend.describe(name, rows=rows, tokens=tokens, **options)
    return described
