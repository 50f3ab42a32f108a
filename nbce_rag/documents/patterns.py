"""A pattern as in `.gitignore`, and whether it fits a path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

__all__ = ["MOST_PAIRS", "MOST_STARS", "Pattern"]

MOST_STARS = 3
"""In one name."""

MOST_PAIRS = 2
"""Of `**`, but for one at the end: each more multiplies the time it may take."""

_LONGEST = 1000
_STARS = re.compile(r"\*+")
_PIECES = re.compile(r"\\.|\*+|\0|[^\\*\0]+", re.DOTALL)
_END = "\0"
"""Ends paths and patterns here, so that a pattern fits what it names and not what lies beneath. As in Git,
nothing is asked in a folder that is passed over, and all that lies in another one is asked by itself. While
a pattern is translated it also stands for each set of characters, of which pathspec knows the simple ones,
and for each star in a name, so that no two of them are tried together."""

_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of `.gitignore`.

    Attributes:
        regex: Fits a path with `/` between its names, and a NUL behind.
        excludes: What it fits is passed over; else it is taken in again.
        of_folders: It fits folders alone.
    """

    regex: re.Pattern[str]
    excludes: bool
    of_folders: bool

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Of a line; None where it is empty or a comment.

        Raises:
            ValueError: It is no pattern, or one that may take long.
        """
        line = _stripped(line)
        if not line.strip("/") or line.startswith("#"):
            return None
        body = line.rstrip("/")
        if len(line) > _LONGEST or _END in line or body == "!" or _ends_open(body):
            raise ValueError(line)
        mark, body = ("!", body[1:]) if body.startswith("!") else ("", body)
        body, sets = _without_sets(body)
        names = body.split("/")
        if any(len(_STARS.findall(name)) > MOST_STARS for name in names):
            raise ValueError(line)
        if names[:-1].count("**") > MOST_PAIRS:
            raise ValueError(line)
        left = iter(sets)
        parsed = [_without_stars(name, left) for name in names]
        body = mark + "/".join(name for name, _ in parsed)
        inserts = [insert for _, of_name in parsed for insert in of_name]
        regex, excludes = GitIgnoreSpecPattern.pattern_to_regex(
            f"{body}/*{_END}" if names[-1] == "**" else f"{body}{_END}"
        )
        if regex is None or excludes is None:
            raise ValueError(line)
        start, *parts = regex.split(_END)
        rest = (text + part for text, part in zip([*inserts, _END], parts, strict=True))
        return cls(re.compile(start + "".join(rest), re.DOTALL), excludes, line.endswith("/"))

    def fits(self, path: str, is_folder: bool) -> bool:
        """Whether it fits a path beneath the folder of the pattern."""
        return (is_folder or not self.of_folders) and self.regex.match(path + _END) is not None


def _stripped(line: str) -> str:
    """Without the spaces at the end that are not quoted."""
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    return line


def _ends_open(line: str) -> bool:
    """Whether a line ends in a backslash that quotes nothing."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _without_sets(line: str) -> tuple[str, list[str]]:
    """A line with `_END` in place of each `[...]`, and what these are as regular expressions."""
    rest, sets, place = [], [], 0
    while place < len(line):
        if line[place] == "[":
            regex, place = _set(line, place + 1)
            sets.append(regex)
            rest.append(_END)
        else:
            size = 2 if line[place] == "\\" else 1
            rest.append(line[place : place + size])
            place += size
    return "".join(rest), sets


def _without_stars(name: str, sets: Iterator[str]) -> tuple[str, list[str]]:
    """A name of a pattern with `_END` in place of each star too, and the regular expressions of all `_END`.

    What follows a star is looked for once, from the left: where a later part of the name is missing, it is
    not behind another place of this one either. Behind the last star the end of the name decides.
    """
    if not name.strip("*"):
        return name, []
    pieces = _PIECES.findall(name)
    stars = sum(piece.startswith("*") for piece in pieces)
    rest, inserts, seen = [], [], 0
    for piece in pieces:
        if piece.startswith("*"):
            inserts.append((")" if seen else "") + ("(?>[^/]*?" if seen < stars - 1 else "[^/]*"))
            seen += 1
        elif piece == _END:
            inserts.append(next(sets))
        rest.append(_END if piece.startswith("*") else piece)
    return "".join(rest), inserts


def _set(line: str, place: int) -> tuple[str, int]:
    """The regular expression of the set behind a `[`, and the place behind its `]`.

    Raises:
        ValueError: It has no end, or a class that is none.
    """
    is_negated = line[place : place + 1] in ("!", "^")
    place += is_negated
    items: list[str] = []
    first: str | None = None  # which a range may begin with
    is_open = True  # a ] at the beginning is one of the set
    while is_open or line[place : place + 1] != "]":
        is_open = False
        end = line.find("]", place + 2)
        if line.startswith("[:", place) and end > place + 2 and line[end - 1] == ":":
            items.append(_CLASSES.get(line[place + 2 : end - 1], ""))
            if not items[-1]:
                raise ValueError(line)
            first, place = None, end + 1
        elif (
            first is not None and line.startswith("-", place) and line[place + 1 : place + 2] not in ("", "]")
        ):
            last, place = _character(line, place + 1)
            if first <= last:
                items.append(f"{re.escape(first)}-{re.escape(last)}")
            first = None
        else:
            first, place = _character(line, place)
            items.append(re.escape(first))
    members = "".join(items)
    return (f"[^/{members}]" if is_negated else f"(?!/)[{members}]"), place + 1


def _character(line: str, place: int) -> tuple[str, int]:
    """The character at a place, which may be quoted, and the place behind it."""
    place += line.startswith("\\", place)
    if place >= len(line):
        raise ValueError(line)
    return line[place], place + 1
