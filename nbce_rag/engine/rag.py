"""Rag: index and engine in one. A question goes in, an answer with its sources comes out.

Importing this module loads neither torch nor faiss; opening an index and a model does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import InputError, warn
from ..evidence.calibration import Calibration
from ..index.folder import IndexFolder
from .option_groups import by_group

if TYPE_CHECKING:
    from ..answers.answer import Answer, Piece
    from ..answers.comparison import Comparison
    from ..embedding.resolve import EmbedderLike
    from ..index import PassageIndex, Where
    from ..kv.store import StoreLike
    from ..passages import Passage
    from ..prompts.template import PromptTemplate
    from ..request import Request
    from .nbce import NBCE

__all__ = ["Rag"]

_K = 8  # passages of a search that does not say how many


class Rag:
    """Answers questions from an index: finds passages, and lets the engine read them.

    `Rag.open` makes one from an index's folder; this makes one of an index and an engine that are open, and
    leaves them open. One object may be used from several threads.

    Every way of asking takes `k` (how many passages, 8 by default), `where`, and other options by name:
    those of `PassageIndex.search` go to the search, those of `nbce_rag.options.Options` to the answer. They
    replace, for one call, the defaults that were given here or to `open`; `where={}` is no condition.

    Where nothing is found, because the index is empty or `where` and `min_score` leave nothing, the answer is
    the abstention, with `finish_reason` "no_evidence" and a warning, also in `Answer.warnings`; the model is
    not asked. With `answer_without_context=True` it answers from the question alone, and the warning says so.
    `explain` names the condition that excluded everything. For a question with several parts
    (`nbce_rag.options.Options.parts`) each part is searched for, and reads `k` passages of its own.

    Where the index has a calibration (`NBCE.calibrate`), answers have their `support`, and `abstain_below` is
    a share of false alarms, looked at before anything is decoded. To a call with another model, `k` or other
    settings it says nothing: a warning tells which, and `abstain_below` is refused.

    Example:
        >>> from nbce_rag import Rag
        >>> with Rag.open("my-index") as rag:  # doctest: +SKIP
        ...     print(rag.ask("When does the ferry leave?", k=4, where={"language": "en"}, max_tokens=40))

    Args:
        index: An index that is open.
        nbce: An engine; its options are the defaults of every answer.
        **search: Defaults of every search: `k`, `where`, and others of `PassageIndex.search`. A reranker that
            is named here is loaded once. `look` is None without a word: eight passages or more that are found
            by meaning alone are looked on from.

    Raises:
        InputError: Unknown or impossible options of a search.
        ReadError: The index has a calibration that is damaged.
    """

    def __init__(self, index: PassageIndex, nbce: NBCE, **search: Any) -> None:
        self.index = index
        self.nbce = nbce
        self._search_defaults = _checked_search(index, by_group(search, "search")["search"])
        file = IndexFolder(index.path).calibration if index.has_folder else None
        self._calibration = Calibration.read(file) if file is not None and file.exists() else None
        self._is_owner = False

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        model: str | os.PathLike[str] | Sequence[str] | Any | None = None,
        *,
        embedder: EmbedderLike | None = None,
        timeout: float = 5.0,
        prompt: PromptTemplate | None = None,
        kv_store: StoreLike = None,
        device: str | None = None,
        dtype: Any = "auto",
        **options: Any,
    ) -> Self:
        """Opens an index and loads a model to answer from it. `close` it, or use it as a context manager.

        Args:
            path: The folder of the index, or the URL of one in a database.
            model: As in `NBCE.from_pretrained`; None is the packaged default.
            embedder, timeout: As in `PassageIndex.open`.
            kv_store: As in `NBCE`, except that True keeps keys and values in the index's own folder, and None
                does so where there are some (`nbce-rag index --kv`).
            prompt, device, dtype: As in `NBCE.from_pretrained`.
            **options: Defaults for every search and answer, and what else `NBCE.from_pretrained` takes.

        Raises:
            IndexNotFoundError, IndexDamagedError, EmbedderMismatchError: As in `PassageIndex.open`.
            InputError: Unknown or impossible options; raised before any model is loaded.
            ModelError: A model cannot be found, loaded or used.
            MissingDependencyError: An extra is not installed.
        """
        from ..index import PassageIndex

        index = PassageIndex.open(path, embedder, timeout=timeout)
        try:
            from ..models.loading import is_served
            from ..options import Options
            from .arguments import check_engine_arguments
            from .nbce import NBCE

            groups = by_group(options, "search", "answer", "opening")
            opening = {
                name: groups["opening"].get(name) for name in ("window", "max_batch_tokens", "backend")
            }
            check_engine_arguments(Options().updated(**groups["answer"]), prompt, **opening)
            search = _checked_search(index, groups["search"])
            _ = index.embedder.dimension  # loads it, before the model, which is larger
            keeps_own = kv_store is None and index.has_folder and not is_served(model, opening["backend"])
            if kv_store is True or keeps_own:
                own = IndexFolder(index.path).kv
                kv_store = own if kv_store is True or own.is_dir() else None
            nbce = NBCE.from_pretrained(
                model,
                prompt=prompt,
                kv_store=kv_store,
                device=device,
                dtype=dtype,
                **groups["opening"],
                **groups["answer"],
            )
            rag = cls(index, nbce)
        except BaseException:
            index.close()
            raise
        rag._search_defaults, rag._is_owner = search, True
        return rag

    def ask(self, question: str, k: int | None = None, where: Where | None = None, **options: Any) -> Answer:
        """Answers a question.

        Args:
            question: What is asked.
            k, where, **options: See the class.

        Returns:
            The answer; `timings.retrieve` is how long the search took, and part of `timings.total`.

        Raises:
            InputError: An empty question, or unknown or impossible options; the message says whether they
                belong to the search, to the answer, or to `open`.
            NbceError: What `PassageIndex.search` and `NBCE.answer` raise.
        """
        return self.batch([question], k, where, **options)[0]

    def stream(
        self, question: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> Iterator[Piece]:
        """`ask`, piece by piece; the last piece carries the `Answer`.

        The question, names of options and options of the answer are checked at once; the search begins with
        the first piece. The answer is computed ahead of who draws it; closing the iterator stops the work.
        """
        search, answer = self._options(k, where, options)
        return self._stream(self.nbce.request(question, **answer), search)

    def batch(
        self, questions: Sequence[str], k: int | None = None, where: Where | None = None, **options: Any
    ) -> list[Answer]:
        """Answers several questions: one search for all of them, and side by side as memory allows.

        Returns:
            One answer a question, the same as one by one. The search of all is the `retrieve` of each.
        """
        requests, search = self._requests(questions, k, where, options)
        requests, seconds = self._with_passages(requests, search)
        return [_timed(answer, seconds) for answer in self.nbce.batch(requests)]

    async def aask(
        self, question: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> Answer:
        """`ask` beside an event loop. Cancelling it stops the work after the search or step under way."""
        return (await self.abatch([question], k, where, **options))[0]

    def astream(
        self, question: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> AsyncGenerator[Piece, None]:
        """`stream` without blocking the event loop."""
        search, answer = self._options(k, where, options)
        return self._astream(self.nbce.request(question, **answer), search)

    async def abatch(
        self, questions: Sequence[str], k: int | None = None, where: Where | None = None, **options: Any
    ) -> list[Answer]:
        """`batch` beside an event loop. Cancelling it stops the work after the search or step under way."""
        requests, search = self._requests(questions, k, where, options)
        requests, seconds = await asyncio.to_thread(self._with_passages, requests, search)
        return [_timed(answer, seconds) for answer in await self.nbce.abatch(requests)]

    def compare(
        self, question: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> Comparison:
        """Lets every passage answer for itself, and says who agrees with whom (`NBCE.compare`).

        Raises:
            InputError: As in `ask`, and where nothing is found.
        """
        search, answer = self._options(k, where, options)
        [request], _ = self._with_passages([self.nbce.request(question, **answer)], search)
        return self.nbce.compare(question, request.passages, **answer)

    def attribute(
        self, question: str, text: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> Answer:
        """Whose words a text is, over the passages that `ask` would read (`NBCE.attribute`).

        Raises:
            InputError: As in `ask` and `NBCE.attribute`, and where nothing is found.
        """
        search, answer = self._options(k, where, options)
        [request], seconds = self._with_passages([self.nbce.request(question, **answer)], search)
        if not request.passages:
            why = self.explain(**{name: value for name, value in search.items() if name != "k"})
            raise InputError(f"No passage was found to attribute the text to: {why}")
        return _timed(self.nbce.attribute(question, request.passages, text, **answer), seconds)

    async def aattribute(
        self, question: str, text: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> Answer:
        """`attribute` in a worker thread."""
        return await asyncio.to_thread(self.attribute, question, text, k, where, **options)

    def ablate(self, answer: Answer) -> Answer:
        """An answer with how much less likely it is without each of its passages (`NBCE.ablate`)."""
        return self.nbce.ablate(answer)

    async def aablate(self, answer: Answer) -> Answer:
        """`ablate` in a worker thread."""
        return await self.nbce.aablate(answer)

    def search(
        self, question: str, k: int | None = None, where: Where | None = None, **options: Any
    ) -> list[Passage]:
        """The passages that `ask` would read, best first; arguments and errors: `PassageIndex.search`.

        Of a question with several parts it is one search for all of it, where `ask` searches for each.
        """
        search = by_group(_with(options, k=k, where=where), "search")["search"]
        return self.index.search(question, **{**self._search_defaults, **search})

    def explain(self, where: Where | None = None, **options: Any) -> str:
        """Why `ask` finds nothing with these options: `PassageIndex.explain`."""
        search = {**self._search_defaults, **by_group(_with(options, where=where), "search")["search"]}
        search.pop("k", None)
        return self.index.explain(**search)

    def retrieve(
        self, requests: Sequence[Request], k: int | None = None, where: Where | None = None, **options: Any
    ) -> tuple[list[Request], float]:
        """Requests with the passages that answer them, as `batch` gives them to the engine.

        Args:
            requests: Of `nbce.request`; what passages they have is replaced. None of them checks the options.
            k, where, **options: Of the search, see the class.

        Returns:
            The requests, and how many seconds the search took.

        Raises:
            InputError: Unknown or impossible options of a search.
        """
        search = by_group(_with(options, k=k, where=where), "search")["search"]
        return self._with_passages(requests, {**self._search_defaults, **search})

    def close(self) -> None:
        """Lets go of what `open` opened, once keys and values are on disk. Doing it twice does no harm.

        Warns (NbceWarning) if keys and values cannot be written. An index and an engine that were given stay
        open.
        """
        if self._is_owner:
            self.index.close()
            if self.nbce.kv_store is not None:
                self.nbce.kv_store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Rag({self.index!r}, model={self.nbce.model.name!r})"

    def _options(
        self, k: int | None, where: Where | None, options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Options of a call: (of its search, of its answer)."""
        groups = by_group(_with(options, k=k, where=where), "search", "answer")
        return {**self._search_defaults, **groups["search"]}, groups["answer"]

    def _requests(
        self, questions: Sequence[str], k: int | None, where: Where | None, options: Mapping[str, Any]
    ) -> tuple[list[Request], dict[str, Any]]:
        """Requests that lack their passages, and options of the search for these."""
        if isinstance(questions, str):
            raise InputError("questions must be a sequence of questions, not one; put it into a list.")
        search, answer = self._options(k, where, options)
        return [self.nbce.request(question, **answer) for question in questions], search

    def _with_passages(
        self, requests: Sequence[Request], search: Mapping[str, Any]
    ) -> tuple[list[Request], float]:
        """Requests with the passages that answer them, and how many seconds the search took."""
        _ = self.index.embedder.dimension  # loads it, so that the time of the search is that of searching
        started = time.perf_counter()
        requests = [self.nbce.in_parts(request) for request in requests]
        questions = [part.question for request in requests for part in request.parts or (request,)]
        results = iter(self.index.search_batch(questions, **search))
        seconds = time.perf_counter() - started
        return [self._with_results(request, results, search) for request in requests], seconds

    def _with_results(
        self, request: Request, results: Iterator[list[Passage]], search: Mapping[str, Any]
    ) -> Request:
        """A request with what was found for it, or else for each of its parts."""
        if not request.parts:
            return replace(
                request,
                passages=tuple(next(results)),
                is_retrieved=True,
                calibration=self._calibration_for(request, search),
            )
        parts = tuple(self._with_results(part, results, search) for part in request.parts)
        union = {passage.id: passage for part in parts for passage in part.passages}
        if not union:
            parts = ()
        return replace(request, passages=tuple(union.values()), is_retrieved=True, parts=parts)

    def _calibration_for(self, request: Request, search: Mapping[str, Any]) -> Calibration | None:
        """The index's calibration, if it was made with the settings of this request."""
        calibration, limit = self._calibration, request.options.abstain_below
        if calibration is None:
            return None
        settings = self.nbce.calibration_settings(request, self.index, search.get("k", _K), search)
        if difference := calibration.differences(settings):
            told = f"The index was calibrated with other settings ({difference})"
            if limit is not None:
                raise InputError(
                    f"{told}, so that abstain_below={limit:g} means nothing: calibrate again (nbce-rag "
                    "calibrate), or leave abstain_below out."
                )
            warn(f"{told}; answers have no support. Calibrate again (nbce-rag calibrate).")
            return None
        if limit is not None and not 0 <= limit <= 1:
            raise InputError(
                f"abstain_below={limit:g} is no share of false alarms in [0, 1], which it is over a "
                "calibrated index; 0.05 silences at most one answerable question in twenty by mistake."
            )
        return calibration

    def _stream(self, request: Request, search: Mapping[str, Any]) -> Iterator[Piece]:
        [request], seconds = self._with_passages([request], search)
        with closing(self.nbce.stream(request)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                yield _timed_piece(piece, seconds)

    async def _astream(self, request: Request, search: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        requests, seconds = await asyncio.to_thread(self._with_passages, [request], search)
        async with aclosing(self.nbce.astream(requests[0])) as pieces:
            async for piece in pieces:
                yield _timed_piece(piece, seconds)


def _timed(answer: Answer, seconds: float) -> Answer:
    """`answer` with the time of the search, which came before the engine began to count."""
    timings = answer.timings
    return replace(answer, timings=replace(timings, retrieve=seconds, total=timings.total + seconds))


def _timed_piece(piece: Piece, seconds: float) -> Piece:
    return piece if piece.answer is None else replace(piece, answer=_timed(piece.answer, seconds))


def _checked_search(index: PassageIndex, search: Mapping[str, Any]) -> dict[str, Any]:
    """Options for many searches, after a search for nothing, which checks them."""
    options = {"look": None, **search}
    if options.get("rerank") is not None:
        from ..index.reranking import resolve_reranker

        options["rerank"] = resolve_reranker(options["rerank"])  # by name, a model that is loaded once
    if options.get("ids") is not None and not isinstance(options["ids"], str):
        options["ids"] = list(options["ids"])  # an iterator would last for one search
    index.search_batch([], **options)
    return options


def _with(options: Mapping[str, Any], **named: Any) -> dict[str, Any]:
    """Options and, of those that have parameters of their own, the ones that are not None."""
    return {**options, **{name: value for name, value in named.items() if value is not None}}
