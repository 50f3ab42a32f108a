"""Parameters of OpenAI's generation endpoints: which are options of ours, which refused, which ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...errors import InputError
from ...options import Options
from ...prompts.schemas import response_schema
from .errors import bad_field

__all__ = ["GenerationFields", "answer_options", "check_refused", "ignored", "own_options", "schema_of"]

_OPTIONS = {one.name for one in fields(Options)}
_DIRECT = (
    "temperature",
    "top_p",
    "seed",
    "top_k",
    "min_p",
    "repetition_penalty",
    "bad_words",
    "chat_template_kwargs",
)
# What changes nothing here, whatever it says.
_SILENT = {
    "user",
    "metadata",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "stream_options",
    "request_id",
}
_WAYS_OUT = {
    "n": "ask again with another seed",
    "best_of": "ask again with another seed",
    "logit_bias": "nbce.options has bad_words, regex and json_schema",
    "frequency_penalty": "repetition_penalty and nbce.options.no_repeat_ngram_size are there instead",
    "presence_penalty": "repetition_penalty and nbce.options.no_repeat_ngram_size are there instead",
    "audio": "the model writes text",
    "functions": "give tools",
    "function_call": "give tools and tool_choice",
    "web_search_options": "give documents, or name an index",
    "suffix": "the model goes on from a prompt, it does not fill gaps",
    "echo": "the prompt is known to whoever sent it",
    "previous_response_id": "responses are not stored; send the conversation as input",
    "conversation": "responses are not stored; send the conversation as input",
    "background": "ask, and wait or stream",
    "prompt": "there are no stored prompts; send the text as input or instructions",
    "max_tool_calls": "tools are called by you",
}


class GenerationFields(BaseModel):
    """What chat, completions and responses have in common. Other fields are ignored, with a warning."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(description="`nbce` without retrieval, `nbce-<index>` from an index.")
    temperature: float | None = Field(None, ge=0, le=100, description="0 unless it is given.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    bad_words: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stream: bool | None = None
    documents: list[Any] | None = Field(
        None,
        description='Passages: texts, {"id", "text", "title", "url", "score", "metadata"}, or Cohere\'s '
        '{"id", "data": {"text", ...}}. [] means no retrieval.',
    )


def answer_options(body: GenerationFields, **named: Any) -> dict[str, Any]:
    """Options of the answer: those of the same name here and there, and others; None is none."""
    given = {name: getattr(body, name) for name in _DIRECT}
    return {name: value for name, value in {**given, **named}.items() if value is not None}


def schema_of(form: Any, param: str) -> Any:
    """The schema that an answer has to fit; None for a plain text.

    Args:
        form: as `response_schema` takes it.
        param: the parameter that it is, for the error.

    Raises:
        ServerError: it is none.
    """
    if form is None or (isinstance(form, Mapping) and form.get("type") == "text"):
        return None
    try:
        return response_schema(form)
    except InputError as error:
        raise bad_field(param, str(error)) from error


def own_options(given: Mapping[str, Any], param: str = "nbce") -> dict[str, Any]:
    """Options of the answer that stand among the fields of an `nbce` object.

    Raises:
        ServerError: a name that is none.
    """
    for name in given:
        if name not in _OPTIONS:
            raise bad_field(
                f"{param}.{name}",
                f"{param}.{name} is not known; the options are {', '.join(sorted(_OPTIONS))}.",
            )
    return dict(given)


def check_refused(body: BaseModel, names: tuple[str, ...]) -> None:
    """Refuses what would change the answer and is not done here.

    Args:
        body: the request.
        names: those of its parameters that the endpoint does not do.

    Raises:
        ServerError: one of them asks for something (400, with `param`).
    """
    extra = body.model_extra or {}
    for name in names:
        value = extra.get(name)
        if value is None or value is False or value == 0 or value in ({}, []):
            continue
        if name in ("n", "best_of") and value == 1:
            continue
        raise bad_field(
            name, f"{name}={value!r} is not supported; {_WAYS_OUT[name]}.", code="unsupported_parameter"
        )


def ignored(body: BaseModel, refused: tuple[str, ...]) -> tuple[str, ...]:
    """Notes on parameters that were given and change nothing."""
    extra = body.model_extra or {}
    names = [
        name
        for name, value in extra.items()
        if value is not None
        and name not in _SILENT
        and name not in refused
        and not (name == "store" and value is False)
    ]
    return tuple(f"The parameter {name} was ignored; it changes nothing here." for name in names)
