"""Where an index is: a folder, or a database that a URL names."""

from __future__ import annotations

import os

from ..errors import InputError

__all__ = ["is_database"]

_SCHEMES = ("postgresql://", "postgres://")


def is_database(location: str | os.PathLike[str]) -> bool:
    """Whether this is the URL of a database, and not a folder.

    Raises:
        InputError: It is a URL that was made a path, which drops a slash.
    """
    text = os.fsdecode(location)
    if text.startswith(_SCHEMES):
        return True
    if text.startswith(tuple(scheme[:-1] for scheme in _SCHEMES)):
        raise InputError(
            "The URL of a database was made a path, which drops slashes: give it as text, "
            "postgresql://user@host/database."
        )
    return False
