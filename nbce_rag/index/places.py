"""Where an index is or will be, by what people write: a folder, or the URL of a database."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol

from .address import is_database
from .storage import PassageStorage

__all__ = ["Place", "place_of"]


class Place(Protocol):
    """Where an index is or will be."""

    @property
    def location(self) -> str:
        """The folder, or the URL without a password: for messages."""
        ...

    def open(self, timeout: float) -> PassageStorage[Any]:
        """Opens the index.

        Raises:
            IndexNotFoundError: There is none.
            IndexDamagedError: It is not one, or its data are damaged.
        """
        ...

    def has_index(self, timeout: float) -> bool:
        """Whether there is one; raises PassageIndexError if something else is there, or it is unreadable."""
        ...

    def check_factory(self, factory: str, dimension: int) -> str:
        """The factory, if vectors of this dimension can be held so.

        Raises:
            InputError: They cannot.
        """
        ...

    def make(self, meta: Mapping[str, str], timeout: float) -> bool:
        """Makes an empty index. Returns False when another process was faster."""
        ...


def place_of(path: str | os.PathLike[str]) -> Place:
    """The place that a path or a URL names.

    Raises:
        InputError: It is a URL that cannot be.
        MissingDependencyError: It is a URL, and the extra is not installed.
    """
    if is_database(path):
        from .postgres.place import PostgresPlace

        return PostgresPlace(os.fsdecode(path))
    from .folder_storage import FolderPlace

    return FolderPlace(path)
