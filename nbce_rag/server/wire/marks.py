"""Numbers of sources in the text itself, for clients that show no annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...evidence.evidence import Citation
from ...evidence.marks import citation_marks

__all__ = ["MarkedText", "marked"]


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text with numbers behind its cited stretches.

    Attributes:
        text: the text with them.
        marks: (where it stood in the text without them, what was put in), ordered.
    """

    text: str
    marks: tuple[tuple[int, str], ...]

    def moved(self, annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Annotations of chat, with the offsets that their stretches have now."""
        return [{**one, "url_citation": self._moved(one["url_citation"])} for one in annotations]

    def _moved(self, citation: Mapping[str, Any]) -> dict[str, Any]:
        start, end = citation["start_index"], citation["end_index"]
        # What stands at its own end is not of the stretch.
        before = sum(len(mark) for at, mark in self.marks if at <= start)
        within = sum(len(mark) for at, mark in self.marks if start < at < end)
        return {**citation, "start_index": start + before, "end_index": end + before + within}


def marked(text: str, citations: Sequence[Citation]) -> MarkedText:
    """A text with ` [1]` behind each cited stretch; passages are numbered in the order of first citation.

    Code stays code: marks of its lines stand behind the block (`nbce_rag.evidence.marks`).
    """
    numbers: dict[int, int] = {}
    for citation in citations:
        for support in citation.supports:
            numbers.setdefault(support.passage, len(numbers) + 1)
    cited = [(one.end, [support.passage for support in one.supports]) for one in citations]
    made, marks, last = [], [], 0
    for mark in citation_marks(text, cited):
        shown = ("\n" if mark.own_line else " ") + "".join(f"[{numbers[one]}]" for one in mark.passages)
        made += [text[last : mark.at], shown]
        marks.append((mark.at, shown))
        last = mark.at
    return MarkedText("".join([*made, text[last:]]), tuple(marks))
