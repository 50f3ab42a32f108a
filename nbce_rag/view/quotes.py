"""Where a passage says what the answer says: the words that both have, in the same order."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from ..evidence.words import fold, words

__all__ = ["excerpt", "quotes"]

_LETTERS_OF_A_TELLING_WORD = 4
_WORDS_OF_A_SENTENCE = 12
_WORDS_OF_A_RUN = 3


def quotes(stretches: Iterable[str], passage: str) -> list[tuple[int, int]]:
    """Stretches of a passage that stand in one of the cited texts too.

    Words are compared without case and width. A stretch is a run of words that is found whole in a cited
    text, as long as it goes. It must be all of that text, or hold a word that tells something: a number, a
    word of four letters or more, or two Chinese or Japanese characters. Of a sentence (twelve words or
    more) a word or two by themselves would stand all over the passage, so that there a run has three words
    or more, or a digit or an underscore in it.

    Args:
        stretches: parts of the answer that cite the passage.
        passage: the passage's text.

    Returns:
        (start, end) in characters of `passage`, ordered and disjoint.
    """
    spans = words(passage)
    here = [fold(passage[start:end]) for start, end in spans]
    places: dict[str, list[int]] = {}
    for place, word in enumerate(here):
        places.setdefault(word, []).append(place)
    marked: set[int] = set()
    for text in dict.fromkeys(stretches):
        there = [fold(text[start:end]) for start, end in words(text)]
        at = 0
        while at < len(there):
            lengths = {place: _run(there, at, here, place) for place in places.get(there[at], ())}
            longest = max(lengths.values(), default=0)
            run = there[at : at + longest]
            if run and (longest == len(there) or (_tells(run) and not _is_common(run, len(there)))):
                for place, length in lengths.items():
                    if length == longest:
                        marked.update(range(place, place + longest))
            at += max(1, longest)
    quoted: list[tuple[int, int]] = []
    for place in sorted(marked):
        start, end = spans[place]
        if quoted and place - 1 in marked and "\n\n" not in passage[quoted[-1][1] : start]:
            quoted[-1] = (quoted[-1][0], end)
        else:
            quoted.append((start, end))
    return quoted


def excerpt(text: str, marks: Sequence[tuple[int, int]], limit: int) -> tuple[int, int]:
    """(start, end) of the at most `limit` characters of a text to show, the first mark among them."""
    if len(text) <= limit:
        return 0, len(text)
    first = marks[0][0] if marks else 0
    start = min(max(0, first - limit // 4), len(text) - limit)
    end = start + limit
    if start > 0:
        blank = text.find(" ", start, first)
        start = blank + 1 if blank >= 0 else start
    if end < len(text):
        blank = text.rfind(" ", max(start, end - limit // 4), end)
        end = blank if blank >= 0 else end
    return start, end


def _run(there: Sequence[str], at: int, here: Sequence[str], place: int) -> int:
    """How many words from `there[at]` on stand at `here[place]` on."""
    length = 0
    while at + length < len(there) and place + length < len(here):
        if there[at + length] != here[place + length]:
            break
        length += 1
    return length


def _is_common(run: Sequence[str], words_of_stretch: int) -> bool:
    """Whether a run is a word or two out of a sentence, and no number and no name of code."""
    if words_of_stretch < _WORDS_OF_A_SENTENCE or len(run) >= _WORDS_OF_A_RUN:
        return False
    return not any(char.isdigit() or char == "_" for word in run for char in word)


def _tells(run: Sequence[str]) -> bool:
    wide = sum(len(word) == 1 and unicodedata.east_asian_width(word) in "WF" for word in run)
    return wide >= 2 or any(
        len(word) >= _LETTERS_OF_A_TELLING_WORD or any(char.isdigit() for char in word) for word in run
    )
