"""PassageIndex: a folder of passages that are found by meaning. The package says how it is laid out."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_text, check_texts
from ..documents.document import source_of
from ..documents.excludes import Excludes
from ..documents.folders import file_key, path_of_key
from ..documents.limits import READ_LIMITS, ReadLimits
from ..embedding.embedder import Embedder
from ..embedding.resolve import EmbedderLike, resolve_embedder
from ..embedding.sentence_transformer import DEFAULT_EMBEDDER
from ..errors import IndexNotFoundError, InputError, PassageIndexError, ReadError
from ..passages import Passage
from .encoder import Encoder, describe_embedder, matching_embedder
from .filters.conditions import Where, as_condition, asks_nothing
from .folder import Description, IndexFolder
from .health import CheckReport, check, rebuild
from .ingestion import AddReport, Ingestion
from .reranking import RerankerLike
from .search import Searcher, SearchMode, SearchOptions, SearchRequest
from .sqlite.storage import Storage
from .sync import ConfirmRemoval, FolderSync, SyncReport
from .vectors import factories
from .vectors.compaction import Compactor
from .vectors.view import SyncedVectors

__all__ = ["PassageIndex", "SourceEntry"]

_PAGE = 512
_FIND_PAGE = 2000  # passages of one page of `find`


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """What an index has of one source.

    Attributes:
        source: As its passages have it; None of those without one.
        passages: How many.
        size: Bytes of their texts in UTF-8; what passages repeat of each other counts in each.
        stored_at: When its file was last taken in, seconds since 1970; None of passages that were added
            without a file, and of files that older versions took in.
    """

    source: str | None
    passages: int
    size: int
    stored_at: float | None


class PassageIndex:
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

    def __init__(self, path: Path, storage: Storage, encoder: Encoder, identity: str, timeout: float) -> None:
        """For `create` and `open`."""
        self._path = path
        self._storage = storage
        self._encoder = encoder
        self._vectors = SyncedVectors(storage, path, identity, encoder.dimension)
        self._compactor = Compactor(storage, path, identity, encoder.dimension, timeout)
        self._ingestion = Ingestion(storage, encoder)
        self._folder_sync = FolderSync(storage, encoder, self._ingestion)
        self._searcher = Searcher(storage, self._vectors, encoder.dimension)
        self._bulks = 0  # that are open, in which no FAISS file is written

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        embedder: EmbedderLike = DEFAULT_EMBEDDER,
        *,
        exist_ok: bool = False,
        timeout: float = 5.0,
        factory: str = factories.AUTO,
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
        folder = IndexFolder(path)
        resolved = resolve_embedder(embedder)
        try:
            Storage.open(folder.database, timeout).close()
        except IndexNotFoundError:
            folder.check_free()
            # First of all, so that a model that cannot be loaded leaves nothing behind.
            description = describe_embedder(resolved)
            meta = {"index": uuid.uuid4().hex, **description.meta()}
            meta["factory"] = factories.check_factory(factory, description.dimension)
            folder.make()
            if not Storage.create(folder.database, meta, timeout) and not exist_ok:
                raise _exists(folder.path) from None  # another process was faster
        else:
            if not exist_ok:
                raise _exists(folder.path)
        return cls.open(folder.path, resolved, timeout=timeout)

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
        folder = IndexFolder(path)
        storage = Storage.open(folder.database, timeout)
        try:
            with storage.read():
                meta = storage.meta()
            description = Description.of(meta)
            chosen = matching_embedder(folder.path, description, embedder, maintenance=maintenance)
            encoder = Encoder(folder.path, chosen, description.dimension)
            return cls(folder.path, storage, encoder, meta["index"], timeout)
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
            keys = [] if condition is None else self._searcher.matching(condition, chosen).tolist()
            removed = self._storage.delete((chosen or ()) if condition is None else (), name, file, keys)
        self._save()
        return removed

    def search(
        self,
        query: str | ArrayLike,
        k: int = 8,
        where: Where | None = None,
        *,
        ids: Iterable[str] | None = None,
        min_score: float | None = None,
        mode: SearchMode = "vector",
        text: str | None = None,
        balance: float = 0.5,
        mmr: float | None = None,
        rerank: RerankerLike | None = None,
        fetch_k: int | None = None,
        look: bool = False,
        generated: bool = False,
        options: Mapping[str, int] | None = None,
    ) -> list[Passage]:
        """The k passages that are most similar to a query.

        Args:
            query: A text, or its vector, of any length above 0 and with as many numbers as the index has
                dimensions.
            k: How many at most.
            where: What the metadata must be; `nbce_rag.index.filters.conditions` has all of it. Each key
                with a value that it has to equal, a list (or tuple or set) of which it has to be one,
                operators such as `{"$gte": 1900}`, or a callable that is given it and says whether it will
                do. `id`, `source` and `title` mean the passage's own where its metadata has no such key. Or
                a callable that is given all of these. Conditions are looked up in SQLite; callables are
                asked of every passage that is left. What is found are k passages that meet it, if there are
                so many, and the nearest ones; of a million in an index that is not exact, so long as at most
                20,000 meet it.
            ids: The ids of the passages to choose from; None: all.
            min_score: Least score, in [-1, 1].
            mode: "vector"; "words", by BM25 over title and text; "hybrid", both fused by reciprocal rank.
                The score is the cosine in all of them.
            text: The words, where `query` is a vector.
            balance: Weight of meaning in "hybrid", in [0, 1]; the rest is that of words.
            mmr: In [0, 1]: passages that differ, by maximal marginal relevance; 1 for relevance alone, 0 for
                difference alone.
            rerank: A cross-encoder by its name or folder, a `Reranker`, or a callable
                `(query, texts) -> scores`. Its scores replace the cosines.
            fetch_k: From how many `mmr` and `rerank` choose; default: 4 k.
            look: Keep the better half of what was found, and put in place of the rest what the best passage
                leads to: passages with the names in it that the query does not have, and with the words of
                the query that it does not have, by BM25 (`nbce_rag.index.look`). For questions that take two
                passages. It takes some 3 ms, and does nothing for k = 1.
            generated: Also find passages whose metadata say `origin: generated`. A condition on `origin`
                does so too.
            options: Of the FAISS index: `nprobe`, `efSearch`; default: as they were tuned.

        Returns:
            Passages with `score` set to the cosine, in [-1, 1], best first, those of one score by id. All
            there are when k is larger; none from an empty index.

        Raises:
            InputError: k < 1, an empty text, a vector of another length or without direction, an argument out
                of range, words wanted of a vector without text.
            EmbedderMismatchError: The embedder's vector has another dimension than the index.
        """
        texts = None if text is None else [text]
        return self.search_batch(
            [query],
            k,
            where,
            ids=ids,
            min_score=min_score,
            mode=mode,
            texts=texts,
            balance=balance,
            mmr=mmr,
            rerank=rerank,
            fetch_k=fetch_k,
            look=look,
            generated=generated,
            options=options,
        )[0]

    def search_batch(
        self,
        queries: Iterable[str | ArrayLike] | NDArray[np.floating],
        k: int = 8,
        where: Where | None = None,
        *,
        texts: Sequence[str] | None = None,
        **arguments: Unpack[SearchOptions],
    ) -> list[list[Passage]]:
        """As `search`, of several queries in one state of the index, and faster than one by one.

        Args:
            queries: Texts or vectors; one text alone will do.
            texts: Their words, where they are vectors.
            k, where, **arguments: As in `search`.
        """
        request = SearchRequest(k, None if where is None else as_condition(where), **arguments)
        queries = [queries] if isinstance(queries, str) else list(queries)
        texts = None if texts is None else check_texts("texts", texts)
        if texts is not None and len(texts) != len(queries):
            raise InputError(f"{len(texts)} texts were given for {len(queries)} queries: give one for each.")
        words: Sequence[str | None]
        words = texts or [query if isinstance(query, str) else None for query in queries]
        return self._searcher.search(self._encoder.queries(queries), words, request)

    def explain(self, where: Where | None = None, **arguments: Unpack[SearchOptions]) -> str:
        """Why a search with these arguments finds nothing: which condition excludes every passage.

        Args:
            where, **arguments: As in `search`.

        Returns:
            A sentence. Of a search that finds something it means nothing.
        """
        return self._searcher.explain(
            SearchRequest(1, None if where is None else as_condition(where), **arguments)
        )

    def find(self, where: Where | None = None, *, ids: Iterable[str] | None = None) -> Iterator[Passage]:
        """All passages that meet a condition, in the order in which they were added, without a query.

        Args:
            where: As in `search`; None: all. Generated ones are among them.
            ids: The ids to choose from; None: all.
        """
        condition = None if where is None else as_condition(where)
        chosen = None if ids is None else check_texts("ids", ids)
        with self._storage.read():
            keys = self._searcher.matching(condition, chosen).tolist()
        for start in range(0, len(keys), _FIND_PAGE):
            with self._storage.read():
                passages = self._storage.by_keys(keys[start : start + _FIND_PAGE])
            yield from (passages[key] for key in sorted(passages))

    def vectors(self, ids: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Vectors of length 1, float32 [d], by id; unknown ids are left out."""
        chosen = check_texts("ids", ids)
        with self._storage.read():
            return self._storage.vectors_by_id(chosen, self.dimension)

    def get(self, passage_id: str) -> Passage | None:
        """The passage with this id, or None."""
        chosen = check_text("An id", passage_id)
        with self._storage.read():
            return self._storage.by_id(chosen)

    def file_of(self, passage_id: str) -> Path | None:
        """The real path of the file that a passage was read from; None of one that was added without a file.

        The file may have changed since, or be gone.
        """
        chosen = check_text("An id", passage_id)
        with self._storage.read():
            key = self._storage.files_of([chosen]).get(chosen)
        return None if key is None else Path(path_of_key(key))

    def sources(self) -> dict[str, int]:
        """How many passages each source has, sorted by source; passages without one are not counted."""
        with self._storage.read():
            return self._storage.sources()

    def source_entries(self) -> list[SourceEntry]:
        """What the index has of each source, sorted by source; what has no source comes last."""
        with self._storage.read():
            rows = self._storage.source_sizes()
        return [SourceEntry(*row) for row in rows]

    def __contains__(self, passage_id: object) -> bool:
        return isinstance(passage_id, str) and self.get(passage_id) is not None

    def __len__(self) -> int:
        with self._storage.read():
            return self._storage.state().passages

    def __bool__(self) -> bool:
        return True  # an index is something, also while it is empty

    def __iter__(self) -> Iterator[Passage]:
        """All passages in the order in which they were added. The index may be changed meanwhile.

        What is added or changed after the first passage was taken does not come again.
        """
        last, end = -1, None
        while True:
            with self._storage.read():
                end = self._storage.last_key() if end is None else end
                page = self._storage.page(last, end, _PAGE)
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

    def compact(self, factory: str | None = None) -> None:
        """Writes all vectors into one FAISS file, without those of removed passages.

        Args:
            factory: As in `create`; from now on. Default: as before.

        Raises:
            InputError: FAISS has no such factory.
            PassageIndexError: The file cannot be written; the index is as it was.
        """
        if factory is not None:
            factories.check_factory(factory, self.dimension)
        with _os_errors(self._path):
            self._compactor.compact(factory=factory)

    def check(self) -> CheckReport:
        """Reads everything and says what is wrong, without changing anything."""
        with _os_errors(self._path):
            return check(self._storage, self._compactor, self.dimension)

    def rebuild(self) -> None:
        """Makes everything anew that follows from the passages: what filters and words look up, FAISS files.

        Passages whose vector is missing or damaged are embedded again.

        Raises:
            IndexDamagedError: Passages themselves are damaged; the message names them.
            PassageIndexError: A file cannot be written; the index is as it was.
        """
        with _os_errors(self._path):
            rebuild(self._storage, self._encoder)
            self._compactor.compact()

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
            self._compactor.save()

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


@contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, PassageIndexError):
            raise
        raise PassageIndexError(
            f"No FAISS file can be written in {folder} ({error.strerror or error}): check free space and "
            "permissions. What was stored before is intact."
        ) from error


def _exists(folder: Path) -> PassageIndexError:
    return PassageIndexError(
        f"There is an index at {folder} already: use PassageIndex.open(path), or exist_ok=True here."
    )
