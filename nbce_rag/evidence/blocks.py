"""The blocks of an answer as Markdown has them: paragraphs, list items, tables, headings, code.

Models write Markdown and break off in the middle of it, so nothing here can fail: what is no code, list,
table or heading is a paragraph, and a code block that is never closed goes on to the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Block", "CodeBlock", "Kind", "blocks", "code_blocks"]

Kind: TypeAlias = Literal["code", "heading", "item", "prose", "row"]

# A number of a list has a blank behind it, but in Chinese and Japanese, where it has a sign of its own.
# Blanks are matched possessively (*+, ++), or a long row of them would be tried in every way to part it.
_ITEM = re.compile(
    r"\s*+(?:(?:[-*+\u2022]|\d{1,3}[.)])(?:\s++|\Z)|\d{1,3}\u3001|[(\uff08]\d{1,3}[)\uff09]\s*+)"
)
_FENCE = re.compile(rf"(?:{_ITEM.pattern})?\s*+(`{{3,}}+(?=[^`]*\Z)|~{{3,}}+)")
_HEADING = re.compile(r"\s{0,3}#{1,6}(?:\s+|\Z)")
_ROW = re.compile(r"\s*\|")


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


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced code blocks of a text, ordered and disjoint."""
    result: list[CodeBlock] = []
    fence, start, inner_start = "", 0, 0
    for line_start, line_end, next_start in _lines(text):
        line = text[line_start:line_end]
        if not fence:
            if opening := _FENCE.match(line):
                fence, start, inner_start = opening.group(1), line_start, next_start
        elif line.strip().startswith(fence) and not line.strip().strip(fence[0]):
            result.append(CodeBlock(start, line_end, inner_start, line_start))
            fence = ""
    if fence:
        result.append(CodeBlock(start, len(text), inner_start, len(text)))
    return result


def blocks(text: str) -> list[Block]:
    """The blocks of a text, ordered and disjoint, without fences, signs of lists and blank lines.

    A line end within a paragraph or an item does not part it.
    """
    result: list[Block] = []
    code = code_blocks(text)
    at_code = 0
    is_open = False  # whether the next line may go on with the last block
    for start, end, _ in _lines(text):
        while at_code < len(code) and code[at_code].end <= start:
            at_code += 1
        fenced = code[at_code] if at_code < len(code) and code[at_code].start <= start else None
        line = text[start:end]
        kind: Kind = "prose"
        if fenced is not None:
            if not fenced.inner_start <= start < fenced.inner_end:
                is_open = False
                continue
            kind = "code"
        elif sign := _HEADING.match(line):
            kind, start = "heading", start + sign.end()
        elif _ROW.match(line):
            kind = "row"
        elif sign := _ITEM.match(line):
            kind, start, is_open = "item", start + sign.end(), False
        part = text[start:end].strip()
        if not part:
            # A blank line parts paragraphs and tables; within code it is a line like any other.
            is_open = is_open and kind == "code"
            continue
        start += len(text[start:end]) - len(text[start:end].lstrip())
        last = result[-1] if is_open and result else None
        if kind == "prose" and last is not None and last.kind in ("prose", "item"):
            result[-1] = last._replace(end=start + len(part))
            continue
        together = kind in ("code", "row") and last is not None and last.kind == kind
        group = last.group if together and last is not None else len(result)
        result.append(Block(start, start + len(part), kind, group))
        is_open = kind != "heading"
    return result


def _lines(text: str) -> Iterator[tuple[int, int, int]]:
    """(start, end without the line end, start of the next line) of each line."""
    start = 0
    for line in text.splitlines(keepends=True):
        after = start + len(line)
        yield start, start + len(line.rstrip("\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029")), after
        start = after
