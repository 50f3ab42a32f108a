"""Streams of a PDF that unpack to far more than they are, told before PDFium takes memory for them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ...errors import ReadError
from ..limits import ReadLimits

__all__ = ["check_streams"]

_MARK = re.compile(rb"endstream|stream\r?\n")
_DRAWN = re.compile(rb"\bDo\b")
_XOBJECTS = re.compile(rb"/XObject\s*<<([^<>]*)>>")
_REFERENCE = re.compile(rb"(\d{1,9})\s+\d+\s+R\b")
_MOST_LEVELS = 40
_MOST_DRAWINGS = 1_000_000
_LONGEST_DICTIONARY = 2048
_CHUNK = 1 << 16
_HARMLESS = 8 << 20
"""Bytes that any stream may unpack to."""
_MOST_TIMES = 100
"""How many times its size a larger one may have. Drawings and texts have 3 to 20 times, bombs 1000 times."""


def check_streams(name: str, data: bytes, limits: ReadLimits) -> None:
    """Refuses a file with a stream of drawing or text that is a bomb, or with too much of them.

    Pictures are left out: reading text does not unpack them.

    Raises:
        ReadError: Its streams unpack to more than `max_unpacked_bytes`, or one to over 100 times its size.
    """
    total = 0
    forms: dict[int, _Form] = {}
    for start, end in _streams(data):
        dictionary = data[max(start - _LONGEST_DICTIONARY, 0) : start]
        number, _, dictionary = dictionary.rpartition(b" obj")
        layers = dictionary.count(b"FlateDecode") + len(re.findall(rb"/Fl\b", dictionary))
        if re.search(rb"/Subtype\s*/Image\b", dictionary):
            continue
        chunks: Iterator[bytes] = (data[at : min(at + _CHUNK, end)] for at in range(start, end, _CHUNK))
        for _ in range(layers):
            chunks = _unpacked(chunks)
        size = drawn = 0
        for chunk in chunks:
            size += len(chunk)
            drawn += len(_DRAWN.findall(chunk))
            if not layers:
                continue
            total += len(chunk)
            if total > limits.max_unpacked_bytes:
                most = limits.max_unpacked_bytes
                raise ReadError(
                    f"{name}: unpacks to more than {most:,} bytes; split it, or raise max_unpacked_bytes."
                )
            if size > _HARMLESS and size > _MOST_TIMES * (end - start):
                raise ReadError(f"{name}: holds a stream that unpacks to over {_MOST_TIMES} times its size.")
        others = [int(n) for names in _XOBJECTS.findall(dictionary) for n in _REFERENCE.findall(names)]
        if drawn and others and re.search(rb"/Subtype\s*/Form\b", dictionary):
            forms[_number(number)] = _Form(drawn, others)
    _check_forms(name, forms)


class _Form(NamedTuple):
    """A drawing that draws others: how many times, and their numbers."""

    drawn: int
    others: list[int]


def _check_forms(name: str, forms: Mapping[int, _Form]) -> None:
    """Refuses drawings that draw each other in a circle, or so many times that it would never end."""
    times: dict[int, int] = {}

    def count(number: int, depth: int) -> int:
        if number not in forms:
            return 1
        if number not in times:
            form = forms[number]
            if depth > _MOST_LEVELS:
                raise ReadError(f"{name}: holds drawings within drawings without end.")
            times[number] = 1 + form.drawn * max(count(other, depth + 1) for other in form.others)
            if times[number] > _MOST_DRAWINGS:
                raise ReadError(f"{name}: holds drawings that are drawn over {_MOST_DRAWINGS:,} times.")
        return times[number]

    for number in forms:
        count(number, 0)


def _number(before: bytes) -> int:
    """The number of an object, from what stands before its "obj"."""
    match = re.search(rb"(\d{1,9})\s+\d+$", before[-32:])
    return int(match[1]) if match else -1


def _streams(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each stream begins and ends."""
    start = -1
    for mark in _MARK.finditer(data):
        if mark.group().startswith(b"end"):
            if start >= 0:
                yield start, mark.start()
            start = -1
        elif start < 0:
            start = mark.end()
    if start >= 0:
        yield start, len(data)


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What a stream unpacks to, up to its end or the first damage."""
    unpacker = zlib.decompressobj()
    try:
        for chunk in chunks:
            while chunk and not unpacker.eof:
                if part := unpacker.decompress(chunk, _CHUNK):
                    yield part
                chunk = unpacker.unconsumed_tail
            if unpacker.eof:
                return
    except zlib.error:
        return
