"""Tests of nbce_rag.checks: what is in a range, and what is said of what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nbce_rag.checks import Range, check_argument, check_count
from nbce_rag.errors import InputError


@pytest.mark.parametrize(
    ("numbers", "inside", "outside"),
    [
        (Range(), [0, -1e300, 5], [math.nan, math.inf, -math.inf, "1", None, True, False, 1j]),
        (Range(0), [0, 0.0, 1e300], [-1e-300, -1, math.inf]),
        (Range(0, above=True), [1e-300], [0, 0.0, -0.0]),
        (Range(0, 1), [0, 1, 0.5, np.float32(0.5)], [np.float32(2), -0.1, 1.1, math.nan, True]),
        (Range(0, 1, above=True), [1, 1e-300], [0, 1.000001]),
        (Range(1, whole=True), [1, 2**70], [0, 1.0, 1.5, True, "1"]),
        (Range(-(2**63), 2**64 - 1, whole=True), [-(2**63), 2**64 - 1], [2**64, -(2**63) - 1]),
    ],
    ids=str,
)
def test_what_is_in_a_range(numbers: Range, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        assert value in numbers
        numbers.check("n", value)
    for value in outside:
        assert value not in numbers
        with pytest.raises(InputError) as caught:
            numbers.check("n", value)
        assert str(caught.value).startswith(f"n={value!r} ")
        assert str(caught.value).endswith(f"{numbers}.")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        (Range(), "a number"),
        (Range(1, whole=True), "a whole number >= 1"),
        (Range(1e-4), "a number >= 0.0001"),
        (Range(-1, above=True, note="0 for none"), "a number above -1, 0 for none"),
        (Range(0, 1), "a number in [0, 1]"),
        (Range(0, 1, above=True), "a number in (0, 1]"),
    ],
)
def test_a_range_in_words(numbers: Range, text: str) -> None:
    assert str(numbers) == text


def test_messages() -> None:
    with pytest.raises(InputError, match=r"^Posterior: tau=0 is out of range; use a number >= 0\.0001\.$"):
        Range(1e-4).check("tau", 0, "Posterior")
    with pytest.raises(InputError, match=r"^top_p='x' must be a number: a number in \(0, 1\]\.$"):
        Range(0, 1, above=True).check("top_p", "x")


def test_arguments() -> None:
    check_argument("mmr", 0.5, Range(0, 1))
    with pytest.raises(InputError, match=r"^mmr must be in \[0, 1\], got 2: 0\.5 is a good start\.$"):
        check_argument("mmr", 2, Range(0, 1), "0.5 is a good start")
    with pytest.raises(InputError, match=r"^x must be a number, got 'y'\.$"):
        check_argument("x", "y", Range())


def test_counts() -> None:
    assert check_count("k", 3) == 3
    number = check_count("k", np.int64(3))
    assert (number, type(number)) == (3, int)
    for value in (0, -1, True, np.int64(0)):
        with pytest.raises(InputError, match=r"^k must be at least 1, got .*: 8 will do\.$"):
            check_count("k", value, "8 will do")
    for other in (2.5, "3", None):
        with pytest.raises(InputError, match=r"^k must be a whole number, got .*\.$"):
            check_count("k", other)
