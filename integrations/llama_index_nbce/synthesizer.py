"""NBCESynthesizer: all retrieved nodes reach the model in one call, each as a context of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.base.llms.types import CitableBlock
from llama_index.core.instrumentation.events.synthesis import GetResponseEndEvent, GetResponseStartEvent
from llama_index.core.llms import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index_instrumentation import get_dispatcher

from nbce_rag import InputError, InputTypeError, check_score_scale

from .contexts import citable, score_of
from .default_llm import default_llm
from .report import complete
from .templates import default_template, format_messages

__all__ = ["NBCESynthesizer", "capture_reports"]

dispatcher = get_dispatcher(__name__)


@dataclass
class _Run:
    """One `synthesize` call: its nodes, and what comes out about them."""

    nodes: Sequence[NodeWithScore]
    report: dict[str, Any] = field(default_factory=dict)


_run: ContextVar[_Run | None] = ContextVar("nbce_synthesis", default=None)
_captured: ContextVar[list[dict[str, Any]] | None] = ContextVar("nbce_reports", default=None)
# Without nodes LlamaIndex answers "Empty Response" before it asks a synthesizer; this one gets past that.
_NOTHING = NodeWithScore(node=TextNode(id_="nothing", text=""))


@contextmanager
def capture_reports() -> Iterator[list[dict[str, Any]]]:
    """Collects what `response.metadata["nbce"]` holds of every answer synthesized inside.

    For engines and agents that hand on the text alone. Dicts of streamed answers fill as these come.
    """
    reports: list[dict[str, Any]] = []
    token = _captured.set(reports)
    try:
        yield reports
    finally:
        _captured.reset(token)


class NBCESynthesizer(BaseSynthesizer):
    """Answers from nodes in one call of an `NBCELLM`, with n + 1 rows for n nodes.

    `response.metadata["nbce"]` says what the answer rests on (`llama_index_nbce.report.describe`). Of a
    streamed answer it has the `citations` that are certain, and the rest when the stream ends.

    Args:
        llm: an `NBCELLM`, or `NBCELLM.as_structured_llm(...)`; default: `Settings.llm`.
        text_qa_template: template with `{context_str}` and `{query_str}`; default: the wording of the
            engine, which gives the answers that `NBCE.answer` gives.
        streaming: answer token by token. Structured answers are never streamed.
        answer_without_context: without nodes, ask the model alone, instead of `empty_response`.
        use_scores: let the nodes' scores take part in fusion, and their order where a score is not known.
        score_scale: what the scores are: "cosine", "distance", "logit", "rank" or one of the exact scales of
            `nbce_rag.prompts.scores`; None tells it from them.
        output_cls: answer with an object of this pydantic class.
        empty_response: the answer without nodes.
        callback_manager: as everywhere in LlamaIndex.
        **options: options of generation and fusion, see `nbce_rag.options.Options`.

    Raises:
        InputTypeError: the LLM cannot hold contexts, and would lose every one without a word.
        InputError: unknown or impossible options.
    """

    def __init__(
        self,
        llm: LLM | None = None,
        *,
        text_qa_template: BasePromptTemplate | None = None,
        streaming: bool = False,
        answer_without_context: bool = False,
        use_scores: bool = True,
        score_scale: str | None = None,
        output_cls: Any = None,
        empty_response: str | None = None,
        callback_manager: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(llm=default_llm(llm), callback_manager=callback_manager, streaming=streaming)
        self._inner = _holds_contexts(self._llm)
        if empty_response is not None:
            if not hasattr(self, "_empty_response"):
                raise InputError("empty_response needs a newer llama-index-core; 0.14.25 has it.")
            self._empty_response = empty_response
        if output_cls is not None and not isinstance(self._llm, StructuredLLM):
            self._llm = self._llm.as_structured_llm(output_cls)
        self._inner.engine.options.updated(**options)
        self._options = options
        self._answer_without_context = answer_without_context
        self._use_scores = use_scores
        check_score_scale(score_scale)
        self._score_scale = score_scale
        if text_qa_template is None:
            wording = self._inner.engine.prompt
            text_qa_template = default_template(wording)
            self._options = {**options, "stop": (*wording.stop, *self._stop(options))}
            self._refusal = wording.refusal
        else:
            self._refusal = None
        self._default_template = text_qa_template
        self._text_qa_template = text_qa_template
        self._own_options = options

    def _stop(self, options: dict[str, Any]) -> tuple[str, ...]:
        stop = options.get("stop", self._inner.options.get("stop", self._inner.engine.options.stop))
        return tuple(stop)

    def _get_prompts(self) -> dict[str, Any]:
        return {"text_qa_template": self._text_qa_template}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        if "text_qa_template" in prompts:
            self._text_qa_template = prompts["text_qa_template"]

    def synthesize(
        self,
        query: Any,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Any:
        """Answer a query from nodes; see the class."""
        with self._running(nodes):
            return super().synthesize(query, self._shown(nodes), additional_source_nodes, **response_kwargs)

    async def asynthesize(
        self,
        query: Any,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> Any:
        """`synthesize` with the work in a worker thread."""
        with self._running(nodes):
            return await super().asynthesize(
                query, self._shown(nodes), additional_source_nodes, **response_kwargs
            )

    def get_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> Any:
        """The text, or a generator of its pieces, from nodes or, called alone, from texts."""
        run, messages, kwargs = self._prepare(query_str, text_chunks, response_kwargs)
        if self._streaming and not isinstance(self._llm, StructuredLLM):
            responses = self._llm.stream_chat(messages, **kwargs)

            def pieces() -> Generator[str, None, None]:
                try:
                    for response in responses:
                        yield response.delta or ""
                finally:
                    responses.close()
                complete(run.report, run.nodes)

            dispatcher.event(GetResponseEndEvent())
            return pieces()
        text = self._llm.chat(messages, **kwargs).message.content or ""
        complete(run.report, run.nodes)
        dispatcher.event(GetResponseEndEvent())
        return text

    async def aget_response(self, query_str: str, text_chunks: Sequence[str], **response_kwargs: Any) -> Any:
        """`get_response` with the work in a worker thread."""
        run, messages, kwargs = self._prepare(query_str, text_chunks, response_kwargs)
        if self._streaming and not isinstance(self._llm, StructuredLLM):
            responses = await self._llm.astream_chat(messages, **kwargs)

            async def pieces() -> AsyncGenerator[str, None]:
                try:
                    async for response in responses:
                        yield response.delta or ""
                finally:
                    await responses.aclose()
                complete(run.report, run.nodes)

            dispatcher.event(GetResponseEndEvent())
            return pieces()
        text = (await self._llm.achat(messages, **kwargs)).message.content or ""
        complete(run.report, run.nodes)
        dispatcher.event(GetResponseEndEvent())
        return text

    def _shown(self, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return nodes if nodes or not self._answer_without_context else [_NOTHING]

    @contextmanager
    def _running(self, nodes: list[NodeWithScore]) -> Iterator[None]:
        token = _run.set(_Run(list(nodes)))
        try:
            yield
        finally:
            _run.reset(token)

    def _prepare(
        self, query: str, texts: Sequence[str], values: dict[str, Any]
    ) -> tuple[_Run, list[Any], dict[str, Any]]:
        dispatcher.event(GetResponseStartEvent(query_str=query, text_chunks=list(texts)))
        run = _run.get()
        if run is None:  # called without `synthesize`
            run = _Run([NodeWithScore(node=TextNode(text=text)) for text in texts])
        captured = _captured.get()
        if captured is not None:
            captured.append(run.report)
        blocks: list[CitableBlock] = [citable(node) for node in run.nodes]
        messages = format_messages(self._text_qa_template, self._inner, query, blocks, **values)
        if not isinstance(self._llm, StructuredLLM):  # which does it by itself
            messages = self._inner._extend_messages(messages)
        untouched = self._text_qa_template is self._default_template
        kwargs = dict(self._options if untouched else self._own_options)
        if untouched and self._refusal is not None:
            kwargs["refusal"] = self._refusal
        if self._use_scores and run.nodes:
            kwargs["context_scores"] = list(map(score_of, run.nodes))
            kwargs["score_scale"] = self._score_scale
        if not run.nodes:
            kwargs["contexts"] = []  # so that it is known that some were looked for
        kwargs["answer_without_context"] = self._answer_without_context
        return run, messages, {**kwargs, "question": query, "report": run.report}

    def _prepare_response_output(self, response_str: Any, source_nodes: list[NodeWithScore]) -> Any:
        response = super()._prepare_response_output(
            response_str, [node for node in source_nodes if node is not _NOTHING]
        )
        run = _run.get()
        if run is not None:
            response.metadata = {**(response.metadata or {}), "nbce": run.report}
        return response


def _holds_contexts(llm: LLM) -> Any:
    """The model itself, without what makes its answers structured; whatever class says that it can."""
    inner = llm.llm if isinstance(llm, StructuredLLM) else llm
    if not getattr(inner, "supports_contexts", False):
        raise InputTypeError(
            f"{type(inner).__name__} cannot hold contexts: it would be asked without any passage. "
            "Give NBCESynthesizer an NBCELLM, or use another response synthesizer."
        )
    return inner
