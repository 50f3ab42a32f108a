"""How contexts are kept: as they are, with keys and values of 8 bits, or with states of 16.

A codec turns a context's tensors into others and back. What it makes is what both tiers of the store hold;
a codec that is not exact is off by default, and answers made with it say so.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from .context import STATES, Packed

__all__ = ["CODECS", "Codec", "ExactCodec", "HalfStatesCodec", "Int8Codec", "resolve_codec"]

_ROUNDED = (".keys", ".values")
_SCALE = ".scale"
_HALF = ".half"


class Codec(Protocol):
    """What a store needs to know of a codec.

    Attributes:
        name: part of the name of the files it makes.
        bits: bits a number takes, or None for as many as the model's own; for estimates of sizes.
        note: what an answer made with it must say, or "" when nothing is lost.
    """

    name: str
    bits: int | None
    note: str

    def encode(self, context: Packed) -> Packed:
        """The tensors to keep."""
        ...

    def decode(self, packed: Packed) -> Packed:
        """The context of these tensors; ValueError if they cannot be of this codec."""
        ...


class ExactCodec:
    """Every bit as it was; nothing is copied."""

    name = "exact"
    bits: int | None = None
    note = ""

    def encode(self, context: Packed) -> Packed:
        return context

    def decode(self, packed: Packed) -> Packed:
        return packed


class Int8Codec:
    """Whole numbers from -127 to 127 times a scale a layer, head and channel; keys and values apart.

    Keys have a few channels that are far larger than the others, token after token, so that one scale
    a channel loses least (KIVI, arXiv 2402.02750).

    With m the largest magnitude of a channel over the context's tokens, the scale is s = m / 127, rounded
    to the dtype of the keys, and x becomes round(x / s) * s. So each number is off by at most

        m / 254 + 2 * m * eps + 128 * tiny

    where eps is the dtype's machine epsilon (rounding of the largest s and of the result) and tiny its
    smallest subnormal number. What is not finite stays not finite, and tensors that are neither keys nor
    values stay as they are.
    """

    name = "int8"
    bits: int | None = 8
    note = "Keys and values of passages were rounded to 8 bits (codec='int8')."

    def encode(self, context: Packed) -> Packed:
        packed: dict[str, Tensor] = {}
        for name, tensor in context.items():
            if name.endswith(_ROUNDED):
                packed[name], packed[name + _SCALE] = _round(tensor)
            else:
                packed[name] = tensor
        return packed

    def decode(self, packed: Packed) -> Packed:
        context: dict[str, Tensor] = {}
        for name, tensor in packed.items():
            if name.endswith(_ROUNDED):
                if tensor.dtype != torch.int8 or name + _SCALE not in packed:
                    raise ValueError("not made by the codec int8")
                # int8 times a floating dtype is computed in float32 and rounded once.
                context[name] = tensor * packed[name + _SCALE]
            elif not name.endswith(_SCALE):
                context[name] = tensor
        return context


def _round(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """([heads, tokens, dim] int8, [heads, 1, dim] scales in the tensor's dtype)."""
    if tensor.shape[-2] == 0:  # a window of one token keeps nothing
        return tensor.to(torch.int8), tensor.new_zeros(*tensor.shape[:-2], 1, tensor.shape[-1])
    numbers = tensor.float()
    scale = (numbers.abs().amax(-2, keepdim=True) / 127).to(tensor.dtype)
    info = torch.finfo(tensor.dtype)
    # Rounded up, the largest of all scales would make infinity of 127.
    scale = torch.where(scale.isinf(), scale, scale.clamp(max=info.max / 127 * (1 - info.eps)))
    # Against the rounded scale, so that its rounding costs nothing but at the clamp.
    steps = torch.where(scale == 0, 1.0, scale.float())
    return (numbers / steps).round_().nan_to_num_(0).clamp_(-127, 127).to(torch.int8), scale


class HalfStatesCodec:
    """States of recurrent layers in float32 as float16; all else as it was.

    Models keep them in float32 whatever their own dtype is, so that they are most of what a context takes.
    Each number is off by at most a 2048th of it, or 2**-25 where it is smaller than 2**-14. A state with a
    number beyond 65,504, or that is not finite, stays as it is.
    """

    name = "half"
    bits: int | None = None
    note = "States of passages were rounded to 16 bits (codec='half')."

    def encode(self, context: Packed) -> Packed:
        packed: dict[str, Tensor] = {}
        for name, tensor in context.items():
            is_state = any(part in name for part in STATES) and tensor.dtype == torch.float32
            if is_state and bool(tensor.abs().amax() <= torch.finfo(torch.float16).max):
                packed[name + _HALF] = tensor.to(torch.float16)
            else:
                packed[name] = tensor
        return packed

    def decode(self, packed: Packed) -> Packed:
        return {
            name.removesuffix(_HALF): tensor.float() if name.endswith(_HALF) else tensor
            for name, tensor in packed.items()
        }


CODECS: dict[str, type[ExactCodec] | type[Int8Codec] | type[HalfStatesCodec]] = {
    codec.name: codec for codec in (ExactCodec, Int8Codec, HalfStatesCodec)
}


def resolve_codec(codec: str | Codec | None) -> Codec:
    """A codec by name; None is the exact one.

    Raises:
        InputError: there is none of that name.
    """
    if codec is None:
        return ExactCodec()
    if not isinstance(codec, str):
        return codec
    if codec not in CODECS:
        raise InputError(f"codec={codec!r} is not known; choose {' or '.join(CODECS)}.")
    return CODECS[codec]()
