"""The blocks of a text: paragraphs, items of lists, tables, code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Block", "Writer", "block_text"]

_SPACE = re.compile(r"\s+")
_WIDEST_INDENT = 40  # lists within lists that are deeper make no text grow


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of text that stands on lines of its own.

    Attributes:
        text: Its lines.
        kind: What it is. Items hold their marker and indent.
        group: Blocks of one group (a list) stand close together; 0 for none.
    """

    text: str
    kind: Literal["text", "item", "table", "code"] = "text"
    group: int = 0


def block_text(blocks: Iterable[Block]) -> str:
    """The blocks with blank lines between them, but not within a list."""
    parts: list[str] = []
    group = 0
    for block in blocks:
        if parts:
            parts.append("\n" if group and block.group == group else "\n\n")
        parts.append(block.text)
        group = block.group
    return "".join(parts)


@dataclass(slots=True)
class _List:
    number: int | None  # of the next item; None where items have dashes
    indent: str


class Writer:
    """Takes in words and makes blocks of them.

    Attributes:
        blocks: What has been written.
        line: Parts of the paragraph that is being written.
        is_code: Whether whitespace counts.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.line: list[str] = []
        self.is_code = False
        self._lists: list[_List] = []
        self._group = 0
        self._indent = ""
        self._marker = ""

    def words(self, text: str) -> None:
        """Text of the page. Whitespace is folded, unless it is code."""
        if self.is_code:
            self.line.append(text)
            return
        text = _SPACE.sub(" ", text)
        if text[:1] == " " and self._is_spaced():
            text = text[1:]
        if text:
            self.line.append(text)

    def space(self) -> None:
        """Keeps the words before and after apart."""
        if not self._is_spaced():
            self.line.append(" ")

    def line_end(self) -> None:
        if not self.is_code or not self._is_spaced("\n"):
            self.line.append("\n")

    def _is_spaced(self, spaces: str = " \n") -> bool:
        return not self.line or self.line[-1][-1] in spaces

    def end(self) -> None:
        """Ends the paragraph; between blocks within code, the line."""
        if self.is_code:
            if self.line:
                self.line_end()
            return
        if not self.line:
            return
        text = "".join(self.line)
        self.line.clear()
        if "\n" in text:
            text = "\n".join(part.strip(" ") for part in text.split("\n"))
        self.add(text.strip())

    def add(self, text: str, kind: Literal["text", "table", "code"] = "text") -> None:
        """A block of its own, within the item of the list that is open."""
        if not text:
            return
        if not self._lists:
            self.blocks.append(Block(text, kind))
            return
        first = f"{self._indent}{self._marker}"
        if kind == "table" and self._marker:  # rows have to begin their lines
            self.blocks.append(Block(first.rstrip(), "item", self._group))
            first = " " * len(first)
        self._indent = " " * min(len(first), _WIDEST_INDENT)
        self._marker = ""
        lines = [f"{self._indent}{line}" if line else "" for line in text.split("\n")]
        lines[0] = f"{first}{text.partition(chr(10))[0]}"
        self.blocks.append(Block("\n".join(lines), "item" if kind == "text" else kind, self._group))

    def open_list(self, first: int | None) -> None:
        """A list, whose items are numbered from `first`, have dashes (None), or are within one item."""
        self.end()
        if not self._lists:
            self._group += 1
        elif self._marker:  # a list right within an item, whose marker has no text
            self._indent = " " * min(len(self._indent + self._marker), _WIDEST_INDENT)
            self._marker = ""
        self._lists.append(_List(first, self._indent))

    def close_list(self) -> None:
        self.end()
        if self._lists:
            self._indent, self._marker = self._lists.pop().indent, ""

    def item(self, number: int | None) -> None:
        """The begin of an item, with a number of its own if it has one."""
        self.end()
        if not self._lists:
            return
        inner = self._lists[-1]
        self._indent = inner.indent
        if inner.number is None:
            self._marker = "- "
            return
        inner.number = inner.number if number is None else number
        self._marker = f"{inner.number}. "
        inner.number += 1

    def open_code(self) -> None:
        self.end()
        self.is_code = True

    def close_code(self, language: str) -> None:
        """Ends what `open_code` began: a fenced block, without blank lines at its ends."""
        text = "".join(self.line).strip("\n")
        self.line.clear()
        self.is_code = False
        if text.strip():
            fence = "```"
            while fence in text:
                fence += "`"
            self.add(f"{fence}{language}\n{text}\n{fence}", "code")
