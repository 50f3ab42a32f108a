"""How much of an answer rests on each of its passages."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .evidence import Citation, Support, TokenEvidence
from .unsupported import UnsupportedWords
from .words import words

__all__ = ["PassageEvidence", "by_number", "cited_by_number", "evidence_by_passage", "supports_among"]


@dataclass(frozen=True, slots=True)
class PassageEvidence:
    """How much of an answer rests on one passage.

    Attributes:
        passage: Place of the passage in `Answer.passages`.
        number: What the passage is called wherever the answer is shown, from 1: the cited passages in the
            order of their first citation, then the others in their own.
        weight: Mean evidence for the passage over the tokens. It sums to 1 over the passages, and is 0
            without tokens.
        tokens: How many tokens the passage leads.
        citations: How many citations name it.
        cited: Share of the answer's words that cite it, by characters, in [0, 1]. A word that cites several
            passages counts whole for each of them, and one that stands in none of them for none
            (`nbce_rag.evidence.unsupported`).
        support: Share of the answer's characters that cite it, each counted by the passage's share of the
            citation, in [0, 1]; without the same words.
    """

    passage: int
    number: int
    weight: float
    tokens: int
    citations: int
    cited: float
    support: float


def evidence_by_passage(
    text: str,
    tokens: Sequence[TokenEvidence],
    citations: Sequence[Citation],
    count: int,
    unsupported: Sequence[UnsupportedWords] = (),
) -> tuple[PassageEvidence, ...]:
    """The evidence of an answer, passage by passage.

    Args:
        text: The answer.
        tokens: Its tokens. One whose weights are not over `count` passages is left out.
        citations: Its citations, as far as `supports_among` has them.
        count: Number of passages.
        unsupported: Words inside of citations that stand in no passage cited there; they count as uncited.

    Returns:
        One a passage, in the order of the passages.
    """
    usable = [token for token in tokens if len(token.weights) == count]
    weights = _means([token.weights for token in usable]) or [0.0] * count
    leaders = Counter(token.passage for token in usable)
    present = [(citation, named) for citation in citations if (named := supports_among(citation, count))]
    by_passage = Counter(one.passage for _, named in present for one in named)
    numbers = {place: n for n, place in enumerate(by_passage, 1)}
    for place in range(count):
        numbers.setdefault(place, len(numbers) + 1)
    spans = words(text) if present else []
    starts = [start for start, _ in spans]
    letters, support = [0] * count, [0.0] * count
    for citation, named in present:
        inside = spans[bisect_left(starts, citation.start) : bisect_left(starts, citation.end)]
        absent = [w for w in unsupported if citation.start <= w.start and w.end <= citation.end]
        standing = sum(
            end - start for start, end in inside if end <= citation.end and not _is_in(start, end, absent)
        )
        missing = sum(word.end - word.start for word in absent)
        for one in named:
            letters[one.passage] += standing
            support[one.passage] += float(one.share) * (citation.end - citation.start - missing)
    all_letters = sum(end - start for start, end in spans)
    return tuple(
        PassageEvidence(
            passage=place,
            number=numbers[place],
            weight=weights[place],
            tokens=leaders[place],
            citations=by_passage[place],
            cited=letters[place] / max(1, all_letters),
            support=support[place] / max(1, len(text)),
        )
        for place in range(count)
    )


def supports_among(citation: Citation, count: int) -> tuple[Support, ...]:
    """The passages that a citation names, as far as they are among `count`; none without the leading one."""
    if not 0 <= citation.passage < count:
        return ()
    return tuple(support for support in citation.supports if 0 <= support.passage < count)


def by_number(evidence: Iterable[PassageEvidence]) -> list[PassageEvidence]:
    """In the order of their numbers: the cited passages first."""
    return sorted(evidence, key=lambda one: one.number)


def cited_by_number(evidence: Iterable[PassageEvidence]) -> list[PassageEvidence]:
    """Those that are cited, in the order of their numbers, which is that of their first citation."""
    return by_number(one for one in evidence if one.citations)


def _is_in(start: int, end: int, spans: Sequence[UnsupportedWords]) -> bool:
    return any(span.start <= start and end <= span.end for span in spans)


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Means over the tokens, at most 1: rounding may lift that of a passage with all the evidence."""
    return [min(math.fsum(column) / len(rows), 1.0) for column in zip(*rows, strict=True)]
