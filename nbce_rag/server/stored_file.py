"""A file that was uploaded."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StoredFile"]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that is kept.

    Attributes:
        id: Under which it is known.
        name: As it was uploaded, without folders.
        owner: Name of the key that uploaded it.
        bytes: Its size.
        created_at: Seconds since 1970.
        purpose: As the client said.
    """

    id: str
    name: str
    owner: str
    bytes: int
    created_at: int
    purpose: str
