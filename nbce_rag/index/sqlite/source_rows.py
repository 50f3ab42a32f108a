"""Where passages come from: the files that were taken in, and the sources that passages name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..rows import FileRecord
from . import schema
from .database import Database

__all__ = ["SourceRows"]


class SourceRows(Database):
    """Questions about files and sources. All of this has to be called inside `read()` or `write()`."""

    def fingerprint(self, file: str) -> str | None:
        """What `Storage.finish_file` recorded for a file."""
        row = self._connection.execute("SELECT fingerprint FROM files WHERE path = ?", (file,)).fetchone()
        return row[0] if row else None

    def files(self) -> dict[str, str | None]:
        """Fingerprints of all files by path; None of those that were begun and not finished."""
        begun = self._connection.execute("SELECT DISTINCT file FROM passages WHERE file IS NOT NULL")
        files: dict[str, str | None] = {row[0]: None for row in begun}
        files.update(self._connection.execute("SELECT path, fingerprint FROM files"))
        return files

    def file_records(self) -> list[FileRecord]:
        """The files that were taken in."""
        time = "stored_at" if schema.has_times(self._connection) else "NULL"
        return self._connection.execute(
            f"SELECT path, fingerprint, {time} FROM files ORDER BY path"
        ).fetchall()

    def put_files(self, records: Sequence[FileRecord]) -> None:
        """Records that files were taken in."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO files(path, fingerprint, stored_at) VALUES (?, ?, ?)", records
        )

    def files_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The file that each of these passages comes from, by id, of those that come from one."""
        rows = self._select("SELECT id, file FROM passages WHERE file IS NOT NULL AND id", ids)
        return {row[0]: row[1] for row in rows}

    def count_of(self, files: Iterable[str]) -> int:
        """How many passages these files have."""
        return sum(1 for _ in self._select("SELECT key FROM passages WHERE file", files))

    def unfinish_files(self, files: Iterable[str]) -> None:
        """Forgets that files were taken in, so that they are read when they are next given."""
        self._connection.executemany("DELETE FROM files WHERE path = ?", [(file,) for file in files])

    def sources(self) -> dict[str, int]:
        """Number of passages of each source, sorted by source."""
        return dict(
            self._connection.execute(
                "SELECT source, count(*) FROM passages WHERE source IS NOT NULL "
                "GROUP BY source ORDER BY source"
            )
        )

    def source_sizes(self) -> list[tuple[str | None, int, int, float | None]]:
        """Each source with passages, bytes of their texts, and when its file was taken in, sorted by source.

        What has no source comes last. The time is in seconds since 1970; None where no file or an older
        version told it.
        """
        time = "max(files.stored_at)" if schema.has_times(self._connection) else "NULL"
        return self._connection.execute(
            f"SELECT source, count(*), sum(length(CAST(text AS BLOB))), {time} "
            "FROM passages LEFT JOIN files ON files.path = passages.file "
            "GROUP BY source ORDER BY source IS NULL, source"
        ).fetchall()
