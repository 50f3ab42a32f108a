"""/v1/vector_stores/{id}/search: an index as OpenAI's clients search a vector store."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..ask import Ask, Message, Retrieved
from .filters import where_of
from .reply import ReplyInfo

__all__ = ["RankingOptions", "StoreSearchBody", "store_ask", "store_reply"]


class RankingOptions(BaseModel):
    """What counts as found."""

    model_config = ConfigDict(strict=True, extra="allow")

    score_threshold: float | None = Field(None, ge=-1, le=1, description="Least score, a cosine.")


class StoreSearchBody(BaseModel):
    """A search of one index."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        json_schema_extra={"examples": [{"query": "Who runs the ferry?", "max_num_results": 2}]},
    )

    query: str | list[str] = Field(min_length=1)
    filters: dict[str, Any] | None = Field(
        None,
        description='{"type": "eq", "key": "year", "value": 1990}, or {"type": "and", "filters": [...]}.',
    )
    max_num_results: int = Field(10, ge=1, le=1000)
    ranking_options: RankingOptions | None = None


def store_ask(body: StoreSearchBody, index: str) -> Ask:
    """The search; several queries are one.

    Raises:
        ServerError: filters that are none.
    """
    query = body.query if isinstance(body.query, str) else "\n".join(body.query)
    search: dict[str, Any] = {"k": body.max_num_results}
    if body.filters is not None:
        search["where"] = where_of(body.filters)
    if body.ranking_options is not None and body.ranking_options.score_threshold is not None:
        search["min_score"] = body.ranking_options.score_threshold
    return Ask(messages=(Message("user", (query,)),), indexes=(index,), search=search)


def store_reply(retrieved: Retrieved, info: ReplyInfo) -> dict[str, Any]:
    """What was found, best first: of each passage its id as `file_id`, and its place in the source."""
    return {
        "object": "vector_store.search_results.page",
        "search_query": [retrieved.query],
        "data": [
            {
                "file_id": passage.id,
                "filename": passage.source or passage.title or passage.id,
                "score": passage.score,
                "attributes": _attributes(passage.metadata),
                "content": [{"type": "text", "text": passage.text}],
                "title": passage.title,
                "url": info.links.source(passage, retrieved.home(passage)),
                "start": passage.start,
                "end": passage.end,
            }
            for passage in retrieved.passages
        ],
        "has_more": False,
        "next_page": None,
    }


def _attributes(metadata: Any) -> dict[str, Any]:
    """What an attribute can be there: a text, a number or a boolean."""
    return {
        name: value
        for name, value in metadata.items()
        if isinstance(value, str | int | float) and not name.startswith("_")
    }
