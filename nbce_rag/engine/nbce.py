"""NBCE: the facade that people use."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeAlias

from ..answers.answer import Answer, Piece
from ..answers.choices import ChoiceScores
from ..answers.comparison import Comparison
from ..decoding.reader import Engine
from ..documents.splitting import split_document
from ..errors import InputError
from ..evidence.calibration import Calibration
from ..files import check_writable
from ..fusion import Rule
from ..index.folder import IndexFolder
from ..kv.store import PassageKVStore, StoreLike, resolve_store
from ..models.loading import load_model
from ..models.model import Model
from ..options import Options
from ..passages import Passage
from ..prompts.binding import Encoders
from ..prompts.prompt import Prompt
from ..prompts.template import PromptTemplate
from ..request import Request
from ..values import mended
from . import ablation as _ablation
from . import attribution as _attribution
from . import calibration as _calibrating
from . import compare as _compare
from . import rerank as _reranking
from . import score as _scoring
from .arguments import check_engine_arguments, check_passages, check_question, passage_sequence
from .parts import asked_in_parts, sized
from .prefill import FillReport, fill_store
from .scheduler import Scheduler
from .threads import in_thread
from .tickets import Ticket

if TYPE_CHECKING:
    from ..index import PassageIndex

__all__ = ["NBCE"]

AnyRequest: TypeAlias = Request | Mapping[str, Any] | tuple[Any, ...] | str


class NBCE:
    """Answers questions over passages, each passage read as a context of its own.

    Make one with `NBCE.from_pretrained()`. An engine may be used from several threads and event loops at
    once: whoever asks while answers are being written joins them in one decoding batch (`NBCE.scheduler`).
    What only reads (`score`, `rerank`, `attribute`, `ablate`, `calibrate`, `prefill`) is done in the thread
    that calls it, and its forward passes take turns with those of the answers.

    Args:
        model: a backend (`nbce_rag.models.loading.load_model`).
        prompt: the wording; None is the built-in one for the model (`PromptTemplate.for_tokenizer`), in the
            `style` of each call.
        kv_store: keys and values of passages kept from call to call. None keeps 1 GiB of them in memory,
            a folder keeps them from process to process too, a URL (s3://bucket/prefix) for all machines,
            True is the folder `kv` in the user's cache folder ($NBCE_CACHE), False keeps none; or a
            `PassageKVStore`, for sizes, codecs, and a folder and a bucket.
        window: the most tokens of a row, answer included; None is the model's own window, which cannot be
            widened.
        max_batch_tokens: rows times length of one forward pass, at most; None derives it from the free
            memory. A longer row still goes, alone.
        **options: defaults for every call, see `nbce_rag.options.Options`.

    Raises:
        InputError: unknown or impossible options.
    """

    def __init__(
        self,
        model: Model,
        *,
        prompt: PromptTemplate | None = None,
        kv_store: StoreLike = None,
        window: int | None = None,
        max_batch_tokens: int | None = None,
        **options: Any,
    ) -> None:
        self.options = Options().updated(**options)
        check_engine_arguments(self.options, prompt, window, max_batch_tokens)
        if not hasattr(model, "open"):
            raise InputError(
                f"{model!r} is no backend; NBCE.from_pretrained takes names, folders and models of a library."
            )
        if window is not None and window > model.window:
            raise InputError(
                f"window={window} is not within 1..{model.window}; the model's own window cannot be widened."
            )
        if not model.can.store:
            if kv_store is not None and kv_store is not False:
                raise InputError(
                    f"kv_store={kv_store!r}: the backend of {model.name!r} keeps keys and values of passages "
                    "by itself; leave it out, or give False."
                )
            kv_store = False
        store = resolve_store(kv_store)
        if store is not None and store.codec.note and not model.can.round:
            raise InputError(
                f"codec={store.codec.name!r}: the backend of {model.name!r} keeps contexts as bytes of its "
                "own, which no codec rounds; leave it out (of llama.cpp, kv_type='q8_0' rounds them)."
            )
        encoders = Encoders(prompt, model.tokenizer)
        # What is wrong with the wording shows now.
        encoders.of(None, self.options.chat_template_kwargs, self.options.style, self.options.thinking)
        self._engine = Engine(model, encoders, store, window or model.window, max_batch_tokens)
        self._scheduler = Scheduler(self._engine)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | Sequence[str] | Any | None = None,
        *,
        tokenizer: Any = None,
        backend: str | None = None,
        fusion: str | Rule = "posterior",
        device: str | None = None,
        dtype: Any = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        local_files_only: bool = False,
        device_map: Any = None,
        adapter: str | os.PathLike[str] | None = None,
        quantization_config: Any = None,
        attn_implementation: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        check: bool = True,
        n_gpu_layers: int | None = None,
        n_threads: int | None = None,
        flash_attn: bool | None = None,
        kv_type: str = "f16",
        use_mmap: bool = True,
        api_key: str | None = None,
        server_timeout: float | None = None,
        max_retries: int = 3,
        data_parallel: int = 1,
        prompt: PromptTemplate | None = None,
        kv_store: StoreLike = None,
        window: int | None = None,
        max_batch_tokens: int | None = None,
        **options: Any,
    ) -> NBCE:
        """Load a model and make an engine.

        Args:
            model: hub id, folder, GGUF file, or the folder or hub id of a LoRA adapter (extra `[lora]`);
                None is the packaged default (extra `[local]`); or a transformers model or `PeftModel` that
                is already loaded, with `tokenizer=`, or a `llama_cpp.Llama`; or the URL of a vLLM server
                (extra `[vllm]`, examples/docs/vllm.md), or several of them in a list.
            tokenizer: for a model that is already loaded; of a vLLM server also a folder or hub id.
            backend: what reads the model, "transformers", "llama.cpp" or "vllm"; None takes what fits it
                (`nbce_rag.models.loading.load_model`).
            fusion: a rule's name or instance.
            device, dtype, revision, trust_remote_code, local_files_only, device_map, adapter,
                quantization_config, attn_implementation, token, cache_dir, check: see `load_model` in
                `nbce_rag.models.transformers.loading`.
            n_gpu_layers, n_threads, flash_attn, kv_type, use_mmap: of llama.cpp, see `load_model` in
                `nbce_rag.models.llama_cpp.loading`.
            api_key, server_timeout, max_retries, data_parallel: of vLLM servers, see `load_model` in
                `nbce_rag.models.vllm.loading`.
            prompt, kv_store, window, max_batch_tokens, **options: see the class.

        Raises:
            ModelError: the model cannot be found, loaded or used.
            InputError: unknown or impossible options.
            MissingDependencyError: the packaged default, or what reads GGUF, an adapter or quantised
                weights, is not installed.
        """
        # Before a model is loaded for nothing.
        check_engine_arguments(
            Options().updated(fusion=fusion, **options), prompt, window, max_batch_tokens, backend
        )
        if kv_store is not None:  # where it is None, that the model keeps none of ours is no mistake
            kv_store = resolve_store(kv_store) or False
        loaded = load_model(
            model,
            backend=backend,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=local_files_only,
            device_map=device_map,
            adapter=adapter,
            quantization_config=quantization_config,
            attn_implementation=attn_implementation,
            token=token,
            cache_dir=cache_dir,
            check=check,
            n_gpu_layers=n_gpu_layers,
            n_threads=n_threads,
            flash_attn=flash_attn,
            kv_type=kv_type,
            use_mmap=use_mmap,
            api_key=api_key,
            server_timeout=server_timeout,
            max_retries=max_retries,
            data_parallel=data_parallel,
        )
        return cls(
            loaded,
            prompt=prompt,
            kv_store=kv_store,
            window=window,
            max_batch_tokens=max_batch_tokens,
            fusion=fusion,
            **options,
        )

    def updated(
        self,
        *,
        model: Model | None = None,
        prompt: PromptTemplate | None = None,
        kv_store: StoreLike | EllipsisType = ...,
        window: int | None = None,
        max_batch_tokens: int | None = None,
        **options: Any,
    ) -> NBCE:
        """Another engine with what this one has where nothing else is given.

        Args:
            model, prompt, max_batch_tokens: in place of this one's.
            kv_store: as in the class; left out, the store is shared.
            window: as in the class; None keeps this one's, or takes that of another model.
            **options: defaults that are to differ.

        Raises:
            InputError: as in the class.
        """
        fields = {field.name: getattr(self.options, field.name) for field in dataclasses.fields(self.options)}
        store = self._engine.store or False
        return NBCE(
            model or self.model,
            prompt=prompt or self._engine.encoders.own,
            kv_store=store if isinstance(kv_store, EllipsisType) else kv_store,
            window=window or (self.window if model is None else None),
            max_batch_tokens=max_batch_tokens or self._engine.batch_tokens,
            **{**fields, **options},
        )

    @property
    def model(self) -> Model:
        """The model with its tokenizer, window and device."""
        return self._engine.model

    @property
    def window(self) -> int:
        """The most tokens of a row, answer included."""
        return self._engine.window

    @property
    def prompt(self) -> PromptTemplate:
        """The wording around passages and question."""
        return self._engine.encoders.template(self.options.style)

    @property
    def has_own_prompt(self) -> bool:
        """Whether the wording was given with `prompt`, so that `style` has no say in it."""
        return self._engine.encoders.own is not None

    @property
    def scheduler(self) -> Scheduler:
        """What questions wait in and are answered by, for all who ask this model at the same time."""
        return self._scheduler

    @property
    def kv_store(self) -> PassageKVStore | None:
        """Keys and values kept from call to call."""
        return self._engine.store

    def request(
        self,
        question: str,
        passages: Iterable[Passage | str] = (),
        *,
        document: str | None = None,
        prompt: Prompt | None = None,
        **options: Any,
    ) -> Request:
        """A checked request, as `batch` takes them.

        Args:
            question: what is asked.
            passages: passages, or plain texts.
            document: one long text instead, split into overlapping windows that are labelled "Part i of
                n", since their order is known.
            prompt: words of this request alone: another template, a conversation, a plain text.
            **options: see `nbce_rag.options.Options`; they change the engine's defaults.

        Raises:
            InputError: an empty question or document, something that is no passage, unknown or
                impossible options, or both passages and document.
        """
        check_question(question, prompt)
        texts = list(passage_sequence(passages))
        if document is not None:
            if texts:
                raise InputError("Give either passages or a document, not both.")
            if not isinstance(document, str):
                raise InputError(f"The document must be a text, got {type(document).__name__}.")
            if not document.strip():
                raise InputError("The document is empty.")
            options = {"order_labels": True, **options}
            texts = self._windows(mended(document))
        return Request(question, tuple(texts), self.options.updated(**options), prompt)

    def in_parts(self, request: Request) -> Request:
        """A request with its parts (`Request.parts`), where its question has several that are asked apart."""
        return asked_in_parts(self._engine, sized(self._engine, request))

    def window_needed(self, request: Request) -> int:
        """Tokens of a request's longest row with its answer: the window in which no passage is split."""
        return self._engine.window_needed(request)

    def answer(self, question: str, passages: Iterable[Passage | str] = (), **options: Any) -> Answer:
        """Answer a question; arguments and errors: `request`, `Scheduler.submit`.

        >>> from nbce_rag import NBCE
        >>> nbce = NBCE.from_pretrained()                                       # doctest: +SKIP
        >>> nbce.answer("Who runs the ferry?", ["The ferry is run by Ada."]).text  # doctest: +SKIP
        'Ada'
        """
        return self.batch([self.request(question, passages, **options)])[0]

    def stream(
        self, question: str | Request, passages: Iterable[Passage | str] = (), **options: Any
    ) -> Iterator[Piece]:
        """Answer piece by piece; the last piece carries the `Answer`.

        The pieces' texts join to the answer's, their thoughts to its thought. The work begins with the first
        piece and goes on ahead of who draws them, to the answer's end (`max_tokens` bounds what waits);
        closing the iterator, or letting go of it, ends it within a step. With `abstain_below` the text comes
        as one piece.
        """
        pieces = self.stream_batch([self._whole_request(question, passages, options)])

        def drawn() -> Iterator[Piece]:
            with closing(pieces):  # type: ignore[type-var]
                for _, piece in pieces:
                    yield piece

        return drawn()

    def stream_batch(self, requests: Iterable[AnyRequest]) -> Iterator[tuple[int, Piece]]:
        """`batch`, piece by piece: (index of the request, piece). Closing the iterator stops the work."""
        return self.scheduler.ticket([self._coerce(request) for request in _as_list(requests)])

    def batch(self, requests: Iterable[AnyRequest]) -> list[Answer]:
        """Answer several questions side by side, as far as memory allows.

        Args:
            requests: what `request` made, or its arguments as a mapping, a (question, passages) tuple,
                or a question alone; one question in place of several will do.

        Returns:
            One answer a request, the same as one by one.
        """
        requests = _as_list(requests)
        answers = {index: piece.answer for index, piece in self.stream_batch(requests) if piece.answer}
        return [answers[index] for index in range(len(requests))]

    async def aanswer(self, question: str, passages: Iterable[Passage | str] = (), **options: Any) -> Answer:
        """`answer` without blocking the event loop. Cancelling it stops the work after the step under way."""
        return (await self.abatch([self.request(question, passages, **options)]))[0]

    async def abatch(self, requests: Iterable[AnyRequest]) -> list[Answer]:
        """`batch` without blocking the event loop. Cancelling it stops the work after the step under way."""
        requests = _as_list(requests)
        answers: dict[int, Answer] = {}
        async with aclosing(self.astream_batch(requests)) as pieces:
            async for index, piece in pieces:
                if piece.answer is not None:
                    answers[index] = piece.answer
        return [answers[index] for index in range(len(requests))]

    async def astream(
        self, question: str | Request, passages: Iterable[Passage | str] = (), **options: Any
    ) -> AsyncGenerator[Piece, None]:
        """`stream` without blocking the event loop."""
        request = self._whole_request(question, passages, options)
        async with aclosing(self.astream_batch([request])) as pieces:
            async for _, piece in pieces:
                yield piece

    def astream_batch(self, requests: Iterable[AnyRequest]) -> AsyncGenerator[tuple[int, Piece], None]:
        """`stream_batch` without blocking the event loop."""
        return _awaited(self.stream_batch(requests))

    def prefill(
        self,
        passages: Iterable[Passage | str],
        *,
        progress: Callable[[int, int, str], None] | None = None,
        sentences: bool = True,
        **options: Any,
    ) -> FillReport:
        """Read passages ahead of any question, so that their keys and values are in the KV store.

        What is there already is not read again, so that a call that was interrupted can be repeated.
        Give the store a folder, or room for them in memory.

        Args:
            passages: passages, texts, or a `PassageIndex`.
            progress: called with (passages done, passages in all, title of the last one).
            sentences: read the sentences of prose too, which the default rule reads of the passages that
                matter. They take as much room again, and a little more for their headings.
            **options: those that questions will be asked with.

        Raises:
            InputError: there is no store, or what is missing does not fit into it or onto the disk.
        """
        many = passages if isinstance(passages, Collection) else list(passage_sequence(passages))
        return fill_store(
            self._engine,
            lambda: passage_sequence(many),
            self.options.updated(**options),
            progress,
            sentences=sentences,
        )

    def calibrate(
        self,
        questions: Iterable[str | Mapping[str, Any]],
        index: PassageIndex,
        *,
        false_alarms: float = 0.05,
        k: int = 8,
        search: Mapping[str, Any] | None = None,
        progress: _calibrating.Progress | None = None,
        **options: Any,
    ) -> Calibration:
        """Learn from questions of your own how much support is little, and keep that with the index.

        Prompts are read; nothing is decoded. `Rag` over the index then gives each answer its `support`, and
        `abstain_below` works on it. It tells that no passage is about a question. It does not tell that a
        passage is about it and does not answer.

        Args:
            questions: texts, or mappings with `question` and, where known, `gold_ids` (ids or files of the
                passages that hold the answer, which are then left out once to see what is missed),
                `answers`, and `answerable` False for those without an answer. Questions whose passage the
                search does not find are left out and counted.
            index: what is asked.
            false_alarms: share of answerable questions that may be silenced by mistake. At least
                1 / false_alarms - 1 of them are needed, 19 for 0.05, and twice as many for the better
                measure.
            k, search: as the questions to come are searched for (`PassageIndex.search`).
            progress: called with (prompts read, prompts in all, the last question).
            **options: those that questions will be asked with.

        Returns:
            What was kept. Its `figures` have `scored` (answerable questions that others are seen beside),
            `measure`, and of questions with their passages "removed" and of those "given" without an answer
            the share `silenced` at these false alarms, and the `auroc`; of the latter also that of the
            questions' lengths (`auroc_of_length`): if it is far from 0.5, they differ in style, and the other
            figures prove little.

        Raises:
            InputError: too few questions, or impossible ones, or the index's folder cannot be written to.
            OSError: it cannot be kept.
        """
        check_writable(IndexFolder(index.path).calibration)  # before work is done for it
        calibration = _calibrating.calibrate(
            self._engine,
            index,
            questions,
            lambda question, passages: self.request(question, passages, **options),
            false_alarms=false_alarms,
            k=k,
            search=search or {},
            progress=progress,
        )
        calibration.write(IndexFolder(index.path).calibration)
        return calibration

    def calibration_settings(
        self, request: Request, index: PassageIndex, k: int, search: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What a calibration depends on, as `Calibration.settings` has it."""
        return _calibrating.settings_of(self._engine, request, index.embedder_name, k, search)

    def compare(self, question: str, passages: Iterable[Passage | str], **options: Any) -> Comparison:
        """Let every passage answer for itself, and say who agrees with whom (`nbce_rag.engine.compare`)."""
        return _compare.compare(self._engine, self.request(question, passages, **options))

    def rerank(
        self, question: str, passages: Iterable[Passage | str], k: int | None = None, **options: Any
    ) -> list[Passage]:
        """Passages by how much likelier they make the question, the best first (`nbce_rag.engine.rerank`)."""
        return _reranking.rerank(self._engine, self.request(question, passages, **options), k)

    def score(
        self, question: str, passages: Iterable[Passage | str], choices: Sequence[str], **options: Any
    ) -> ChoiceScores:
        """Fused log-probs of given answers: classification, multiple choice (`nbce_rag.engine.score`)."""
        return _scoring.score(self._engine, self.request(question, passages, **options), choices)

    def attribute(
        self,
        question: str | Request,
        passages: Iterable[Passage | str] = (),
        text: str = "",
        **options: Any,
    ) -> Answer:
        """Whose words a text is that somebody else wrote, a person or another model.

        One pass of the text's tokens over all rows gives what decoding it would have given: evidence and
        citations. The words' likelihoods under the passages are in `Answer.words`
        (`nbce_rag.engine.attribution`).

        Args:
            question: what the text answers; or a request, which has its passages and options.
            passages: at least one.
            text: the answer; it is kept as it is.
            **options: as in `request`.

        >>> nbce.attribute("Who runs the ferry?", passages, "Ada does.").citations  # doctest: +SKIP

        Raises:
            InputError, ContextLengthError: what `nbce_rag.engine.attribution.attribute` raises.
        """
        request = sized(self._engine, self._coerce(self._whole_request(question, passages, options)))
        return _attribution.attribute(self._engine, request, mended(text) if isinstance(text, str) else text)

    async def aattribute(
        self,
        question: str | Request,
        passages: Iterable[Passage | str] = (),
        text: str = "",
        **options: Any,
    ) -> Answer:
        """`attribute` in a worker thread."""
        request = self._whole_request(question, passages, options)
        return await asyncio.to_thread(self.attribute, request, text=text)

    def ablate(self, answer: Answer) -> Answer:
        """The answer with `Answer.ablation`: how much less likely it is without each of its passages.

        Exact, and for one prompt and one pass over the answer (`nbce_rag.engine.ablation`). Its tokens are
        fused anew without each passage, which takes time that grows with the square of their number.

        Args:
            answer: of this engine, or of one with the same model, decoded or attributed.

        Raises:
            InputError: what `nbce_rag.engine.ablation.ablate` raises.
        """
        return _ablation.ablate(self._engine, answer)

    async def aablate(self, answer: Answer) -> Answer:
        """`ablate` in a worker thread."""
        return await asyncio.to_thread(self.ablate, answer)

    def _whole_request(
        self, question: str | Request, passages: Iterable[Passage | str], options: Mapping[str, Any]
    ) -> Request:
        if not isinstance(question, Request):
            return self.request(question, passages, **options)
        if passages or options:
            raise InputError("A request has its passages and options already; give them to NBCE.request.")
        return question

    def _coerce(self, request: AnyRequest) -> Request:
        if isinstance(request, Request):
            check_passages(request.passages)
            return request
        if isinstance(request, Mapping):
            if "question" not in request:
                raise InputError(f"{dict(request)!r} is no request; it lacks its question.")
            return self.request(**request)
        if isinstance(request, tuple) and 1 <= len(request) <= 2:
            return self.request(*request)
        if isinstance(request, str):
            return self.request(request)
        raise InputError(
            f"{request!r} is no request; give NBCE.request(...), a mapping of its arguments, "
            "(question, passages), or a question."
        )

    def _windows(self, document: str) -> list[Passage]:
        # Windows of a quarter of the model's, at most 512 tokens: whole paragraphs, which NBCE reads best.
        size = max(16, min(512, self._engine.window // 4))
        return split_document(
            document,
            max_tokens=size,
            overlap=size // 4,
            count_tokens=lambda text: len(self.model.tokenizer.encode(text)),
        )


def _as_list(requests: Iterable[AnyRequest]) -> list[AnyRequest]:
    if isinstance(requests, str | Request | Mapping):
        return [requests]
    if not isinstance(requests, Iterable):
        raise InputError(f"requests must be several, got {type(requests).__name__}; put it into a list.")
    return list(requests)


async def _awaited(pieces: Iterator[tuple[int, Piece]]) -> AsyncGenerator[tuple[int, Piece], None]:
    # A subclass may give an iterator of its own.
    awaited = pieces if isinstance(pieces, Ticket) else in_thread(pieces)
    async with aclosing(awaited):
        async for piece in awaited:
            yield piece
