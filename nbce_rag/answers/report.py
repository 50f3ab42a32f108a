"""An answer in plain JSON types, in one form for the command line, both adapters and whoever sends it.

Its JSON Schema (draft 2020-12) is `report.schema.json` beside this file; `report_schema` loads it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from typing import Any, Literal, TypedDict

from ..evidence.ablation import AblationReport
from ..evidence.conflict import ConflictReport
from ..evidence.evidence import Citation, Support
from ..evidence.passage_evidence import cited_by_number, supports_among
from ..evidence.quote import quote_of
from ..evidence.unsupported import UnsupportedWords
from ..passages import Passage
from ..view.shown import AnswerLike

__all__ = [
    "CitationReport",
    "CitationsReport",
    "ContextReport",
    "Report",
    "SupportReport",
    "TimingsReport",
    "UnsupportedReport",
    "UsageReport",
    "WordReport",
    "citation_report",
    "report",
    "report_schema",
]


class ContextReport(TypedDict):
    """A passage that was read, and how much of the answer rests on it.

    Attributes:
        index: its place in `Report.contexts`.
        id, title, source, start, end, text: see `nbce_rag.Passage`.
        score: retrieval score.
        relevance: nats by which it made the question likelier.
        weight: mean evidence for it over the answer's tokens, in [0, 1].
        tokens_won: number of tokens that it led.
        cited: share of the answer's words that cite it, in [0, 1]; a word that cites several counts for each.
        metadata: those of the passage that JSON can hold; names with an underscore in front are left out,
            being the notes of whoever stored the passage.
    """

    index: int
    id: str
    title: str | None
    source: str | None
    start: int | None
    end: int | None
    score: float | None
    relevance: float | None
    weight: float | None
    tokens_won: int
    cited: float
    text: str
    metadata: dict[str, Any]


class SupportReport(TypedDict):
    """A context that stands behind a stretch of the answer.

    Attributes:
        context_index: its place in `Report.contexts`.
        passage_id: its `id`.
        share: its share of the evidence for the stretch, in (0, 1].
        verbatim: whether the stretch stands word for word in it (`nbce_rag.Citation`).
        quote_start, quote_end: where in `ContextReport.text`, `end` exclusive; None unless verbatim.
        source_start, source_end: where in the context's source; None where that is not known.
        page: page that the context begins on; None unless verbatim and known.
    """

    context_index: int
    passage_id: str
    share: float | None
    verbatim: bool
    quote_start: int | None
    quote_end: int | None
    source_start: int | None
    source_end: int | None
    page: int | str | None


class CitationReport(TypedDict):
    """A stretch of the answer and the contexts that support it.

    Attributes:
        start, end: `answer[start:end]`, in Unicode code points; `end` is exclusive.
        text: the stretch itself.
        context_index, passage_id, share, verbatim, quote_start, quote_end, source_start, source_end, page:
            the leading context, as in `SupportReport`.
        others: further contexts that are cited for the stretch, the largest share first.
    """

    start: int
    end: int
    text: str
    context_index: int
    passage_id: str
    share: float | None
    verbatim: bool
    quote_start: int | None
    quote_end: int | None
    source_start: int | None
    source_end: int | None
    page: int | str | None
    others: list[SupportReport]


class WordReport(TypedDict):
    """A word of a given text (`nbce_rag.evidence.word_likelihood.WordLikelihood`); `log_prob` may be None."""

    start: int
    end: int
    text: str
    log_prob: float | None
    rank: int


class UnsupportedReport(TypedDict):
    """Words inside of a citation that stand in no context cited there (`nbce_rag.Answer.unsupported`).

    Attributes:
        start, end: `answer[start:end]`, in Unicode code points; `end` is exclusive.
        text: the words themselves.
        context_index: another context in which they stand; None if they stand in none.
    """

    start: int
    end: int
    text: str
    context_index: int | None


class CitationsReport(TypedDict):
    """Citations and what they lack: `Report.citations` and `Report.unsupported`, or some of them."""

    citations: list[CitationReport]
    unsupported: list[UnsupportedReport]


class UsageReport(TypedDict):
    """Tokens read and written.

    Attributes:
        prompt_tokens: prompt tokens over all rows, computed or reused.
        cached_tokens: how many of these were reused.
        generated_tokens: tokens of thought and answer, counted once.
        thought_tokens: how many of these are the thought's, with its marks.
        total_tokens: prompt and generated tokens.
        row_tokens: prompt tokens of each row, as in `nbce_rag.evidence.evidence.Usage`.
        row_passages: the contexts that each row reads; [] where that was not noted.
        row_steps: tokens of the answer that rows were stepped by, over all rows.
        slept_row_steps: those that rows were spared while they slept.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    thought_tokens: int
    total_tokens: int
    row_tokens: list[int]
    row_passages: list[list[int]]
    row_steps: int
    slept_row_steps: int


