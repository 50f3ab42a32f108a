"""The log of an evaluation: one JSON line a result, safe to interrupt at any point.

The first line is a header that says what was evaluated; lines after it are results. A line that was cut
off by a crash is dropped, and what it held is computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TypeAlias

from ..errors import InputError, ReadError
from ..files import expand_home

__all__ = ["Row", "RunLog"]

Row: TypeAlias = dict[str, Any]
"""A line of a log, in JSON types; its `type` says what the others are."""

_HEADER = b'{"type": "header", '


class RunLog:
    """Results so far, on disk and in memory.

    Args:
        path: the file; None keeps the results in memory only.

    Attributes:
        header: the first line, None while there is none.
        retrieval: lines about the search by question id.
        methods: lines about methods by name.
        rows: lines about answers by (method, question id), in the order of the file.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(expand_home(path))
        self.header: Row | None = None
        self.retrieval: dict[str, Row] = {}
        self.methods: dict[str, Row] = {}
        self.rows: dict[tuple[str, str], Row] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunLog:
        """The results of a log, which is left as it is.

        Raises:
            ReadError: it cannot be read.
            InputError: it is no log of an evaluation.
        """
        log = cls(path)
        try:
            data = Path(expand_home(path)).read_bytes()
        except OSError as error:
            raise ReadError(f"The log {os.fspath(path)} cannot be read ({error.strerror}).") from error
        log._take(data)
        if log.header is None:
            raise InputError(f"{os.fspath(path)} is no log of an evaluation: its first line is no header.")
        return log

    @classmethod
    def resume(cls, path: str | os.PathLike[str] | None, header: Row) -> RunLog:
        """Opens a log to write on, which must have this header if it has any.

        Raises:
            InputError: it belongs to another evaluation, or is none.
            ReadError: it cannot be read or written.
        """
        log = cls(path)
        first: Row = {"type": "header", **header}
        if log.path is not None:
            try:
                data = log.path.read_bytes() if log.path.exists() else b""
                log._take(data)
                if log.header is not None:
                    log._check(first)
                log.path.parent.mkdir(parents=True, exist_ok=True)
                log._file = log.path.open("r+b" if log.path.exists() else "w+b")
                log._file.truncate(log._end)
                log._file.seek(log._end)
            except OSError as error:
                raise ReadError(f"The log {log.path} cannot be written ({error.strerror}).") from error
        if log.header is None:
            log.append([first])
        return log

    def append(self, rows: Iterable[Row]) -> None:
        """Adds lines, on disk before it returns."""
        lines = list(rows)
        for row in lines:
            self._remember(row)
        if self._file is not None:
            text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in lines)
            # A lone surrogate cannot be UTF-8; it is of no use to a reader either.
            self._file.write(text.encode("utf-8", "replace"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file. Doing it twice does no harm."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self, data: bytes) -> None:
        lines = data.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            is_row = isinstance(row, dict) and (row.get("type") == "header") == (number == 1)
            if number == len(lines):
                # Without a line end: nothing, or cut off while it was written. Another file is left alone.
                if line and number == 1 and not line.startswith(_HEADER[: len(line)]):
                    raise self._foreign(number)
                return
            if not is_row:
                raise self._foreign(number)
            self._remember(row)
            self._end += len(line) + 1

    def _foreign(self, number: int) -> InputError:
        return InputError(
            f"{self.path}, line {number} is not of an evaluation's log; give another file for the log."
        )

    def _remember(self, row: Row) -> None:
        if row["type"] == "header":
            self.header = row
        elif row["type"] == "retrieval":
            self.retrieval[row["question_id"]] = row
        elif row["type"] == "method":
            self.methods[row["method"]] = row
        elif row["type"] == "answer":
            self.rows[row["method"], row["question_id"]] = row

    def _check(self, header: Row) -> None:
        assert self.header is not None
        differences = [
            f"{name} is {self.header.get(name)!r} there and {header.get(name)!r} here"
            for name in sorted({*self.header, *header})
            if self.header.get(name) != header.get(name)
        ]
        if differences:
            raise InputError(
                f"The log {self.path} is of another evaluation ({'; '.join(differences)}): repeat that one, "
                "or give another file for the log."
            )
