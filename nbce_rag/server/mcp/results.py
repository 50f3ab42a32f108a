"""What the tools give: their output schemas, made of what the server answers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from mcp_types import ResourceLink
from pydantic import BaseModel, Field

from ...answers.comparison import Comparison
from ...evidence.passage_evidence import cited_by_number
from ...evidence.quote import page_of
from ...passages import Passage
from ...values import NotPlainError, plain
from ..ask import Home, Outcome, Retrieved
from ..links import Links
from ..sources import Around

__all__ = [
    "AskResult",
    "CompareResult",
    "FetchResult",
    "IndexItem",
    "IndexesResult",
    "PassageItem",
    "SearchResult",
    "answer_result",
    "comparison_result",
    "fetch_result",
    "item_of",
    "link_to",
    "search_result",
    "uri_of",
]


class PassageItem(BaseModel):
    """A passage of an index."""

    id: str = Field(description="For `fetch`: the name of its index, a slash, and its id there.")
    title: str
    url: str = Field(description="Where to read it.")
    index: str
    source: str | None = Field(None, description="File or address that it is from.")
    page: int | str | None = None
    score: float | None = Field(None, description="Of the search.")


class TextItem(PassageItem):
    """A passage with its text."""

    text: str


class SearchResult(BaseModel):
    """Passages, the best first."""

    results: list[TextItem]
    query: str


class FetchResult(BaseModel):
    """A passage with what stands around it."""

    id: str
    title: str
    text: str
    url: str
    metadata: dict[str, Any]


class SourceItem(BaseModel):
    """A passage behind a stretch of the answer."""

    number: int = Field(description="Its number in the text and in `passages`.")
    id: str
    share: float = Field(description="Of the evidence for the stretch, in (0, 1].")
    verbatim: bool = Field(description="Whether the stretch stands in it word for word.")
    quote: str | None = Field(None, description="Those words as the passage has them.")


class CitationItem(BaseModel):
    """A stretch of the answer and the passages that it rests on; measured, not written by the model."""

    start: int = Field(description="answer[start:end], in code points.")
    end: int
    text: str
    sources: list[SourceItem]


class ReadItem(PassageItem):
    """A passage that was read for an answer."""

    number: int | None = Field(description="Of a cited passage, in the order of first citation; else null.")


class AskResult(BaseModel):
    """An answer, and what it rests on."""

    answer: str
    abstained: bool = Field(description="No passage answers the question, and `answer` says so.")
    grounding: float | None = Field(description="How far the passages raised the answer, nats a token.")
    citations: list[CitationItem]
    passages: list[ReadItem] = Field(description="All that were read, cited or not.")
    unsupported: list[str] = Field(description="Words inside of citations that stand in no cited passage.")
    conflicts: list[str] = Field(description="Where passages say different things, who says what.")
    query: str = Field(description="What was searched for.")
    warnings: list[str]


class GroupItem(BaseModel):
    """An answer, and the passages that give it."""

    answer: str
    weight: float = Field(description="Share of the passages' prior, in (0, 1].")
    passages: list[PassageItem]


class CompareResult(BaseModel):
    """Who says what."""

    question: str
    agree: bool = Field(description="Whether all passages that answer give one answer.")
    groups: list[GroupItem] = Field(description="Distinct answers, the weightiest first.")
    silent: list[PassageItem] = Field(description="Passages that give no answer.")


class IndexItem(BaseModel):
    """An index that can be asked."""

    name: str
    passages: int
    sources: int
    embedder: str


class IndexesResult(BaseModel):
    """The indexes that can be asked."""

    indexes: list[IndexItem]


def uri_of(index: str, passage_id: str) -> str:
    """The resource that a passage is."""
    return f"nbce://{index}/{quote(passage_id, safe='')}"


def item_of(passage: Passage, index: str, links: Links | None) -> dict[str, Any]:
    """Fields of `PassageItem`. Without links the address is that of the resource, or the passage's own."""
    is_web = (passage.source or "").startswith(("http://", "https://"))
    return {
        "id": f"{index}/{passage.id}",
        "title": _title(passage),
        "url": _address(passage, index, links) if not is_web else passage.source,
        "index": index,
        "source": passage.source,
        "page": page_of(passage),
        "score": passage.score,
    }


