"""Tables of values separated by commas, semicolons, tabs or bars: one text a row."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from ...errors import ReadError
from ...noncharacters import strip_marks
from ...passages import Passage
from ..document import OnError, Splitter, check_regular, source_name
from ..limits import Deadline, ReadLimits, Room

__all__ = ["RECORDS", "VERSION"]

VERSION = 1

_LONGEST_LINE = 64 << 20
_CHUNK = 1 << 20
_SAMPLE = 64 << 10
_SAMPLE_ROWS = 50
_DELIMITERS = ",;\t|"
_WESTERN = "cp1252"
_OTHERS = """
    cp1251 cp1253 cp1255 cp1256 cp874 koi8_r cp932 euc_jp gb18030 big5 cp949
"""
_NUMBER = re.compile(r"[-+]?\d[\d.,]*%?")
_YEAR = re.compile(r"(?:1[89]|20|21)\d\d")
_MOST_DAMAGED = 4
"""Characters beyond ASCII for each that is damaged, from which on a text is UTF-8."""
_FEWEST_HIGH = 0.3
_Row = tuple[int, list[str]]  # its number from 1, and its cells
_LETTERS = bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1))


def _read_csv(path: Path, splitter: Splitter, on_error: OnError, limits: ReadLimits) -> list[Passage]:
    """A passage for each row below the head: `head: value`, a line for each cell that is not empty."""
    check_regular(path, limits)
    deadline, room = Deadline(path, limits), Room(path, limits)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    passages: list[Passage] = []
    try:
        encoding, complaint = _encoding(path)
        if complaint:
            on_error(ReadError(f"{path}: {complaint}; save it as UTF-8."))
        with path.open(encoding=encoding, errors="replace", newline="") as stream:
            delimiter, start = _delimiter(stream)
            if path.suffix.lower() == ".tsv":
                delimiter = "\t"
            stream.seek(start)
            filled = _filled(path, stream, delimiter, on_error)
            first, failure = _first_of(filled)
            if not first:
                raise failure or ReadError(f"{path}: holds no text.")
            above = _rows_above(first)
            head = [_clean(cell) for cell in first[above][1]] if _has_head(first[above:]) else []
            for place, (number, row) in enumerate(chain(first, filled)):
                if not number % 1000:
                    deadline.check()
                if place == above and head:
                    continue
                names = head if place > above else []
                room.take(sum(map(len, row)) + sum(map(len, names)))
                passages += _passages(path, splitter, names, row, number)
            if failure is not None:
                raise failure
    except csv.Error as error:  # a quote that never ends
        on_error(ReadError(f"{path}, after row {len(passages)}: cannot be read on ({error})."))
    except OSError as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return passages


def _filled(path: Path, stream: TextIO, delimiter: str, on_error: OnError) -> Iterator[_Row]:
    """The rows that are not empty; of a quote that takes in all that follows it is told."""
    quotes = before = number = 0

    def lines() -> Iterator[str]:
        nonlocal quotes
        for line in _lines(path, stream):
            quotes += line.count('"')
            yield line

    rows = csv.reader(lines(), delimiter=delimiter)
    line = 0
    for number, row in enumerate(rows, start=1):
        last_line, line = line, rows.line_num
        last_quotes, before = before, quotes
        if any(map(str.strip, row)):
            yield number, row
    if number and line - last_line > 1 and (before - last_quotes) % 2:
        on_error(
            ReadError(f"{path}, row {number}: holds a quote that never ends, and with it all rows below.")
        )


def _first_of(rows: Iterator[_Row]) -> tuple[list[_Row], csv.Error | None]:
    """The first rows, and what ended them."""
    first: list[_Row] = []
    try:
        first.extend(islice(rows, _SAMPLE_ROWS))  # takes in one by one: what came before an error stays
    except csv.Error as error:
        return first, error
    return first, None


def _rows_above(rows: Sequence[_Row]) -> int:
    """How many rows of one cell, such as a caption, stand above the table's first; 0 for one column."""
    widths = (sum(map(bool, map(str.strip, row))) for _, row in rows)
    return next((place for place, width in enumerate(widths) if width > 1), 0)


