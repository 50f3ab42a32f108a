"""Files that were uploaded: a folder each, with the file under its own name, and whose it is."""

from __future__ import annotations

import json
import os
import shutil
import time
import unicodedata
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from ..documents.readers import SUFFIXES, is_read
from ..files import write_json
from .access import Caller, sees_files_of
from .limits import Limits
from .stored_file import StoredFile
from .wire.errors import ServerError, bad_field, not_found

__all__ = ["Uploads", "plain_name"]

_META = "meta.json"
_LONGEST_NAME = 150  # bytes; file systems take 255
_CHUNK = 1 << 20
_ID_PREFIX = "file-"


class Uploads:
    """The folder of files. Threads may use it at once.

    Args:
        folder: made when the first file comes.
        limits: `max_upload_bytes` and `max_files` count.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits

    def add(self, caller: Caller, name: str, content: IO[bytes], purpose: str) -> StoredFile:
        """Keeps a file, whole or not at all.

        Args:
            caller: whose it is.
            name: as the client calls it.
            content: is read to its end.
            purpose: as the client says.

        Raises:
            ServerError: it is too large (413), empty or of a type that is not read, or too many (400).
            OSError: it cannot be written.
        """
        if len(self.files(caller)) >= self._limits.max_files:
            raise bad_field(
                "file",
                f"The key {caller.name!r} has {self._limits.max_files} files (max_files); delete some.",
                "limit_exceeded",
            )
        file_id = f"{_ID_PREFIX}{uuid.uuid4().hex[:24]}"
        part = self._folder / f".{file_id}"
        part.mkdir(0o700, parents=True)  # for nobody else on this machine
        try:
            path = part / plain_name(name)
            size = self._write(path, content)
            if not size:
                raise bad_field("file", f"The file {path.name!r} is empty.")
            if not is_read(path):
                raise bad_field(
                    "file",
                    f"{path.name!r} is of no type that is read here: text, {', '.join(SUFFIXES)}.",
                    "unsupported_file",
                )
            file = StoredFile(file_id, path.name, caller.name, size, int(time.time()), purpose[:64])
            write_json(part / _META, asdict(file))
            os.replace(part, self._folder / file_id)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        return file

    def files(self, caller: Caller) -> list[StoredFile]:
        """The files that a caller may see, newest first."""
        seen = [file for file in self._all() if sees_files_of(caller, file.owner)]
        return sorted(seen, key=lambda file: (-file.created_at, file.id))

    def get(self, caller: Caller, file_id: str) -> StoredFile:
        """A file by its id.

        Raises:
            ServerError: there is none, or not for this caller (404).
        """
        file = self._read(file_id)
        if file is None or not sees_files_of(caller, file.owner):
            raise not_found(f"There is no file {file_id[:100]!r}.", param="file_id", code="file_not_found")
        return file

    def path(self, file: StoredFile) -> Path:
        """Where it lies."""
        return self._folder / file.id / file.name

    def delete(self, file: StoredFile) -> None:
        """Forgets a file. What indexes have of it stays."""
        gone = self._folder / f".{file.id}.gone"
        os.replace(self._folder / file.id, gone)  # at once, so that nobody sees half of it
        shutil.rmtree(gone, ignore_errors=True)

    def _write(self, path: Path, content: IO[bytes]) -> int:
        size, most = 0, self._limits.max_upload_bytes
        with path.open("xb") as file:
            while chunk := content.read(_CHUNK):
                size += len(chunk)
                if size > most:
                    raise ServerError(413, f"The file is over this server's limit max_upload_bytes={most}.")
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        return size

    def _all(self) -> Iterator[StoredFile]:
        if self._folder.is_dir():
            for entry in self._folder.iterdir():
                if (file := self._read(entry.name)) is not None:
                    yield file

    def _read(self, file_id: str) -> StoredFile | None:
        if not file_id.startswith(_ID_PREFIX) or not file_id.removeprefix(_ID_PREFIX).isalnum():
            return None  # no way out of the folder
        try:
            return StoredFile(**json.loads((self._folder / file_id / _META).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def plain_name(name: str) -> str:
    """A name that leads nowhere: without folders, control characters and leading dots, and not too long."""
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode()).replace("\\", "/")
    name = "".join(sign for sign in name.rsplit("/", 1)[-1] if sign.isprintable()).strip().lstrip(".")
    stem, dot, suffix = name.rpartition(".")
    if not dot or len(suffix) > 12:
        stem, dot, suffix = name, "", ""
    room = _LONGEST_NAME - len((dot + suffix).encode())
    stem = stem.encode()[:room].decode("utf-8", "ignore").rstrip()
    name = f"{stem or 'file'}{dot}{suffix}"
    return name if name != _META else f"file-{name}"
