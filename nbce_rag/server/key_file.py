"""The keys file: TOML, a table a key. It is read anew when it changes: a key can be taken away at once.

[keys.reading-room]
sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
indexes = ["harbour", "law"]     # or ["*"], all
write = false                    # may upload files and take them in, where the server allows it
admin = false                    # may read metrics, and see everybody's files
requests_per_minute = 60
max_tokens = 512
options = { style = "long" }     # defaults of answers
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .access import Caller, Key, KeyRing

__all__ = ["EVERY_INDEX", "KeyFile", "digest_of", "key_text", "new_key", "read_keys"]

EVERY_INDEX = "*"
_PREFIX = "nbce-"
_log = logging.getLogger(__name__)


class KeyFile:
    """The keys of a file and others, as the file has them now.

    Args:
        path: the keys file, or None.
        others: keys that stand elsewhere.

    Raises:
        InputError: as `read_keys`; or the file holds no key, so that everybody would be let in.
    """

    def __init__(self, path: Path | None, others: Iterable[Key] = ()) -> None:
        self._path = path
        self._others = tuple(others)
        self._state = _state(path)
        self._ring = self._read()

    def ring(self) -> KeyRing:
        """The keys now. While the file cannot be used, those that it had before."""
        state = _state(self._path)
        if state != self._state:
            self._state = state
            try:
                self._ring = self._read()
            except InputError as error:
                _log.error("%s The keys stay what they were.", error)
        return self._ring

    def _read(self) -> KeyRing:
        if self._path is None:
            return KeyRing(self._others)
        listed = read_keys(self._path)
        if not listed:
            raise InputError(f"The keys file {self._path} holds no key; `nbce-rag key new` writes one.")
        return KeyRing([*listed, *self._others])


def _state(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def digest_of(key: str) -> str:
    """What is kept of a key: its SHA-256 in hexadecimal digits."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def new_key() -> str:
    """A key that nobody can guess: 256 bits of chance."""
    return _PREFIX + secrets.token_urlsafe(32)


def key_text(caller: Caller, key: str) -> str:
    """The lines of a keys file for a key."""
    indexes = [EVERY_INDEX] if caller.indexes is None else sorted(caller.indexes)
    lines = [
        f"[keys.{json.dumps(caller.name)}]",
        f'sha256 = "{digest_of(key)}"',
        f"indexes = {json.dumps(indexes)}",
        f"write = {json.dumps(caller.write)}",
        f"admin = {json.dumps(caller.admin)}",
    ]
    numbers = {"requests_per_minute": caller.requests_per_minute, "max_tokens": caller.max_tokens}
    lines += [f"{name} = {number}" for name, number in numbers.items() if number is not None]
    return "\n".join(lines) + "\n"


def read_keys(path: Path) -> KeyRing:
    """The keys of a keys file.

    Raises:
        InputError: the file cannot be read, is no TOML, or says something that cannot be used.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The keys file {path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"The keys file {path} is no TOML ({error}); `nbce-rag key new` writes it."
        ) from error
    if others := sorted(set(tables) - {"keys"}):
        raise InputError(f"The keys file {path} has {others[0]!r}; it holds tables [keys.NAME] only.")
    keys = tables.get("keys", {})
    if not isinstance(keys, dict) or not all(isinstance(table, dict) for table in keys.values()):
        raise InputError(f"The keys file {path} has keys that are no tables; write [keys.NAME] over each.")
    try:
        return KeyRing([_key(name, table) for name, table in keys.items()])
    except InputError as error:
        raise InputError(f"The keys file {path}: {error}") from error


def _key(name: str, table: Mapping[str, Any]) -> Key:
    known = {
        "sha256",
        "indexes",
        "write",
        "admin",
        "requests_per_minute",
        "max_tokens",
        "options",
    }
    if others := sorted(set(table) - known):
        raise InputError(f"key {name}: {others[0]!r} is not known; there are {', '.join(sorted(known))}.")
    indexes = table.get("indexes")
    if not isinstance(indexes, list) or not all(isinstance(one, str) for one in indexes):
        raise InputError(f'key {name}: indexes must be a list of names; ["{EVERY_INDEX}"] means all.')
    settings = {key: value for key, value in table.items() if key not in ("sha256", "indexes")}
    every = EVERY_INDEX in indexes
    return Key(table.get("sha256", ""), Caller(name, None if every else frozenset(indexes), **settings))
