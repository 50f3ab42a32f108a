"""A second look: what the best passage names and the question lacks, and what of the question it left open.

A question that takes two passages rarely says what the second is about; the first one does, mostly by a name.
So the best passage of a search is asked for its names, and they are looked for by their words together with
those words of the question that this passage lacks. Names are spans that begin with capitals, or stand
between quotation marks or title marks (《》). Where a passage has fewer than six of them, as in scripts
without capitals, its rarest words (pairs of characters where words are not set apart) stand in for them.
What is common in the index is no name, whatever its capital: "The", or a question's "which".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..passages import Passage, whole_text
from .words import terms_of

__all__ = ["half", "look_terms", "with_look"]

_NAMES = 6
_RARE_TERMS = 3  # that stand in for a name: one of four characters has three pairs
_RARE = 64  # passages that have a word, from which on it does not stand in for a name
_COMMON = 30  # a word that one of so many passages has is common,
_COMMON_AT_LEAST, _COMMON_AT_MOST = 64, 10_000  # within these; beyond, counting would take too long
_LOOKED_UP = 200  # words of the passage whose rarity is looked up
_STEM = 5  # letters by which a word of the question is known again in the passage
_LONGEST = 60  # characters between quotation marks, beyond which it is speech rather than a title
_MARKS = (("《", "》"), ("〈", "〉"), ("「", "」"), ("『", "』"), ("“", "”"), ('"', '"'))
_TITLES = re.compile("|".join(f"{a}([^{a}{b}\n]+){b}" for a, b in _MARKS))
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_WITHIN_NAME = re.compile(
    r"[ \u00a0]|(?<=\b\w)\. ?|(?<=\b\w\w)\. ?"
)  # after an initial, or "St", a full stop too


def look_terms(question: str, passage: Passage, size: int, count: Callable[[str, int], int]) -> list[str]:
    """Any of which is to be looked for; none where the passage names nothing.

    Args:
        question: The text of the first search.
        passage: The best that it found.
        size: How many passages there are.
        count: How many of them have a term, counted up to a limit.
    """
    common = min(max(_COMMON_AT_LEAST, size // _COMMON), _COMMON_AT_MOST)
    asked = dict.fromkeys(_terms(question))
    there = dict.fromkeys(_terms(whole_text(passage)))
    names: dict[tuple[str, ...], None] = {}
    for span in _spans(passage.text):
        name = tuple(_terms(span))
        is_new = any(term not in asked for term in name)
        if is_new and not (len(name) == 1 and count(name[0], common) == common):
            names[name] = None
        if len(names) == _NAMES:
            break
    terms = dict.fromkeys(term for name in names for term in name)
    if len(names) < _NAMES:
        rest = [term for term in there if term not in asked and term not in terms][:_LOOKED_UP]
        # What no other passage has finds nothing.
        rare = sorted((n, term) for n, term in ((count(term, _RARE), term) for term in rest) if 1 < n < _RARE)
        terms.update((term, None) for _, term in rare[: _RARE_TERMS * (_NAMES - len(names))])
    if not terms:
        return []
    stems = {_stem(term) for term in there}
    still_open = [term for term in asked if _stem(term) not in stems]
    terms.update((term, None) for term in still_open if count(term, common) < common)
    return list(terms)


def half(k: int) -> int:
    """How many of k passages the first search keeps."""
    return (k + 1) // 2


def with_look(first: list[Passage], second: Iterable[Passage], k: int) -> list[Passage]:
    """The first half of a search, what is new of the look, and where that is too little, the search's rest.

    Args:
        first: What the search found, best first.
        second: What the look found, best first.
        k: How many in all.
    """
    kept = first[: half(k)]
    passages = {passage.id: passage for passage in (*kept, *second)}
    for passage in first:
        passages.setdefault(passage.id, passage)
    return list(passages.values())[:k]


def _spans(text: str) -> list[str]:
    """Titles between marks, and runs of words that begin with capitals, in their order."""
    spans = [
        (match.start(), title)
        for match in _TITLES.finditer(text)
        if len(title := next(filter(None, match.groups()))) <= _LONGEST
    ]
    start = end = -1
    for word in _WORD.finditer(text):
        if not word[0][0].isupper():
            continue
        if start >= 0 and _WITHIN_NAME.fullmatch(text, end, word.start()):
            end = word.end()
            continue
        if start >= 0:
            spans.append((start, text[start:end]))
        start, end = word.span()
    if start >= 0:
        spans.append((start, text[start:end]))
    return [span for _, span in sorted(spans)]


def _terms(text: str) -> list[str]:
    return [term.lower() for term in terms_of(text)]


def _stem(term: str) -> str:
    """The beginning of a word; pairs of characters are taken whole."""
    return term[:_STEM]
