"""The seam below an index: what it needs of whatever its passages are stored in.

A folder (`folder_storage`) and a database (`postgres`) give it. Above, passages are known by their keys, and
what a search chooses from by an object that only the storage which made it understands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import IndexDamagedError
from ..passages import Passage
from .encoder import Encoder
from .filters.conditions import Condition
from .reports import CheckReport
from .rows import FileRecord, Keys, Row, State

__all__ = ["PassageStorage"]

ChoiceT = TypeVar("ChoiceT")


class PassageStorage(Protocol[ChoiceT]):
    """Where the passages of one index are. Safe to use from several threads and after a fork.

    Everything but what the last part has is to be called inside `read()` or `write()`.
    """

    @property
    def location(self) -> str:
        """The folder, or the address of the database without a password: for messages."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder; None of a database."""
        ...

    def read(self) -> AbstractContextManager[object]:
        """A snapshot: everything that is read inside is of one state."""
        ...

    def write(self) -> AbstractContextManager[object]:
        """All changes inside are made at once at its end, or none when it ends in an exception.

        Raises:
            IndexLockedError: Another process was writing for longer than the timeout.
        """
        ...

    def damage(self, description: str) -> IndexDamagedError:
        """The error for data that cannot be trusted, such as "holds a damaged vector"."""
        ...

    # What it is

    def meta(self) -> dict[str, str]:
        """What was recorded when the index was made."""
        ...

    def state(self) -> State:
        """The newest state."""
        ...

    # Passages

    def by_keys(self, keys: Iterable[int]) -> dict[int, Passage]:
        """Passages by their key; unknown keys are left out."""
        ...

    def by_id(self, passage_id: str) -> Passage | None:
        """The passage of an id."""
        ...

    def page(self, after: int, last: int, size: int) -> list[tuple[int, Passage]]:
        """Up to `size` passages whose keys are above `after`, up to `last`, in the order of being added."""
        ...

    def last_key(self) -> int:
        """The highest key that there may be; 0 for none."""
        ...

    def new_ids(self, passages: Iterable[Passage]) -> set[str]:
        """Ids of those passages that are not stored with the same title and text."""
        ...

    def vectors_of(self, keys: Iterable[int], dimension: int) -> tuple[Keys, NDArray[np.float32]]:
        """Keys [n], ascending, and vectors [n, d] of keys that are there."""
        ...

    def vectors_by_id(self, ids: Iterable[str], dimension: int) -> dict[str, NDArray[np.float32]]:
        """Vectors [d] by the id of their passage; unknown ids are left out."""
        ...

    def upsert(self, rows: Collection[Row]) -> int:
        """Stores passages of different ids; those that are stored just so are left alone.

        A vector may be None where title and text are stored already, which then keep theirs. Returns how
        many were new or changed.
        """
        ...

    def delete(
        self,
        ids: Iterable[str] = (),
        source: str | None = None,
        file: str | None = None,
        keys: Iterable[int] = (),
    ) -> int:
        """Removes the passages of these ids, this source, this file, and these keys. Returns their number."""
        ...

    # Files and sources

    def fingerprint(self, file: str) -> str | None:
        """What `finish_file` recorded for a file."""
        ...

    def files(self) -> dict[str, str | None]:
        """Fingerprints of all files by path; None of those that were begun and not finished."""
        ...

    def file_records(self) -> list[FileRecord]:
        """The files that were taken in."""
        ...

    def put_files(self, records: Sequence[FileRecord]) -> None:
        """Records that files were taken in."""
        ...

    def files_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The file that each of these passages comes from, by id, of those that come from one."""
        ...

    def count_of(self, files: Iterable[str]) -> int:
        """How many passages these files have."""
        ...

    def unfinish_files(self, files: Iterable[str]) -> None:
        """Forgets that files were taken in, so that they are read when they are next given."""
        ...

    def finish_file(self, file: str, fingerprint: str, ids: Collection[str]) -> int:
        """Removes the passages of a file that are not among `ids`, and records that it was taken in."""
        ...

    def forget_file(self, file: str) -> int:
        """Removes the passages of a file, and that it was taken in. Returns their number."""
        ...

    def move_passages(self, file: str, rows: Iterable[Row]) -> None:
        """Makes passages of a file, which is gone, those of `rows` that have the same title and text.

        They keep their key and vector. Those of `rows` whose id is taken are left out.
        """
        ...

    def others_of(self, sources: Collection[str], ids: Collection[str]) -> list[int]:
        """Keys of the passages of these sources that have other ids than these."""
        ...

    def sources(self) -> dict[str, int]:
        """Number of passages of each source, sorted by source."""
        ...

    def source_sizes(self) -> list[tuple[str | None, int, int, float | None]]:
        """Each source with passages, bytes of their texts, and when its file was taken in, sorted by source.

        What has no source comes last. The time is in seconds since 1970; None where no file told it.
        """
        ...

    # Finding

    def matching(self, condition: Condition | None, ids: Iterable[str] | None = None) -> Keys:
        """Keys of all passages that meet a condition; of those of some ids, or of all."""
        ...

    def choose(
        self,
        condition: Condition | None,
        ids: Iterable[str] | None,
        *,
        generated: bool,
        is_last: bool = True,
    ) -> ChoiceT | None:
        """From which passages a search chooses; None where there are none.

        Args:
            condition, ids: As in `matching`.
            generated: Whether passages that a model wrote are among them.
            is_last: Whether this read will not be repeated, so that what is in the way has to be gone round.

        Raises:
            StaleReadError: Something changed that should not have; to be read again.
        """
        ...

    def nearest(
        self, queries: NDArray[np.float32], k: int, choice: ChoiceT, options: Mapping[str, int]
    ) -> list[dict[int, float]]:
        """Keys and cosines of the k nearest to each query, of all as near as the last, and of some others.

        Args:
            queries: Normalised, [q, d].
            k: At least 1.
            choice: From which; what `choose` gave in the same read.
            options: Of the index of vectors (`vectors.factories.OPTIONS`).

        Raises:
            StaleReadError: As of `choose`.
        """
        ...

    def by_words(self, terms: Sequence[str], depth: int, choice: ChoiceT) -> list[int]:
        """Keys of passages that have any of these terms (`words.query_terms`), up to `depth`, best first."""
        ...

    def count_words(self, term: str, limit: int) -> int:
        """How many passages have a term, counted up to a limit."""
        ...

    def kinds_of(self, key: str | tuple[str, str]) -> list[str]:
        """Kinds of the values that a key of the metadata has, or a path of two: n (number), b (boolean),
        s (text), z (none), a (list), d (mapping), l (long)."""
        ...

    def names(self, limit: int) -> list[str]:
        """Some keys of metadata, in their order; dotted ones are paths."""
        ...

    # Upkeep, outside `read()` and `write()`

    def save(self) -> None:
        """Writes what has become due beside the passages; of most small changes nothing."""
        ...

    def compact(self, factory: str | None) -> None:
        """Writes anew what holds the vectors for searching, by a factory from now on, or as before.

        Raises:
            InputError: There is no such factory.
        """
        ...

    def check(self) -> CheckReport:
        """Reads everything and says what is wrong, without changing anything."""
        ...

    def rebuild(self, encoder: Encoder) -> None:
        """Makes everything anew that follows from the passages; see `PassageIndex.rebuild`."""
        ...

    def close(self) -> None:
        """Lets go of it. Doing it twice does no harm."""
        ...
