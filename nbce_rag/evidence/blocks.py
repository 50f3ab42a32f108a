"""The blocks of an answer as Markdown has them: paragraphs, list items, tables, headings, code.

Models write Markdown and break off in the middle of it, so nothing here can fail: what is no code, list,
table or heading is a paragraph, and a code block that is never closed goes on to the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Block", "BlockReader", "CodeBlock", "Kind", "blocks", "code_blocks", "lines"]

Kind: TypeAlias = Literal["code", "heading", "item", "prose", "row"]

# A number of a list has a blank behind it, but in Chinese and Japanese, where it has a sign of its own.
# Blanks are matched possessively (*+, ++), or a long row of them would be tried in every way to part it.
_ITEM = re.compile(
    r"\s*+(?:(?:[-*+\u2022]|\d{1,3}[.)])(?:\s++|\Z)|\d{1,3}\u3001|[(\uff08]\d{1,3}[)\uff09]\s*+)"
)
_FENCE = re.compile(rf"(?:{_ITEM.pattern})?\s*+(`{{3,}}+(?=[^`]*\Z)|~{{3,}}+)")
_HEADING = re.compile(r"\s{0,3}#{1,6}(?:\s+|\Z)")
_ROW = re.compile(r"\s*\|")
# What a line begins with that goes on as a paragraph or an item, whatever follows: a letter, or more than
# any sign of a list, a heading or a fence takes.
_TEXT = re.compile(rf"(?:{_ITEM.pattern})?+\s*+(?:[^\W\d_]|[^\s`~#|][^`~]{{7}})")
_LINE_END = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


class CodeBlock(NamedTuple):
    """Lines of code between two fences, in characters of the answer.

    Attributes:
        start: Where the line of the opening fence begins.
        end: Where the line of the closing fence ends, without its line end; the end of the answer where
            there is none.
        inner_start, inner_end: The lines between the fences.
    """

    start: int
    end: int
    inner_start: int
    inner_end: int


class Block(NamedTuple):
    """A paragraph, a list item without its sign, a heading, or one line of a table or of code.

    Attributes:
        start, end: In characters of the answer, without outer white space.
        kind: What it is.
        group: Equal for the lines of one table or of one code block, and otherwise the block's own.
    """

    start: int
    end: int
    kind: Kind
    group: int


class BlockReader:
    """The blocks of a text, line by line.

    Attributes:
        fence: The fence of the code block that the lines read so far leave open; "" where they leave none.
    """

    def __init__(self) -> None:
        self.fence = ""
        self._last: Block | None = None
        self._is_open = False  # whether the next line may go on with the last block
        self._count = 0

    @property
    def group(self) -> int:
        """The least group of the blocks that are not known yet, or may go on."""
        return self._last.group if self._is_open and self._last is not None else self._count

    def read(self, text: str, start: int, end: int) -> Block | None:
        """The block that the next line is of.

        Args:
            text: The text, at least up to the end of the line.
            start, end: The line in it, without its line end.

        Returns:
            A new block, or the last one, which now goes on to the end of this line and has the start that it
            had; None for a fence and for a line without content.
        """
        line = text[start:end]
        kind: Kind = "prose"
        if self.fence:
            if _closes(line, self.fence):
                self.fence, self._is_open = "", False
                return None
            kind = "code"
        elif opening := _FENCE.match(line):
            self.fence, self._is_open = opening.group(1), False
            return None
        elif sign := _HEADING.match(line):
            kind, start = "heading", start + sign.end()
        elif _ROW.match(line):
            kind = "row"
        elif sign := _ITEM.match(line):
            kind, start, self._is_open = "item", start + sign.end(), False
        part = text[start:end].strip()
        if not part:
            # A blank line parts paragraphs and tables; within code it is a line like any other.
            self._is_open = self._is_open and kind == "code"
            return None
        start += len(text[start:end]) - len(text[start:end].lstrip())
        last = self._last if self._is_open else None
        if kind == "prose" and last is not None and last.kind in ("prose", "item"):
            return self.extend(text, end)
        together = kind in ("code", "row") and last is not None and last.kind == kind
        group = last.group if together and last is not None else self._count
        self._count += 1
        self._is_open = kind != "heading"
        self._last = Block(start, start + len(part), kind, group)
        return self._last

    def extend(self, text: str, end: int) -> Block:
        """The last block, which goes on up to `end`, as far as there is no white space before it."""
        assert self._last is not None
        start = self._last.end
        self._last = self._last._replace(end=start + len(text[start:end].rstrip()))
        return self._last

    def is_text(self, line: str) -> bool:
        """Whether the next line is of a paragraph or an item, however it goes on behind what is there."""
        return not self.fence and _TEXT.match(line) is not None


def blocks(text: str) -> list[Block]:
    """The blocks of a text, ordered and disjoint, without fences, signs of lists and blank lines.

    A line end within a paragraph or an item does not part it.
    """
    reader = BlockReader()
    read = (reader.read(text, start, end) for start, end, _ in _lines(text))
    return list({block.start: block for block in read if block is not None}.values())


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced code blocks of a text, ordered and disjoint."""
    result: list[CodeBlock] = []
    fence, start, inner_start = "", 0, 0
    for line_start, line_end, next_start in _lines(text):
        line = text[line_start:line_end]
        if not fence:
            if opening := _FENCE.match(line):
                fence, start, inner_start = opening.group(1), line_start, next_start
        elif _closes(line, fence):
            result.append(CodeBlock(start, line_end, inner_start, line_start))
            fence = ""
    if fence:
        result.append(CodeBlock(start, len(text), inner_start, len(text)))
    return result


def lines(text: str, start: int, searched: int, *, is_whole: bool = False) -> Iterator[tuple[int, int, int]]:
    """(start, end without the line end, start of the next line) of each line of a text that is whole.

    Args:
        text: As much of it as there is.
        start: Where the first of these lines begins.
        searched: Up to where it is known to have no line end.
        is_whole: Whether nothing follows, so that the last line counts though it has no end.
    """
    for match in _LINE_END.finditer(text, max(start, searched)):
        if match.end() == len(text) and match.group() == "\r" and not is_whole:
            return  # half of a line end, perhaps
        yield start, match.start(), match.end()
        start = match.end()
    if is_whole and start < len(text):
        yield start, len(text), len(text)


def _lines(text: str) -> Iterator[tuple[int, int, int]]:
    return lines(text, 0, 0, is_whole=True)


def _closes(line: str, fence: str) -> bool:
    return line.strip().startswith(fence) and not line.strip().strip(fence[0])
