"""Jupyter notebooks: text and code cell after cell, with what the code printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import ReadError
from ..data_uris import without_data
from ..document import Document, decode_text, document_of
from ..limits import ReadLimits

__all__ = ["DOCUMENTS", "VERSION"]

VERSION = 1

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)

_OVERWRITTEN = re.compile(r"^[^\n]*\r(?=[^\r\n])", re.MULTILINE)
_KINDS = ("text/plain", "text/markdown", "text/latex")


def _read_ipynb(path: Path, data: bytes, limits: ReadLimits) -> Document:
    try:
        book = json.loads(decode_text(path, data))
    except ValueError as error:
        raise ReadError(f"{path}: is not a notebook that can be read ({error}).") from None
    sheets = _dig(book, "worksheets")  # before version 4
    cells = _dig(sheets[0] if isinstance(sheets, list) and sheets else book, "cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ReadError(f"{path}: is not a notebook: it has no cells.")
    limits.check_pages(path, len(cells))
    language = _language(book)
    parts = [("\n\n".join(_cell(cell, language)), {"cell": number}) for number, cell in enumerate(cells, 1)]
    title = _dig(book, "metadata", "title") or next(_headings(cells), None)
    return document_of(parts, title if isinstance(title, str) else None)


def _cell(cell: Mapping[str, Any], language: str) -> Iterator[str]:
    text = without_data(_text(cell.get("source", cell.get("input")))).strip("\n")
    if cell.get("cell_type") != "code":
        if text.strip():
            yield text
        return
    if text.strip():
        yield _fenced(text, language)
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        shown = without_data(_COLOUR.sub("", _output(output))).strip("\n")
        if shown.strip():
            yield _fenced(shown, "")


def _output(output: Any) -> str:
    """What is printed, or the text that stands for a result; of errors the last line.

    A carriage return takes the line back to its begin, as bars that show progress do.
    """
    if not isinstance(output, dict):
        return ""
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename')}: {output.get('evalue')}"
    data = output.get("data")
    if not isinstance(data, dict):
        return _OVERWRITTEN.sub("", _text(output.get("text")))
    return next(filter(None, (_text(data.get(kind)) for kind in _KINDS)), "")


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _text(source: Any) -> str:
    """Cells are texts, or lists of lines with their ends."""
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def _language(book: Mapping[str, Any]) -> str:
    name = _dig(book, "metadata", "kernelspec", "language") or _dig(book, "metadata", "language_info", "name")
    return name if isinstance(name, str) and name.isascii() and name.isalnum() else ""


def _headings(cells: list[dict[str, Any]]) -> Iterator[str]:
    for cell in cells:
        if cell.get("cell_type") == "markdown" and (match := _HEADING.search(_text(cell.get("source")))):
            yield match.group(1)


def _dig(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


DOCUMENTS = {".ipynb": _read_ipynb}
