"""What the units of a long answer cite: sentences, clauses, list items, lines of code."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from .agreement import LEAST_SHARE, Agreement, Likelihoods, likelihoods
from .blocks import Kind
from .content_words import StretchWords
from .evidence import TokenEvidence
from .identifiers import names_stand
from .stretch import Stretch
from .units import LONG, Unit

__all__ = ["CitedUnits"]

# All of these are measured: see method.md.
_NATS_A_TOKEN = 0.3  # what a unit must have gained by the passages to be cited
_NATS = 1.0  # and what in all
_EACH = 0.25  # share of the evidence from which on a passage is named
_NAMES_STANDING = 0.5  # share of the names of a line of code that stand in the cited passages
_FRAGMENT = 4  # words; less of a paragraph is no citation

_NAME = re.compile(r"[^\W\d]\w+")


class _Cited(NamedTuple):
    """Neighbouring units that cite the same passages, and their evidence, in nats, over the passages."""

    start: int
    end: int
    last: Unit
    size: float
    evidence: list[float]
    places: frozenset[int]


class CitedUnits:
    """The units of an answer that cite passages, as they become certain.

    A unit's evidence for a passage is the sum, over the tokens that overlap it, of the token's weight for
    the passage times what the token gained by the passages (`TokenEvidence.gain`, no less than 0) times
    the share of its characters that lie in the unit. So words that the model would have written anyway
    count nothing. An answer whose tokens all have a gain of 0 was not measured; its tokens count alike.

    Passages that say the same (`Agreement`: copies, and those whose rows give the unit nearly alike) count
    together. A unit cites all that have so at least a quarter of its evidence (or `threshold`, if that is
    less), if all of these together have `threshold` of it; of those that say the same only a passage with a
    thousandth of it. It cites nothing

    - if it gained less than 0.3 nats a token, or less than 1 nat in all;
    - if it is a heading;
    - if it is a line of code of whose names less than half stand in these passages: it is invented;
    - if it is of prose, a list or a table and has a name of code that stands in none of these passages;
    - if it is of a paragraph and has fewer than 4 words, in an answer of 12 words or more.

    Neighbouring units of one paragraph, list item, table or code block that cite the same passages are one.

    A stretch is certain when a token behind it has come, the next unit cites other passages or cannot be of
    the same block, and a gain has been measured; one of fewer than 4 words, when units of 12 words have come.

    Args:
        owners: For each passage the place of the one that has its evidence.
        texts: What the passages hold, titles too. One that is "" is unknown, and no name of code is held
            against it.
        agreement: Which passages say the same.
        threshold: Least share of the evidence that the passages of a unit must have together, in [0, 1].
    """

    def __init__(
        self, owners: Sequence[int], texts: Sequence[str], agreement: Agreement, threshold: float
    ) -> None:
        self._owners = owners
        self._texts = texts
        self._agreement = agreement
        self._threshold = threshold
        self._waiting: deque[Unit] = deque()  # for tokens
        self._tokens: deque[TokenEvidence] = deque()  # from the first one that a waiting unit may have
        self._is_measured = False
        self._words = StretchWords()
        self._unread: list[Unit] = []  # whose words were not asked for
        self._last: list[str] = []  # words of the last unit that was read
        self._size = 0.0  # of all units
        self._before: _Cited | None = None  # that the next unit may go on with
        self._closed: deque[_Cited] = deque()

    def push(
        self, text: str, units: Sequence[Unit], tokens: Sequence[TokenEvidence], group: int | None
    ) -> list[Stretch]:
        """Take in more units and tokens.

        Args:
            text: The answer, at least up to the end of the units.
            units: What `UnitReader` gives.
            tokens: Further tokens, whose spans are in the answer, ordered. Their `weights` are over the
                passages.
            group: The least one of units that may come; None if this is all.

        Returns:
            The stretches that are now certain, ordered and disjoint, behind those of earlier calls. They
            begin and end where units do. A passage's share is that of the stretch's evidence.
        """
        self._waiting += units
        self._tokens += tokens
        self._size += math.fsum(unit.size for unit in units)
        self._is_measured = self._is_measured or any(token.gain for token in tokens)
        if group is None or self._is_measured:
            while self._waiting and (group is None or self._is_covered(self._waiting[0])):
                self._take(text, self._waiting.popleft())
        following = self._waiting[0].group if self._waiting else group
        before = self._before
        if before is not None and (following is None or following > before.last.group):
            self._closed.append(before)
            self._before = None
        return list(self._settled(is_whole=group is None))

    def _is_covered(self, unit: Unit) -> bool:
        """Whether all tokens that overlap a unit have come."""
        return bool(self._tokens) and self._tokens[-1].start >= unit.end

    def _take(self, text: str, unit: Unit) -> None:
        """Tell what a unit cites."""
        self._unread.append(unit)
        evidence, count, given = self._evidence(unit)
        groups = _groups(evidence, given, self._agreement, partial(self._content, text))
        places = frozenset(_places(unit, evidence, count, groups, self._threshold))
        if places and all(self._texts[place] for place in places):
            held = [self._texts[k] for k, owner in enumerate(self._owners) if owner in places]
            if _is_invented(text[unit.start : unit.end], unit.kind, held):
                places = frozenset()
        before = self._before
        if places and before is not None and before.places == places and before.last.group == unit.group:
            evidence = [one + other for one, other in zip(before.evidence, evidence, strict=True)]
            self._before = _Cited(before.start, unit.end, unit, before.size + unit.size, evidence, places)
            return
        if before is not None:
            self._closed.append(before)
        self._before = _Cited(unit.start, unit.end, unit, unit.size, evidence, places) if places else None

    def _evidence(self, unit: Unit) -> tuple[list[float], int, Likelihoods | None]:
        """A unit's evidence over the passages, how many tokens overlap it, and what the rows gave them.

        The number is 0 if no gain is known.
        """
        while self._tokens and self._tokens[0].end <= unit.start:
            self._tokens.popleft()
        evidence = [0.0] * len(self._owners)
        count = 0
        inside: list[tuple[TokenEvidence, float]] = []
        for token in self._tokens:
            if token.start >= unit.end:
                break
            overlap = min(unit.end, token.end) - max(unit.start, token.start)
            if overlap <= 0:
                continue
            count += self._is_measured
            part = overlap / (token.end - token.start)
            inside.append((token, part))
            nats = (max(token.gain, 0.0) if self._is_measured else 1.0) * part
            for owner, weight in zip(self._owners, token.weights, strict=True):
                evidence[owner] += nats * weight
        return evidence, count, likelihoods(inside, self._owners)

    def _content(self, text: str) -> list[str]:
        """The numbers and names of the unit that was taken last, told with those before it."""
        for unit in self._unread:
            has_words = unit.kind != "code" and not unit.is_head
            spans = self._words.read(text, unit.start, unit.end) if has_words else []
            self._last = [text[start:end] for start, end in spans]
        self._unread.clear()
        return self._last

    def _settled(self, *, is_whole: bool) -> Iterator[Stretch]:
        """Stretches of which it is certain that they are no fragments."""
        while self._closed:
            one = self._closed[0]
            if one.last.kind == "prose" and one.size < _FRAGMENT:
                if self._size >= LONG:
                    self._closed.popleft()
                    continue
                if not is_whole:
                    return
            self._closed.popleft()
            yield Stretch(one.start, one.end, _shares(one))


def _groups(
    evidence: Sequence[float],
    given: Likelihoods | None,
    agreement: Agreement,
    content: Callable[[], Sequence[str]],
) -> list[list[int]]:
    """The passages with evidence, those together that say the same of a unit with some names and numbers."""
    total = math.fsum(evidence)
    left = sorted((k for k, nats in enumerate(evidence) if nats > 0), key=lambda k: (-evidence[k], k))
    groups = []
    while left:
        best, *rest = left
        alike = agreement.alike(rest, best, given)
        same = [best]
        for place in rest:
            if place in alike and evidence[place] >= LEAST_SHARE * total:
                says = given is not None and agreement.says(place, content, given)
                if agreement.is_copy(place, best) or says:
                    same.append(place)
        groups.append(same)
        left = [place for place in rest if place not in same]
    return groups


def _places(
    unit: Unit, evidence: Sequence[float], count: int, groups: Sequence[Sequence[int]], threshold: float
) -> list[int]:
    """The passages that a unit names; none where it gained too little or they have too little."""
    total = math.fsum(evidence)
    if unit.kind == "heading" or total <= 0 or (count and total < max(_NATS_A_TOKEN * count, _NATS)):
        return []
    least = min(_EACH, threshold) * total
    places = [k for group in groups if math.fsum(evidence[k] for k in group) >= least for k in group]
    return places if math.fsum(evidence[place] for place in places) >= threshold * total else []


def _is_invented(part: str, kind: Kind, texts: Sequence[str]) -> bool:
    """Whether a unit has names of code that do not stand in the texts that it would cite.

    Code is put together anew, with variables of its own. A sentence says what there is, and with one name
    that there is not it is wrong.
    """
    if kind != "code":
        return not names_stand(part, texts)
    written = set(_NAME.findall(part))
    absent = set(written)
    for text in texts:
        if len(written) - len(absent) >= _NAMES_STANDING * len(written):
            return False
        absent.difference_update(_NAME.findall(text))
    return len(written) - len(absent) < _NAMES_STANDING * len(written)


def _shares(cited: _Cited) -> tuple[tuple[int, float], ...]:
    """The passages with their shares, the largest first; of equals the one that comes first."""
    total = math.fsum(cited.evidence)
    places = sorted(cited.places, key=lambda place: (-cited.evidence[place], place))
    return tuple((place, min(cited.evidence[place] / total, 1.0)) for place in places)
