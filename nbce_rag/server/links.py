"""Addresses under which a browser finds the source of a passage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from ..passages import Passage
from .ask import Home

__all__ = ["Links"]


@dataclass(frozen=True, slots=True)
class Links:
    """Makes addresses. No two passages have the same one, and none is a path of the server's.

    Attributes:
        base: the server's own address, without a slash at its end.
        sign: what makes an address one that opens without a key; None leaves it as it is.
    """

    base: str
    sign: Callable[[str], str] | None = None

    def source(self, passage: Passage, home: Home) -> str:
        """The address of a passage: its own, if its source is one on the web; else its place on this server.

        A passage that came with the request and has no address is named `document:<id>`.
        """
        if passage.source and passage.source.startswith(("http://", "https://")):
            return passage.source
        if home.index is None:
            # Clients name documents as they like, also with half a surrogate pair.
            return f"document:{quote(home.id, safe='', errors='surrogatepass')}"
        path = f"/source/{quote(home.index, safe='')}/{quote(home.id, safe='')}"
        return self.base + (path if self.sign is None else self.sign(path))