def _has_head(rows: Sequence[_Row]) -> bool:
    """Whether the first row names the columns: not where one of its cells is a number as those below it.

    Numbers that count the columns are names, and so are years.
    """
    (_, head), *others = rows
    if not others:
        return False
    numbers = {column: cell.strip() for column, cell in enumerate(head) if _NUMBER.fullmatch(cell.strip())}
    if len(numbers) == len(head) and [*numbers.values()] in (_count_from(0, head), _count_from(1, head)):
        return True
    for column, number in numbers.items():
        below = [row[column].strip() for _, row in others if column < len(row)]
        if not _YEAR.fullmatch(number) and below and all(map(_NUMBER.fullmatch, filter(None, below))):
            return False
    return True


def _count_from(first: int, cells: Sequence[str]) -> list[str]:
    return [str(number) for number in range(first, first + len(cells))]


def _passages(path: Path, splitter: Splitter, head: list[str], row: list[str], number: int) -> list[Passage]:
    cells = [_clean(cell) for cell in row]
    names = (head[column] if column < len(head) else "" for column in range(len(cells)))
    lines = [f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=True) if cell]
    text, source, metadata = "\n".join(lines), source_name(path), {"row": number}
    parts = splitter(text, source=source, metadata=metadata)
    if len(parts) > 1:  # then each says which row it is of, as far as the first cell does
        return splitter(text, title=next(filter(None, cells))[:200], source=source, metadata=metadata)
    return parts


def _clean(cell: str) -> str:
    return strip_marks(cell).replace("\0", "").strip()


def _encoding(path: Path) -> tuple[str, str]:
    """UTF-16 by its byte order mark, UTF-8 where nearly all is, else a guess; and what is wrong with that.

    Raises:
        ReadError: The file is no text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as stream:
        chunk = first = stream.read(_CHUNK)
        if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", ""
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = stream.read(_CHUNK)
            decoder.decode(b"", final=True)
            return "utf-8-sig", ""
        except UnicodeDecodeError:
            pass
    if b"\0" in first:
        raise ReadError(f"{path}: is not text; give it the suffix of what it is.")
    first = first[: first.rfind(b"\n") + 1] or first
    text = first.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    if sum(not character.isascii() for character in text) > _MOST_DAMAGED * damaged:
        return "utf-8-sig", "holds bytes that are not UTF-8"
    encoding = _legacy_encoding(first)
    name = encoding.replace("cp125", "Windows-125")
    return encoding, f"is not UTF-8, and is read as {name}"


def _legacy_encoding(sample: bytes) -> str:
    """Western, where most letters are plain; else what the characters fit best.

    Of Latin alphabets only the western one is thought of: in tables of a few words they cannot be told apart.
    """
    high = sum(sample.count(byte) for byte in range(128, 256))
    plain = len(sample) - len(sample.translate(None, _LETTERS))
    if high < _FEWEST_HIGH * (high + plain):
        return _WESTERN
    from charset_normalizer import from_bytes

    guess = from_bytes(sample[:_SAMPLE], cp_isolation=_OTHERS.split()).best()
    return _WESTERN if guess is None else guess.encoding


def _delimiter(stream: TextIO) -> tuple[str, int]:
    """What separates cells, and where the rows start: the sign that gives most rows the same width."""
    first = stream.readline(_SAMPLE)
    if first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == len("sep=;"):  # as Excel writes it
        return first[4], stream.tell()
    sample = io.StringIO(first + stream.read(_SAMPLE), newline="")  # lines as `csv` knows them
    lines = list(islice(sample, _SAMPLE_ROWS))
    scores: dict[str, tuple[int, bool, int]] = {}
    for delimiter in _DELIMITERS:
        try:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        except csv.Error:
            continue
        widths.pop(1, None)
        count, width = max(((count, width) for width, count in widths.items()), default=(0, 0))
        scores[delimiter] = count, delimiter in first, width
    return max(scores, key=lambda sign: scores[sign], default=","), 0


def _lines(path: Path, stream: TextIO) -> Iterator[str]:
    number = 0
    while line := stream.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise ReadError(f"{path}, line {number}: is longer than {_LONGEST_LINE:,} characters.")
        yield line


RECORDS = {".csv": _read_csv, ".tsv": _read_csv}
