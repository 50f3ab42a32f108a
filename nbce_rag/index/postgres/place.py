"""A database where an index is or will be."""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import IndexNotFoundError
from . import schema
from .address import Address
from .storage import PostgresStorage

__all__ = ["PostgresPlace"]


class PostgresPlace:
    """A schema of a database where an index is or will be (`places.Place`)."""

    def __init__(self, url: str) -> None:
        self._address = Address.of(url)

    @property
    def location(self) -> str:
        """The URL without a password."""
        return self._address.shown

    def open(self, timeout: float) -> PostgresStorage:
        """Opens the index."""
        return PostgresStorage.open(self._address, timeout)

    def has_index(self, timeout: float) -> bool:
        """Whether there is one; raises PassageIndexError if the database is not there, or cannot have one."""
        try:
            self.open(timeout).close()
        except IndexNotFoundError as error:
            if error.__cause__ is not None:  # there is no such database
                raise
            return False
        return True

    def check_factory(self, factory: str, dimension: int) -> str:
        """The factory, if pgvector can hold vectors of this dimension so."""
        return schema.check_factory(factory, dimension)

    def make(self, meta: Mapping[str, str], timeout: float) -> bool:
        """Makes an empty index. Returns False when another process was faster."""
        return PostgresStorage.create(self._address, meta, timeout)
