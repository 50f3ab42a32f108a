"""A file on its way into an index, and several of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .stored_file import StoredFile

__all__ = ["Batch", "Job", "Status"]

Status = Literal["in_progress", "completed", "cancelled", "failed"]


@dataclass(slots=True, eq=False)
class Job:
    """A file that is taken into an index.

    Attributes:
        index: Name of the index.
        file: The file.
        attributes: What the metadata of its passages have beside the usual.
        status: Where it is.
        error: What went wrong, in a sentence.
        passages: That are in the index already.
        total: That there will be; None until that is known.
        created_at: Seconds since 1970.
        is_cancelled: Whether it is to end.
    """

    index: str
    file: StoredFile
    attributes: Mapping[str, Any]
    status: Status = "in_progress"
    error: str | None = None
    passages: int = 0
    total: int | None = None
    created_at: int = field(default_factory=lambda: int(time.time()))
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that were begun together.

    Attributes:
        id: Under which they are known.
        index: Name of the index.
        owner: Name of the key.
        jobs: One a file.
        created_at: Seconds since 1970.
    """

    id: str
    index: str
    owner: str
    jobs: tuple[Job, ...]
    created_at: int = field(default_factory=lambda: int(time.time()))
