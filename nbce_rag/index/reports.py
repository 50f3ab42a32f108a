"""What an index says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NotRequired, TypedDict

__all__ = ["CheckReport", "SegmentReport", "SourceEntry"]


class SegmentReport(TypedDict):
    """A FAISS file: its name, how many vectors it has and how many of them do not count any more, and how it
    holds them (`vectors.factories.Note`)."""

    file: str
    vectors: int
    removed: int
    factory: str
    options: dict[str, int]
    recall: float
    error: NotRequired[float]
    loose: NotRequired[list[int]]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `PassageIndex.check` found.

    Attributes:
        passages: How many there are.
        problems: What is wrong, in sentences; empty when all is well.
        segments: Of each FAISS file: "file", "vectors", "removed", "factory", "options", "recall"; none of a
            database.
        tail: Vectors that are in no FAISS file; they are compared exactly, or in a database's own index.
    """

    passages: int
    problems: tuple[str, ...]
    segments: tuple[SegmentReport, ...]
    tail: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """What an index has of one source.

    Attributes:
        source: As its passages have it; None of those without one.
        passages: How many.
        size: Bytes of their texts in UTF-8; what passages repeat of each other counts in each.
        stored_at: When its file was last taken in, seconds since 1970; None of passages that were added
            without a file, and of files that older versions took in.
    """

    source: str | None
    passages: int
    size: int
    stored_at: float | None
