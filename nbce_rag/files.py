"""Paths as people give them, files that are written whole or not at all, and the user's cache folder."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["cache_dir", "check_writable", "expand_home", "write_json", "write_whole"]


def expand_home(path: str | os.PathLike[str]) -> str:
    """A path that a person gave, with `~` or `~name` at its beginning as that home folder.

    What lies under that very name is meant itself, so that a path that was found on the disk stays as it is.
    Where no home is known, nothing changes.
    """
    text = os.fsdecode(path)
    return os.path.expanduser(text) if text.startswith("~") and not os.path.lexists(text) else text


def check_writable(path: str | os.PathLike[str]) -> None:
    """Before work is done for it: can this file be written?

    Raises:
        InputError: it is a folder, its folder does not exist, or nothing can be written there.
    """
    path = Path(expand_home(path))
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist; make it first, or write elsewhere.")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{path} may not be written; change its permissions, or write elsewhere.")
    try:
        # Trying is the only way to know: permissions say nothing of a read-only file system.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"Nothing can be written to {path.parent}: {error.strerror or error}.") from error


def write_whole(
    path: str | os.PathLike[str], data: bytes, *, make_folder: bool = False, mode: int = 0o666
) -> None:
    """Write a file under a temporary name, sync it, and rename it, so that no reader sees half of it.

    Args:
        path: the file.
        data: all of it.
        make_folder: also make the folders that it stands in.
        mode: who may read and write it, as far as the user's mask lets them: 0o600 for secrets.

    Raises:
        OSError: it could not be written; the file is then as it was before.
    """
    path = Path(expand_home(path))
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # Temporary files are made for their owner only; this one is a plain result.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(file.name, mode & ~mask)
            os.replace(file.name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise


def write_json(path: str | os.PathLike[str], value: Any, *, make_folder: bool = False) -> None:
    """`write_whole` of JSON, UTF-8, indented.

    Raises:
        OSError: it could not be written; the file is then as it was before.
        ValueError: a number in it is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    write_whole(path, text.encode("utf-8", "replace"), make_folder=make_folder)


def cache_dir() -> Path:
    """Where converted models are kept: $NBCE_CACHE, else nbce-rag under the user's cache folder."""
    if own := os.environ.get("NBCE_CACHE"):
        return Path(expand_home(own))
    return Path(expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache"), "nbce-rag")
