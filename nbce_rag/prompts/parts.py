"""The parts of a question that asks for several things: lines, list items, sentences that ask.

Told by marks alone, in any language: question marks, and what stands before the items of a list. What is
doubtful is one question: one that goes on after its last question mark, a list of choices behind a question,
more than 32 parts, and parts that would not be understood alone (`nbce_rag.prompts.back_references`), as in
"Who runs the ferry? When does it leave?".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from .back_references import needs_more, points_back

__all__ = ["Part", "parts_of"]

_MOST = 32  # parts: each takes a search and rows of its own
_ASKS = "?？؟\u037e՞፧﹖⁇"
_END = re.compile(f"(?:(?<![!！])[!！]+)?[{_ASKS}][{_ASKS}!！]*")
_MARKER = r"[-*•–·‣]|[(（]?\d{1,2}[.)）．、:：]|[(（][a-z][)）]|[a-z][.)）]|[①-⑳]"
_ITEM = re.compile(rf"\s*({_MARKER})(?!\d)\s*(\S.*)", re.IGNORECASE)
_INLINE = re.compile(r"(?:^|(?<=\s)|(?<=[?？。:：]))([(（]?(\d{1,2})[.)）．、])(?!\d)\s*")
_WIDE = "？﹖؟፧"
_WORD = re.compile(r"(\s*)(\S)")
_QUOTED = re.compile(r"\"[^\"\n]*\"|`[^`\n]*`|“[^“”]*”|„[^„“”]*[“”]|«[^«»]*»|「[^「」]*」|『[^『』]*』")
_STATEMENT = re.compile(r"\b(\w+)[.!…][\"'”»)]*\s+(?=\S)|[。！…]|\n")
_LABEL = re.compile(r"\s*(?:[^\W\d_]+ (?:question|query)|[^\W\d_]+)(?::\s+|：\s*)(?=\S)", re.IGNORECASE)
# Before a full stop that ends no sentence: numbers, single letters, and some of what is shortened.
_SHORT = re.compile(
    r"\d+|.|mrs?|ms|dr|prof|st|capt|col|gen|lt|sgt|rev|hon|jr|sr|no|nr|vs|inc|ltd|co|ca|mme", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Part:
    """One of several things that a question asks for.

    Attributes:
        marker: what numbers it, as the question writes it ("a)", "-"), or else "1.", "2.", ...
        text: what is asked, with what stands before all parts.
    """

    marker: str
    text: str


class _Asked(NamedTuple):
    """What stands before all parts, with the space behind it, and (marker, text) of each."""

    preamble: str
    items: list[tuple[str, str]]


def parts_of(question: str) -> tuple[Part, ...]:
    """The parts of a question, two or more; none where it is one question.

    >>> [part.text for part in parts_of("Who runs the ferry? Where is the museum?")]
    ['Who runs the ferry?', 'Where is the museum?']
    >>> [part.marker for part in parts_of("On Brill:\\n- Who is the mayor?\\n- Where is the hall?")]
    ['-', '-']
    """
    if "```" in question:
        return ()
    items = _items(question) or _numbered(question)
    asked = items or _sentences(question)
    if asked is None or not 2 <= len(asked.items) <= _MOST:
        return ()
    parts = tuple(Part(marker, asked.preamble + text) for marker, text in asked.items)
    for number, (part, (_, text)) in enumerate(zip(parts, asked.items, strict=True)):
        # Before a list stands what its items are about; before sentences, what some of them may be about.
        alone = text if items is None else part.text
        if (number and points_back(alone)) or needs_more(
            alone, is_first=not number, is_item=items is not None
        ):
            return ()
    return parts


def _items(question: str) -> _Asked | None:
    """The items of a list of lines, none of which stands behind a question that they answer.

    Where nothing stands before the list, a few of its items may lack their question mark.
    """
    lines = [line for line in question.splitlines() if line.strip()]
    items = [_ITEM.fullmatch(line) for line in lines]
    start = next((place for place, item in enumerate(items) if item), len(items))
    if start == len(items) or not all(items[start:]):
        return None
    preamble = "\n".join(line.strip() for line in lines[:start])
    found = [(item[1], item[2].strip()) for item in items[start:] if item]
    asking = sum(_asks(text) for _, text in found)
    if asking < len(found) and (_END.search(preamble) if preamble else 2 * asking <= len(found)):
        return None
    return _Asked(_line(preamble), found)


def _numbered(question: str) -> _Asked | None:
    """Questions that are numbered from 1 on in running text."""
    marks = list(_INLINE.finditer(question))
    if len(marks) < 2 or [int(mark[2]) for mark in marks] != list(range(1, len(marks) + 1)):
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    texts = [question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    if not all(map(_asks, texts)):
        return None
    return _Asked(
        _line(question[: marks[0].start()].strip()), [(m[1], t) for m, t in zip(marks, texts, strict=True)]
    )


def _sentences(question: str) -> _Asked | None:
    """Sentences that ask, each with what stands before it; what stands before the first stands before all."""
    plain = _without_quotes(question)
    texts, start = [], 0
    for end in _END.finditer(plain):
        following = _WORD.match(plain, end.end())
        if following and not (following[1] or end[0][-1] in _WIDE):
            continue  # an address
        if following and following[2].islower():
            continue  # the sentence goes on
        texts.append((start, end.end()))
        start = end.end()
        if len(texts) > _MOST:
            return None
    if not texts or plain[start:].strip():
        return None
    cut = _end_of_statements(plain[: texts[0][1]])
    if any(_LABEL.match(plain, start) for start, _ in texts[1:]):
        return None
    label = _LABEL.match(plain, cut)
    cut = label.end() if label else cut
    texts[0] = (cut, texts[0][1])
    asked = [(f"{number}.", question[a:b].strip()) for number, (a, b) in enumerate(texts, 1)]
    return _Asked(question[:cut].lstrip(), asked)


def _end_of_statements(plain: str) -> int:
    """Where the last sentence of a text without quotes begins."""
    cut = 0
    for match in _STATEMENT.finditer(plain):
        word = match[1]
        if (word is None or not _SHORT.fullmatch(word)) and not plain[
            match.end() : match.end() + 1
        ].islower():
            cut = match.end()
    return cut


def _without_quotes(text: str) -> str:
    """With other characters in the place of quotes and code, whose marks do not count."""
    return _QUOTED.sub(lambda match: "X" * len(match[0]), text)


def _asks(text: str) -> bool:
    return text[-1:] in _ASKS and len(_END.findall(_without_quotes(text))) == 1


def _line(preamble: str) -> str:
    return f"{preamble}\n" if preamble else ""
