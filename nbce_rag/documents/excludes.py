"""Which files of a folder are passed over: patterns as in `.gitignore`, given or written in the folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pathspec

from ..checks import check_texts
from ..errors import InputError, ReadError
from .document import read_bytes

__all__ = ["IGNORE_FILE", "Excludes", "Rules"]

IGNORE_FILE = ".nbceignore"
"""Holds patterns for the folder that it lies in, and for those beneath."""

_GITIGNORE = ".gitignore"
_LONGEST_PATTERN = 1000
_MOST_STARS = 3  # in one name, and pairs of them in a pattern: each more multiplies the time it may take

_STARS = re.compile(r"\*+")
_END = "\0"
"""Ends paths and patterns here, so that a pattern fits what it names and not what lies beneath. As in Git,
nothing is asked in a folder that is passed over, and all that lies in another one is asked by itself."""


class _Patterns(NamedTuple):
    """For files, and for folders."""

    files: pathspec.GitIgnoreSpec
    folders: pathspec.GitIgnoreSpec


_Level: TypeAlias = tuple[str, _Patterns]
"""The real path of a folder, and patterns for what lies beneath it."""


@dataclass(frozen=True, slots=True)
class Excludes:
    """What is passed over in folders, beside what is hidden.

    Attributes:
        patterns: As in `.gitignore`, relative to each folder that is given: `drafts/`, `*.log.txt`,
            `!keep.log.txt`. They count before those of files.
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
            if _compiled([pattern]) is None:
                raise InputError(
                    f"exclude={pattern[:80]!r} is no pattern, or has over {_MOST_STARS} * in a name: "
                    "write it as in .gitignore, such as 'drafts/' or '*.log.txt'."
                )


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
        own = _compiled(excludes.patterns)
        self._first: list[_Level] = [] if own is None else [(self._real_top, own)]
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
        levels = [*self._levels[inner], *self._first]
        return _matches(levels, os.path.join(self._real_top, inner, name), is_folder)

    def _inner(self, folder: str) -> str:
        return "" if folder == self._top else os.path.relpath(folder, self._top)

    def _read(self, folder: str, real: str, names: Iterable[str]) -> Iterator[_Level]:
        for name in names:
            path = Path(folder, name)
            if not os.path.lexists(path):
                continue
            try:
                text = read_bytes(path).decode("utf-8-sig", "surrogateescape")
            except ReadError as error:
                self._on_failure(str(path), str(error).removeprefix(f"{path}: "))
                continue
            lines = [line.removesuffix("\r") for line in text.split("\n")]
            wrong = [line for line in lines if _compiled([line]) is None]
            for line in wrong:
                self._on_failure(
                    str(path),
                    f"{line[:80]!r} is no pattern, or has over {_MOST_STARS} * in a name, and was left out.",
                )
            patterns = _compiled(line for line in lines if line not in wrong)
            if patterns is not None:
                yield real, patterns


def _compiled(patterns: Iterable[str]) -> _Patterns | None:
    """None where one of the patterns is none."""
    files, folders = [], []
    for pattern in patterns:
        line = _stripped(pattern)
        if not line.strip("/") or line.startswith("#"):
            continue
        body = line.rstrip("/")
        if len(line) > _LONGEST_PATTERN or _END in line or body == "!" or _ends_open(body):
            return None
        names = body.split("/")
        if any(len(_STARS.findall(name)) > _MOST_STARS for name in names) or names.count("**") > _MOST_STARS:
            return None
        body = f"{body}/*{_END}" if body.endswith("/**") or body == "**" else f"{body}{_END}"
        folders.append(body)
        if not line.endswith("/"):
            files.append(body)
    try:
        return _Patterns(*map(pathspec.GitIgnoreSpec.from_lines, (files, folders)))
    except ValueError:
        return None


def _stripped(pattern: str) -> str:
    """Without the spaces at the end that are not quoted."""
    while pattern.endswith(" ") and not pattern.endswith("\\ "):
        pattern = pattern[:-1]
    return pattern


def _ends_open(pattern: str) -> bool:
    """Whether a pattern ends in a backslash that quotes nothing."""
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 1


def _matches(levels: list[_Level], path: str, is_folder: bool) -> bool:
    """Whether the last pattern that fits a real path passes it over."""
    for base, patterns in reversed(levels):
        spec = patterns.folders if is_folder else patterns.files
        result = spec.check_file(os.path.relpath(path, base) + _END).include
        if result is not None:
            return result
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
