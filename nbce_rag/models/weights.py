"""What files of weights hold, as one short hash, so that no two models are ever taken for each other.

All bytes count. Hashing them takes about as long as reading them, and is done once: what a large file hashed
to is kept in the user's cache folder for as long as the file stays the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import xxhash

from ..files import cache_dir, write_json

__all__ = ["weights_hash"]

_LARGE = 64 << 20  # bytes; what is smaller is hashed sooner than looked up
_BLOCK = 8 << 20
_SETTLED = 2.0  # seconds; a file that changed later than that may change again within one tick of its clock


def weights_hash(files: Iterable[Path]) -> str:
    """Hash of what files hold, in this order, 32 hex digits; where they lie does not count.

    Raises:
        OSError: one of them cannot be read.
    """
    whole = xxhash.xxh3_128()
    for file in files:
        whole.update(_file_hash(file).encode())
    return whole.hexdigest()


def _file_hash(file: Path) -> str:
    path = file.resolve(strict=True)
    before = _state(path)
    record = (
        cache_dir()
        / "hashes"
        / f"{xxhash.xxh3_128_hexdigest(str(path).encode(errors='surrogateescape'))}.json"
    )
    if before["size"] >= _LARGE:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # not there, or damaged
            kept = json.loads(record.read_text(encoding="utf-8"))
            if kept["file"] == before:
                return str(kept["hash"])
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    settled = time.time() - max(before["modified"], before["changed"]) / 1e9 > _SETTLED
    if before["size"] >= _LARGE and settled and _state(path) == before:
        with suppress(OSError):  # a folder that cannot be written only costs time
            write_json(record, {"file": before, "hash": digest.hexdigest()}, make_folder=True)
    return digest.hexdigest()


def _state(path: Path) -> dict[str, int]:
    """What changes when a file does."""
    now = path.stat()
    return {
        "size": now.st_size,
        "modified": now.st_mtime_ns,
        "changed": now.st_ctime_ns,
        "inode": now.st_ino,
        "device": now.st_dev,
    }
