"""The `nbce` object of OpenAI's endpoints: retrieval and options beside what OpenAI's wire has words for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from ..ask import Ask, Message
from .documents import passages_of
from .errors import bad_field, not_found
from .filters import where_of
from .own import PassageFields, index_names, search_options
from .sampling import own_options

__all__ = ["MODEL", "NbceFields", "model_index", "retrieval_ask"]

MODEL = "nbce"


class NbceFields(PassageFields):
    """What an `nbce` object may hold; any field of `nbce_rag.Options` may stand beside these."""

    model_config = ConfigDict(strict=True, extra="allow")

    options: dict[str, Any] = Field(default_factory=dict, description="Any field of nbce_rag.Options.")
    condense: bool = Field(False, description="Search with the conversation condensed into one question.")
    tokens: bool = Field(False, description="Give the evidence of each token in the `nbce` object.")
    wording: Literal["server", "messages"] = Field(
        "server",
        description="`server` asks for an answer from the passages, as `nbce-rag ask` does; `messages` "
        "leaves the conversation as it is.",
    )
    events: Literal["open-webui"] | None = Field(
        None, description="Also stream each cited passage as Open WebUI's `source` event."
    )
    marks: Literal["numbers"] | None = Field(
        None,
        description="Of chat: write [1] behind what is cited, in the order of first citation. A stream then "
        "gives the text at its end. Not beside tools, schemas and logprobs.",
    )


def model_index(model: str, available: Sequence[str]) -> str | None:
    """The index of a model id; None of the plain one.

    Raises:
        ServerError: there is no such model (404).
    """
    if model == MODEL:
        return None
    name = model.removeprefix(f"{MODEL}-")
    if name == model or name not in available:
        raise not_found(
            f"The model {model!r} does not exist; GET /v1/models lists those that do.",
            param="model",
            code="model_not_found",
        )
    return name


def retrieval_ask(
    messages: tuple[Message, ...],
    *,
    model: str,
    documents: list[Any] | None,
    nbce: NbceFields | None,
    file_search: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    available: Sequence[str],
    **others: Any,
) -> tuple[Ask, NbceFields]:
    """What a request to one of OpenAI's endpoints asks.

    Indexes are those of the model's id, of `nbce.index` and of `file_search` tools, each once; without any of
    them nothing is searched. `documents` stand beside them, or in their place where they are `[]`.

    Raises:
        ServerError: an unknown model, a tool that names no index, filters that are none, an unknown option.
    """
    nbce = nbce or NbceFields.model_validate({})
    given = documents if documents is not None else nbce.documents
    name = model_index(model, available)
    names: list[str] = [] if name is None else [name]
    search: dict[str, Any] = {}
    for place, tool in enumerate(file_search):
        stores = tool.get("vector_store_ids")
        if (
            not isinstance(stores, list)
            or not all(isinstance(one, str) for one in stores)
            or not (stores or names)
        ):
            raise bad_field(
                f"tools.{place}.vector_store_ids",
                "A file_search tool needs vector_store_ids, names of indexes.",
            )
        names += stores
        search |= _searched(tool, f"tools.{place}")
    if nbce.index is not None:
        names += index_names(nbce.index, None, [])
    search |= search_options(nbce)
    ask = Ask(
        messages=messages,
        indexes=() if given == [] else tuple(dict.fromkeys(names)),
        documents=None if given is None else passages_of(given),
        search=search,
        options={
            **options,
            **own_options(nbce.options, "nbce.options"),
            **own_options(nbce.model_extra or {}),
        },
        condense=nbce.condense,
        wording=others.pop("wording", nbce.wording),
        **others,
    )
    return ask, nbce


def _searched(tool: Mapping[str, Any], param: str) -> dict[str, Any]:
    """Options of the search that a `file_search` tool names."""
    search: dict[str, Any] = {}
    if tool.get("filters") is not None:
        search["where"] = where_of(tool["filters"], f"{param}.filters")
    most = tool.get("max_num_results")
    if most is not None:
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= 1000:
            raise bad_field(f"{param}.max_num_results", f"max_num_results={most!r} must be within 1..1000.")
        search["k"] = most
    ranking = tool.get("ranking_options")
    if isinstance(ranking, Mapping) and ranking.get("score_threshold") is not None:
        search["min_score"] = ranking["score_threshold"]
    return search
