"""Styles of Word: which paragraphs are headings, titles, items of lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

__all__ = ["ParagraphStyle", "Styles"]

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DEEPEST = 20  # styles that are based on each other
_BODY_LEVEL = 9  # the outline level of what is no heading


@dataclass(frozen=True, slots=True)
class ParagraphStyle:
    """What a paragraph is.

    Attributes:
        heading: The level of a heading, 1 to 6; 0 for other paragraphs.
        is_title: It is the document's title.
        is_contents: It is a line of a table of contents.
        list_id: The id of the list that it is an item of; "" for none.
        list_level: The level in that list, from 0.
    """

    heading: int = 0
    is_title: bool = False
    is_contents: bool = False
    list_id: str = ""
    list_level: int = 0


class Styles:
    """The styles of a document.

    Args:
        root: The `w:styles` element.
    """

    def __init__(self, root: Any) -> None:
        self._elements = {
            element.get(f"{_WORD}styleId"): element for element in root.findall(f"{_WORD}style")
        }
        self._by_id: dict[str, ParagraphStyle] = {}

    def of(self, paragraph: Any) -> ParagraphStyle:
        """What a `w:p` is, by its style and its own properties."""
        properties = paragraph.find(f"{_WORD}pPr")
        if properties is None:
            return ParagraphStyle()
        return _with(self._named(_value(properties, "pStyle")), properties)

    def _named(self, name: str, depth: int = 0) -> ParagraphStyle:
        if name not in self._by_id:
            element = self._elements.get(name)
            if element is None or depth > _DEEPEST:
                return ParagraphStyle()
            style = _by_name(self._named(_value(element, "basedOn"), depth + 1), _value(element, "name"))
            properties = element.find(f"{_WORD}pPr")
            self._by_id[name] = style if properties is None else _with(style, properties)
        return self._by_id[name]


def _by_name(style: ParagraphStyle, name: str) -> ParagraphStyle:
    """Word keeps the English names of its own styles, whatever its language shows."""
    name = name.lower()
    if name == "title":
        return replace(style, is_title=True)
    kind, _, level = name.partition(" ")
    if kind == "heading" and level.isdecimal():
        return replace(style, heading=min(int(level), 6))
    if (kind == "toc" and level.isdecimal()) or name in ("toc heading", "table of figures"):
        return replace(style, is_contents=True, heading=0)
    return style


def _with(style: ParagraphStyle, properties: Any) -> ParagraphStyle:
    """A style with what a `w:pPr` says besides."""
    level = _value(properties, "outlineLvl")
    if level.isdecimal() and not style.is_contents:
        style = replace(style, heading=0 if int(level) >= _BODY_LEVEL else min(int(level) + 1, 6))
    numbers = properties.find(f"{_WORD}numPr")
    if numbers is not None:
        name, depth = _value(numbers, "numId"), _value(numbers, "ilvl")
        style = replace(
            style,
            list_id="" if name == "0" else name or style.list_id,
            list_level=min(int(depth), 8) if depth.isdecimal() else style.list_level,
        )
    return style


def _value(element: Any, name: str) -> str:
    child = element.find(_WORD + name)
    return "" if child is None else child.get(f"{_WORD}val") or ""
