"""Putting passages into the storage of an index: checking, embedding, batches, files."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from ..documents.document import OnError, check_regular
from ..documents.excludes import Excludes
from ..documents.folders import file_key, find_files
from ..documents.limits import READ_LIMITS, ReadLimits
from ..documents.readers import read_passages, reader_version
from ..documents.reading import Reading, check_workers
from ..documents.splitting import split_document
from ..errors import InputError, ReadError
from ..files import expand_home
from ..passages import Passage
from ..values import shown
from .encoder import Encoder, Vector
from .rows import Row, json_metadata
from .storage import PassageStorage
from .window import Window, window_of

__all__ = [
    "AddReport",
    "Ingestion",
    "Progress",
    "as_paths",
    "check_passage",
    "fingerprint_of",
    "unique_files",
]

_BATCH = 256  # passages that are embedded, then committed, together

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class AddReport:
    """What `PassageIndex.add_files` did.

    Attributes:
        files_added: Files that were new or had changed.
        files_unchanged: Files that were passed over because they had not changed.
        files_failed: Files and folders of which nothing was taken in, with the reason; what the index
            had of them before is still there.
        warnings: What was passed over in files that were taken in otherwise.
        passages_added: Passages that are new or have changed.
        passages_removed: Passages that changed files no longer have.
    """

    files_added: int = 0
    files_unchanged: int = 0
    files_failed: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    passages_added: int = 0
    passages_removed: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    """A file that has been read and is to be stored."""

    key: str  # its real path, whatever it was called
    fingerprint: str
    label: str
    passages: list[Passage]


class Ingestion:
    """Takes in passages for an index."""

    def __init__(self, storage: PassageStorage[Any], encoder: Encoder) -> None:
        self._storage = storage
        self._encoder = encoder

    def add(self, passages: Iterable[Passage], vectors: ArrayLike | None) -> int:
        """As `PassageIndex.add`, without writing FAISS files."""
        if vectors is not None:
            batch = [check_passage(passage) for passage in passages]
            return self._store([(None, batch)], self._encoder.units(vectors, batch))
        source = iter(passages)
        changed = 0
        while batch := [check_passage(passage) for passage in itertools.islice(source, _BATCH)]:
            changed += self._store([(None, batch)])
        return changed

    def replace_sources(self, passages: Iterable[Passage], vectors: ArrayLike | None) -> tuple[int, int]:
        """As `PassageIndex.upsert` by source: how many were new or changed, and how many are gone."""
        batch = [check_passage(passage) for passage in passages]
        if nameless := next((passage for passage in batch if not passage.source), None):
            raise InputError(f"Passage {nameless.id!r} has no source: give one, or upsert by id.")
        units = None if vectors is None else self._encoder.units(vectors, batch)
        sources, ids = {str(passage.source) for passage in batch}, {passage.id for passage in batch}
        removed = 0

        def finish() -> None:
            nonlocal removed
            removed = self._storage.delete(keys=self._storage.others_of(sources, ids))

        return self._store([(None, batch)], units, finish), removed

    def add_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        max_tokens: int | None,
        overlap: int,
        on_error: OnError | None,
        progress: Progress | None,
        excludes: Excludes | None = None,
        limits: ReadLimits = READ_LIMITS,
        workers: int | None = None,
    ) -> AddReport:
        """As `PassageIndex.add_files`, without writing FAISS files."""
        paths = as_paths(paths)
        check_workers(workers)
        window = window_of(self._encoder.embedder, max_tokens, overlap)
        splitter = partial(split_document, **window._asdict())
        report = progress or _no_progress
        failures: dict[str, list[str]] = {}
        warnings: list[str] = []
        errors: list[ReadError] = []

        def collect(error: ReadError) -> None:
            errors.append(error)
            if on_error is not None:
                on_error(error)

        def fail(path: str, reason: str) -> None:
            # There may be several of one: a folder that cannot be read holds no file either.
            failures.setdefault(path, []).append(f"{path}: {reason}")
            collect(ReadError(failures[path][-1]))

        def read(path: Path) -> list[Passage]:
            try:
                return read_passages(path, splitter, collect, limits, reading.read)
            except ReadError as error:
                collect(error)
                return []

        unchanged = added = removed = stored = 0

        def take_in(files: Sequence[_File], place: tuple[int, int]) -> None:
            nonlocal added, removed, stored
            try:
                counts = self._store_files(files, place, report)
            except InputError as error:  # a passage that the embedder has no vector for
                if len(files) > 1:
                    for file in files:
                        take_in([file], place)
                elif files:
                    fail(files[0].label, str(error))
            else:
                added, removed, stored = added + counts[0], removed + counts[1], stored + len(files)

        files = list(unique_files(find_files(paths, fail, excludes=excludes)))

        def changed() -> Iterator[tuple[int, Path, str, str | None]]:
            """The files that are to be read: number, path, key and fingerprint."""
            nonlocal unchanged
            for number, path in enumerate(files):
                key, fingerprint = file_key(path), fingerprint_of(path, window, limits)
                with self._storage.read():
                    is_stored = fingerprint is not None and self._storage.fingerprint(key) == fingerprint
                if is_stored:
                    report(number, len(files), str(path))
                    unchanged += 1
                else:
                    yield number, path, key, fingerprint

        waiting: list[_File] = []
        with Reading(workers, limits) as reading:
            for number, path, key, fingerprint in reading.ahead(changed(), lambda item: item[1]):
                report(number, len(files), str(path))
                errors.clear()
                passages = read(path)
                messages = [str(error) for error in errors]
                if not passages or fingerprint is None:
                    failures[str(path)] = messages or [f"{path}: holds no text."]
                    continue
                try:
                    checked = [check_passage(passage) for passage in passages]
                except InputError as error:
                    fail(str(path), str(error))
                    continue
                file = _File(key, fingerprint, str(path), checked)
                if others := self._ids_of_others(file, waiting):
                    messages.append(_clash(file, others))
                    collect(ReadError(messages[-1]))
                    checked = [passage for passage in checked if passage.id not in others]
                    # So that it is looked at again: the other file may be gone then.
                    file = replace(file, fingerprint=f"in part {fingerprint}", passages=checked)
                warnings.extend(messages)
                waiting.append(file)
                if sum(len(file.passages) for file in waiting) >= _BATCH:
                    take_in(waiting, (number, len(files)))
                    waiting = []
        take_in(waiting, (len(files), len(files)))
        report(len(files), len(files), "")
        return AddReport(
            files_added=stored,
            files_unchanged=unchanged,
            files_failed={path: "\n".join(reasons) for path, reasons in failures.items()},
            warnings=tuple(warnings),
            passages_added=added,
            passages_removed=removed,
        )

    def _ids_of_others(self, file: _File, waiting: Sequence[_File]) -> dict[str, str]:
        """Ids of a file's passages that passages of other files have, with these files.

        Args:
            file: One that was read.
            waiting: Those that were read before it and are not stored yet.
        """
        ids = {passage.id for passage in file.passages}
        clashes = {p.id: other.label for other in waiting for p in other.passages if p.id in ids}
        read = {other.key for other in (file, *waiting)}
        with self._storage.read():
            stored = self._storage.files_of(ids)
        # A file that is gone has been renamed, perhaps to this one.
        there = {other for other in {*stored.values()} - read if os.path.exists(other)}
        return clashes | {passage_id: other for passage_id, other in stored.items() if other in there}

    def _store_files(
        self, files: Sequence[_File], place: tuple[int, int], progress: Progress
    ) -> tuple[int, int]:
        """Stores whole files. Returns how many passages were new or changed, and how many are gone."""
        pairs = [(file, passage) for file in files for passage in file.passages]
        added = removed = 0
        for start in range(0, len(pairs), _BATCH):
            batch = pairs[start : start + _BATCH]
            if len(pairs) > _BATCH:
                progress(*place, f"{batch[0][0].label}: passage {start} of {len(pairs)}")
            groups = [
                (file.key, [passage for _, passage in group])
                for file, group in itertools.groupby(batch, key=lambda pair: pair[0])
            ]
            is_first, is_last = start == 0, start + _BATCH >= len(pairs)

            def finish(is_first: bool = is_first, is_last: bool = is_last) -> None:
                nonlocal removed
                if is_first and not is_last:
                    # From here on they are neither what they were nor what they will be.
                    self._storage.unfinish_files(file.key for file in files)
                for file in files if is_last else ():
                    ids = {passage.id for passage in file.passages}
                    removed += self._storage.finish_file(file.key, file.fingerprint, ids)

            # The files count as taken in together with the last of their passages: what is interrupted
            # before that is read again, and finds its vectors stored.
            added += self._store(groups, finish=finish)
        return added, removed

    def _store(
        self,
        groups: Sequence[tuple[str | None, Sequence[Passage]]],
        vectors: Mapping[str, Vector] | None = None,
        finish: Callable[[], None] | None = None,
    ) -> int:
        """Embeds what is new and commits all of it at once, with what `finish` does.

        Args:
            groups: Passages with the file that they come from.
            vectors: Vectors to use, by id, also in place of those that are stored.
            finish: Called inside the transaction.
        """
        # By id, so that of several the last one stays.
        batch = {passage.id: (passage, file) for file, passages in groups for passage in passages}
        by_id = dict(vectors or {})
        while True:
            rest = [passage for passage, _ in batch.values() if passage.id not in by_id]
            with self._storage.read():
                new = self._storage.new_ids(rest)
            by_id.update(self._encoder.passages([passage for passage in rest if passage.id in new]))
            with self._storage.write():
                if self._storage.new_ids(rest) - by_id.keys():
                    continue  # another process has removed or changed some of them meanwhile
                rows = [Row(passage, _bytes(by_id.get(passage.id)), file) for passage, file in batch.values()]
                changed = self._storage.upsert(rows)
                if finish is not None:
                    finish()
            return changed


def check_passage(passage: Passage) -> Passage:
    """Raises InputError when a passage cannot be stored."""
    if not isinstance(passage, Passage):
        raise InputError(f"An index takes Passage objects, got {type(passage).__name__}: use Passage(text).")
    if not passage.text.strip():
        raise InputError(f"Passage {passage.id!r} has no text: leave it out.")
    for name, kind in (("title", str), ("source", str), ("start", int), ("end", int)):
        value = getattr(passage, name)
        if value is not None and not isinstance(value, kind):
            raise InputError(
                f"Passage {passage.id!r}: {name} must be {kind.__name__} or None, got {value!r}."
            )
    try:
        "".join((passage.id, passage.text, passage.title or "", passage.source or "")).encode()
        json_metadata(passage).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Passage {passage.id!r} holds half a surrogate pair, which cannot be stored: decode its text "
            "with errors='replace'."
        ) from error
    return passage


def _clash(file: _File, others: Mapping[str, str]) -> str:
    examples = ", ".join(f"{shown(name)} of {other}" for name, other in list(others.items())[:3])
    more = ", ..." if len(others) > 3 else ""
    return (
        f"{file.label}: {len(others)} of its passages have ids of others ({examples}{more}) and were passed "
        "over; give them others."
    )


def _bytes(vector: Vector | None) -> bytes | None:
    return None if vector is None else vector.astype("<f4").tobytes()


def unique_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Each file once, also where several paths lead to it."""
    seen: set[str] = set()
    for path in paths:
        key = file_key(path)
        if key not in seen:
            seen.add(key)
            yield path


def as_paths(paths: object) -> list[str]:
    """Paths as text; one alone will do."""
    if isinstance(paths, str | bytes | os.PathLike):
        paths = [paths]
    if not isinstance(paths, Iterable):
        raise InputError(f"paths must be files and folders, got {shown(paths)}.")
    return [_path(path) for path in paths]


def _path(path: object) -> str:
    if not isinstance(path, str | bytes | os.PathLike):
        raise InputError(f"A path must be a text or a Path, got {shown(path)}.")
    return expand_home(os.fsdecode(path))


def fingerprint_of(path: Path, window: Window, limits: ReadLimits = READ_LIMITS) -> str | None:
    """Changes with the content of a file, its reader and how it is split; None when it cannot be read."""
    try:
        check_regular(path, limits)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
    counter = "approximate" if window.count_tokens is None else "embedder"
    version = reader_version(path)
    reader = f" reader {version}" if version else ""
    return f"{digest} {window.max_tokens} {window.overlap} {counter}{reader}"


def _no_progress(number: int, total: int, label: str) -> None:
    pass