class TimingsReport(TypedDict):
    """Wall-clock seconds of `nbce_rag.evidence.evidence.Timings`; None where a step did not take place."""

    retrieve: float | None
    prefill: float | None
    first_token: float | None
    decode: float | None
    total: float | None


class Report(TypedDict):
    """An answer and what it rests on.

    Attributes:
        schema: version of this form. It changes when a key changes its meaning or goes.
        memory: mean share of the model's memory in the tokens (`nbce_rag.Answer.memory`).
        question, answer, thought, finish_reason, fusion, grounding, support, warnings: see `nbce_rag.Answer`.
        citations: cited stretches of the answer, ordered and disjoint.
        unsupported: numbers and names inside of citations that stand in no context cited there; they are not
            to be shown as cited.
        cited_ids: `id` of the contexts that are cited, in the order of their first citation, which is that
            of the numbers in a printed answer.
        contexts: the passages that were read, cited or not, in the order in which they were given.
        rows: rows that the model read: those of passages and the one without.
        sentence_rows: further rows, which read sentences of passages once more.
        usage: tokens.
        timings: seconds.
        conflicts: where contexts give several answers, who says what (`nbce_rag.evidence.conflict`).
        words: of a text that somebody else wrote, its words; [] of an answer.
        ablation: what becomes of the answer's likelihood without each context (`nbce_rag.evidence.ablation`);
            None where it was not computed.
    """

    schema: Literal[1]
    question: str
    answer: str
    thought: str
    finish_reason: str
    fusion: str
    grounding: float | None
    memory: float | None
    support: float | None
    citations: list[CitationReport]
    unsupported: list[UnsupportedReport]
    cited_ids: list[str]
    contexts: list[ContextReport]
    rows: int
    sentence_rows: int
    usage: UsageReport
    timings: TimingsReport
    warnings: list[str]
    conflicts: list[ConflictReport]
    words: list[WordReport]
    ablation: AblationReport | None


