"""Short answers as claims: whether two say the same, whether a passage says one, and who contradicts whom."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from .content_words import content_words, is_function_word
from .numerals import is_numeral, number_keys
from .passage_words import words_of
from .verbatim import FoldedText
from .words import is_cjk, words

__all__ = ["are_alike", "are_of_a_kind", "grouped_claims", "held_share", "is_said", "normalise"]

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


def held_share(question: str, passage: str) -> float:
    """The share of a question's words that stand in a passage, by their letters, in [0, 1]; 1 if it has none.

    Words that say nothing ("the", "who") are left out. Chinese and Japanese characters count by pairs.
    """
    held = words_of(passage)
    spans = [(start, end) for start, end in words(question) if not is_cjk(question[start])]
    spans = [span for span in spans if not is_function_word(question[slice(*span)])]
    spans += [(start, end) for start, end in content_words(question) if is_cjk(question[start])]
    texts = [question[slice(*span)] for span in spans]
    letters = sum(map(len, texts))
    missing = sum(end - start for text in texts for start, end in held.absent(text))
    return 1 - missing / letters if letters else 1.0


def grouped_claims(
    question: str, claims: Sequence[tuple[int, str]], passages: Sequence[str]
) -> list[tuple[str, list[int]]]:
    """Claims that contradict each other, and the places of the passages that make them.

    Claims are the same if they are alike, or if the passage of each has what the other says. Where only one
    has, it may be a list, or tell of several things: it contradicts nobody, and its claim is left out. So is
    one of another kind than the first.

    Args:
        question: what they answer.
        claims: places and texts, the weightiest first.
        passages: texts by place.
    """
    groups: list[tuple[str, list[int]]] = []
    for place, text in claims:
        has = [is_said(first, question, passages[place]) for first, _ in groups]
        had = [any(is_said(text, question, passages[other]) for other in group) for _, group in groups]
        same = [
            are_alike(first, text, question) or (has[at] and had[at]) for at, (first, _) in enumerate(groups)
        ]
        if True in same:
            groups[same.index(True)][1].append(place)
        elif not groups or not (any(has) or any(had) or not are_of_a_kind(groups[0][0], text, question)):
            groups.append((text, [place]))
    return groups


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
