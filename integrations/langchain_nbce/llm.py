"""NBCELLM: text completion with passages as contexts of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import ChatPromptValue, PromptValue, StringPromptValue
from langchain_core.runnables import RunnableConfig

from nbce_rag import (
    Answer,
    Answerer,
    Passage,
    Prompt,
    Request,
    Turn,
    format_passage,
    format_passages,
    mark_places,
    resolve,
)

from .documents import to_passages
from .messages import to_turns
from .output import PROVIDER, llm_output, response_metadata, usage_metadata
from .serialization import SerializableSettings
from .settings import OPTION_NAMES, STRICT, check_options, in_our_names

__all__ = ["NBCELLM"]

_SPEAKERS = {"user": "Human", "assistant": "AI", "system": "System", "tool": "Tool"}


class NBCELLM(SerializableSettings, BaseLLM):
    """A completion model over `nbce_rag.NBCE`, with the fields of `ChatNBCE`.

    Passages reach it as `contexts=` of a call or between the marks of `format_passages` and
    `PassagePrompt`. The prompt is completed as it stands; give `stop=["\\n"]` to a base model that shall
    answer in one line. `generation_info` has what `ChatNBCE` puts into `response_metadata`.
    """

    model_config = STRICT

    def generate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """As LangChain's, with passages and options of the call where caches see them."""
        model, prompts, kwargs = self._folded(prompts, kwargs)
        return super(NBCELLM, model).generate(prompts, stop, callbacks, **kwargs)

    async def agenerate(
        self, prompts: list[str], stop: list[str] | None = None, callbacks: Any = None, **kwargs: Any
    ) -> LLMResult:
        """As `generate`."""
        model, prompts, kwargs = self._folded(prompts, kwargs)
        return await super(NBCELLM, model).agenerate(prompts, stop, callbacks, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[str]:
        """Real tokens, one piece at a time."""
        stop = kwargs.pop("stop", None)
        model, (prompt,), kwargs = self._folded([self._convert_input(input).to_string()], kwargs)
        yield from super(NBCELLM, model).stream(prompt, config, stop=stop, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        """As `stream`; the event loop stays free."""
        stop = kwargs.pop("stop", None)
        model, (prompt,), kwargs = self._folded([self._convert_input(input).to_string()], kwargs)
        async with aclosing(super(NBCELLM, model).astream(prompt, config, stop=stop, **kwargs)) as texts:  # type: ignore[type-var]
            async for text in texts:
                yield text

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of the model's own tokenizer, without special tokens. Loads the model."""
        return list(self.nbce().model.tokenizer.encode(text))

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        engine, requests, notes = self._prepare(prompts, stop)
        return self._result(engine, engine.batch(requests), notes)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        engine, requests, notes = await asyncio.to_thread(self._prepare, prompts, stop)
        return self._result(engine, await engine.abatch(requests), notes)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        engine, requests, (notes,) = self._prepare([prompt], stop)
        with closing(engine.stream_batch(requests)) as stream:  # type: ignore[type-var]
            for _, piece in stream:
                if not piece.text and piece.answer is None:
                    continue  # a piece of a thought
                info = None if piece.answer is None else self._info(piece.answer, notes)
                chunk = GenerationChunk(text=piece.text, generation_info=info)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        engine, requests, (notes,) = await asyncio.to_thread(self._prepare, [prompt], stop)
        async with aclosing(engine.astream_batch(requests)) as stream:
            async for _, piece in stream:
                if not piece.text and piece.answer is None:
                    continue
                info = None if piece.answer is None else self._info(piece.answer, notes)
                chunk = GenerationChunk(text=piece.text, generation_info=info)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _folded(
        self, prompts: Sequence[str], kwargs: dict[str, Any]
    ) -> tuple[NBCELLM, list[str], dict[str, Any]]:
        """Contexts into the prompts and options into the fields: LangChain's cache keys see nothing else."""
        callback_names = ("tags", "metadata", "run_name", "run_id")
        callbacks = {name: value for name, value in kwargs.items() if name in callback_names}
        given = {name: value for name, value in kwargs.items() if name not in callback_names}
        check_options(given, ("contexts", "logprobs", "model", "score_scale"))
        contexts = given.pop("contexts", None)
        marked = list(prompts)
        if contexts is not None:
            passages = to_passages(contexts, score_key=self.score_key)
            scale = in_our_names(given).get("score_scale") or self.score_scale
            marked = [self._marked(prompt, passages, scale) for prompt in prompts]
        changes = {name: value for name, value in in_our_names(given).items() if value is not None}
        if contexts is not None:
            changes["score_scale"] = None  # the scores in the marks are cosines
        if not changes:
            return self, marked, callbacks
        model = self.model_copy(update=changes)
        if changes.get("model") not in (None, self.name_of()):
            model.engine = None
        model.options(self.nbce(), None, {n: changes[n] for n in OPTION_NAMES if n in changes})  # checks them
        return model, marked, callbacks

    def _marked(self, prompt: str, passages: Sequence[Passage], score_scale: str | None) -> str:
        talk = resolve(
            [Turn("user", [prompt])],
            passages,
            key=self.key,
            history=self.history_contexts,
            score_scale=score_scale,
        )
        if not talk.passages:
            return format_passages(()) + talk.texts[0]  # nothing was found, which is something to know
        return mark_places(talk.texts[0], talk.passages, key=self.key)

    def _prepare(
        self, prompts: Sequence[str], stop: Sequence[str] | None
    ) -> tuple[Answerer, list[Request], list[tuple[str, ...]]]:
        engine = self.nbce()
        options = self.options(engine, stop, {})
        requests, notes = [], []
        for prompt in prompts:
            talk = resolve(
                [Turn("user", [prompt])],
                key=self.key,
                history=self.history_contexts,
                score_scale=self.score_scale,
            )
            words = Prompt(text=talk.texts[0])
            requests.append(Request(talk.question, talk.passages, options, words, talk.is_retrieved))
            notes.append(talk.notes)
        return engine, requests, notes

    def _result(
        self, engine: Answerer, answers: Sequence[Answer], notes: Sequence[tuple[str, ...]]
    ) -> LLMResult:
        return LLMResult(
            generations=[
                [Generation(text=answer.text, generation_info=self._info(answer, noted))]
                for answer, noted in zip(answers, notes, strict=True)
            ],
            llm_output=llm_output(answers, engine.model.name),
        )

    def _info(self, answer: Answer, notes: Sequence[str]) -> dict[str, Any]:
        metadata = response_metadata(answer, self.name_of(), logprobs=self.logprobs)
        metadata["nbce"]["warnings"] += notes
        return {**metadata, "usage_metadata": dict(usage_metadata(answer))}

    def _convert_input(self, input: LanguageModelInput) -> PromptValue:
        value = super()._convert_input(input)
        if not isinstance(value, ChatPromptValue):
            return value
        return StringPromptValue(text=self._as_text(value.to_messages()))

    def _as_text(self, messages: Sequence[BaseMessage]) -> str:
        """Messages as lines, with their blocks' passages between marks."""
        turns = to_turns(messages, score_key=self.score_key)
        users = [place for place, turn in enumerate(turns) if turn.role == "user"]
        lines = []
        for place, turn in enumerate(turns):
            old = bool(users) and place < users[-1] and turn.role != "system"
            parts = [
                part if isinstance(part, str) else "" if old else format_passage(part, key=self.key)
                for part in turn.parts
            ]
            lines.append(f"{_SPEAKERS.get(turn.role, turn.role)}: {''.join(parts)}")
        return "\n".join(lines)

    @property
    def _llm_type(self) -> str:
        return "nbce"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return self.identity

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = PROVIDER
        params["ls_model_name"] = self.name_of(kwargs.get("model"))
        return params
