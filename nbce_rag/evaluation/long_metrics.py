"""Scores of answers that people read: several sentences, with code.

Such an answer has no gold text to be compared with. What is looked for are key strings, such as the name of
the function that a right answer cannot do without, and what goes wrong in long answers: names that no
passage has, and loops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["Keys", "groups_found", "precision", "repetition", "word_count"]

Keys: TypeAlias = Sequence[Sequence[str]]
"""Groups of strings; a right answer holds one string of each group."""

_GRAM = 4
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def groups_found(answer: str, keys: Keys) -> float:
    """Share of the groups of which the answer holds a string, in [0, 1]; 1 is an answer that counts.

    Strings are looked for as they stand, within words too, but without case, and any run of blanks and line
    ends is one blank.

    >>> groups_found("Set `Limits(max_connections=5)`.", [["limits"], ["keepalive", "max_connections"]])
    1.0

    Raises:
        ValueError: there are no groups.
    """
    if not keys:
        raise ValueError("There are no keys to look for.")
    text = _fold(answer)
    return sum(any(_fold(key) in text for key in group) for group in keys) / len(keys)


def precision(names: Iterable[bool]) -> float | None:
    """Share of names that stand in the passages, in [0, 1]; None where there are no names.

    Args:
        names: for each of an answer's `nbce_rag.evidence.identifiers` whether it stands in the passages, with
            case and as a whole. A name that does not was made up, or comes from the model's memory.
    """
    stands = list(names)
    return sum(stands) / len(stands) if stands else None


def repetition(text: str) -> float:
    """Share of a text's runs of four words that stand earlier in it, in [0, 1); 0 for fewer than five words.

    Words are runs of letters and digits, without case; each Chinese or Japanese character is a word.
    """
    words = _WORD.findall(text.casefold())
    grams = [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def word_count(text: str) -> int:
    """Words as in `repetition`."""
    return len(_WORD.findall(text))


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())
