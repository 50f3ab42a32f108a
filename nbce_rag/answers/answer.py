"""What a question comes back with: the text, the evidence behind every token, and where it came from.

Everything here is frozen, holds plain Python values and imports neither torch nor numpy, so that an
answer can be kept, compared, sent and shown without the model that gave it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..evidence.evidence import Citation, Timings, TokenEvidence, Usage
from ..evidence.passage_evidence import PassageEvidence, cited_by_number, evidence_by_passage
from ..passages import Passage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Answer", "Piece", "Printer"]


class Printer(Protocol):
    """What IPython hands to `_repr_pretty_`."""

    def text(self, text: str, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, with its evidence and its sources.

    Attributes:
        question: The question as it was asked.
        text: The answer.
        tokens: Evidence for each token. Their texts joined are `text`.
        citations: Stretches of `text` and the passages they rest on, ordered and disjoint.
        passages: The passages that were read, in the order of `TokenEvidence.weights`.
        usage: Tokens read and written.
        timings: Where the time went.
        finish_reason: "stop" (the model or a stop string ended the answer), "length" (`max_tokens` was
            reached) or "no_evidence" (no passage supports an answer, and the text says so).
        grounding: Mean of the tokens' gains, in nats a token: how far the passages raised the answer
            over no passage. None without passages.
        fusion: Name of the fusion rule.
        warnings: What the reader should know, in sentences.
        passage_evidence: How much of the answer rests on each passage, in the order of `passages`. It
            follows from the others and cannot be given.
    """

    question: str
    text: str
    tokens: tuple[TokenEvidence, ...]
    citations: tuple[Citation, ...]
    passages: tuple[Passage, ...]
    usage: Usage
    timings: Timings
    finish_reason: str
    grounding: float | None
    fusion: str
    warnings: tuple[str, ...]
    passage_evidence: tuple[PassageEvidence, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        evidence = evidence_by_passage(self.text, self.tokens, self.citations, len(self.passages))
        object.__setattr__(self, "passage_evidence", evidence)

    @property
    def cited_passages(self) -> tuple[Passage, ...]:
        """The passages that are cited, each once, in the order of their first citation."""
        return tuple(self.passages[one.passage] for one in cited_by_number(self.passage_evidence))

    def to_html(self) -> str:
        """The answer as an HTML page of its own, readable without colour and without a network."""
        from ..view import answer_page

        return answer_page(self)

    def plot(self) -> Figure:
        """A heat map of tokens and passages over a line of entropies; see `nbce_rag.view.plot`.

        Raises:
            MissingDependencyError: matplotlib is not installed (extra `[plot]`).
        """
        from ..view import plot

        return plot(self)

    def __str__(self) -> str:
        """The text with numbered marks and the sources below, as `nbce-rag ask` prints it to a file."""
        from ..view.plain import answer_text

        return answer_text(self)

    def _repr_html_(self) -> str:
        from ..view import answer_html

        return answer_html(self)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        """What IPython shows where there is no HTML; the `repr` holds every token and passage."""
        printer.text(str(self))

    def to_dict(self) -> dict[str, Any]:
        """The answer in plain JSON types: what `nbce-rag ask --json` prints.

        Returns:
            A dict of `question`, `answer`, `citations` (each `start`, `end`, `passage_id`, `share`),
            `passages` (each `id`, `score`, `source`, `title`, `text`), `usage`, `timings`,
            `finish_reason`, `grounding`, `fusion` and `warnings`. Numbers are Python's own and finite:
            one that is unknown, infinite or NaN is None, because JSON has no other word for it. The
            tokens are left out; they would outweigh the rest many times over.
        """
        return {
            "question": self.question,
            "answer": self.text,
            "citations": [
                {
                    "start": int(citation.start),
                    "end": int(citation.end),
                    "passage_id": citation.passage_id,
                    "share": _number(citation.share),
                }
                for citation in self.citations
            ],
            "passages": [
                {
                    "id": passage.id,
                    "score": _number(passage.score),
                    "source": passage.source,
                    "title": passage.title,
                    "text": passage.text,
                }
                for passage in self.passages
            ],
            "usage": {
                "prompt_tokens": int(self.usage.prompt_tokens),
                "cached_tokens": int(self.usage.cached_tokens),
                "generated_tokens": int(self.usage.generated_tokens),
                "row_tokens": [int(count) for count in self.usage.row_tokens],
            },
            "timings": {
                "retrieve": _number(self.timings.retrieve),
                "prefill": _number(self.timings.prefill),
                "first_token": _number(self.timings.first_token),
                "decode": _number(self.timings.decode),
                "total": _number(self.timings.total),
            },
            "finish_reason": self.finish_reason,
            "grounding": _number(self.grounding),
            "fusion": self.fusion,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream yields: the next bit of the answer.

    The texts of all pieces joined are `Answer.text`.

    Attributes:
        text: New text. It may be "" while a character or a possible stop string is incomplete.
        tokens: The tokens that came since the last piece.
        answer: The whole answer, on the last piece only; None before.
    """

    text: str
    tokens: tuple[TokenEvidence, ...]
    answer: Answer | None


def _number(value: float | None) -> float | None:
    """A finite Python float, or None where there is none."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
