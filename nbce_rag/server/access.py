"""Who asks, and what they may read: keys, and the one function that decides.

A key is a long random text. Of each its SHA-256 is kept, never the key; being random, it needs no salt.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..checks import COUNT
from ..errors import InputError
from ..values import shown
from .wire.errors import ServerError

__all__ = [
    "NOBODY_ELSE",
    "Caller",
    "Key",
    "KeyRing",
    "check_write",
    "may_read",
    "sees_files_of",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        name: of the key; it stands in logs, the key never does.
        indexes: which indexes may be read; None for all.
        write: whether files may be uploaded and taken in, where the server allows it at all.
        admin: whether metrics and everybody's files may be read.
        requests_per_minute: at most; None for any number.
        max_tokens: of an answer, at most; None for the server's limit.
        options: defaults of answers (`nbce_rag.options.Options`).

    Raises:
        InputError: a value that cannot be used, named.
    """

    name: str
    indexes: frozenset[str] | None = frozenset()
    write: bool = False
    admin: bool = False
    requests_per_minute: int | None = None
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(
                f"{shown(self.name)} is no name of a key; use up to 64 letters, digits, '.', '_' and '-'."
            )
        for name in ("write", "admin"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"key {self.name}: {name} must be true or false.")
        for name in ("requests_per_minute", "max_tokens"):
            if getattr(self, name) is not None:
                COUNT.check(name, getattr(self, name), f"key {self.name}")
        from ..options import Options

        if not isinstance(self.options, Mapping):
            raise InputError(f"key {self.name}: options must be a table of names and values.")
        Options().updated(**self.options)


NOBODY_ELSE = Caller("nobody-else", None, write=True, admin=True)
"""Who asks a server without keys: whoever sits at this machine."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, by its hash, and whose it is.

    Raises:
        InputError: `sha256` is no SHA-256 in hexadecimal digits.
    """

    sha256: str
    caller: Caller

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256.lower()):
            raise InputError(
                f"key {self.caller.name}: sha256={shown(self.sha256)} is no SHA-256 in 64 hexadecimal "
                "digits; `nbce-rag key new` makes keys."
            )


class KeyRing:
    """All keys of a server.

    Args:
        keys: any number; none means that nobody is asked for one.

    Raises:
        InputError: two keys have one name or are the same key.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)
        self._digests = [bytes.fromhex(key.sha256) for key in self._keys]
        for kind, values in (
            ("name", [key.caller.name for key in self._keys]),
            ("hash", [key.sha256.lower() for key in self._keys]),
        ):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise InputError(f"Two keys have the {kind} {twice}; remove one.")

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def caller(self, key: str | None) -> Caller:
        """Whose key this is.

        Args:
            key: as the request has it, or None.

        Raises:
            ServerError: 401; there are keys, and this is none of them.
        """
        if not self._keys:
            return NOBODY_ELSE
        if not key:
            raise ServerError(
                401,
                "This server wants a key: send it as `Authorization: Bearer KEY`, or as `x-api-key: KEY`.",
                code="missing_api_key",
            )
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        match: Caller | None = None
        for other, one in zip(self._digests, self._keys, strict=True):
            # All of them, whichever it is: how long this takes says nothing.
            if hmac.compare_digest(digest, other):
                match = one.caller
        if match is None:
            raise ServerError(
                401, "This key is not known here; check it, or ask for one.", code="invalid_api_key"
            )
        return match


def may_read(caller: Caller, index: str) -> bool:
    """Whether a caller may know of an index: the one place where that is decided.

    An index that it may not know of is one that does not exist, in every route, in lists, in models' names
    and in links to sources alike.
    """
    return caller.indexes is None or index in caller.indexes


def check_write(caller: Caller, allow_write: bool) -> None:
    """Raises ServerError (403) where a caller may not change what it may read.

    Args:
        caller: who asks.
        allow_write: whether the server allows it to anybody.
    """
    if not allow_write:
        raise ServerError(
            403, "This server takes no files; it would if started with --allow-write.", code="write_disabled"
        )
    if not caller.write:
        raise ServerError(403, f"The key {caller.name!r} may read, and not write.", code="write_not_allowed")


def sees_files_of(caller: Caller, owner: str) -> bool:
    """Whether a caller may see the files that a key of this name uploaded."""
    return caller.admin or caller.name == owner
