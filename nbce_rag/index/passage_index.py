"""PassageIndex: passages that are found by meaning. The package says how they are laid out in a folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal, Self

from numpy.typing import ArrayLike

from ..checks import check_texts
from ..documents.document import source_of
from ..documents.excludes import Excludes
from ..documents.folders import file_key
from ..documents.limits import READ_LIMITS, ReadLimits
from ..embedding.resolve import EmbedderLike, resolve_embedder
from ..embedding.sentence_transformer import DEFAULT_EMBEDDER
from ..errors import InputError, PassageIndexError, ReadError
from ..passages import Passage
from .copying import copy_index
from .encoder import Encoder, describe_embedder, matching_embedder
from .filters.conditions import Where, as_condition, asks_nothing
from .folder import Description
from .ingestion import AddReport, Ingestion
from .places import place_of
from .reading import IndexReader
from .reports import CheckReport
from .storage import PassageStorage
from .sync import ConfirmRemoval, FolderSync, SyncReport

__all__ = ["PassageIndex"]


class PassageIndex(IndexReader):
    """Passages on disk, searched by cosine similarity. Made by `create` or `open`.

    One object may be used by several threads, and one folder by several processes: a change is seen by
    the next search everywhere, all of it or nothing. Changes of two processes take turns. Each batch of 256
    passages is stored at once, and once a call has returned, nothing short of a broken disk loses what it
    stored.

    Example:
        >>> with PassageIndex.create("my-index") as index:  # doctest: +SKIP
        ...     index.add([Passage("Water boils at 100 °C.", title="Water")])
        ...     index.search("When does water boil?", k=1)[0].score
    """

    def __init__(self, storage: PassageStorage[Any], encoder: Encoder) -> None:
        """For `create` and `open`."""
        super().__init__(storage, encoder)
        self._ingestion = Ingestion(storage, encoder)
        self._folder_sync = FolderSync(storage, encoder, self._ingestion)
        self._bulks = 0  # that are open, in which no FAISS file is written

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        embedder: EmbedderLike = DEFAULT_EMBEDDER,
        *,
        exist_ok: bool = False,
        timeout: float = 5.0,
        factory: str = "auto",
    ) -> Self:
        """Makes an empty index.

        Args:
            path: A folder that does not exist or is empty.
            embedder: Name or folder of a sentence-transformers model, a callable `list[str] -> array`,
                or an `Embedder`. It is asked for its dimension, which loads a model.
            exist_ok: Open the index if there is one.
            timeout: Seconds to wait for another process that is writing, here and in every later call.
            factory: How FAISS holds the vectors: "auto" (`Flat`, which is exact, below 200,000; then lists of
                8-bit codes), "flat", "hnsw", "ivf", "ivf-sq8", "fp16", "sq8", "sq4", "pq", or any string for
                `faiss.index_factory`. Takes effect with the first file that is written; see `compact`.

        Raises:
            PassageIndexError: There is an index already, or something else.
            EmbedderMismatchError: With `exist_ok`: the index was made with another embedder.
            ModelError: The model cannot be loaded.
            InputError: `embedder` is no embedder, or `factory` none for its dimension.
        """
        place = place_of(path)
        resolved = resolve_embedder(embedder)
        if not place.has_index(timeout):
            # First of all, so that a model that cannot be loaded leaves nothing behind.
            description = describe_embedder(resolved)
            meta = {"index": uuid.uuid4().hex, **description.meta()}
            meta["factory"] = place.check_factory(factory, description.dimension)
            if not place.make(meta, timeout) and not exist_ok:
                raise _exists(place.location)  # another process was faster
        elif not exist_ok:
            raise _exists(place.location)
        return cls.open(path, resolved, timeout=timeout)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        embedder: EmbedderLike | None = None,
        *,
        timeout: float = 5.0,
        maintenance: bool = False,
    ) -> Self:
        """Opens an index.

        Args:
            path: Its folder.
            embedder: As in `create`; needed when the index was made with a callable. Default: the model
                that the index was made with, loaded when it is first needed.
            timeout: Seconds to wait for another process that is writing, here and in every later call.
            maintenance: For `check`, `rebuild` and `compact`: open it also without an embedder that has to
                be given. Whatever has to embed a text then raises EmbedderMismatchError.

        Raises:
            IndexNotFoundError: There is none.
            IndexDamagedError: It is not one, or its data are damaged.
            EmbedderMismatchError: `embedder` has another name or dimension than the one it was made with,
                or has to be given.
        """
        storage = place_of(path).open(timeout)
        try:
            with storage.read():
                description = Description.of(storage.meta())
            chosen = matching_embedder(storage.location, description, embedder, maintenance=maintenance)
            return cls(storage, Encoder(storage.location, chosen, description.dimension))
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
            vectors: Embeddings [len(passages), dimension] to use instead of the embedder's, and of those
                that are stored.

        Returns:
            How many passages were new or changed.

        Raises:
            InputError: A passage has no text, its metadata cannot be JSON, or its vector has a wrong
                length, NaN, infinity, or zeros only. The message names it; batches before it are stored.
            EmbedderMismatchError: The embedder's vectors have another dimension than the index.
            IndexLockedError: Another process was writing for too long.
        """
        changed = self._ingestion.add(_as_passages(passages), vectors)
        self._save()
        return changed

    def upsert(
        self,
        passages: Iterable[Passage],
        *,
        by: Literal["id", "source"] = "id",
        vectors: ArrayLike | None = None,
    ) -> int:
        """Adds passages in place of those of the same ids, or of all of the same sources.

        Args:
            passages: As in `add`.
            by: "id" is `add`; "source" removes, in the same transaction as it adds, what the index has of the
                passages' sources and they do not. All of it is stored at once.
            vectors: As in `add`.

        Returns:
            How many passages were new or changed.

        Raises:
            InputError: As in `add`; with "source", also a passage without source.
        """
        if by == "id":
            return self.add(passages, vectors=vectors)
        if by != "source":
            raise InputError(f"by must be 'id' or 'source', got {by!r}.")
        changed, _ = self._ingestion.replace_sources(_as_passages(passages), vectors)
        self._save()
        return changed

    def add_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        max_tokens: int | None = None,
        overlap: int = 32,
        on_error: Callable[[ReadError], None] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
        exclude: str | Iterable[str] = (),
        gitignore: bool = False,
        limits: ReadLimits = READ_LIMITS,
        workers: int | None = None,
    ) -> AddReport:
        """Reads files and folders into passages (`nbce_rag.documents.folders.read_files`), adds them.

        A file whose content has not changed since it was last added with the same `max_tokens` and
        `overlap` is passed over. The passages of a changed file are replaced. Passages of files that are
        not given, or that can no longer be read, stay. A call that was interrupted can be repeated, and
        does not embed again what was stored.

        Args:
            paths: Files and folders; one path alone will do.
            max_tokens: Most tokens of a passage; default: as many as the embedder reads, at most 200.
            overlap: Most tokens that a passage repeats from the one before.
            on_error: Gets an error for each file, page or line that is passed over, and may raise it. They
                are in the report too.
            progress: Called with (files done, files in all, what is being done).
            exclude, gitignore: What is passed over in folders, as in `read_files`.
            limits: The most that one file may take.
            workers: Processes that read files ahead of their being taken in, such as PDFs and office files;
                1 reads them here. Default: as many as there are cores, unless there is little to read. A file
                that ends or stalls its process costs a line; the result is the same for any number.

        Raises:
            InputError: `max_tokens`, `overlap` or `workers` is out of range, or a pattern is none.
            EmbedderMismatchError, IndexLockedError: As in `add`.
        """
        excludes = Excludes.of(exclude, gitignore)
        report = self._ingestion.add_files(
            paths, max_tokens, overlap, on_error, progress, excludes, limits, workers
        )
        self._save()
        return report

    def sync_files(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        keep_missing: bool = False,
        confirm: ConfirmRemoval | None = None,
        max_tokens: int | None = None,
        overlap: int = 32,
        on_error: Callable[[ReadError], None] | None = None,
        progress: Callable[[int, int, str], None] | None = None,
        exclude: str | Iterable[str] = (),
        gitignore: bool = False,
        limits: ReadLimits = READ_LIMITS,
        workers: int | None = None,
    ) -> SyncReport:
        """As `add_files`, and follows what was renamed or deleted in the folders that are given.

        A file that is gone from beneath one of these folders is looked for among the others by its content.
        Where it is found, its passages move there, with their vectors; else they are removed. Passages of
        files elsewhere stay, and so do those of a file or folder that is given and missing itself, or that
        cannot be looked into. A file that a link led to counts where it really lies.

        Args:
            paths: As in `add_files`.
            keep_missing: Keep the passages of files that are gone. Renamed ones still move.
            confirm: Asked before anything is changed, when more than half of the index would be removed:
                called with (passages to remove, passages in the index), says whether they may be. Default:
                they may not.
            exclude, gitignore: As in `add_files`. What the index has of files that are excluded now goes, as
                if they were gone.
            max_tokens, overlap, on_error, progress, limits, workers: As in `add_files`.

        Raises:
            InputError: As in `add_files`; or more than half of the index would be removed and may not be.
            EmbedderMismatchError, IndexLockedError: As in `add`.
        """
        excludes = Excludes.of(exclude, gitignore)
        report = self._folder_sync.sync(
            paths, keep_missing, confirm, max_tokens, overlap, on_error, progress, excludes, limits, workers
        )
        self._save()
        return report

    def delete(
        self,
        ids: str | Iterable[str] | None = None,
        source: str | os.PathLike[str] | None = None,
        *,
        where: Where | None = None,
    ) -> int:
        """Removes passages, all at once: those of these ids, of this source, and those that meet a condition.

        What is not there is passed over. A file of which no passage is left is taken in again when it is next
        given to `add_files`.

        Args:
            ids: One id or several. With `where`, only those of them that meet it.
            source: A source as passages have it, or the path of a file that was added.
            where: As in `search`.

        Returns:
            How many passages were removed.

        Raises:
            InputError: Nothing was given, or without ids a mapping that asks nothing, such as `{}`;
                `AllOf(())` means all.
            IndexLockedError: Another process was writing for too long.
        """
        if ids is None and source is None and where is None:
            raise InputError("delete() needs to know what: give ids or a source, or where.")
        chosen = None if ids is None else check_texts("ids", ids)
        condition = None if where is None else as_condition(where)
        # A condition of classes says what it says; an empty mapping has often lost what was to be in it.
        if isinstance(where, Mapping) and chosen is None and condition and asks_nothing(condition):
            raise InputError(
                f"where={where!r} asks nothing, so that every passage would be removed: if that is what you "
                "want, write where=AllOf(())."
            )
        name = None if source is None else source_of(source)
        file = None if source is None else file_key(source)
        with self._storage.write():
            keys = [] if condition is None else self._storage.matching(condition, chosen).tolist()
            removed = self._storage.delete((chosen or ()) if condition is None else (), name, file, keys)
        self._save()
        return removed

    def __repr__(self) -> str:
        return f"PassageIndex({self.location!r}, embedder={self._encoder.embedder.name!r})"

    def compact(self, factory: str | None = None) -> None:
        """Writes all vectors into one FAISS file, without those of removed passages.

        Args:
            factory: As in `create`; from now on. Default: as before.

        Raises:
            InputError: FAISS has no such factory.
            PassageIndexError: The file cannot be written; the index is as it was.
        """
        self._storage.compact(factory)

    def copy_to(
        self,
        target: str | os.PathLike[str],
        *,
        timeout: float = 5.0,
        progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Copies the index as it is now, from a folder or a database to another: all of it or nothing.

        Passages, their order, the files they are from and their vectors are the same, bit for bit. Between
        folders a calibration goes along; keys and values do not. A copy that was interrupted leaves an empty
        index, into which the next one goes.

        Args:
            target: Where there is no index: a folder, or the URL of a database.
            timeout: As in `open`, for the target.
            progress: Called with (passages copied, passages in all).

        Returns:
            How many passages were copied.

        Raises:
            PassageIndexError: There is an index already, or something else, or it cannot be made.
            InputError: The vectors have more numbers than the target can hold.
        """
        return copy_index(self._storage, target, timeout, progress)

    def check(self) -> CheckReport:
        """Reads everything and says what is wrong, without changing anything."""
        return self._storage.check()

    def rebuild(self) -> None:
        """Makes everything anew that follows from the passages: what filters and words look up, FAISS files.

        Passages whose vector is missing or damaged are embedded again.

        Raises:
            IndexDamagedError: Passages themselves are damaged; the message names them.
            PassageIndexError: A file cannot be written; the index is as it was.
        """
        self._storage.rebuild(self._encoder)

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Inside it no FAISS file is written, but at its end. What is added is stored at once as ever."""
        self._bulks += 1
        try:
            yield
        finally:
            self._bulks -= 1
        self._save()

    def _save(self) -> None:
        if not self._bulks:
            self._storage.save()

    def close(self) -> None:
        """Lets go of the folder. Doing it twice does no harm."""
        self._storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_passages(passages: Iterable[Passage]) -> Iterable[Passage]:
    if isinstance(passages, Passage):
        return [passages]
    if not isinstance(passages, Iterable):
        raise InputError(
            f"An index takes Passage objects, got {type(passages).__name__}: use Passage(text), or add_files "
            "for files."
        )
    return passages


def _exists(location: str) -> PassageIndexError:
    return PassageIndexError(
        f"There is an index at {location} already: use PassageIndex.open(path), or exist_ok=True here."
    )