def report(answer: AnswerLike) -> Report:
    """An answer in plain JSON types.

    Numbers are Python's own and finite: one that is unknown, infinite or NaN is None, because JSON has no
    other word for it. A citation whose passage is not there is left out. So are the tokens, which would
    outweigh the rest many times over; they are in `Answer.tokens`.

    Args:
        answer: any answer.

    Returns:
        A dict of its own, which `json.dumps(..., allow_nan=False)` takes and which fits `report_schema()`.
    """
    contexts = [_context(answer, place) for place in range(len(answer.passages))]
    usage, timings = answer.usage, answer.timings
    return {
        "schema": 1,
        "question": answer.question,
        "answer": answer.text,
        "thought": answer.thought,
        "finish_reason": answer.finish_reason,
        "fusion": answer.fusion,
        "grounding": _number(answer.grounding),
        "memory": _number(answer.memory),
        "support": _number(answer.support),
        **citation_report(answer.citations, answer.unsupported, answer.passages),
        "cited_ids": [answer.passages[one.passage].id for one in cited_by_number(answer.passage_evidence)],
        "contexts": contexts,
        "rows": len(usage.row_tokens) - int(usage.sentence_rows),
        "sentence_rows": int(usage.sentence_rows),
        "usage": {
            "prompt_tokens": int(usage.prompt_tokens),
            "cached_tokens": int(usage.cached_tokens),
            "generated_tokens": int(usage.generated_tokens),
            "thought_tokens": int(usage.thought_tokens),
            "total_tokens": int(usage.prompt_tokens) + int(usage.generated_tokens),
            "row_tokens": [int(count) for count in usage.row_tokens],
            "row_passages": [[int(place) for place in row] for row in usage.row_passages],
            "row_steps": int(usage.row_steps),
            "slept_row_steps": int(usage.slept_row_steps),
        },
        "timings": {
            "retrieve": _number(timings.retrieve),
            "prefill": _number(timings.prefill),
            "first_token": _number(timings.first_token),
            "decode": _number(timings.decode),
            "total": _number(timings.total),
        },
        "warnings": list(answer.warnings),
        "conflicts": [conflict.to_dict() for conflict in answer.conflicts],
        "words": [
            {
                "start": int(word.start),
                "end": int(word.end),
                "text": word.text,
                "log_prob": _number(word.log_prob),
                "rank": int(word.rank),
            }
            for word in answer.words
        ],
        "ablation": None if answer.ablation is None else answer.ablation.to_dict(),
    }


def citation_report(
    citations: Sequence[Citation], unsupported: Sequence[UnsupportedWords], passages: Sequence[Passage]
) -> CitationsReport:
    """What `report` says of some citations, such as those of a piece (`nbce_rag.Piece`).

    Args:
        citations: of an answer; one whose passage is not there is left out.
        unsupported: the words of these that stand in no passage cited there.
        passages: what was read.
    """
    return {
        "citations": [
            {
                "start": int(citation.start),
                "end": int(citation.end),
                "text": citation.text,
                **_support(citation.supports[0], passages),
                "others": [
                    _support(other, passages) for other in supports_among(citation, len(passages))[1:]
                ],
            }
            for citation in citations
            if supports_among(citation, len(passages))
        ],
        "unsupported": [
            {"start": word.start, "end": word.end, "text": word.text, "context_index": word.passage}
            for word in unsupported
        ],
    }


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `report`, as `json.loads` reads it; a copy of its own each time."""
    schema: dict[str, Any] = json.loads(files(__package__).joinpath("report.schema.json").read_bytes())
    return schema


def _support(support: Support, passages: Sequence[Passage]) -> SupportReport:
    quote = quote_of(support, passages[support.passage])
    return {
        "context_index": int(support.passage),
        "passage_id": support.passage_id,
        "share": _number(support.share),
        "verbatim": bool(support.verbatim),
        "quote_start": None if quote is None else quote.start,
        "quote_end": None if quote is None else quote.end,
        "source_start": None if quote is None else quote.source_start,
        "source_end": None if quote is None else quote.source_end,
        "page": None if quote is None else quote.page,
    }


def _context(answer: AnswerLike, place: int) -> ContextReport:
    passage, evidence = answer.passages[place], answer.passage_evidence[place]
    return {
        "index": place,
        "id": passage.id,
        "title": passage.title,
        "source": passage.source,
        "start": None if passage.start is None else int(passage.start),
        "end": None if passage.end is None else int(passage.end),
        "score": _number(passage.score),
        "relevance": _number(passage.relevance),
        "weight": _number(evidence.weight),
        "tokens_won": evidence.tokens,
        "cited": evidence.cited,
        "text": passage.text,
        "metadata": _metadata(passage),
    }


def _metadata(passage: Passage) -> dict[str, Any]:
    metadata: Mapping[Any, Any] = passage.metadata
    plain = {}
    for name, value in metadata.items():
        if isinstance(name, str) and not name.startswith("_"):
            with suppress(TypeError, ValueError, RecursionError):  # what JSON cannot hold
                plain[name] = json.loads(json.dumps(value, allow_nan=False))
    return plain


def _number(value: float | None) -> float | None:
    """A finite Python float, or None where there is none."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
