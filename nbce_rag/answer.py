"""What a question comes back with: the text, the evidence behind every token, and where it came from.

Everything here is frozen, holds plain Python values and imports neither torch nor numpy, so that an
answer can be kept, compared, sent and shown without the model that gave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .passages import Passage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Answer", "Citation", "Piece", "Timings", "TokenEvidence", "Usage"]


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """One generated token, and which passages stood behind it.

    Attributes:
        id: The token's id in the model's vocabulary.
        text: The text that this token completed. It is "" for a token that ends in the middle of a
            character; the token that completes the character has all of it.
        start: Where `text` begins in `Answer.text`, in characters.
        end: Where `text` ends in `Answer.text`, in characters; exclusive.
        logprob: Log-probability in nats under the fused, normalised distribution, before temperature.
        weights: Evidence over `Answer.passages`, in their order. It sums to 1; `()` without passages.
        gain: What the passages added over no passage: log sum_k w_k p_k(y) - log p_0(y), in nats, for
            the chosen token y, the weights w before it and the row without a passage p_0.
        entropies: Entropy of each row's distribution before this token, in nats, the row without a passage
            first; with `passages_per_row` or `joint_row` there are not as many rows as passages. NaN for
            a row that `drop_rows_after` dropped. `()` unless it was asked for with `entropies=True`.
    """

    id: int
    text: str
    start: int
    end: int
    logprob: float
    weights: tuple[float, ...]
    gain: float
    entropies: tuple[float, ...] = ()

    @property
    def passage(self) -> int | None:
        """Index in `Answer.passages` of the leading passage, the lowest on a tie; None without passages."""
        return leading(self.weights) if self.weights else None


@dataclass(frozen=True, slots=True)
class Citation:
    """A stretch of the answer that one passage supports. Never begins or ends inside a word.

    Attributes:
        start: Where the stretch begins in `Answer.text`, in characters.
        end: Where it ends in `Answer.text`, in characters; exclusive.
        passage_id: `Passage.id` of the passage cited.
        share: Mean evidence of that passage over the stretch, in (0, 1].
    """

    start: int
    end: int
    passage_id: str
    share: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written.

    Attributes:
        prompt_tokens: Prompt tokens over all rows, whether computed for this question or reused.
        cached_tokens: How many of these were reused from stored keys and values.
        generated_tokens: Tokens of the answer, counted once, not once a row.
        row_tokens: Prompt tokens of each row; the row without a passage comes first, then the passages' rows,
            then those that hold a sentence.
        row_passages: Which passages each row reads, by their places in `Answer.passages`.
        sentence_rows: How many rows, the last ones, read sentences of passages that have rows already.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    row_tokens: tuple[int, ...]
    row_passages: tuple[tuple[int, ...], ...] = ()
    sentence_rows: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock seconds. None stands for a step that did not take place.

    Attributes:
        retrieve: Search for the passages; None when they were given.
        prefill: Reading the prompts of all rows.
        first_token: From the start of the answer to its first token; None when there is no token.
        decode: From the end of the prefill to the last token.
        total: All of it.
    """

    retrieve: float | None
    prefill: float
    first_token: float | None
    decode: float
    total: float


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

    @property
    def cited_passages(self) -> tuple[Passage, ...]:
        """The passages that are cited, each once, in the order of their first citation."""
        by_id: dict[str, Passage] = {}
        for passage in self.passages:
            by_id.setdefault(passage.id, passage)
        cited = dict.fromkeys(citation.passage_id for citation in self.citations)
        return tuple(by_id[id_] for id_ in cited if id_ in by_id)

    def to_html(self) -> str:
        """The answer as an HTML page of its own, readable without colour and without a network."""
        from .view import answer_page

        return answer_page(self)

    def plot(self) -> Figure:
        """A heat map of tokens and passages over a line of entropies; see `nbce_rag.view.plot`.

        Raises:
            MissingDependencyError: matplotlib is not installed (extra `[plot]`).
        """
        from .view import plot

        return plot(self)

    def __str__(self) -> str:
        """The text with numbered marks and the sources below, as `nbce-rag ask` prints it to a file."""
        from .terminal import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from .view import answer_html

        return answer_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
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


def leading(weights: Sequence[float]) -> int:
    """Index of the largest of one or more weights, the lowest one on a tie."""
    return max(range(len(weights)), key=weights.__getitem__)


def _number(value: float | None) -> float | None:
    """A finite Python float, or None where there is none."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None
