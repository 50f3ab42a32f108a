"""Where passages come from: the files that were taken in, and the sources that passages name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..rows import FileRecord
from .database import Database
from .values import STORED_BYTES, decoded, encoded

__all__ = ["SourceRows"]


class SourceRows(Database):
    """Questions about files and sources. All of this has to be called inside `read()` or `write()`."""

    def fingerprint(self, file: str) -> str | None:
        """What `finish_file` recorded for a file."""
        rows = self._rows("SELECT fingerprint FROM files WHERE path = %s", (encoded(file),))
        return rows[0][0] if rows else None

    def files(self) -> dict[str, str | None]:
        """Fingerprints of all files by path; None of those that were begun and not finished."""
        begun = self._rows("SELECT DISTINCT file FROM passages WHERE file IS NOT NULL")
        files: dict[str, str | None] = {decoded(row[0]): None for row in begun}
        files.update({path: fingerprint for path, fingerprint, _ in self.file_records()})
        return files

    def file_records(self) -> list[FileRecord]:
        """The files that were taken in."""
        rows = self._rows("SELECT path, fingerprint, stored_at FROM files ORDER BY path")
        return [(decoded(path), fingerprint, stored_at) for path, fingerprint, stored_at in rows]

    def put_files(self, records: Sequence[FileRecord]) -> None:
        """Records that files were taken in."""
        self.unfinish_files([path for path, _, _ in records])
        with self._connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO files(path, fingerprint, stored_at) VALUES (%s, %s, %s)",
                [(encoded(path), fingerprint, stored_at) for path, fingerprint, stored_at in records],
            )

    def files_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The file that each of these passages comes from, by id, of those that come from one."""
        rows = self._rows(
            "SELECT id, file FROM passages WHERE file IS NOT NULL AND id = ANY(%s)", (_texts(ids),)
        )
        return {decoded(row[0]): decoded(row[1]) for row in rows}

    def count_of(self, files: Iterable[str]) -> int:
        """How many passages these files have."""
        return int(self._rows("SELECT count(*) FROM passages WHERE file = ANY(%s)", (_texts(files),))[0][0])

    def unfinish_files(self, files: Iterable[str]) -> None:
        """Forgets that files were taken in, so that they are read when they are next given."""
        self._execute("DELETE FROM files WHERE path = ANY(%s)", (_texts(files),))

    def others_of(self, sources: Iterable[str], ids: Iterable[str]) -> list[int]:
        """Keys of the passages of these sources that have other ids than these."""
        rows = self._rows(
            "SELECT key FROM passages WHERE source = ANY(%s) AND NOT id = ANY(%s)",
            (_texts(sources), _texts(ids)),
        )
        return [row[0] for row in rows]

    def sources(self) -> dict[str, int]:
        """Number of passages of each source, sorted by source."""
        rows = self._rows(
            "SELECT source, count(*) FROM passages WHERE source IS NOT NULL GROUP BY source ORDER BY source"
        )
        return dict(sorted((decoded(source), count) for source, count in rows))

    def source_sizes(self) -> list[tuple[str | None, int, int, float | None]]:
        """Each source with passages, bytes of their texts, and when its file was taken in, sorted by source.

        What has no source comes last. The time is in seconds since 1970; None where no file told it.
        """
        rows = self._rows(
            f"SELECT source, count(*), sum({STORED_BYTES})::bigint, max(files.stored_at) "
            "FROM passages LEFT JOIN files ON files.path = passages.file GROUP BY source"
        )
        named = [(decoded(row[0]), *row[1:]) for row in rows if row[0] is not None]
        return [*sorted(named), *((None, *row[1:]) for row in rows if row[0] is None)]


def _texts(texts: Iterable[str]) -> list[str]:
    return [encoded(text) for text in texts]
