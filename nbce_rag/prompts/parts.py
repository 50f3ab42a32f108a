"""The parts of a question that asks for several things: lines, list items, sentences that ask.

Told by marks alone, in any language: question marks, and what stands before the items of a list. What is
doubtful is one question: one that goes on after its last question mark, a list of choices behind a question,
and parts that point back to each other by a pronoun ("Who runs the ferry? When does it leave?"), which would
not be understood alone. Pronouns are known of English, German, French, Spanish, Russian, Chinese, Japanese.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Part", "parts_of"]

_ASKS = "?？؟\u037e՞፧﹖⁇"
_END = re.compile(f"[{_ASKS}!！]*[{_ASKS}][{_ASKS}!！]*")
_MARKER = r"[-*•–·‣]|[(（]?\d{1,2}[.)）．、:：]|[(（][a-z][)）]|[a-z][.)）]|[①-⑳]"
_ITEM = re.compile(rf"\s*({_MARKER})(?!\d)\s*(\S.*)", re.IGNORECASE)
_INLINE = re.compile(r"(?:^|(?<=\s)|(?<=[?？。:：]))([(（]?(\d{1,2})[.)）．、])(?!\d)\s*")
_OPENING = 3  # characters before a pronoun of a script without capitals, too few for a name and its verb
_WIDE = "？﹖؟፧"
# As they stand within a sentence, so that the German "Sie" for "you" is none; without those that mean
# something else in another of these languages.
_PRONOUN = re.compile(
    r"\b(?:it|its|he|him|his|she|her|hers|they|them|their|theirs|this|these|those"
    r"|er|sie|ihn|ihm|ihre|ihren|seine|seinen|dieser|diese|dieses|dort|davon|dazu"
    r"|il|elle|ils|elles|lui|leur|leurs|celui|celle|ceux|cela|cette"
    r"|él|ella|ellos|ellas|sus|esto|eso|он|она|оно|они|его|её|их|ему|этот|эта|это|эти)\b"
    r"|[他她它其这那此]|彼|それ|これ|その|この"
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


def parts_of(question: str) -> tuple[Part, ...]:
    """The parts of a question, two or more; none where it is one question.

    >>> [part.text for part in parts_of("Who runs the ferry? Where is the museum?")]
    ['Who runs the ferry?', 'Where is the museum?']
    >>> [part.marker for part in parts_of("On Brill:\\n- Who is the mayor?\\n- Where is the hall?")]
    ['-', '-']
    """
    if "```" in question:
        return ()
    parts = _items(question) or _numbered(question) or _sentences(question)
    if len(parts) < 2 or any(_points_back(part.text) for part in parts[1:]):
        return ()
    return parts


def _items(question: str) -> tuple[Part, ...]:
    """The items of a list of lines, none of which stands behind a question that they answer."""
    lines = [line for line in question.splitlines() if line.strip()]
    items = [_ITEM.fullmatch(line) for line in lines]
    start = next((place for place, item in enumerate(items) if item), len(items))
    if not all(items[start:]):
        return ()
    preamble = "\n".join(line.strip() for line in lines[:start])
    found = [(item[1], item[2].strip()) for item in items[start:] if item]
    if not all(_asks(text) for _, text in found) and (not preamble or _END.search(preamble)):
        return ()
    return tuple(Part(marker, _behind(preamble, text)) for marker, text in found)


def _numbered(question: str) -> tuple[Part, ...]:
    """Questions that are numbered from 1 on in running text."""
    marks = list(_INLINE.finditer(question))
    if len(marks) < 2 or [int(mark[2]) for mark in marks] != list(range(1, len(marks) + 1)):
        return ()
    ends = [mark.start() for mark in marks[1:]] + [len(question)]
    texts = [question[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)]
    if not all(map(_asks, texts)):
        return ()
    preamble = question[: marks[0].start()].strip()
    return tuple(Part(mark[1], _behind(preamble, text)) for mark, text in zip(marks, texts, strict=True))


def _sentences(question: str) -> tuple[Part, ...]:
    """Sentences that ask, each with what stands between it and the one before."""
    texts, start = [], 0
    for end in _END.finditer(question):
        rest = question[end.end() :]
        if rest and not (rest[0].isspace() or end[0][-1] in _WIDE):
            continue  # within quotation marks, or an address
        following = rest.lstrip()
        if following and following[0].islower():
            continue  # the sentence goes on
        texts.append(question[start : end.end()].strip())
        start = end.end()
    if question[start:].strip():
        return ()
    return tuple(Part(f"{number}.", text) for number, text in enumerate(texts, 1))


def _points_back(text: str) -> bool:
    """Whether a pronoun stands for what an earlier part names: nothing before it in this one does."""
    if not (pronoun := _PRONOUN.search(text)):
        return False
    before = text[: pronoun.start()]
    if pronoun[0] >= "\u3000":
        return len(before.strip()) <= _OPENING
    return not any(word[0].isupper() or word[0].isdigit() for word in before.split()[1:])


def _asks(text: str) -> bool:
    return text[-1:] in _ASKS and len(_END.findall(text)) == 1


def _behind(preamble: str, text: str) -> str:
    return f"{preamble}\n{text}" if preamble else text
