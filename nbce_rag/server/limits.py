"""How much one request, and all that wait, may take of the server."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..checks import Range
from .wire.errors import ServerError, bad_field

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that is taken. What is over a limit of one request is refused with 400 or 413 and names it.

    Attributes:
        max_body_bytes: Bytes of a request; default 4 MiB. Uploads have a limit of their own.
        max_documents: Documents in a request; default 128.
        max_document_characters: Characters of one document, question or message; default 200,000.
        max_items: Entries of each other list of a request: messages, stop strings, bad words, tools. Default
            1,000.
        max_rows: Passages that are read for a question, each a row of the model; default 64.
        max_tokens: Tokens of an answer, its thought included; default 4,096. A key may have less.
        max_seconds: Seconds that an answer may take from when its turn has come; default 600.
        max_stall: Seconds for which a client may leave unread what it is sent, or send nothing of a request
            that is not whole; then it is let go. Default 60.
        max_running: Questions that are answered at once; default 8.
        max_waiting: Questions that wait for their turn; 0 lets none wait. Default 64.
        max_waiting_tokens: Prompt tokens of the questions that wait, together; default 400,000. One question
            may always wait.
        max_upload_bytes: Bytes of one file; default 64 MiB.
        max_files: Files of one key; default 1,000.
        max_jobs: Files that wait to be taken in; default 100.

    Raises:
        InputError: One of them is no number or out of range.
    """

    max_body_bytes: int = 4 << 20
    max_documents: int = 128
    max_document_characters: int = 200_000
    max_items: int = 1000
    max_rows: int = 64
    max_tokens: int = 4096
    max_seconds: float = 600.0
    max_stall: float = 60.0
    max_running: int = 8
    max_waiting: int = 64
    max_waiting_tokens: int = 400_000
    max_upload_bytes: int = 64 << 20
    max_files: int = 1000
    max_jobs: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            _RANGES.get(field.name, _COUNT).check(field.name, getattr(self, field.name), "Limits")

    def check_rows(self, count: int, param: str = "k") -> None:
        """Raises ServerError (400) when a question would read too many passages."""
        if count > self.max_rows:
            raise _over(f"{count:,} passages", "max_rows", self.max_rows, param)

    def check_documents(self, characters: list[int], param: str = "documents") -> None:
        """Raises ServerError (400) when there are too many documents, or one of them is too long.

        Args:
            characters: of each document.
            param: which field of the request has them.
        """
        if len(characters) > self.max_documents:
            raise _over(f"{len(characters):,} documents", "max_documents", self.max_documents, param)
        for place, count in enumerate(characters):
            self.check_text(count, f"{param}[{place}]")

    def check_items(self, count: int, param: str) -> None:
        """Raises ServerError (400) when a list of a request is too long."""
        if count > self.max_items:
            raise _over(f"A list of {count:,} entries", "max_items", self.max_items, param)

    def check_text(self, characters: int, param: str) -> None:
        """Raises ServerError (400) when a question, a message or a document is too long."""
        if characters > self.max_document_characters:
            what = f"A text of {characters:,} characters"
            raise _over(what, "max_document_characters", self.max_document_characters, param)


def _over(what: str, name: str, most: int, param: str) -> ServerError:
    return bad_field(param, f"{what} is over this server's limit {name}={most}.", "limit_exceeded")


_COUNT = Range(1, whole=True)
_RANGES = {
    "max_seconds": Range(0, math.inf, above=True),
    "max_stall": Range(0, math.inf, above=True),
    "max_waiting": Range(0, whole=True, note="0 lets none wait"),
}
