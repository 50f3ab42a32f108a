"""Styles of OpenDocument: how lists are numbered, what is hidden, what is raised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ..numerals import numeral

__all__ = ["ListNumbers", "Styles"]

_OASIS = "urn:oasis:names:tc:opendocument:xmlns:"
_TEXT, _TABLE, _STYLE, _PAGES = (
    f"{{{_OASIS}{name}:1.0}}" for name in ("text", "table", "style", "presentation")
)
_MOST_PARENTS = 20  # and no circles
_ABOVE = re.compile(r"(?!0+(?:\.0*)?%)[\d.]+%")


class Styles:
    """The styles of a file.

    Args:
        roots: The root elements that hold them: of content and of styles.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._hidden: set[str] = set()
        self._levels: dict[tuple[str, int], Any] = {}
        self._styles: dict[tuple[str, str], Any] = {}  # of text and paragraphs
        for root in roots:
            for style in root.iter(f"{_STYLE}style"):
                self._styles[style.get(f"{_STYLE}family") or "", style.get(f"{_STYLE}name") or ""] = style
                for properties in style:
                    is_sheet = properties.get(f"{_TABLE}display") == "false"
                    if is_sheet or properties.get(f"{_PAGES}visibility") == "hidden":
                        self._hidden.add(style.get(f"{_STYLE}name"))
            for style in root.iter(f"{_TEXT}list-style"):
                for level in style.findall(f"{_TEXT}list-level-style-number"):
                    number = int(level.get(f"{_TEXT}level") or 1)
                    self._levels[style.get(f"{_STYLE}name"), number - 1] = level

    def is_hidden(self, name: str | None) -> bool:
        """Whether a sheet or slide of this style is hidden."""
        return name in self._hidden

    def is_invisible(self, family: str, name: str | None) -> bool:
        """Whether text of this style, of the family "text" or "paragraph", is hidden."""
        return self._property(family, name, f"{_TEXT}display") == "none"

    def is_raised(self, name: str | None) -> bool:
        """Whether text of this style stands above the line."""
        position = (self._property("text", name, f"{_STYLE}text-position") or "").partition(" ")[0]
        return position == "super" or bool(_ABOVE.fullmatch(position))

    def _property(self, family: str, name: str | None, key: str) -> str | None:
        """What a style, or the nearest of those that it follows, says of its text."""
        for _ in range(_MOST_PARENTS):
            style = self._styles.get((family, name or ""))
            if style is None:
                return None
            for properties in style.findall(f"{_STYLE}text-properties"):
                if (value := properties.get(key)) is not None:
                    return str(value)
            name = style.get(f"{_STYLE}parent-style-name")
        return None

    def numbered(self, name: str, level: int) -> Any:
        """The element that says how a list is numbered at a level, from 0; None for lists with bullets."""
        return self._levels.get((name, level))


class ListNumbers:
    """Counts the items of lists as they come."""

    def __init__(self, styles: Styles) -> None:
        self._styles = styles
        self._counts: dict[tuple[str, int], int] = {}

    def begin(self, name: str, level: int, goes_on: bool) -> None:
        """A list of this style begins at a level, or goes on where another one ended."""
        if not goes_on:
            self._counts.pop((name, level), None)

    def next(self, name: str, level: int, start: str | None) -> str:
        """The label of the next item, such as "-" or "2.".

        Args:
            name: The style of its list.
            level: From 0.
            start: The number that the item itself asks for.
        """
        rule = self._styles.numbered(name, level)
        if rule is None or not rule.get(f"{_STYLE}num-format"):
            return "-"
        first = int(rule.get(f"{_TEXT}start-value") or 1)
        key = name, level
        self._counts[key] = int(start) if start else self._counts.get(key, first - 1) + 1
        shown = min(int(rule.get(f"{_TEXT}display-levels") or 1), level + 1)
        numbers = []
        for place in range(level + 1 - shown, level + 1):
            other = self._styles.numbered(name, place)
            kind = (rule if other is None else other).get(f"{_STYLE}num-format") or "1"
            numbers.append(numeral(kind, self._counts.get((name, place), 1)))
        before, after = rule.get(f"{_STYLE}num-prefix") or "", rule.get(f"{_STYLE}num-suffix") or ""
        return f"{before}{'.'.join(numbers)}{after}".strip()
