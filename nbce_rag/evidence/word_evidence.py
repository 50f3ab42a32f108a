"""What the words of a short answer cite: runs of words that one passage leads."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from .evidence import TokenEvidence, leading
from .stretch import Stretch
from .words import words

__all__ = ["cited_words"]

_AFTER = frozenset("%‰°′″℃℉€£¥$₹")
_BEFORE = frozenset("€£¥$₹+\u2212")
_OPENED_BY = {
    ")": "(", "]": "[", "}": "{", "”": "“", "’": "‘", "»": "«", "›": "‹", '"': '"',
    "）": "（", "】": "【", "」": "「", "』": "『", "》": "《", "〉": "〈",
}  # fmt: skip
_Run: TypeAlias = list[tuple[int, int, float]]
"""Words of one citation: start, end, and the evidence of the passage that it cites."""


def cited_words(
    text: str, tokens: Sequence[TokenEvidence], owners: Sequence[int], threshold: float
) -> list[Stretch]:
    """The runs of words that cite a passage.

    A word's evidence is the mean of the weights of the tokens that overlap it, each counted by the
    number of characters it shares with the word. The word cites its leading passage if that passage
    has at least `threshold` of the evidence; on a tie, the passage that comes first. Neighbouring words
    with the same passage are one citation, with the whitespace and punctuation between them; a word
    that cites another passage, or none, ends it. Signs that are attached to a cited word (percent,
    degree, currency) and the closing half of a bracket or quotation within it belong to the citation.

    Args:
        text: The answer.
        tokens: Its tokens, whose spans are in `text`, ordered. Their `weights` are over the passages.
        owners: For each passage the place of the one that has its evidence.
        threshold: Least share of the evidence for which a word is cited, in [0, 1].

    Returns:
        Stretches of one passage each, ordered and disjoint. The share is the mean of the passage's
        evidence over the words, counted by their characters.
    """
    spans = words(text)
    stretches: list[Stretch] = []
    for place, run, ceiling in _runs(spans, _by_word(spans, tokens, owners), threshold, len(text)):
        start, end = _grown(text, run, stretches[-1].end if stretches else 0, ceiling)
        stretches.append(Stretch(start, end, ((place, _mean(run)),)))
    return stretches


def _by_word(
    spans: Sequence[tuple[int, int]], tokens: Sequence[TokenEvidence], owners: Sequence[int]
) -> list[list[float]]:
    """For each word its evidence over the passages; [] for a word that no token overlaps."""
    result: list[list[float]] = []
    first = 0
    for start, end in spans:
        while first < len(tokens) and tokens[first].end <= start:
            first += 1
        covered = 0
        sums = [0.0] * len(owners)
        at = first
        while at < len(tokens) and tokens[at].start < end:
            token = tokens[at]
            at += 1
            overlap = min(end, token.end) - max(start, token.start)
            if overlap > 0:
                covered += overlap
                sums = [total + overlap * weight for total, weight in zip(sums, token.weights, strict=True)]
        evidence = [0.0] * len(owners)
        for owner, total in zip(owners, sums, strict=True):
            evidence[owner] += total
        result.append([total / covered for total in evidence] if covered else [])
    return result


def _runs(
    spans: Sequence[tuple[int, int]], by_word: Sequence[Sequence[float]], threshold: float, length: int
) -> Iterator[tuple[int, _Run, int]]:
    """Runs of words that one passage leads: its place, the words, and where the next word begins."""
    leader = -1
    run: _Run = []
    for (start, end), evidence in zip(spans, by_word, strict=True):
        best = leading(evidence) if evidence else -1
        if best < 0 or evidence[best] < threshold:
            best = -1
        if best != leader:
            if run:
                yield leader, run, start
            leader, run = best, []
        if best >= 0:
            run.append((start, end, evidence[best]))
    if run:
        yield leader, run, length


def _mean(run: _Run) -> float:
    """Evidence of a run's words, by characters."""
    total = math.fsum((end - start) * evidence for start, end, evidence in run)
    return min(total / sum(end - start for start, end, _ in run), 1.0)


def _grown(text: str, run: _Run, floor: int, ceiling: int) -> tuple[int, int]:
    """Start and end of a run, grown over attached signs.

    They stay in [floor, ceiling), which other citations and words end and begin at.
    """
    start, end = run[0][0], run[-1][1]
    while start > floor and text[start - 1] in _BEFORE:
        start -= 1
    while end < ceiling and (text[end] in _AFTER or _closes(text[start:end], text[end])):
        end += 1
    return start, end


def _closes(inside: str, char: str) -> bool:
    """Whether `char` is the closing half of a bracket or quotation that was opened in `inside`."""
    opener = _OPENED_BY.get(char)
    if opener is None:
        return False
    if opener == char:
        return inside.count(char) % 2 == 1
    return inside.count(opener) > inside.count(char)
