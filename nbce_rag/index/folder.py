"""The folder of an index: what lies in it, what it says of itself, and a copy of what cannot be made anew.

`passages.sqlite` (with SQLite's own files beside it) is the index, `vectors-*.faiss` are made of it, and `kv`
is the folder of a KV store with the keys and values of the passages, where a model has read them ahead.
`calibration.json`, where there is one, says how much support the user's own questions have
(`nbce_rag.evidence.calibration`).

Importing this loads nothing heavy.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..errors import IndexDamagedError, InputError, PassageIndexError
from ..files import expand_home
from ..values import shown
from .address import is_database

__all__ = ["Description", "IndexFolder"]

_DATABASE = "passages.sqlite"
_KV = "kv"
_CALIBRATION = "calibration.json"
_MOST_DIMENSIONS = 1 << 20


@dataclass(frozen=True)
class Description:
    """What an index records of the embedder that it was made with.

    Attributes:
        embedder: its name.
        by_name: whether the name is all that is needed to load it.
        dimension: length of its vectors.
    """

    embedder: str
    by_name: bool
    dimension: int

    @classmethod
    def of(cls, meta: Mapping[str, str]) -> Description:
        """The description in what SQLite keeps.

        Raises:
            IndexDamagedError: it is none.
        """
        dimension = meta["dimension"]
        if not (dimension.isdecimal() and 0 < int(dimension[:9]) <= _MOST_DIMENSIONS):
            raise IndexDamagedError(
                f"The index says that its vectors have {shown(dimension)} dimensions: restore it from a "
                "backup, or delete the folder and index the documents again."
            )
        return cls(meta["embedder"], meta["embedder_kind"] != "object", int(dimension))

    def meta(self) -> dict[str, str]:
        """What SQLite keeps of it."""
        return {
            "embedder": self.embedder,
            "embedder_kind": "sentence-transformers" if self.by_name else "object",
            "dimension": str(self.dimension),
        }


class IndexFolder:
    """The folder of an index, whether there is one or not.

    Attributes:
        path: where it is.

    Raises:
        InputError: it is the URL of a database, which has none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if is_database(path):
            raise InputError(
                "An index in a database has no folder: what is kept in one (keys and values, a calibration, "
                "copies of it) needs an index in a folder."
            )
        self.path = Path(expand_home(path))

    @property
    def database(self) -> Path:
        """The SQLite file, which is the truth about the index."""
        return self.path / _DATABASE

    @property
    def kv(self) -> Path:
        """The folder of the KV store that belongs to the index."""
        return self.path / _KV

    @property
    def calibration(self) -> Path:
        """The file that says how much support questions have over the index."""
        return self.path / _CALIBRATION

    def has_index(self) -> bool:
        """Whether there is an index, by the look of it."""
        return self.database.is_file()

    def check_free(self) -> None:
        """Raises PassageIndexError when something that is no index is in the way of a new one."""
        try:
            # What a process leaves that died while making an index does not count.
            others = [name for name in os.listdir(self.path) if not name.startswith(_DATABASE)]
        except FileNotFoundError:
            return
        except OSError as error:
            raise PassageIndexError(
                f"{self.path} cannot hold an index ({error.strerror}): give a folder."
            ) from error
        if others:
            raise PassageIndexError(
                f"{self.path} is not empty and no index ({min(others)!r} is in it): give a new or empty "
                "folder."
            )

    def make(self) -> None:
        """Makes the folder; raises PassageIndexError when it cannot be made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PassageIndexError(f"The folder {self.path} cannot be made ({error.strerror}).") from error

    def describe(self) -> Description:
        """What the index records of its embedder, which is not loaded.

        Raises:
            IndexNotFoundError: there is none.
            IndexDamagedError: its data are damaged.
        """
        from .sqlite.storage import Storage

        storage = Storage.open(self.database, 5.0)
        try:
            with storage.read():
                return Description.of(storage.meta())
        finally:
            storage.close()

    def copy(self, target: str | os.PathLike[str]) -> IndexFolder:
        """Copies the index as it is now, whatever is being written, without what can be made anew.

        A calibration goes along: it was made of the user's own questions.

        Args:
            target: a folder, which is made if there is none.

        Raises:
            IndexNotFoundError: there is none.
            PassageIndexError: there is an index or something else in the target, or it cannot be written.
        """
        self.describe()
        other = IndexFolder(target)
        if other.has_index():
            raise PassageIndexError(f"There is an index at {other.path} already: give another folder.")
        other.check_free()
        other.make()
        part = other.path / f"{_DATABASE}.part"
        try:
            # A copy of the file alone would lack what is in SQLite's log.
            with closing(sqlite3.connect(self.database)) as index, closing(sqlite3.connect(part)) as copy:
                index.backup(copy)
            if self.calibration.exists():
                shutil.copyfile(self.calibration, other.calibration)
            os.replace(part, other.database)
        except (sqlite3.Error, OSError) as error:
            for file in (part, other.calibration):
                file.unlink(missing_ok=True)
            raise PassageIndexError(f"The index at {self.path} cannot be copied ({error}).") from error
        return other
