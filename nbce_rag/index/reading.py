"""What can be asked of an index, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_text, check_texts
from ..documents.folders import path_of_key
from ..embedding.embedder import Embedder
from ..errors import InputError
from ..passages import Passage
from .encoder import Encoder
from .filters.conditions import Where, as_condition
from .reports import SourceEntry
from .reranking import RerankerLike
from .search import Searcher, SearchMode, SearchOptions, SearchRequest
from .storage import PassageStorage

__all__ = ["IndexReader"]

_PAGE = 512
_FIND_PAGE = 2000  # passages of one page of `find`


class IndexReader:
    """Searches, and everything else that changes nothing: the base of `PassageIndex`."""

    def __init__(self, storage: PassageStorage[Any], encoder: Encoder) -> None:
        self._storage = storage
        self._encoder = encoder
        self._searcher = Searcher(storage, encoder.dimension)

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
        look: bool | None = False,
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
                passages. It takes some 3 ms, and does nothing for k = 1. None looks where single passages
                were not seen to suffer: for k of 8 or more by "vector", with neither `mmr` nor `rerank`.
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
            keys = self._storage.matching(condition, chosen).tolist()
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

    @property
    def path(self) -> Path:
        """The folder.

        Raises:
            InputError: The index is in a database.
        """
        folder = self._storage.folder
        if folder is None:
            raise InputError(
                f"The index at {self.location} has no folder: what is kept in one (keys and values, a "
                "calibration, copies of it) needs an index in a folder."
            )
        return folder

    @property
    def has_folder(self) -> bool:
        """Whether it is in a folder, and not in a database."""
        return self._storage.folder is not None

    @property
    def location(self) -> str:
        """The folder, or the URL of the database without its password."""
        return self._storage.location

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
