"""One search for all methods: every question's passages, and where its gold passages stood."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..embedding.resolve import EmbedderLike
from ..errors import InputError
from ..files import expand_home
from ..index import PassageIndex
from ..passages import Passage
from .data.dataset import Dataset
from .data.questions import Question
from .log import Row, RunLog

__all__ = ["embedder_name", "retrieve"]

_SEARCH_DEPTH = 100


def retrieve(
    data: Dataset, log: RunLog, k: int, embedder: EmbedderLike, folder: str | os.PathLike[str] | None
) -> dict[str, list[Passage]]:
    """The k passages of each question, from the log or by searching.

    Args:
        data: questions and passages.
        log: results so far; what is found is added to it.
        k: how many.
        embedder: as in `PassageIndex.create`.
        folder: of the index to use; it is made if there is none. None makes one for this call.

    Returns:
        Passages with `score` set, best first, by question id.

    Raises:
        InputError: the index holds other passages too.
    """
    if rest := [question for question in data.questions if question.id not in log.retrieval]:
        rows: list[Row] = []
        with _searcher(data, k, embedder, folder) as search:
            for question in rest:
                hits = search(question)
                places = {passage.id: place for place, passage in enumerate(hits, 1)}
                rows.append(
                    {
                        "type": "retrieval",
                        "question_id": question.id,
                        "ids": [passage.id for passage in hits[:k]],
                        "scores": [passage.score for passage in hits[:k]],
                        "gold_ids": list(question.gold_ids),
                        "gold_ranks": [places.get(id_) for id_ in question.gold_ids],
                    }
                )
        log.append(rows)
    return {
        question.id: [
            replace(data.passages[id_], score=score)
            for id_, score in zip(
                log.retrieval[question.id]["ids"], log.retrieval[question.id]["scores"], strict=True
            )
        ]
        for question in data.questions
    }


def embedder_name(embedder: EmbedderLike) -> str:
    """What a log calls an embedder; the same in every process."""
    return str(getattr(embedder, "name", None) or getattr(embedder, "__name__", embedder))


@contextmanager
def _searcher(
    data: Dataset, k: int, embedder: EmbedderLike, folder: str | os.PathLike[str] | None
) -> Iterator[Callable[[Question], list[Passage]]]:
    if data.own_contexts:
        yield lambda question: list(question.contexts)
        return
    with tempfile.TemporaryDirectory(prefix="nbce-eval-") as temporary:
        path = Path(expand_home(folder or temporary))
        with PassageIndex.create(path, embedder, exist_ok=True) as index:
            index.add(data.passages.values())
            if len(index) != len(data.passages):
                raise InputError(
                    f"The index {path} holds {len(index) - len(data.passages)} passages that are not of this "
                    "evaluation; give another folder."
                )
            yield lambda question: index.search(question.text, max(_SEARCH_DEPTH, k))
