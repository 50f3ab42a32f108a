"""An index that follows folders: what is new there is taken in, what was renamed moves, what is gone goes."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..documents.document import OnError
from ..documents.excludes import Excludes
from ..documents.folders import file_key, find_files, path_of_key, read_files
from ..documents.limits import READ_LIMITS, ReadLimits
from ..documents.reading import check_workers
from ..errors import InputError, ReadError
from ..passages import Passage
from .encoder import Encoder
from .ingestion import Ingestion, Progress, as_paths, check_passage, fingerprint_of, unique_files
from .rows import Row
from .storage import PassageStorage
from .window import Window, window_of

__all__ = ["ConfirmRemoval", "FolderSync", "SyncReport"]

ConfirmRemoval = Callable[[int, int], bool]
"""Is told how many passages would be removed, and of how many; says whether they may be."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What `PassageIndex.sync_files` did.

    Attributes:
        files_added: Files that were new.
        files_changed: Files whose content, reader or splitting had changed.
        files_moved: Where files were before, by where they are now.
        files_removed: Files of which the passages were removed, since they are gone or are excluded now.
        files_missing: Files that are gone or excluded and of which the passages stay.
        files_unchanged: How many had not changed.
        files_failed: Files and folders of which nothing was taken in, with the reason; what the index
            had of them before is still there.
        other_types: How many files were passed over, by the suffix of their name; "" for those without.
        excluded: How many files and folders were passed over for a pattern.
        warnings: What was passed over in files that were taken in otherwise.
        passages_added: Passages that are new or have changed; moved ones are not.
        passages_removed: Passages that changed files no longer have, and those of removed files.
    """

    files_added: tuple[str, ...] = ()
    files_changed: tuple[str, ...] = ()
    files_moved: Mapping[str, str] = field(default_factory=dict)
    files_removed: tuple[str, ...] = ()
    files_missing: tuple[str, ...] = ()
    files_unchanged: int = 0
    files_failed: Mapping[str, str] = field(default_factory=dict)
    other_types: Mapping[str, int] = field(default_factory=dict)
    excluded: int = 0
    warnings: tuple[str, ...] = ()
    passages_added: int = 0
    passages_removed: int = 0


class FolderSync:
    """Brings an index to the state of files and folders.

    Every step is a transaction after which the index is right for what has been done, and what remains to be
    done is told by comparing it with the disk: a call that was interrupted is made up for by the next one.
    """

    def __init__(self, storage: PassageStorage[Any], encoder: Encoder, ingestion: Ingestion) -> None:
        self._storage = storage
        self._encoder = encoder
        self._ingestion = ingestion

    def sync(
        self,
        paths: Iterable[str | os.PathLike[str]],
        keep_missing: bool,
        confirm: ConfirmRemoval | None,
        max_tokens: int | None,
        overlap: int,
        on_error: OnError | None,
        progress: Progress | None,
        excludes: Excludes | None = None,
        limits: ReadLimits = READ_LIMITS,
        workers: int | None = None,
    ) -> SyncReport:
        """As `PassageIndex.sync_files`, without writing FAISS files."""
        names = as_paths(paths)
        check_workers(workers)
        if confirm is not None and not callable(confirm):
            raise InputError(f"confirm must be callable, such as lambda count, total: True; got {confirm!r}.")
        window = window_of(self._encoder.embedder, max_tokens, overlap)
        failures: dict[str, list[str]] = {}
        types: Counter[str] = Counter()

        def fail(path: str, reason: str) -> None:
            failures.setdefault(path, []).append(f"{path}: {reason}")
            if on_error is not None:
                on_error(ReadError(failures[path][-1]))

        def count_type(path: Path) -> None:
            types[path.suffix.lower()] += 1

        excluded: set[str] = set()

        def note_excluded(path: Path) -> None:
            if path.is_dir():  # what a link to a folder leads to is not excluded: it was never followed
                excluded.add(os.path.join(os.path.realpath(path.parent), path.name))
            else:
                excluded.add(os.path.realpath(path))

        def is_out(key: str) -> bool:
            return _is_gone(key) or _lies_in(key, excluded)

        found = find_files(names, fail, count_type, note_excluded, excludes)
        files = {file_key(path): path for path in unique_files(found)}
        with self._storage.read():
            before = self._storage.files()
        folders = [os.path.realpath(name) for name in names if _is_folder(name)]
        missing = [
            key for key in sorted(before) if key not in files and _lies_under(key, folders) and is_out(key)
        ]
        # What is kept though excluded is still there: a file that says the same is no new name of it.
        movable = [key for key in missing if _is_gone(key)] if keep_missing else missing
        moves = self._moves(files, movable, before, window, limits)
        moved_from = {old for old, _ in moves.values()}
        going = [] if keep_missing else [key for key in missing if key not in moved_from]
        self._check_removal(going, confirm)

        removed = sum(
            self._move(old, key, files[key], fingerprint, window, limits)
            for key, (old, fingerprint) in moves.items()
        )
        report = self._ingestion.add_files(
            list(files.values()),
            max_tokens,
            overlap,
            on_error,
            progress,
            limits=limits,
            workers=workers,
        )
        for path, reasons in report.files_failed.items():
            failures.setdefault(path, []).append(reasons)
        with self._storage.read():
            after = self._storage.files()
        taken = {key for key, path in files.items() if after.get(key) and str(path) not in failures}
        # What a file that cannot be read had under its former name stays, as it would under the same name.
        arrived = {key: old for key, (old, _) in moves.items() if key in taken}
        gone = [key for key in (*going, *arrived.values()) if is_out(key)]
        with self._storage.write():
            removed += sum(self._storage.forget_file(key) for key in gone)
        differing = {key for key in taken if after[key] != before.get(key) and key not in arrived}
        changed = {key for key in differing if before.get(key)}
        return SyncReport(
            files_added=_labels(files, differing - changed),
            files_changed=_labels(files, changed),
            files_moved={str(files[key]): path_of_key(old) for key, old in arrived.items()},
            files_removed=tuple(path_of_key(key) for key in going if key in gone),
            files_missing=tuple(path_of_key(key) for key in missing if key not in {*gone, *arrived.values()}),
            files_unchanged=len(taken) - len(differing) - len(arrived),
            files_failed={path: "\n".join(reasons) for path, reasons in failures.items()},
            other_types=dict(types.most_common()),
            excluded=len(excluded),
            warnings=report.warnings,
            passages_added=report.passages_added,
            passages_removed=removed + report.passages_removed,
        )

    def _moves(
        self,
        files: Mapping[str, Path],
        missing: Sequence[str],
        stored: Mapping[str, str | None],
        window: Window,
        limits: ReadLimits,
    ) -> dict[str, tuple[str, str]]:
        """Which files hold what others held that are gone: by key, the other's key and the fingerprint."""
        by_digest: dict[str, list[str]] = {}
        for key in missing:
            if fingerprint := stored[key]:
                by_digest.setdefault(_digest(fingerprint), []).append(key)
        if not by_digest:
            return {}
        fingerprints: dict[str, str] = {}
        namesakes: dict[str, list[str]] = {}  # new files by the digest of those that are gone
        for key, path in files.items():
            fingerprint = _fingerprint(path, window, limits)
            if fingerprint is None or _digest(stored.get(key) or "") == _digest(fingerprint):
                continue
            if (digest := _digest(fingerprint)) in by_digest:
                fingerprints[key] = fingerprint
                namesakes.setdefault(digest, []).append(key)
        olds: dict[str, str] = {}
        for digest, keys in namesakes.items():
            others = by_digest[digest]
            if len(keys) > len(others):
                # One that cannot be read may be a new name too, but not in place of one that can.
                can = (key for key in keys if _read(files[key], window, limits)[0])
                first = list(itertools.islice(can, len(others)))
                keys = first + [key for key in keys if key not in first]
            olds.update(zip(keys, others, strict=False))
        return {key: (olds[key], fingerprint) for key, fingerprint in fingerprints.items() if key in olds}

    def _check_removal(self, files: Sequence[str], confirm: ConfirmRemoval | None) -> None:
        """Raises InputError when more than half of the index would go and nobody agrees."""
        with self._storage.read():
            count, total = self._storage.count_of(files), self._storage.state().passages
        if 2 * count <= total or (confirm is not None and confirm(count, total)):
            return
        examples = ", ".join(path_of_key(key) for key in files[:3]) + (", ..." if len(files) > 3 else "")
        raise InputError(
            f"{count} of {total} passages would be removed, since their files are gone or excluded "
            f"({examples}); nothing was changed. If that is right, agree with --yes (confirm=lambda "
            "count, total: True); to keep them, use --keep-missing (keep_missing=True)."
        )

    def _move(
        self, old: str, key: str, path: Path, fingerprint: str, window: Window, limits: ReadLimits
    ) -> int:
        """Gives a file the passages of one that is gone. Returns how many are removed.

        What this leaves undone, where the new name has the file read otherwise, is left to `add_files`.
        """
        passages, errors = _read(path, window, limits)
        # Of several with one id the last one stays, as in `add`.
        rows = list({passage.id: Row(passage, None, key) for passage in passages}.values())
        ids = {row.passage.id for row in rows}
        removed = 0
        with self._storage.write():
            if {*self._storage.files_of(ids).values()} - {old, key}:
                return 0
            self._storage.move_passages(old, rows)
            if not rows or errors or self._storage.new_ids(row.passage for row in rows):
                return 0
            self._storage.upsert(rows)
            removed += self._storage.finish_file(key, fingerprint, ids)
        return removed


