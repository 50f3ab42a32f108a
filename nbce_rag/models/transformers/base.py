"""A model of transformers with what has to be known of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ...kv.staging import held_bytes
from .attention import attends_grouped
from .devices import execution_device, free_bytes
from .fingerprint import Fingerprint
from .layers import Layout
from .staging import DeviceStaging, has_own_memory
from .tokenizer import TransformersTokenizer

__all__ = ["LoadedModel", "Recorder"]

Recorder = Callable[[Callable[[], None]], Callable[[], None]]
"""Runs a function some times and gives one that does the same again, on the same memory."""


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model in evaluation mode, and its numbers.

    Attributes:
        model: the transformers causal LM.
        tokenizer: its tokenizer.
        name: what the user called it.
        window: the most tokens that one row may hold, prompt and answer together.
        eos_ids: every token id that ends an answer.
        identity: makes the fingerprint.
        layout: what its layers keep of a row.
        vocab_size: width of the logits.
        activation_bytes: about what one token takes in a forward pass beside what is kept of it.
        lock: held during each forward pass, so that threads share the machine instead of thrashing it.
        recorder: records steps of its rows, which are then played (see `static_step`); None launches each
            one anew.
        compiled: whether a step is compiled before it is recorded.
        recording_failed: why it could not be recorded, once that was tried in vain.
    """

    model: Any
    tokenizer: TransformersTokenizer
    name: str
    window: int
    eos_ids: frozenset[int]
    identity: Fingerprint
    layout: Layout
    vocab_size: int
    activation_bytes: int
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    recorder: Recorder | None = field(default=None, repr=False)
    compiled: bool = False
    recording_failed: list[str] = field(default_factory=list, repr=False)

    @property
    def fingerprint(self) -> str:
        """Changes with the weights, their dtype, the configuration and adapters; part of KV keys."""
        return str(self.identity)

    @property
    def device(self) -> torch.device:
        return execution_device(self.model)

    @property
    def dtype(self) -> str:
        """Of weights, keys and values, such as "bfloat16"."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def is_banded(self) -> bool:
        """Whether rows of very different lengths are kept apart (`nbce_rag.models.transformers.bands`)."""
        # A step of a GPU is recorded, over memory of one width.
        is_here = self.device.type == "cpu" and attends_grouped(self.model)
        return is_here and self.layout.band_cost is not None

    @property
    def kv_bytes(self) -> int:
        """Bytes that one token's columns take in all layers."""
        return self.layout.token_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes that one row's states take in all layers; 0 where every layer attends."""
        return self.layout.state_bytes

    def free(self) -> int:
        """Bytes that can be allocated on the model's device now, with those that stores give up for it."""
        device = self.device
        return free_bytes(device) + held_bytes(device)

    @cached_property
    def staging(self) -> DeviceStaging | None:
        """Moves contexts to the model's device and back; None where that has no memory of its own, or where
        layers are on several."""
        device = self.layout.device
        return None if device is None or not has_own_memory(device) else DeviceStaging(device)

    @property
    def output_weight(self) -> torch.Tensor | None:
        """[V, H] weight of the output layer, if the logits are the last hidden states times it and no more.

        None for models that scale or cap their logits, add a bias, or hide the weight. It is found out once
        for each output layer that the model gets.
        """
        head = getattr(self.model, "get_output_embeddings", lambda: None)()
        weight = getattr(head, "weight", None)
        if self._heads.get("weight", self) is not weight:
            self._heads.update(weight=weight, plain=self._plain_output(head, weight))
        plain: torch.Tensor | None = self._heads["plain"]
        return plain

    @cached_property
    def _heads(self) -> dict[str, Any]:
        return {}

    def _plain_output(self, head: Any, weight: Any) -> torch.Tensor | None:
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            return None
        if type(weight.data) is not torch.Tensor:  # quantised
            return None
        if getattr(head, "bias", None) is not None:
            return None
        if type(head).__module__.startswith("peft."):  # an adapter that is off now may be on later
            return None
        with self.lock, torch.no_grad():
            try:
                probe = torch.zeros(1, 1, dtype=torch.long, device=self.device)
                seen = self.model(input_ids=probe, output_hidden_states=True, use_cache=False)
                hidden, logits = seen.hidden_states[-1][0, 0], seen.logits[0, 0]
            except Exception:  # whatever a foreign model raises, it only means that there is no shortcut
                return None
            if weight.shape != (self.vocab_size, len(hidden)) or weight.dtype != hidden.dtype:
                return None
            if weight.device != hidden.device:  # layers on several devices, or weights that come when needed
                return None
            close = torch.allclose(weight @ hidden, logits, atol=1e-2, rtol=1e-2)
        return weight.detach() if close else None

    def output(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., V] float32 log-probs of hidden states [..., H], where there is an `output_weight`."""
        with self.lock, torch.no_grad():
            logits: torch.Tensor = self.model.get_output_embeddings()(hidden)
            return logits.float().log_softmax(-1)
