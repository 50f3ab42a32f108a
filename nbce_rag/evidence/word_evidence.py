"""What the words of a short answer cite: runs led by one passage, with those that say the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from .agreement import LEAST_SHARE, Agreement, Likelihoods, joined, likelihoods
from .content_words import content_words
from .evidence import TokenEvidence
from .stretch import Stretch
from .words import words

__all__ = ["cited_words"]

_AFTER = frozenset("%‰°′″℃℉€£¥$₹")
_BEFORE = frozenset("€£¥$₹+\u2212")
_OPENED_BY = {
    ")": "(", "]": "[", "}": "{", "”": "“", "’": "‘", "»": "«", "›": "‹", '"': '"',
    "）": "（", "】": "【", "」": "「", "』": "『", "》": "《", "〉": "〈",
}  # fmt: skip


def cited_words(
    text: str,
    tokens: Sequence[TokenEvidence],
    owners: Sequence[int],
    agreement: Agreement,
    threshold: float,
) -> list[Stretch]:
    """The runs of words that cite a passage, or passages that say the same.

    A word's evidence is the mean of the weights of the tokens that overlap it, each counted by the
    number of characters it shares with the word. The word cites its leading passage, with those that say
    the same, if together they have at least `threshold` of the evidence; on a tie, the passage that comes
    first leads. Neighbouring words with the same passages are one citation, with the whitespace and
    punctuation between them; a word that cites others, or none, ends it. Signs that are attached to a cited
    word (percent, degree, currency) and the closing half of a bracket or quotation within it belong to the
    citation.

    Which passages say the same is told over the words from where the lead came to one of them
    (`Agreement.alike`), so that one that parts ways is not named from that word on, nor for the first words
    of a name of which it does not say the others. It must say what those words say, and have a thousandth of
    their evidence.

    Args:
        text: The answer.
        tokens: Its tokens, whose spans are in `text`, ordered. Their `weights` are over the passages.
        owners: For each passage the place of the one that has its evidence.
        agreement: Which passages say the same.
        threshold: Least share of the evidence for which a word is cited, in [0, 1].

    Returns:
        Stretches, ordered and disjoint. A share is the mean of the passage's evidence over the words,
        counted by their characters.
    """
    by_word = _by_word(words(text), tokens, owners)
    named = _named(by_word, agreement, _Content(text))
    stretches: list[Stretch] = []
    for places, run, ceiling in _runs(named, threshold, len(text)):
        start, end = _grown(text, run, stretches[-1].end if stretches else 0, ceiling)
        shares = {place: _mean(run, place) for place in places}
        best = sorted((place for place in places if shares[place] > 0), key=lambda k: (-shares[k], k))
        stretches.append(Stretch(start, end, tuple((place, shares[place]) for place in best)))
    return stretches


class _Word(NamedTuple):
    """A word and its evidence over the passages, [] if no token overlaps it.

    `given` is what the rows gave the tokens that begin with it or before it, behind the word before; None
    where that was not noted.
    """

    start: int
    end: int
    evidence: list[float]
    given: Likelihoods | None


def _by_word(
    spans: Sequence[tuple[int, int]], tokens: Sequence[TokenEvidence], owners: Sequence[int]
) -> list[_Word]:
    result: list[_Word] = []
    first = taken = 0
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
        given = likelihoods([(token, 1.0) for token in tokens[taken:at]], owners)
        taken = max(taken, at)
        result.append(_Word(start, end, [total / covered for total in evidence] if covered else [], given))
    return result


class _Lead(NamedTuple):
    """A word, the passage that leads it, those that still say the same, and what the rows gave since then."""

    word: _Word
    best: int
    alike: frozenset[int]
    total: Likelihoods | None


class _Content:
    """The numbers and names of the answer."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        return content_words(self._text)

    def inside(self, start: int, end: int) -> list[str]:
        """Those of a stretch."""
        return [self._text[a:b] for a, b in self._spans if start <= a and b <= end]

    def is_one_name(self, one: tuple[int, int], other: tuple[int, int]) -> bool:
        """Whether two words are numbers or names with nothing but blanks between them."""
        return one in self._spans and other in self._spans and not self._text[one[1] : other[0]].strip()


def _named(
    by_word: Sequence[_Word], agreement: Agreement, content: _Content
) -> Iterator[tuple[_Word, frozenset[int]]]:
    """Each word with its leading passage and those that say the same; none where it has no evidence."""
    leads: list[_Lead] = []  # since the lead came to a passage that says something else
    for word in by_word:
        if not word.evidence:
            yield from _settled(leads, agreement, content)
            yield word, frozenset()
            leads = []
            continue
        best = agreement.leader(word.evidence)
        if leads and best in leads[-1].alike:
            total = joined(leads[-1].total, word.given)
            alike = agreement.alike(leads[-1].alike, best, total)
        else:
            yield from _settled(leads, agreement, content)
            leads, total = [], word.given
            alike = agreement.alike(range(len(word.evidence)), best, total)
        leads.append(_Lead(word, best, alike, total))
    yield from _settled(leads, agreement, content)


def _settled(
    leads: Sequence[_Lead], agreement: Agreement, content: _Content
) -> Iterator[tuple[_Word, frozenset[int]]]:
    """The words with those of the passages that say what all of these words say, as far as they go along."""
    named: list[set[int]] = [{lead.best} for lead in leads]
    for place in frozenset[int]().union(*(lead.alike for lead in leads)):
        along = [at for at, lead in enumerate(leads) if place in lead.alike]
        while along and any(
            content.is_one_name(leads[along[-1]].word[:2], lead.word[:2])
            for lead in leads[along[-1] + 1 :][:1]
        ):
            along.pop()
        if not along or _mean([leads[at].word for at in along], place) < LEAST_SHARE:
            continue
        inside = partial(content.inside, leads[along[0]].word.start, leads[along[-1]].word.end)
        total = leads[along[-1]].total
        is_copy = any(agreement.is_copy(place, leads[at].best) for at in along)
        if is_copy or (total is not None and agreement.says(place, inside, total)):
            for at in along:
                named[at].add(place)
    for lead, places in zip(leads, named, strict=True):
        yield lead.word, frozenset(places)


def _runs(
    named: Iterable[tuple[_Word, frozenset[int]]], threshold: float, length: int
) -> Iterator[tuple[frozenset[int], list[_Word], int]]:
    """Runs of words that name the same passages: these, the words, and where the next word begins."""
    before: frozenset[int] = frozenset()
    run: list[_Word] = []
    for word, places in named:
        if not places or math.fsum(word.evidence[place] for place in places) < threshold:
            places = frozenset()
        if places != before:
            if run:
                yield before, run, word.start
            before, run = places, []
        if places:
            run.append(word)
    if run:
        yield before, run, length


def _mean(run: Sequence[_Word], place: int) -> float:
    """A passage's evidence over a run's words, by characters."""
    total = math.fsum((word.end - word.start) * word.evidence[place] for word in run)
    return min(total / sum(word.end - word.start for word in run), 1.0)


def _grown(text: str, run: Sequence[_Word], floor: int, ceiling: int) -> tuple[int, int]:
    """Start and end of a run, grown over attached signs.

    They stay in [floor, ceiling), which other citations and words end and begin at.
    """
    start, end = run[0].start, run[-1].end
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
