"""Answers to show, and a strict reader of HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

from nbce_rag.answers.answer import Answer
from nbce_rag.evidence.citations import cite
from nbce_rag.evidence.evidence import Citation, Timings, TokenEvidence, Usage
from nbce_rag.passages import Passage

VOID = {"meta", "br", "img", "link", "input"}


def an_answer(
    text: str, passages: Sequence[Passage], weights: Sequence[Sequence[float]], **changes: Any
) -> Answer:
    """An answer with a token a word, whose weights are given; the last ones go on to the end."""
    tokens = tuple(
        TokenEvidence(
            id=place,
            text=match.group(),
            start=match.start(),
            end=match.end(),
            logprob=-0.1,
            weights=tuple(weights[min(place, len(weights) - 1)]) if passages else (),
            gain=1.0,
            entropies=tuple(1.0 + 0.1 * row for row in range(len(passages) + 1)),
        )
        for place, match in enumerate(re.finditer(r"\s*\S+\s*\Z|\s*\S+", text))
    )
    values: dict[str, Any] = {
        "question": "Who?",
        "text": text,
        "tokens": tokens,
        "citations": cite(text, tokens, passages),
        "passages": tuple(passages),
        "usage": Usage(
            30,
            4,
            len(tokens),
            (8,) * (len(passages) + 1),
            ((), *((place,) for place in range(len(passages)))),
        ),
        "timings": Timings(None, 0.5, 0.6, 0.25, 0.75),
        "finish_reason": "stop",
        "grounding": 1.5,
        "fusion": "posterior",
        "warnings": (),
    }
    return Answer(**(values | changes))


def a_citation(
    text: str, start: int, end: int, passage: int, passage_id: str, share: float = 0.9, verbatim: bool = False
) -> Citation:
    """A citation of `text[start:end]`, made by hand."""
    return Citation(start, end, text[start:end], passage, passage_id, share, verbatim)


class Page(HTMLParser):
    """HTML read strictly: every element is closed, in order.

    Attributes:
        elements: (tag, attributes, text inside of it, without that of its children's `title`).
        text: all text outside of style sheets, in order.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.parts: list[str] = []
        self.styles: list[str] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {[tag for tag, _ in self._open]}"

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def all(self, tag: str, class_: str = "") -> list[tuple[dict[str, str], str]]:
        """Attributes and text of the elements of a kind."""
        return [
            (attributes, "".join(inside))
            for name, attributes, inside in self.elements
            if name == tag and (not class_ or class_ in attributes.get("class", "").split())
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        inside: list[str] = []
        self.elements.append((tag, {name: value or "" for name, value in attrs}, inside))
        if tag not in VOID:
            self._open.append((tag, inside))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> without a beginning"
        assert self._open[-1][0] == tag, f"</{tag}> closes <{self._open[-1][0]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if any(tag == "style" for tag, _ in self._open):
            self.styles.append(data)
            return
        self.parts.append(data)
        for _, inside in self._open:
            inside.append(data)
