"""What each layer of a model keeps: columns of tokens, states of whole rows, or nothing.

A context packed for a store, and a row in memory, are named tensors: `3.keys`, `3.values`, `3.index`,
`3.conv.0`, `3.rec.0`, each with a layer's number and a dtype of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

__all__ = ["Block", "LayerKind", "Layout", "Part", "kept_tokens"]


@dataclass(frozen=True, slots=True)
class Part:
    """One named tensor of a layer.

    Attributes:
        shape: of one row: of one token where tokens stand in columns, else of the whole state.
        dtype: of its numbers.
        device: where they are.
        tokens: the dimension of a row's tensor that counts tokens; None for a state, which has none.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    tokens: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one token, or of one row's state."""
        return prod(self.shape) * self.dtype.itemsize

    def of(self, tokens: int) -> tuple[int, ...]:
        """Shape of one row of so many tokens."""
        if self.tokens is None:
            return self.shape
        return (*self.shape[: self.tokens], tokens, *self.shape[self.tokens + 1 :])


@dataclass(frozen=True, slots=True)
class Block:
    """Columns of several layers that are alike, so that they can lie in one tensor and be moved in one go.

    Attributes:
        part: what each of them is.
        members: (layer, name) of each, in order.
    """

    part: Part
    members: tuple[tuple[int, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """As a packed context names them."""
        return tuple(f"{layer}.{name}" for layer, name in self.members)


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What one layer keeps.

    Attributes:
        parts: by name: `keys` and `values` ([heads, tokens, dim]) and `index` ([tokens, dim], an indexer's
            keys) are columns; `conv.0`, `rec.0`, `linear` are states.
        attends: whether transformers sees a layer of keys and values; it may share another layer's and
            keep none.
        window: the sliding window of keys and values, in tokens; None where everything is seen.
        states: how many pairs of states transformers counts in it.
    """

    parts: Mapping[str, Part]
    attends: bool
    window: int | None = None
    states: int = 0


@dataclass(frozen=True)
class Layout:
    """What the layers of a model keep of a row, and how the model takes it.

    Attributes:
        layers: of each layer.
        argument: by which a forward pass is given it.
        at_once: whether several tokens may be read over a state in one pass; else one by one.
        in_step: whether rows of unequal length may end at one column and share a pass; else they all begin at
            the first column, which a model takes for a position, and those of one length share a pass.
        first_position: of a row's first token.
        band_cost: columns that have to be spared for rows of unequal length to be kept in bands
            (`nbce_rag.models.transformers.bands`); None where all rows are as wide as the longest.
    """

    layers: tuple[LayerKind, ...]
    argument: str = "past_key_values"
    at_once: bool = True
    in_step: bool = True
    first_position: int = 0
    band_cost: int | None = None

    @property
    def has_columns(self) -> bool:
        """Whether any layer attends."""
        return any(kind.attends for kind in self.layers)

    @property
    def has_states(self) -> bool:
        """Whether any layer keeps a state, which can be neither cut nor taken back."""
        return any(part.tokens is None for _, _, part in self.parts())

    def parts(self) -> Iterator[tuple[int, str, Part]]:
        """(layer, name, part) of every tensor."""
        for number, kind in enumerate(self.layers):
            for name, part in kind.parts.items():
                yield number, name, part

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The columns of all layers: those of one shape, dtype, device and window together."""
        alike: dict[tuple[Part, int | None], list[tuple[int, str]]] = {}
        for number, name, part in self.parts():
            if part.tokens is not None:
                alike.setdefault((part, self._window(number, name)), []).append((number, name))
        return tuple(Block(part, tuple(members)) for (part, _), members in alike.items())

    @cached_property
    def device(self) -> torch.device | None:
        """The one device that all parts are on; None where there are several, or nothing is kept."""
        devices = {part.device for _, _, part in self.parts()}
        return devices.pop() if len(devices) == 1 else None

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all layers."""
        return sum(part.nbytes for _, _, part in self.parts() if part.tokens is not None)

    @property
    def state_bytes(self) -> int:
        """Bytes of one row's states in all layers."""
        return sum(part.nbytes for _, _, part in self.parts() if part.tokens is None)

    def length(self, layer: int, name: str, tokens: int) -> int:
        """Tokens of a context that a layer's columns keep."""
        return kept_tokens(tokens, self._window(layer, name))

    def _window(self, layer: int, name: str) -> int | None:
        """An indexer's keys have none."""
        return None if name == "index" else self.layers[layer].window

    def shapes(self, tokens: int) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """(name, shape, dtype) of every tensor of a packed context of so many tokens."""
        for number, name, part in self.parts():
            yield f"{number}.{name}", part.of(self.length(number, name, tokens)), part.dtype

    def context_bytes(self, tokens: int) -> int:
        """Bytes of a packed context of so many tokens."""
        return sum(prod(shape) * dtype.itemsize for _, shape, dtype in self.shapes(tokens))


def kept_tokens(tokens: int, window: int | None) -> int:
    """Tokens of a context that what follows it can see.

    A window of W tokens counts the current one (transformers' mask: key > query - W), so that the first
    token behind a context sees the last W - 1 of it, and later ones see fewer.
    """
    return tokens if window is None else min(tokens, window - 1)
