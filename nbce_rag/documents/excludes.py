"""Which files of a folder are passed over: patterns as in `.gitignore`, given or written in the folder."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..checks import check_texts
from ..errors import InputError, ReadError
from .document import check_regular, read_bytes
from .patterns import MOST_PAIRS, MOST_STARS, Pattern

__all__ = ["IGNORE_FILE", "Excludes", "Rules"]

IGNORE_FILE = ".nbceignore"
"""Holds patterns for the folder that it lies in, and for those beneath."""

_GITIGNORE = ".gitignore"
_MOST_BYTES = 1 << 20
_MOST_LINES = 10_000
_NAMED = 5  # of the lines of a file that are no patterns
_IS_NONE = f"is no pattern, or has over {MOST_STARS} * in a name or {MOST_PAIRS} ** before its end"

_Level: TypeAlias = tuple[str, list[Pattern]]
"""The real path of a folder, and patterns for what lies beneath it."""


@dataclass(frozen=True, slots=True)
class Excludes:
    """What is passed over in folders, beside what is hidden.

    Attributes:
        patterns: As in `.gitignore`, relative to each folder that is given: `drafts/`, `*.log.txt`,
            `!keep.log.txt`. They count before those of files. `?` and `[...]` stand for a character, not for
            a byte of it as in Git. What begins with the folder's whole path, or with `./`, is meant in it.
        gitignore: Whether `.gitignore` counts too, also those of the folders above, up to that of the
            repository.

    Raises:
        InputError: A pattern is none, as its message says.
    """

    patterns: tuple[str, ...] = ()
    gitignore: bool = False

    @classmethod
    def of(cls, patterns: str | Iterable[str], gitignore: bool) -> Excludes:
        """Of arguments that a caller gave; one pattern alone will do."""
        return cls(tuple(check_texts("exclude", patterns)), gitignore)

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            try:
                Pattern.parse(pattern)
            except ValueError as error:
                raise InputError(
                    f"exclude={pattern[:80]!r} {_IS_NONE}: write it as in .gitignore, such as 'drafts/' or "
                    "'*.log.txt'."
                ) from error


class Rules:
    """What is passed over beneath one folder, asked from it downwards.

    Args:
        excludes: What was asked for.
        folder: The folder.
        on_failure: Told of each file of patterns, or line of one, that cannot be read, and why.
    """

    def __init__(self, excludes: Excludes, folder: Path, on_failure: Callable[[str, str], None]) -> None:
        self._names = (_GITIGNORE, IGNORE_FILE) if excludes.gitignore else (IGNORE_FILE,)
        self._on_failure = on_failure
        self._top, self._real_top = str(folder), os.path.realpath(folder)
        own = [_anchored(pattern, (os.path.abspath(folder), self._real_top)) for pattern in excludes.patterns]
        self._first = (self._real_top, _parse(own)[0])
        above: list[_Level] = []
        for parent in _repository_above(self._real_top) if excludes.gitignore else ():
            above.extend(self._read(parent, parent, (_GITIGNORE,)))
        # A folder that is given counts, though others may pass it over.
        self._levels: dict[str, list[_Level]] = {"": [] if _matches(above, self._real_top, True) else above}

    def enter(self, folder: str) -> None:
        """Takes in the patterns in a folder; to be called before what lies in it is asked about."""
        inner = self._inner(folder)
        before = self._levels[os.path.dirname(inner) if inner else ""]
        real = os.path.join(self._real_top, inner) if inner else self._real_top
        self._levels[inner] = [*before, *self._read(folder, real, self._names)]

    def excludes(self, folder: str, name: str, is_folder: bool) -> bool:
        """Whether something in a folder that was entered is passed over."""
        inner = self._inner(folder)
        levels = [*self._levels[inner], self._first]
        return _matches(levels, os.path.join(self._real_top, inner, name), is_folder)

    def _inner(self, folder: str) -> str:
        return "" if folder == self._top else os.path.relpath(folder, self._top)

    def _read(self, folder: str, real: str, names: Iterable[str]) -> Iterator[_Level]:
        for name in names:
            path = Path(folder, name)
            if not os.path.lexists(path):
                continue
            try:
                patterns, wrong = _parse(_lines(path))
            except ReadError as error:
                self._on_failure(str(path), str(error).removeprefix(f"{path}: "))
                continue
            for line in wrong[:_NAMED]:
                self._on_failure(str(path), f"{line[:80]!r} {_IS_NONE}, and was left out.")
            if (more := len(wrong) - _NAMED) > 0:
                self._on_failure(str(path), f"{more} more of its lines are no patterns.")
            yield real, patterns


def _lines(path: Path) -> list[str]:
    """Of a file of patterns, whatever bytes names are made of.

    Raises:
        ReadError: It cannot be read, or is too large to ask all of it of every file.
    """
    size = check_regular(path).st_size
    data = read_bytes(path) if size <= _MOST_BYTES else b""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    lines = data.decode(
        "utf-16" if is_utf16 else "utf-8-sig", "replace" if is_utf16 else "surrogateescape"
    ).split("\n")
    if size > _MOST_BYTES or len(lines) > _MOST_LINES:
        raise ReadError(
            f"{path}: is no list of patterns, or one of over {_MOST_LINES:,} ({_MOST_BYTES:,} bytes); it was "
            "left out."
        )
    return [line.removesuffix("\r") for line in lines]


def _anchored(pattern: str, folders: Iterable[str]) -> str:
    """A pattern that was given, as one of the folder that it names; what people type has often come from a
    shell, which writes paths out."""
    mark, body = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    for start in (os.path.join(folder, "") for folder in (".", *folders)):
        if body.startswith(start):
            return f"{mark}/{body[len(start) :]}"
    return pattern


def _parse(lines: Iterable[str]) -> tuple[list[Pattern], list[str]]:
    """Patterns, and the lines that are none."""
    patterns: list[Pattern] = []
    wrong: list[str] = []
    for line in lines:
        try:
            pattern = Pattern.parse(line)
        except ValueError:
            wrong.append(line)
        else:
            if pattern is not None:
                patterns.append(pattern)
    return patterns, wrong


def _matches(levels: list[_Level], path: str, is_folder: bool) -> bool:
    """Whether the last pattern that fits a real path passes it over."""
    for base, patterns in reversed(levels):
        if not patterns:
            continue
        inner = os.path.relpath(path, base).replace(os.sep, "/")
        for pattern in reversed(patterns):
            if pattern.fits(inner, is_folder):
                return pattern.excludes
    return False


def _repository_above(folder: str) -> list[str]:
    """The folders above one, from that of its Git repository down; none where there is no repository."""
    parents = [str(parent) for parent in Path(folder).parents]
    if os.path.lexists(os.path.join(folder, ".git")):
        return []
    for place, parent in enumerate(parents):
        if os.path.lexists(os.path.join(parent, ".git")):
            return parents[place::-1]
    return []
