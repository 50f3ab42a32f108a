"""The server's own wire: what its requests hold, and what is asked by them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ...answers.choices import ChoiceScores
from ...answers.comparison import Comparison
from ..ask import Ask, Message, Outcome, Retrieved
from .documents import passages_of
from .errors import bad_field
from .messages import messages_of
from .reply import ReplyInfo, nbce_object, passage_item

__all__ = [
    "AskBody",
    "AttributeBody",
    "CompareBody",
    "PassageFields",
    "ScoreBody",
    "SearchBody",
    "ask_of",
    "comparison_reply",
    "index_names",
    "retrieved_reply",
    "scores_reply",
    "search_options",
]

Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
_DOCUMENTS = ["Ada runs the ferry.", {"id": "timetable", "text": "The ferry leaves at noon."}]
_SEARCH = ("k", "where", "mode", "balance", "mmr", "rerank", "fetch_k", "min_score", "look", "generated")


def _with_example(**fields: Any) -> ConfigDict:
    """Nothing but what is said here, and one request that can be tried."""
    return ConfigDict(strict=True, extra="forbid", json_schema_extra={"examples": [fields]})


class PassageFields(BaseModel):
    """Where passages come from."""

    model_config = ConfigDict(strict=True, extra="forbid")

    index: str | list[str] | None = Field(
        None, description="Name of the index to search, or several; left out: the only one there is."
    )
    documents: list[Any] | None = Field(
        None,
        description='In place of an index: texts, {"id", "text", "title", "url", "score", "metadata"}, or '
        'Cohere\'s {"id", "data": {"text", ...}}. Beside `index` both are read; [] reads none.',
    )
    k: int | None = Field(None, ge=1, le=1000, description="How many passages to find; 8.")
    where: dict[str, Any] | None = Field(
        None, description='Condition on metadata, such as {"year": {"$gte": 1900}}.'
    )
    mode: Literal["vector", "words", "hybrid"] | None = Field(
        None, description="By meaning, by words (BM25), or both."
    )
    balance: Share | None = Field(None, description="Weight of meaning in `hybrid`.")
    mmr: Share | None = Field(None, description="Passages that differ: 1 is relevance alone.")
    rerank: bool | None = Field(None, description="Score what was found by the server's cross-encoder.")
    fetch_k: int | None = Field(None, ge=1, description="From how many `mmr` and `rerank` choose.")
    min_score: float | None = Field(None, ge=-1, le=1, description="Least score of a passage.")
    look: bool | None = Field(None, description="Look on from the best passage, for questions that take two.")
    generated: bool | None = Field(None, description="Also find passages marked as generated.")


class CompareBody(PassageFields):
    """A question that every passage answers by itself."""

    model_config = _with_example(
        question="Who runs the ferry?",
        documents=["Ada runs the ferry.", "Bob runs the ferry."],
        options={"max_tokens": 16},
    )

    question: Text
    options: dict[str, Any] = Field(default_factory=dict, description="Any field of nbce_rag.Options.")


class AskBody(PassageFields):
    """A question, alone or as the last of a conversation."""

    model_config = _with_example(
        question="Who runs the ferry?", documents=_DOCUMENTS, options={"max_tokens": 16}
    )

    question: Text | None = None
    messages: list[Any] | None = Field(
        None, description="A conversation in OpenAI's form, in place of `question`."
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Any field of nbce_rag.Options.")
    condense: bool = Field(False, description="Search with the conversation condensed into one question.")
    tokens: bool = Field(False, description="Give the evidence of each token too.")
    stream: bool = False


class AttributeBody(CompareBody):
    """A text that somebody else wrote, as the answer to a question."""

    model_config = _with_example(question="Who runs the ferry?", text="Ada runs it.", documents=_DOCUMENTS)

    text: Text = Field(description="The answer; it is kept as it is.")
    tokens: bool = Field(False, description="Give the evidence of each token too.")


class ScoreBody(CompareBody):
    """Answers to choose from."""

    model_config = _with_example(question="Who runs the ferry?", choices=["Ada", "Bob"], documents=_DOCUMENTS)

    choices: Annotated[list[Text], Field(min_length=1, max_length=100)]


class SearchBody(PassageFields):
    """A search alone."""

    model_config = _with_example(query="Who runs the ferry?", index="my-index", k=2)

    query: Text


def search_options(body: PassageFields) -> dict[str, Any]:
    """Options of the search that were given."""
    given = {name: getattr(body, name) for name in _SEARCH}
    return {name: value for name, value in given.items() if value is not None}


def index_names(index: str | list[str] | None, documents: Any, available: list[str]) -> tuple[str, ...]:
    """The indexes to search.

    Args:
        index: those that were named.
        documents: what came with the request; `[]` searches nothing.
        available: those that the caller may read.

    Raises:
        ServerError: none was named and there are several.
    """
    if documents == []:
        return ()
    if index is not None:
        names = [index] if isinstance(index, str) else index
        if not names:
            raise bad_field("index", "index=[] names no index; leave it out, or give documents.")
        return tuple(dict.fromkeys(names))
    if documents is not None:
        return ()
    if len(available) > 1:
        raise bad_field("index", f"There are several indexes ({', '.join(available)}); name one with index.")
    return tuple(available)


def ask_of(body: CompareBody | AskBody | SearchBody, available: list[str]) -> Ask:
    """What a request asks.

    Raises:
        ServerError: neither question nor messages, both, or what their parts raise.
    """
    messages: tuple[Message, ...]
    question = body.query if isinstance(body, SearchBody) else body.question
    given = getattr(body, "messages", None)
    if (question is None) == (given is None):
        raise bad_field("question", "Give either question or messages.")
    messages = messages_of(given) if question is None else (Message("user", (question,)),)
    return Ask(
        messages=messages,
        indexes=index_names(body.index, body.documents, available),
        documents=None if body.documents is None else passages_of(body.documents),
        search=search_options(body),
        options=getattr(body, "options", {}),
        condense=getattr(body, "condense", False),
    )


def retrieved_reply(retrieved: Retrieved, info: ReplyInfo) -> dict[str, Any]:
    """What was retrieved: the query, and the passages in the order in which they are read."""
    return {
        "query": retrieved.query,
        "passages": [passage_item(passage, retrieved, info) for passage in retrieved.passages],
    }


def comparison_reply(comparison: Comparison, retrieved: Retrieved, info: ReplyInfo) -> dict[str, Any]:
    """Who says what, the weightiest first; of each passage the report of its answer."""
    return {
        "request_id": info.request_id,
        "query": retrieved.query,
        "question": comparison.question,
        "agree": comparison.agree,
        "groups": [
            {
                "text": group.text,
                "weight": group.weight,
                "passages": [passage_item(passage, retrieved, info) for passage in group.passages],
                "answers": [nbce_object(Outcome(one, retrieved), info) for one in group.answers],
            }
            for group in comparison.groups
        ],
        "silent": [passage_item(passage, retrieved, info) for passage in comparison.silent],
        "silent_weight": comparison.silent_weight,
    }


def scores_reply(scores: ChoiceScores, retrieved: Retrieved, info: ReplyInfo) -> dict[str, Any]:
    """How probable each choice is."""
    rows = zip(
        scores.choices, scores.log_probs, scores.per_token, scores.probabilities, scores.tokens, strict=True
    )
    return {
        "request_id": info.request_id,
        "query": retrieved.query,
        "best": scores.best,
        "best_per_token": scores.best_per_token,
        "choices": [
            {
                "text": text,
                "log_prob": log_prob,
                "per_token": per_token,
                "probability": probability,
                "tokens": tokens,
            }
            for text, log_prob, per_token, probability, tokens in rows
        ],
        "passages": [passage_item(passage, retrieved, info) for passage in retrieved.passages],
    }
