"""Which sentences are read together in one row, and which of them are near a question.

A question may ask for a fact by way of another ("the mayor of the town where Ada was born"), and rarely does
one passage hold both. A row of whole passages is long; the few sentences of all of them that share most with
the question make a short one. It is read where the question's form says that it takes two facts, and where
another passage has words of it that the best passage lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..documents.prose import is_prose
from ..documents.splitting import split_sentences
from ..index.words import query_terms, term_counts, terms_of
from ..options import Options
from ..passages import Passage, whole_text
from ..prompts.encoder import PromptEncoder
from ..prompts.relations import is_nested
from .plan import Row, best_place, passage_ids

__all__ = ["extract_row", "nearest_sentences", "takes_two"]

_SENTENCES = 6
_OF_A_PASSAGE = 2  # at most, so that there is room for others
_MOST_OF_A_PASSAGE = 64  # sentences that are looked at; of longer passages several are one
_SATURATION, _LENGTH = 1.2, 0.75  # of BM25
_LACKING = 2  # words of the question that the best passage lacks and another one has
_STEM = 5  # letters by which a word is known again


def extract_row(
    encoder: PromptEncoder, question: str, passages: Sequence[Passage], options: Options, room: int
) -> Row | None:
    """The row of the sentences nearest the question, each passage's under its heading.

    None where they are of one passage, or take more than `room` tokens.

    Args:
        encoder: prompt wording and tokenizer.
        question: what is asked.
        passages: all passages of the question, in order.
        options: as they were for the passages' own rows.
        room: most tokens of a context.
    """
    texts = {
        index: " ".join(passages[index].text[start:end] for start, end in spans)
        for index, spans in nearest_sentences(question, passages).items()
    }
    if len(texts) < 2:
        return None
    ids = {
        index: passage_ids(encoder, passages[index], index, len(passages), options, text)
        for index, text in texts.items()
    }
    context = encoder.context(ids)
    if len(context) > room:
        return None
    score, rank = best_place([passages[index] for index in texts])
    return Row(context, tuple(texts), score, rank, is_extract=True)


def takes_two(question: str, passages: Sequence[Passage], best: int) -> bool:
    """Whether a question takes two passages, by its form and its words.

    Args:
        question: what is asked.
        passages: all passages of the question.
        best: the number of the one that matters most.
    """
    if not is_nested(question):
        return False
    lacking = _stems(question) - _stems(whole_text(passages[best]))
    return any(len(lacking & _stems(whole_text(passage))) >= _LACKING for passage in passages)


def nearest_sentences(question: str, passages: Sequence[Passage]) -> dict[int, list[tuple[int, int]]]:
    """Spans of the sentences that share most with a question, by passage, in order; of prose only.

    By BM25 over the sentences at hand, with the words of the passage's title as part of each.
    """
    spans: list[tuple[int, int, int]] = []
    counts, sizes = [], []
    for index, passage in enumerate(passages):
        if not is_prose(passage.text):
            continue  # a sentence taken out of a list or of code says little
        for start, end in split_sentences(passage.text, _MOST_OF_A_PASSAGE):
            count, size = term_counts(passage.title, passage.text[start:end])
            spans.append((index, start, end))
            counts.append(count)
            sizes.append(size)
    if not spans:
        return {}
    mean = sum(sizes) / len(sizes)
    scores = [0.0] * len(spans)
    for term in {term.lower() for term in query_terms(question)}:
        having = sum(term in count for count in counts)
        rarity = math.log(1 + (len(spans) - having + 0.5) / (having + 0.5))
        for place, (count, size) in enumerate(zip(counts, sizes, strict=True)):
            if often := count[term]:
                longer = 1 - _LENGTH + _LENGTH * size / mean
                scores[place] += rarity * often * (1 + _SATURATION) / (often + _SATURATION * longer)
    nearest: dict[int, list[tuple[int, int]]] = {}
    left = _SENTENCES
    for place in sorted(range(len(spans)), key=lambda place: -scores[place]):
        index, *span = spans[place]
        if left and scores[place] > 0 and len(nearest.get(index, ())) < _OF_A_PASSAGE:
            nearest.setdefault(index, []).append((span[0], span[1]))
            left -= 1
    return {index: sorted(nearest[index]) for index in sorted(nearest)}


def _stems(text: str) -> set[str]:
    """The beginnings of a text's words; of scripts without spaces, pairs of characters."""
    return {term.lower()[:_STEM] for term in terms_of(text)}