def link_to(passage: Passage, index: str) -> ResourceLink:
    """A link that a client can read the passage by."""
    page = page_of(passage)
    title = _title(passage) if page is None else f"{_title(passage)}, page {page}"
    uri = uri_of(index, passage.id)
    return ResourceLink(type="resource_link", uri=uri, name=passage.id, title=title, mime_type="text/plain")


def search_result(retrieved: Retrieved, links: Links | None) -> SearchResult:
    """What a search found."""
    results = [
        TextItem(**item_of(passage, _index(passage, retrieved), links), text=passage.text)
        for passage in retrieved.passages
    ]
    return SearchResult(results=results, query=retrieved.query)


def fetch_result(passage: Passage, index: str, surroundings: Around, links: Links | None) -> FetchResult:
    """A passage, with what stands around it in `metadata`, as `before` and `after`."""
    item = item_of(passage, index, links)
    metadata: dict[str, Any] = {}
    for name, value in passage.metadata.items():
        try:
            metadata.update({} if name.startswith("_") else plain({name: value}))
        except NotPlainError:
            continue
    known = {name: item[name] for name in ("index", "source", "page") if item[name] is not None}
    places = {"start": passage.start, "end": passage.end, **surroundings._asdict()}
    known |= {name: value for name, value in places.items() if value not in (None, "")}
    return FetchResult(
        id=item["id"], title=item["title"], text=passage.text, url=item["url"], metadata={**metadata, **known}
    )


def answer_result(outcome: Outcome, links: Links | None) -> tuple[AskResult, list[ResourceLink]]:
    """An answer, and a link for each passage that is cited."""
    answer, retrieved = outcome.answer, outcome.retrieved
    cited = [one.passage for one in cited_by_number(answer.passage_evidence)]
    numbers = {place: number for number, place in enumerate(cited, 1)}
    homes = [_index(passage, retrieved) for passage in answer.passages]
    citations = [
        CitationItem(
            start=citation.start,
            end=citation.end,
            text=citation.text,
            sources=[
                SourceItem(
                    number=numbers[support.passage],
                    id=f"{homes[support.passage]}/{support.passage_id}",
                    share=support.share,
                    verbatim=support.verbatim,
                    quote=answer.passages[support.passage].text[support.quote_start : support.quote_end]
                    if support.verbatim
                    else None,
                )
                for support in citation.supports
                if support.passage in numbers
            ],
        )
        for citation in answer.citations
    ]
    passages = [
        ReadItem(**item_of(passage, homes[place], links), number=numbers.get(place))
        for place, passage in enumerate(answer.passages)
    ]
    result = AskResult(
        answer=answer.text,
        abstained=answer.finish_reason == "no_evidence",
        grounding=answer.grounding,
        citations=citations,
        passages=passages,
        unsupported=[words.text for words in answer.unsupported],
        conflicts=[str(conflict) for conflict in answer.conflicts],
        query=retrieved.query,
        warnings=list(dict.fromkeys([*answer.warnings, *outcome.notes])),
    )
    return result, [link_to(answer.passages[place], homes[place]) for place in cited]


def comparison_result(comparison: Comparison, retrieved: Retrieved, links: Links | None) -> CompareResult:
    """Who says what."""

    def items(passages: tuple[Passage, ...]) -> list[PassageItem]:
        return [PassageItem(**item_of(one, _index(one, retrieved), links)) for one in passages]

    return CompareResult(
        question=comparison.question,
        agree=comparison.agree,
        groups=[
            GroupItem(answer=group.text, weight=group.weight, passages=items(group.passages))
            for group in comparison.groups
        ],
        silent=items(comparison.silent),
    )


def _index(passage: Passage, retrieved: Retrieved) -> str:
    index = retrieved.home(passage).index
    assert index is not None  # the tools search, and are given no documents
    return index


def _address(passage: Passage, index: str, links: Links | None) -> str:
    return uri_of(index, passage.id) if links is None else links.source(passage, Home(index, passage.id))


def _title(passage: Passage) -> str:
    return passage.title or passage.source or passage.id
