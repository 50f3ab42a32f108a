"""Answers that go round in circles, which nothing but the most tokens would end."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["LOOP_TOKENS", "is_loop"]

_COPIES = 4
_TOKENS = 32
_LONGEST = 64
LOOP_TOKENS = _COPIES * _LONGEST
"""So many of the last tokens tell whether an answer is in a loop."""


def is_loop(ids: Sequence[int]) -> bool:
    """Whether the last tokens are one piece of text over and over: four times or more, 32 tokens or more.

    Greedy decoding of a small model does not get out of that again. Lists whose items count up are no loop.

    Args:
        ids: tokens of an answer so far.

    >>> is_loop([7, 1, 2, 3, 4, 5, 6, 7, 8] + [1, 2, 3, 4, 5, 6, 7, 8] * 3)
    True
    >>> is_loop(list(range(64)))
    False
    """
    for period in range(1, _LONGEST + 1):
        length = period * max(_COPIES, -(-_TOKENS // period))
        if length > len(ids):
            if period * _COPIES > len(ids):
                return False
            continue
        if all(ids[-place] == ids[-place - period] for place in range(1, length - period + 1)):
            return True
    return False