def _labels(files: Mapping[str, Path], keys: Set[str]) -> tuple[str, ...]:
    return tuple(str(path) for key, path in files.items() if key in keys)


def _digest(fingerprint: str) -> str:
    """The part of a fingerprint that is of the content alone."""
    return fingerprint.removeprefix("in part ").partition(" ")[0]


def _fingerprint(path: Path, window: Window, limits: ReadLimits) -> str | None:
    try:
        return fingerprint_of(path, window, limits)
    except ValueError:  # a path that cannot be
        return None


def _read(path: Path, window: Window, limits: ReadLimits) -> tuple[list[Passage], list[ReadError]]:
    """The passages of a file, none if one of them cannot be stored; and what was passed over."""
    errors: list[ReadError] = []
    batches = read_files([path], on_error=errors.append, limits=limits, **window._asdict())
    try:
        return [check_passage(passage) for _, batch in batches for passage in batch], errors
    except InputError:
        return [], errors


def _is_folder(name: str) -> bool:
    try:
        return os.path.isdir(name)
    except ValueError:
        return False


def _lies_under(key: str, folders: Iterable[str]) -> bool:
    path = path_of_key(key)
    return any(path.startswith(os.path.join(folder, "")) for folder in folders)


def _lies_in(key: str, paths: Set[str]) -> bool:
    """Whether a file is one of these files, or lies in one of these folders."""
    path = path_of_key(key)
    return bool(paths) and (path in paths or any(str(parent) in paths for parent in Path(path).parents))


def _is_gone(key: str) -> bool:
    """Whether there is certainly no such file; where that cannot be told, as in a locked folder, False."""
    try:
        os.lstat(path_of_key(key))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
