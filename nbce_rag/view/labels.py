"""What a terminal, a page and a picture say alike: clean text, names, numbers and shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..evidence.evidence import Support
from ..evidence.passage_evidence import supports_among
from ..evidence.quote import page_of, quote_of
from ..evidence.unsupported import UnsupportedWords
from ..passages import Passage
from .shown import AnswerLike, ComparisonLike

__all__ = [
    "absences",
    "clean",
    "conflict_lines",
    "headline",
    "name_of",
    "one_line",
    "ordinal",
    "particulars",
    "percentages",
    "shortened",
    "supports_of",
    "wording",
]

_CHARACTERS_OF_A_NAME = 60

# C0 and C1 controls but for tab and newline; then the embeddings, overrides and isolates that show
# characters in another order than they stand in; then halves of surrogate pairs, which cannot be written
# out.
_REMOVED: dict[int, str | None] = dict.fromkeys(
    [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)]
    + [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_REMOVED |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


def clean(text: str) -> str:
    """`text` without control characters, escape sequences' introducers and bidirectional overrides.

    It works character by character, so that a text may be cleaned in pieces.
    """
    return text.translate(_REMOVED)


def one_line(text: str) -> str:
    """`text`, cleaned, with every run of whitespace turned into one space."""
    return " ".join(clean(text.replace("\r", " ")).split())


def shortened(text: str, characters: int = _CHARACTERS_OF_A_NAME) -> str:
    """The beginning of a text, cut before a word if there is one to cut before."""
    if len(text) <= characters:
        return text
    head = text[:characters]
    cut = head.rfind(" ")
    return (head[:cut] if cut > 0 else head) + "…"


def name_of(passage: Passage) -> str:
    """What to call a passage, in one line: its title, source, beginning or id, whichever it has first."""
    title, source = one_line(passage.title or ""), one_line(passage.source or "")
    return title or source or shortened(one_line(passage.text)) or one_line(passage.id)


def particulars(passage: Passage) -> list[str]:
    """Source, character span, page and score of a passage, as far as they are known and not in its name."""
    parts = []
    source = one_line(passage.source or "")
    if source and one_line(passage.title or ""):
        parts.append(source)
    if passage.start is not None and passage.end is not None:
        parts.append(f"characters {passage.start}-{passage.end}")
    if (page := page_of(passage)) is not None:
        parts.append(f"page {one_line(str(page))}")
    if passage.score is not None:
        parts.append(f"score {passage.score:.2f}")
    return parts


def supports_of(answer: AnswerLike, place: int) -> list[Support]:
    """What the citations that name a passage say of it, in their order."""
    count = len(answer.passages)
    named = (one for citation in answer.citations for one in supports_among(citation, count))
    return [one for one in named if one.passage == place]


def wording(supports: Sequence[Support], passage: Passage) -> str:
    """Whether a passage holds what it is cited for word for word, and where its source does; "" if not."""
    quoted = [quote for one in supports if (quote := quote_of(one, passage)) is not None]
    verbatim = sum(bool(one.verbatim) for one in supports)
    if not verbatim:
        return ""
    if verbatim < len(supports):
        return f"{verbatim} of {len(supports)} citations word for word"
    if len(supports) == len(quoted) == 1 and quoted[0].source_start is not None:
        return f"word for word at {quoted[0].source_start}-{quoted[0].source_end}"
    return "word for word"


def absences(words: Sequence[UnsupportedWords], numbers: Mapping[int, int]) -> list[str]:
    """Which words of the citations stand in no passage cited there, in sentences.

    Args:
        words: the words.
        numbers: for each passage's place its number in the answer.
    """
    nowhere = dict.fromkeys(one_line(word.text) for word in words if word.passage is None)
    lines = [f"Not in the passages: {', '.join(nowhere)}."] if nowhere else []
    elsewhere = dict.fromkeys(
        (one_line(word.text), word.passage) for word in words if word.passage is not None
    )
    return lines + [
        f"Not in the passages cited for it, but in [{numbers[place]}]: {text}."
        for text, place in elsewhere
        if place in numbers
    ]


def conflict_lines(answer: AnswerLike) -> list[str]:
    """A line for each question over which the passages give different answers: who says what."""
    return [one_line(str(conflict)) for conflict in answer.conflicts]


def headline(comparison: ComparisonLike) -> str:
    """Whether the passages agree, in one line."""
    if not comparison.groups:
        return "No passage answers this question."
    count = len(comparison.groups)
    return "The passages agree." if count == 1 else f"The passages give {count} answers."


def percentages(shares: Sequence[float]) -> list[int]:
    """Whole percents of shares that sum to 1, which sum to 100: largest remainders are rounded up.

    Shares that do not sum to 1 are divided by their sum first; those without a sum are all 0.
    """
    usable = [share if math.isfinite(share) and share > 0 else 0.0 for share in shares]
    total = math.fsum(usable)
    if total <= 0:
        return [0] * len(usable)
    exact = [100 * share / total for share in usable]
    whole = [math.floor(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda k: (whole[k] - exact[k], k))
    for k in by_remainder[: 100 - sum(whole)]:
        whole[k] += 1
    return whole


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ... 11th, ... 21st."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
