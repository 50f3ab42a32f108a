"""Numbers of Word's lists and headings: the file has rules for them, the page shows numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..numerals import numeral
from .styles import ParagraphStyle

__all__ = ["Numbering"]

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_KINDS = {"lowerLetter": "a", "upperLetter": "A", "lowerRoman": "i", "upperRoman": "I", "decimalZero": "01"}


@dataclass(frozen=True, slots=True)
class _Level:
    """How one level of a list is numbered: `text` has `%1` where the number of the first level goes."""

    kind: str
    text: str
    start: int


class Numbering:
    """The lists of a document, counted as its paragraphs come.

    Args:
        root: The `w:numbering` element, if there is one.
    """

    def __init__(self, root: Any) -> None:
        self._levels: dict[str, dict[int, _Level]] = {}  # by the id of an abstract list
        self._abstract: dict[str, str] = {}  # by the id of a list
        self._restarts: dict[str, dict[int, int]] = {}
        self._counts: dict[str, dict[int, int]] = {}
        if root is None:
            return
        for element in root.findall(f"{_WORD}abstractNum"):
            levels = {
                int(level.get(f"{_WORD}ilvl", 0)): _level(level) for level in element.iter(f"{_WORD}lvl")
            }
            self._levels[element.get(f"{_WORD}abstractNumId")] = levels
        for element in root.findall(f"{_WORD}num"):
            name = element.get(f"{_WORD}numId")
            self._abstract[name] = _value(element, "abstractNumId", "")
            self._restarts[name] = {
                int(override.get(f"{_WORD}ilvl", 0)): int(_value(override, "startOverride", "1"))
                for override in element.findall(f"{_WORD}lvlOverride")
                if override.find(f"{_WORD}startOverride") is not None
            }

    def label(self, style: ParagraphStyle) -> tuple[str, int]:
        """What stands before the next paragraph of this style, such as "-", "3." or "2.1", and its level.

        "" for paragraphs without.
        """
        abstract = self._abstract.get(style.list_id)
        level = style.list_level
        if abstract is None:
            return "", 0
        levels = self._levels.get(abstract, {})
        rule = levels.get(level, _Level("bullet", "", 1))
        counts = self._counts.setdefault(abstract, {})
        restart = self._restarts[style.list_id].pop(level, None)
        counts[level] = restart if restart is not None else counts.get(level, rule.start - 1) + 1
        for deeper in [other for other in counts if other > level]:
            del counts[deeper]
        if rule.kind == "bullet":
            return "-", level
        if rule.kind == "none":
            return "", level

        def number(match: re.Match[str]) -> str:
            place = int(match.group(1)) - 1
            other = levels.get(place, rule)
            return numeral(_KINDS.get(other.kind, "1"), counts.get(place, other.start))

        return re.sub(r"%(\d)", number, rule.text).strip(), level


def _level(element: Any) -> _Level:
    return _Level(
        _value(element, "numFmt", "decimal"),
        _value(element, "lvlText", ""),
        int(_value(element, "start", "1")),
    )


def _value(element: Any, name: str, default: str) -> str:
    child = element.find(_WORD + name)
    return default if child is None else str(child.get(f"{_WORD}val", default))
