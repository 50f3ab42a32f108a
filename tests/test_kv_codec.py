"""The codecs: the exact one keeps every bit, the 8-bit one stays within its bound."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.kv.codec import ExactCodec, Int8Codec, resolve_codec
from nbce_rag.kv.context import Packed, nbytes

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def packed(keys: torch.Tensor, values: torch.Tensor) -> Packed:
    """A context of one layer."""
    return {"0.keys": keys, "0.values": values}


def bound(tensor: torch.Tensor) -> torch.Tensor:
    """The documented bound, [heads, 1, dim], in float64."""
    info = torch.finfo(tensor.dtype)
    most = tensor.double().abs().amax(-2, keepdim=True)
    tiny = info.tiny * info.eps  # the smallest subnormal number
    return most / 254 + 2 * most * info.eps + 128 * tiny


@settings(max_examples=150, deadline=None)
@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
        | st.floats(-8, 8, width=32)
        | st.sampled_from([0.0, 1e-45, -1e-40, 127.0, 0.5, 1e30, 65489.0, 3.4e38, -3.4e38]),
    ),
    st.sampled_from(DTYPES),
)
def test_int8_stays_within_its_bound(
    numbers: np.ndarray[tuple[int, ...], np.dtype[np.float32]], dtype: torch.dtype
) -> None:
    limit = torch.finfo(dtype).max
    keys = torch.from_numpy(numbers).clamp(-limit, limit).to(dtype)
    values = keys.flip(0) / 3
    codec = Int8Codec()
    decoded = codec.decode(codec.encode(packed(keys, values)))
    for before, after in zip((keys, values), decoded.values(), strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
        error = (after.double() - before.double()).abs()
        assert bool((error <= bound(before)).all())


def test_int8_is_no_wider_than_it_must_be() -> None:
    """The bound is of use: random numbers come within a factor of two of it."""
    keys = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))
    codec = Int8Codec()
    after = codec.decode(codec.encode(packed(keys, keys)))["0.keys"]
    worst = ((after - keys).abs().double() / bound(keys)).max()
    assert 0.5 < float(worst) <= 1
    assert nbytes(codec.encode(packed(keys, keys))) < 0.26 * 2 * keys.nbytes


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    keys = torch.ones(1, 3, 2)
    keys[0, 1, 1] = bad
    codec = Int8Codec()
    after = codec.decode(codec.encode(packed(keys, torch.ones(1, 3, 2))))["0.keys"]
    assert not bool(after[0, 1, 1].isfinite())
    assert bool(after[..., 0].isfinite().all())


def test_no_tokens() -> None:
    """What a layer keeps whose window holds the current token alone."""
    empty = torch.zeros(2, 0, 4)
    codec = Int8Codec()
    decoded = codec.decode(codec.encode(packed(empty, empty)))
    assert decoded["0.keys"].shape == decoded["0.values"].shape == empty.shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_keeps_the_very_tensors(dtype: torch.dtype) -> None:
    context = packed(torch.randn(1, 2, 3).to(dtype), torch.randn(1, 2, 3).to(dtype))
    codec = ExactCodec()
    decoded = codec.decode(codec.encode(context))
    assert list(decoded) == list(context)
    assert all(decoded[name] is tensor for name, tensor in context.items())


def test_tensors_of_another_codec_are_refused() -> None:
    exact = ExactCodec().encode(packed(torch.ones(1, 2, 3), torch.ones(1, 2, 3)))
    rounded = Int8Codec().encode(exact)
    for wrong in (
        exact,
        {"0.keys": exact["0.keys"]},
        {name: tensor for name, tensor in rounded.items() if name != "0.values.scale"},
    ):
        with pytest.raises(ValueError, match="int8"):
            Int8Codec().decode(wrong)


def test_other_tensors_stay_as_they_are() -> None:
    """States of a recurrent layer, or a backend's own bytes."""
    state, blob = torch.randn(2, 5), torch.arange(9, dtype=torch.uint8)
    context = {
        "0.state": state,
        "bytes": blob,
        "1.keys": torch.ones(1, 2, 3),
        "1.values": torch.ones(1, 2, 3),
    }
    decoded = Int8Codec().decode(Int8Codec().encode(context))
    assert list(decoded) == list(context)
    assert decoded["0.state"] is state
    assert decoded["bytes"] is blob


def test_codecs_by_name() -> None:
    assert resolve_codec(None).name == resolve_codec("exact").name == "exact"
    assert resolve_codec("int8").note
    assert resolve_codec(own := Int8Codec()) is own
    with pytest.raises(InputError, match="'int4' is not known; choose exact or int8"):
        resolve_codec("int4")
