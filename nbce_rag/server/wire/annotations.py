"""Citations as OpenAI's annotations: one for each passage cited for a stretch, the leading one first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...evidence.evidence import Citation
from ...evidence.quote import page_of, quote_of
from ...evidence.unsupported import UnsupportedWords
from ..ask import Retrieved
from .reply import ReplyInfo, finite

__all__ = ["chat_annotations", "flat_annotations", "source_events"]


def flat_annotations(
    citations: Iterable[Citation],
    retrieved: Retrieved,
    info: ReplyInfo,
    unsupported: Sequence[UnsupportedWords] = (),
) -> list[dict[str, Any]]:
    """Annotations as /v1/responses has them.

    Offsets count code points of the text, `end_index` is exclusive; they span what is claimed. Beside
    OpenAI's keys there are `passage_id`, `share`, `verbatim`, the `page` if it is known, and `quote_start`
    and `quote_end` where the stretch stands word for word in the passage, and `unsupported`, the numbers and
    names inside of it that stand in no passage cited for it.
    """
    made = []
    for citation in citations:
        absent = [w.text for w in unsupported if citation.start <= w.start and w.end <= citation.end]
        for support in citation.supports:
            passage = retrieved.passages[support.passage]
            annotation: dict[str, Any] = {
                "type": "url_citation",
                "start_index": citation.start,
                "end_index": citation.end,
                "url": info.links.source(passage, retrieved.home(passage)),
                "title": passage.title or passage.source or passage.id,
                "passage_id": passage.id,
                "share": finite(support.share, 0.0),
                "verbatim": support.verbatim,
            }
            if (quote := quote_of(support, passage)) is not None:
                annotation |= {"quote_start": quote.start, "quote_end": quote.end}
            if (page := page_of(passage)) is not None:
                annotation["page"] = page
            if absent:
                annotation["unsupported"] = absent
            made.append(annotation)
    return made


def chat_annotations(
    citations: Iterable[Citation],
    retrieved: Retrieved,
    info: ReplyInfo,
    unsupported: Sequence[UnsupportedWords] = (),
    first: int = 0,
) -> list[dict[str, Any]]:
    """The same as /v1/chat/completions has them.

    `index` counts them from `first`: clients that add up the pieces of a stream tell entries by it.
    """
    flat = flat_annotations(citations, retrieved, info, unsupported)
    return [
        {
            "type": "url_citation",
            "index": first + place,
            "url_citation": {name: value for name, value in one.items() if name != "type"},
        }
        for place, one in enumerate(flat)
    ]


def source_events(
    citations: Iterable[Citation], retrieved: Retrieved, info: ReplyInfo
) -> list[dict[str, Any]]:
    """Open WebUI's events for the passages that are cited, each once, the first that is cited first."""
    places = dict.fromkeys(support.passage for citation in citations for support in citation.supports)
    events = []
    for place in places:
        passage = retrieved.passages[place]
        url = info.links.source(passage, retrieved.home(passage))
        name = passage.title or passage.source or passage.id
        metadata = {"source": url, "name": name, "page": page_of(passage)}
        data = {
            "source": {"id": url, "name": name, "url": url},
            "document": [passage.text],
            "metadata": [metadata],
            "distances": [passage.score],
        }
        events.append({"event": {"type": "source", "data": data}})
    return events
