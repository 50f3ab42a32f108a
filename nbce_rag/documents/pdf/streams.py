"""Streams of a PDF that unpack to far more than they are, told before PDFium takes memory for them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from ...errors import ReadError
from ..limits import ReadLimits

__all__ = ["check_streams"]

_MARK = re.compile(rb"endstream|stream\r?\n")
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
    for start, end in _streams(data):
        dictionary = data[max(start - _LONGEST_DICTIONARY, 0) : start]
        dictionary = dictionary[dictionary.rfind(b" obj") + 1 :]
        layers = dictionary.count(b"FlateDecode") + len(re.findall(rb"/Fl\b", dictionary))
        if not layers or re.search(rb"/Subtype\s*/Image\b", dictionary):
            continue
        chunks: Iterator[bytes] = (data[at : min(at + _CHUNK, end)] for at in range(start, end, _CHUNK))
        for _ in range(layers):
            chunks = _unpacked(chunks)
        size = 0
        for chunk in chunks:
            size += len(chunk)
            total += len(chunk)
            if total > limits.max_unpacked_bytes:
                most = limits.max_unpacked_bytes
                raise ReadError(f"{name}: unpacks to more than {most:,} bytes; split it.")
            if size > _HARMLESS and size > _MOST_TIMES * (end - start):
                raise ReadError(f"{name}: holds a stream that unpacks to over {_MOST_TIMES} times its size.")


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
