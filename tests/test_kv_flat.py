"""A context in one buffer: what goes in comes out, and what lies together can be taken together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.kv.context import kinds, nbytes
from nbce_rag.kv.flat import FlatContext, filled

DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.int64)


def buffer_for(context: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.zeros(FlatContext.bytes_of(kinds(context)), dtype=torch.uint8)


@given(
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=4),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(DTYPES)),
        max_size=8,
    )
)
def test_what_goes_in_comes_out(shapes: dict[str, tuple[list[int], torch.dtype]]) -> None:
    context = {name: torch.randint(-9, 9, shape).to(dtype) for name, (shape, dtype) in shapes.items()}
    size = FlatContext.bytes_of(kinds(context))
    flat = filled(context, torch.zeros(size + 64, dtype=torch.uint8))
    assert flat.keys() == context.keys()
    assert dict(kinds(flat)) == dict(kinds(context))
    assert nbytes(flat) == nbytes(context) <= size
    for name, tensor in context.items():
        assert torch.equal(flat[name], tensor)


def test_tensors_that_are_alike_lie_together() -> None:
    context = {f"{layer}.{name}": torch.randn(2, 3) for layer in range(2) for name in ("keys", "values")}
    context["0.conv.0"] = torch.randn(5)
    flat = filled(context, buffer_for(context))
    names = ["0.keys", "0.values", "1.keys", "1.values"]
    stack = flat.stack(names)
    assert stack is not None
    assert torch.equal(stack, torch.stack([context[name] for name in names]))
    stack[0] = 0  # the same memory
    assert not flat["0.keys"].any()
    assert flat.stack(names[:2]) is not None
    for apart in ([], ["0.keys", "1.keys"], ["0.values", "0.keys"], ["0.keys", "0.conv.0"], ["2.keys"]):
        assert flat.stack(apart) is None


def test_a_name_that_is_not_there() -> None:
    context = {"a": torch.zeros(2)}
    flat = filled(context, buffer_for(context))
    assert len(flat) == 1
    with pytest.raises(KeyError):
        flat["b"]


class Late:
    """An event that comes when it is waited for."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer, self.waits = buffer, 0

    def wait(self) -> None:
        raise AssertionError("a processor has no stream")

    def synchronize(self) -> None:
        self.waits += 1
        self.buffer.fill_(1)


def test_numbers_on_their_way_are_waited_for_when_they_are_looked_at() -> None:
    buffer = torch.zeros(8, dtype=torch.uint8)
    event = Late(buffer)
    flat = FlatContext(buffer, {"a": ((8,), torch.uint8)}, event)
    assert (nbytes(flat), dict(kinds(flat)), len(flat), flat.device.type, event.waits) == (
        8,
        {"a": ((8,), torch.uint8)},
        1,
        "cpu",
        0,
    )
    assert flat["a"].tolist() == [1] * 8
    assert flat["a"].sum() == 8
    assert event.waits == 1
