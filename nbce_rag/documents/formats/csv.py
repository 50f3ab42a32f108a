"""Tables of values separated by commas, semicolons, tabs or bars: one text a row."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from ...errors import ReadError
from ...noncharacters import strip_marks
from ...passages import Passage
from ..document import OnError, Splitter, check_regular, source_name
from ..limits import Deadline, ReadLimits, Room

__all__ = ["RECORDS"]

_LONGEST_LINE = 64 << 20
_CHUNK = 1 << 20
_SAMPLE = 64 << 10
_SAMPLE_ROWS = 50
_DELIMITERS = ",;\t|"
_WESTERN = "cp1252"
_OTHERS = """
    cp1251 cp1253 cp1255 cp1256 cp874 koi8_r cp932 euc_jp gb18030 big5 cp949
"""
_FEWEST_HIGH = 0.3
_LETTERS = bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1))


def _read_csv(path: Path, splitter: Splitter, on_error: OnError, limits: ReadLimits) -> list[Passage]:
    """A passage for each row below the first: `head: value`, a line for each cell that is not empty."""
    check_regular(path, limits)
    deadline, room = Deadline(path, limits), Room(path, limits)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_LINE))
    passages: list[Passage] = []
    try:
        encoding = _encoding(path)
        if not encoding.startswith("utf"):
            name = encoding.replace("cp125", "Windows-125")
            on_error(ReadError(f"{path}: is not UTF-8, and is read as {name}; save it as UTF-8."))
        with path.open(encoding=encoding, errors="replace", newline="") as stream:
            delimiter, start = _delimiter(stream)
            if path.suffix.lower() == ".tsv":
                delimiter = "\t"
            stream.seek(start)
            rows = csv.reader(_lines(path, stream), delimiter=delimiter)
            filled = ((number, row) for number, row in enumerate(rows, start=1) if any(map(str.strip, row)))
            first = next(filled, None)
            if first is None:
                raise ReadError(f"{path}: holds no text.")
            head = [_clean(cell) for cell in first[1]]
            for number, row in filled:
                if not number % 1000:
                    deadline.check()
                room.take(sum(map(len, row)) + sum(map(len, head)))
                passages += _passages(path, splitter, head, row, number)
    except csv.Error as error:  # a quote that never ends
        on_error(ReadError(f"{path}, after row {len(passages)}: cannot be read on ({error})."))
    except OSError as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return passages or _passages(path, splitter, [], head, 1)


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


def _encoding(path: Path) -> str:
    """UTF-16 by its byte order mark, UTF-8 where all of the file is, else a guess."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as stream:
        chunk = first = stream.read(_CHUNK)
        if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = stream.read(_CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _legacy_encoding(first[: first.rfind(b"\n") + 1] or first)
    return "utf-8-sig"


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
    lines = (first + stream.read(_SAMPLE)).splitlines(keepends=True)[:_SAMPLE_ROWS]
    scores = {}
    for delimiter in _DELIMITERS:
        try:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        except csv.Error:
            continue
        widths.pop(1, None)
        scores[delimiter] = max(((count, width) for width, count in widths.items()), default=(0, 0))
    return max(scores, key=lambda sign: scores[sign], default=","), 0


def _lines(path: Path, stream: TextIO) -> Iterator[str]:
    number = 0
    while line := stream.readline(_LONGEST_LINE):
        number += 1
        if len(line) == _LONGEST_LINE:
            raise ReadError(f"{path}, line {number}: is longer than {_LONGEST_LINE:,} characters.")
        yield line


RECORDS = {".csv": _read_csv, ".tsv": _read_csv}
