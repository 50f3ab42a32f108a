"""The rows that a call of `Rows` names, checked; every backend refuses the same."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..errors import InputError

__all__ = ["check_rows", "distinct_rows", "stepped_rows"]


def check_rows(rows: Sequence[int], count: int) -> None:
    """Raises InputError unless rows are named, all of them among `count`."""
    if not rows:
        raise InputError("rows=[] names no row; None stands for all of them.")
    for row in rows:
        if not 0 <= row < count:
            raise InputError(f"Row {row} is not there; the rows are 0 to {count - 1}.")


def distinct_rows(rows: Sequence[int] | None, count: int) -> list[int]:
    """The rows named, None for all of `count`.

    Raises:
        InputError: no row, one that is not there, or one twice.
    """
    if rows is None:
        return list(range(count))
    check_rows(rows, count)
    if len(set(rows)) < len(rows):
        raise InputError(f"rows={list(rows)!r} names a row twice.")
    return list(rows)


def stepped_rows(ids: Tensor, rows: Sequence[int] | None, count: int) -> list[int]:
    """`distinct_rows` of a step, for which there is at least one token each.

    Raises:
        InputError: as there, or token ids [R, T] of another R.
    """
    chosen = distinct_rows(rows, count)
    if ids.dim() != 2 or len(ids) != len(chosen) or ids.shape[1] < 1:
        raise InputError(f"step: token ids of shape {list(ids.shape)} do not fit {len(chosen)} rows.")
    return chosen
