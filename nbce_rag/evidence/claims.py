"""Short answers as claims: whether two say the same, and whether a passage says one."""

from __future__ import annotations

import re
import unicodedata

from .content_words import content_words
from .numerals import is_numeral, number_keys
from .passage_words import words_of
from .verbatim import FoldedText
from .words import is_cjk

__all__ = ["are_alike", "are_of_a_kind", "is_said", "normalise"]

_HAN_NUMBER = re.compile("[〇零一二三四五六七八九十百千万萬亿億两兩]+")
_ARTICLES = frozenset({"a", "an", "the"})


def normalise(text: str) -> str:
    """Text for comparison, as in SQuAD's scorer: without case, punctuation, articles, or runs of blanks.

    Width and compatibility forms are folded (NFKC), so that full-width digits equal plain ones.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w\s]|_", " ", folded).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def are_alike(one: str, other: str, question: str) -> bool:
    """Whether two answers say the same: one holds the other, or all that it says beyond the question.

    What an answer says is its numbers and names, in any form (`nbce_rag.evidence.passage_words`).

    Args:
        one, other: short answers.
        question: what both answer; words that stand in it say nothing.
    """
    keys = normalise(one), normalise(other)
    if any(FoldedText(keys[a]).holds(keys[b]) for a, b in ((0, 1), (1, 0))):
        return True
    pairs = ((one, other), (other, one))
    return any(new and _stand(new, b) for a, b in pairs if (new := _new_words(a, question)))


def are_of_a_kind(one: str, other: str, question: str) -> bool:
    """Whether two answers can contradict each other: both say numbers beyond the question, or both do not."""
    numbers = [any(_is_number(word) for word in _new_words(text, question)) for text in (one, other)]
    return numbers[0] == numbers[1]


def is_said(text: str, question: str, passage: str) -> bool:
    """Whether all numbers and names of an answer beyond the question stand in a passage, and there are some.

    Of an answer without any the whole has to stand there word for word.
    """
    new = _new_words(text, question)
    return _stand(new, passage) if new else FoldedText(passage).holds(text.strip(" .\u3002"))


def _new_words(text: str, question: str) -> list[str]:
    asked = words_of(question)
    spans = content_words(text)
    return [text[start:end] for start, end in spans if asked.absent(text[start:end])]


def _stand(words: list[str], text: str) -> bool:
    held = words_of(text)
    if any(held.absent(word) for word in words):
        return False
    # Those characters are looked up by pairs, of which a number may have one with another number.
    numbers = {number for word in words for number in _HAN_NUMBER.findall(word)}
    return numbers <= set(_HAN_NUMBER.findall(text))


def _is_number(word: str) -> bool:
    return is_numeral(word) or any(char.isdigit() or (is_cjk(char) and number_keys(char)) for char in word)
