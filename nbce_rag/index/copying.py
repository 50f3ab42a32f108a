"""An index copied to another place: a folder, or a database. Vectors stay what they are, bit for bit."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import InputError, PassageIndexError
from ..passages import Passage
from .folder import Description, IndexFolder
from .places import Place, place_of
from .rows import Row
from .storage import PassageStorage

__all__ = ["copy_index"]

_PAGE = 1_000

CopyProgress = Callable[[int, int], None]
"""Is told how many passages are copied, and of how many."""


def copy_index(
    source: PassageStorage[Any],
    target: str | os.PathLike[str],
    timeout: float,
    progress: CopyProgress | None = None,
) -> int:
    """What `PassageIndex.copy_to` does. Returns how many passages were copied.

    All of them are stored in one transaction of the target, from one state of the source.
    """
    place = place_of(target)
    with source.read():
        meta = source.meta()
    description = Description.of(meta)
    _make(place, description, timeout)
    copy = place.open(timeout)
    try:
        with source.read(), copy.write():
            count = copy.state().passages
            if count:  # somebody else was faster
                raise _taken(place)
            total = source.state().passages
            for rows in _pages(source, description.dimension):
                copy.upsert(rows)
                count += len(rows)
                if progress is not None:
                    progress(count, total)
            copy.put_files(source.file_records())
        factory = _factory(place, meta["factory"], description.dimension)
        if factory in ("auto", "flat"):
            copy.save()
        else:
            copy.compact(factory)
        if source.folder is not None and copy.folder is not None:
            calibration = IndexFolder(source.folder).calibration
            if calibration.exists():
                shutil.copyfile(calibration, IndexFolder(copy.folder).calibration)
    finally:
        copy.close()
    return count


def _make(place: Place, description: Description, timeout: float) -> None:
    """Makes an empty index at the target, unless one is there that a copy was to go to and did not."""
    if not place.has_index(timeout):
        place.check_factory("auto", description.dimension)
        meta = {"index": uuid.uuid4().hex, **description.meta(), "factory": "auto"}
        place.make(meta, timeout)
        return
    there = place.open(timeout)
    try:
        with there.read():
            if there.state().passages or Description.of(there.meta()) != description:
                raise _taken(place)
    finally:
        there.close()


def _pages(source: PassageStorage[Any], dimension: int) -> Iterator[list[Row]]:
    after, last = -1, source.last_key()
    while page := source.page(after, last, _PAGE):
        after = page[-1][0]
        _, vectors = source.vectors_of([key for key, _ in page], dimension)
        files = source.files_of([passage.id for _, passage in page])
        yield [_row(passage, vector, files) for (_, passage), vector in zip(page, vectors, strict=True)]


def _row(passage: Passage, vector: Any, files: dict[str, str]) -> Row:
    return Row(passage, vector.astype("<f4", copy=False).tobytes(), files.get(passage.id))


def _factory(place: Place, name: str, dimension: int) -> str:
    """How the target holds vectors: as the source does, if it can."""
    try:
        return place.check_factory(name, dimension)
    except InputError:
        return "auto"


def _taken(place: Place) -> PassageIndexError:
    return PassageIndexError(
        f"There is an index at {place.location} already, and a copy goes to a new one: name another place."
    )
