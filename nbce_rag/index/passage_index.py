"""PassageIndex: a folder of passages that are found by meaning.

The folder holds `passages.sqlite`, which is the truth, and `vectors.faiss`, a copy of its vectors for
FAISS that is made anew whenever it is missing, damaged or older. Nothing in it is pickled or executed.
"""

from __future__ import annotations

import operator
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..embedding import DEFAULT_EMBEDDER, Embedder, EmbedderLike, resolve_embedder
from ..errors import IndexNotFoundError, InputError, PassageIndexError, ReadError
from ..passages import Passage
from .database import not_found
from .encoding import Encoder, describe_embedder, matching_embedder
from .filters import Where, check_filter, matches
from .ingestion import AddReport, Ingestion
from .storage import Storage
from .vector_sync import SyncedVectors

__all__ = ["AddReport", "PassageIndex"]

_DATABASE = "passages.sqlite"
_VECTORS = "vectors.faiss"
_PAGE = 512
# The FAISS file is written anew once more than this part of its vectors has changed: adding one passage
# at a time to a large index must not write all of it each time. What it lacks is read from SQLite.
_SAVE_AFTER_CHANGE = 1 / 8
_SAVE_AT_CLOSE = 1 / 64


class PassageIndex:
    """Passages on disk, searched by cosine similarity. Made by `create` or `open`.

    One object may be used by several threads, and one folder by several processes: a change is seen by
    the next search everywhere. Changes of two processes take turns. Each batch of 256 passages is stored
    at once, and once a call has returned, nothing short of a broken disk loses what it stored.

    Example:
        >>> with PassageIndex.create("my-index") as index:  # doctest: +SKIP
        ...     index.add([Passage("Water boils at 100 °C.", title="Water")])
        ...     index.search("When does water boil?", k=1)[0].score
    """

    def __init__(self, path: Path, storage: Storage, encoder: Encoder, identity: str) -> None:
        """For `create` and `open`."""
        self._path = path
        self._storage = storage
        self._encoder = encoder
        self._vectors = SyncedVectors(storage, path / _VECTORS, identity, encoder.dimension)
        self._ingestion = Ingestion(storage, encoder)
        self._has_written = False

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        embedder: EmbedderLike = DEFAULT_EMBEDDER,
        *,
        exist_ok: bool = False,
        timeout: float = 5.0,
    ) -> Self:
        """Makes an empty index.

        Args:
            path: A folder that does not exist or is empty.
            embedder: Name or folder of a sentence-transformers model, a callable `list[str] -> array`,
                or an `Embedder`. It is asked for its dimension, which loads a model.
            exist_ok: Open the index if there is one.
            timeout: Seconds to wait for another process that is writing, here and in every later call.

        Raises:
            PassageIndexError: There is an index already, or something else.
            EmbedderMismatchError: With `exist_ok`: the index was made with another embedder.
            ModelError: The model cannot be loaded.
            InputError: `embedder` is no embedder.
        """
        folder = Path(path)
        database = folder / _DATABASE
        resolved = resolve_embedder(embedder)
        try:
            Storage.open(database, timeout).close()
        except IndexNotFoundError:
            _check_free(folder)
            # First of all, so that a model that cannot be loaded leaves nothing behind.
            meta = {"index": uuid.uuid4().hex, **describe_embedder(resolved)}
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PassageIndexError(f"The folder {folder} cannot be made ({error.strerror}).") from error
            if not Storage.create(database, meta, timeout) and not exist_ok:
                raise _exists(folder) from None  # another process was faster
        else:
            if not exist_ok:
                raise _exists(folder)
        return cls.open(folder, resolved, timeout=timeout)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        embedder: EmbedderLike | None = None,
        *,
        timeout: float = 5.0,
    ) -> Self:
        """Opens an index.

        Args:
            path: Its folder.
            embedder: As in `create`; needed when the index was made with a callable. Default: the model
                that the index was made with, loaded when it is first needed.
            timeout: Seconds to wait for another process that is writing, here and in every later call.

        Raises:
            IndexNotFoundError: There is none.
            IndexDamagedError: It is not one, or its data are damaged.
            EmbedderMismatchError: `embedder` has another name or dimension than the one it was made with,
                or has to be given.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise not_found(folder)
        storage = Storage.open(folder / _DATABASE, timeout)
        try:
            with storage.read():
                meta = storage.meta()
            encoder = Encoder(folder, matching_embedder(folder, meta, embedder), int(meta["dimension"]))
            return cls(folder, storage, encoder, meta["index"])
        except BaseException:
            storage.close()
            raise

    def add(self, passages: Iterable[Passage], *, vectors: ArrayLike | None = None) -> int:
        """Adds passages, or changes those whose id is there already. The same again changes nothing.

        What is embedded is the title, a line end, and the text; of a passage without title the text.
        Only passages whose title or text is new are embedded. Of several with one id the last one stays.

        Args:
            passages: Any number; taken in batches of 256, each stored at once (with `vectors` all at
                once). `score` and `relevance` are not stored.
            vectors: Embeddings [len(passages), dimension] to use instead of the embedder's. A passage that
                is stored with the same title and text keeps the vector it has.

        Returns:
            How many passages were new or changed.

        Raises:
            InputError: A passage has no text, its metadata cannot be JSON, or its vector has a wrong
                length, NaN, infinity, or zeros only. The message names it; batches before it are stored.
            EmbedderMismatchError: The embedder's vectors have another dimension than the index.
            IndexLockedError: Another process was writing for too long.
        """
        if isinstance(passages, Passage):
            passages = [passages]
        self._has_written = True
        changed = self._ingestion.add(passages, vectors)
        self._vectors.save(_SAVE_AFTER_CHANGE)
        return changed

    def add_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        max_tokens: int | None = None,
        overlap: int = 32,
        on_error: Callable[[ReadError], None] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> AddReport:
        """Reads files and folders into passages and adds them; `nbce_rag.reading.read_files` says how.

        A file whose content has not changed since it was last added with the same `max_tokens` and
        `overlap` is passed over. The passages of a changed file are replaced. Passages of files that are
        not given, or that can no longer be read, stay. A call that was interrupted can be repeated, and
        does not embed again what was stored.

        Args:
            paths: Files and folders; one path alone will do.
            max_tokens: Most tokens of a passage; default: as many as the embedder reads, at most 200.
            overlap: Most tokens that a passage repeats from the one before.
            on_error: Gets an error for each file or line that is passed over, and may raise it. They
                are in the report too.
            progress: Called with (files done, files in all, what is being done).

        Raises:
            InputError: `max_tokens` or `overlap` is out of range.
            EmbedderMismatchError, IndexLockedError: As in `add`.
        """
        self._has_written = True
        report = self._ingestion.add_files(paths, max_tokens, overlap, on_error, progress)
        self._vectors.save(_SAVE_AFTER_CHANGE)
        return report

    def delete(
        self, ids: str | Iterable[str] | None = None, source: str | os.PathLike[str] | None = None
    ) -> int:
        """Removes the passages with these ids and those of this source. What is not there is passed over.

        A file of which no passage is left is taken in again when it is next given to `add_files`.

        Args:
            ids: One id or several.
            source: A source as passages have it, or the path of a file that was added.

        Returns:
            How many passages were removed.

        Raises:
            InputError: Neither was given.
            IndexLockedError: Another process was writing for too long.
        """
        if ids is None and source is None:
            raise InputError("delete() needs to know what: give ids or a source.")
        chosen = [ids] if isinstance(ids, str) else list(ids or ())
        name = None if source is None else os.fspath(source)
        self._has_written = True
        with self._storage.write():
            removed = self._storage.delete(chosen, name, name and os.path.realpath(name))
        self._vectors.save(_SAVE_AFTER_CHANGE)
        return removed

    def search(
        self,
        query: str | ArrayLike,
        k: int = 8,
        where: Where | None = None,
        *,
        ids: Iterable[str] | None = None,
    ) -> list[Passage]:
        """The k passages that are most similar to a query.

        Args:
            query: A text, or its vector, of any length above 0 and with as many numbers as the index has
                dimensions.
            k: How many at most.
            where: What the metadata must be: each key with a value that it has to equal, a list (or tuple
                or set) of which it has to be one, or a callable that is given it and says whether it will
                do. A passage without the key is left out. `id`, `source` and `title` mean the passage's
                own where its metadata has no such key. Or a callable that is given all of these and
                decides. The result is exact: k passages that meet it, if there are so many.
            ids: The ids of the passages to choose from, likewise exact; None: all.

        Returns:
            Passages with `score` set to the cosine, in [-1, 1], best first, those of one score by id. All
            there are when k is larger; none from an empty index.

        Raises:
            InputError: k < 1, an empty text, a vector of another length or without direction.
            EmbedderMismatchError: The embedder's vector has another dimension than the index.
        """
        try:
            k = operator.index(k)
        except TypeError as error:
            raise InputError(f"k must be a whole number, got {k!r}.") from error
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}.")
        if where is not None:
            check_filter(where)
        vector = self._encoder.query(query)
        with self._storage.read():
            cache = self._vectors.current()
            allowed = None
            if where:
                allowed = [key for key, fields in self._storage.fields() if matches(fields, where)]
            if ids is not None:
                chosen = self._storage.keys([ids] if isinstance(ids, str) else ids)
                allowed = list(chosen if allowed is None else chosen.intersection(allowed))
            found = dict(cache.search(vector, k, allowed))
            passages = self._storage.by_keys(found)
        hits = [replace(passage, score=found[key]) for key, passage in passages.items()]
        hits.sort(key=lambda passage: (-cast(float, passage.score), passage.id))
        return hits[:k]

    def vectors(self, ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Vectors of length 1, float32 [d], by id; unknown ids are left out."""
        with self._storage.read():
            return self._storage.vectors_by_id(ids, self.dimension)

    def get(self, passage_id: str) -> Passage | None:
        """The passage with this id, or None."""
        with self._storage.read():
            return self._storage.by_id(passage_id)

    def sources(self) -> dict[str, int]:
        """How many passages each source has, sorted by source; passages without one are not counted."""
        with self._storage.read():
            return self._storage.sources()

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self.get(passage_id) is not None

    def __len__(self) -> int:
        with self._storage.read():
            return self._storage.count()

    def __bool__(self) -> bool:
        return True  # an index is something, also while it is empty

    def __iter__(self) -> Iterator[Passage]:
        """All passages in the order in which they were added. The index may be changed meanwhile."""
        last = -1
        while True:
            with self._storage.read():
                page = self._storage.page(last, _PAGE)
            if not page:
                return
            last = page[-1][0]
            yield from (passage for _, passage in page)

    def __repr__(self) -> str:
        return f"PassageIndex({str(self._path)!r}, embedder={self._encoder.embedder.name!r})"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._path

    @property
    def embedder(self) -> Embedder:
        """What makes vectors of texts."""
        return self._encoder.embedder

    @property
    def embedder_name(self) -> str:
        """Name of the embedder that the index was made with."""
        return self._encoder.embedder.name

    @property
    def dimension(self) -> int:
        """Length of each vector."""
        return self._encoder.dimension

    def close(self) -> None:
        """Saves the FAISS file and lets go of the folder. Doing it twice does no harm."""
        if not self._storage.closed:
            try:
                if self._has_written:
                    self._vectors.save(_SAVE_AT_CLOSE)
            finally:
                self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_free(folder: Path) -> None:
    """Raises PassageIndexError when something that is no index is in the way of a new one."""
    try:
        # What a process leaves that died while making an index does not count.
        others = [name for name in os.listdir(folder) if not name.startswith(_DATABASE)]
    except FileNotFoundError:
        return
    except OSError as error:
        raise PassageIndexError(
            f"{folder} cannot hold an index ({error.strerror}): give a folder."
        ) from error
    if others:
        raise PassageIndexError(
            f"{folder} is not empty and no index ({min(others)!r} is in it): give a new or empty folder."
        )


def _exists(folder: Path) -> PassageIndexError:
    return PassageIndexError(
        f"There is an index at {folder} already: use PassageIndex.open(path), or exist_ok=True here."
    )
