"""What the units of a long answer cite: sentences, clauses, list items, lines of code."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .agreement import LEAST_SHARE, Agreement, Likelihoods, likelihoods
from .blocks import Kind
from .evidence import TokenEvidence
from .identifiers import names_stand
from .stretch import Stretch
from .units import LONG, Unit, units

__all__ = ["cited_units"]

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


def cited_units(
    text: str,
    tokens: Sequence[TokenEvidence],
    owners: Sequence[int],
    texts: Sequence[str],
    agreement: Agreement,
    threshold: float,
) -> list[Stretch]:
    """The units of an answer that cite passages.

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

    Args:
        text: The answer.
        tokens: Its tokens, whose spans are in `text`, ordered. Their `weights` are over the passages.
        owners: For each passage the place of the one that has its evidence.
        texts: What the passages hold, titles too. One that is "" is unknown, and no name of code is held
            against it.
        agreement: Which passages say the same.
        threshold: Least share of the evidence that the passages of a unit must have together, in [0, 1].

    Returns:
        Stretches, ordered and disjoint, that begin and end where units do. A passage's share is that of
        the stretch's evidence.
    """
    parts = units(text)
    cited: list[_Cited] = []
    before: _Cited | None = None
    for unit, evidence, count, given in _by_unit(parts, tokens, owners):
        groups = _groups(unit, evidence, given, agreement)
        places = frozenset(_places(unit, evidence, count, groups, threshold))
        if places and all(texts[place] for place in places):
            held = [texts[k] for k, owner in enumerate(owners) if owner in places]
            if _is_invented(text[unit.start : unit.end], unit.kind, held):
                places = frozenset()
        if not places:
            before = None
            continue
        if before is not None and before.places == places and before.last.group == unit.group:
            evidence = [one + other for one, other in zip(before.evidence, evidence, strict=True)]
            before = _Cited(before.start, unit.end, unit, before.size + unit.size, evidence, places)
            cited[-1] = before
        else:
            before = _Cited(unit.start, unit.end, unit, unit.size, evidence, places)
            cited.append(before)
    fragment = _FRAGMENT if sum(unit.size for unit in parts) >= LONG else 0
    return [
        Stretch(one.start, one.end, _shares(one))
        for one in cited
        if one.last.kind != "prose" or one.size >= fragment
    ]


def _by_unit(
    parts: Sequence[Unit], tokens: Sequence[TokenEvidence], owners: Sequence[int]
) -> Iterator[tuple[Unit, list[float], int, Likelihoods | None]]:
    """Each unit, its evidence over the passages, how many tokens overlap it, and what the rows gave them.

    The number is 0 if no gain is known.
    """
    is_measured = any(token.gain for token in tokens)
    first = 0
    for unit in parts:
        while first < len(tokens) and tokens[first].end <= unit.start:
            first += 1
        evidence = [0.0] * len(owners)
        count, at = 0, first
        inside: list[tuple[TokenEvidence, float]] = []
        while at < len(tokens) and tokens[at].start < unit.end:
            token = tokens[at]
            at += 1
            overlap = min(unit.end, token.end) - max(unit.start, token.start)
            if overlap <= 0:
                continue
            count += is_measured
            part = overlap / (token.end - token.start)
            inside.append((token, part))
            nats = (max(token.gain, 0.0) if is_measured else 1.0) * part
            for owner, weight in zip(owners, token.weights, strict=True):
                evidence[owner] += nats * weight
        yield unit, evidence, count, likelihoods(inside, owners)


def _groups(
    unit: Unit, evidence: Sequence[float], given: Likelihoods | None, agreement: Agreement
) -> list[list[int]]:
    """The passages with evidence, those together that say the same of a unit."""
    total = math.fsum(evidence)
    left = sorted((k for k, nats in enumerate(evidence) if nats > 0), key=lambda k: (-evidence[k], k))
    groups = []
    while left:
        best, *rest = left
        alike = agreement.alike(rest, best, given)
        same = [best]
        for place in rest:
            if place in alike and evidence[place] >= LEAST_SHARE * total:
                says = given is not None and agreement.says(place, unit.start, unit.end, given)
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
