"""What a question comes back with: the text, the evidence behind every token, and where it came from.

Everything here is frozen, holds plain Python values and imports neither torch nor numpy, so that an
answer can be kept, compared, sent and shown without the model that gave it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from ..evidence.ablation import Ablation
from ..evidence.calibration import SupportNumbers
from ..evidence.conflict import Conflict
from ..evidence.evidence import Citation, Support, Timings, TokenEvidence, Usage
from ..evidence.passage_evidence import PassageEvidence, cited_by_number, evidence_by_passage
from ..evidence.quote import Quote, quote_of
from ..evidence.spelling import Spelling
from ..evidence.unsupported import UnsupportedWords, unsupported_words
from ..evidence.word_likelihood import WordLikelihood
from ..passages import Passage
from .report import Report, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..request import Request

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
        finish_reason: "stop" (the model or a stop string ended the answer, or it went round in circles, which
            a warning says), "length" (`max_tokens` was reached), "no_evidence" (no passage supports an
            answer, and the text says so) or "given" (somebody else wrote the text, see `NBCE.attribute`; the
            `logprob` of a token that the fusion rule would have excluded is -inf).
        grounding: Mean of the tokens' gains, in nats a token: how far the passages raised the answer
            over no passage. None without passages.
        fusion: The fusion rule, with the numbers that are not at their defaults: "posterior(epsilon=0.2)".
        warnings: What the reader should know, in sentences.
        thought: What the model thought before it answered (`nbce_rag.options.Options.thinking`); "" where it
            did not. It is no part of `text`, and nothing in it is cited.
        parts: Of a question with several parts (`nbce_rag.options.Options.parts`) the answer to each, in
            their order: `text` is the list of theirs, and evidence, citations, usage and timings are theirs
            together. () of any other question.
        words: Of a given text its words, with how likely the passages make each; () of one that was decoded.
        ablation: What becomes of its likelihood without each passage, once `NBCE.ablate` has computed it.
        conflicts: Where passages give other answers than this one, who says what; one a question or part of
            one, and () where none was seen or it was not looked for (`nbce_rag.options.Options.conflicts`).
        request: What it is the answer to, for `NBCE.ablate`; None where it was made by hand, copied or
            pickled, since options may hold what cannot be sent.
        support: Where a calibration was made (`NBCE.calibrate`), the place of the question among the
            answerable ones of that: the share of them with no more support, in (0, 1]. None without one.
            Little of it means that no passage is about the question; much of it does not mean that one
            answers it. Of a question with several parts the least of theirs.
        support_numbers: What support is made of, on no common scale; None without passages, and of a question
            with several parts, which have their own.
        spelling: All tokens that were read to the end of `text`, those without text of their own included,
            which `tokens` leaves out; None where it was made by hand, or says nothing but the abstention.
        passage_evidence: How much of the answer rests on each passage, in the order of `passages`. It
            follows from the others and cannot be given.
        unsupported: Numbers and names inside of citations that stand in no passage cited there, ordered and
            disjoint; they count as uncited. A last word that `max_tokens` may have cut off is left out. That
            a word stands in a passage does not say that the passage proves it. It cannot be given either.
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
    thought: str = ""
    words: tuple[WordLikelihood, ...] = ()
    ablation: Ablation | None = None
    parts: tuple[Answer, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    request: Request | None = field(default=None, repr=False, compare=False)
    support: float | None = None
    support_numbers: SupportNumbers | None = None
    spelling: Spelling | None = field(default=None, repr=False, compare=False)
    passage_evidence: tuple[PassageEvidence, ...] = field(init=False, repr=False, compare=False)
    unsupported: tuple[UnsupportedWords, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        is_cut = self.finish_reason == "length"
        absent = unsupported_words(self.text, self.citations, self.passages, is_cut)
        object.__setattr__(self, "unsupported", absent)
        count = len(self.passages)
        evidence = evidence_by_passage(self.text, self.tokens, self.citations, count, absent)
        object.__setattr__(self, "passage_evidence", evidence)

    def __getstate__(self) -> list[Any]:
        return [None if one.name == "request" else getattr(self, one.name) for one in fields(self)]

    @property
    def cited_passages(self) -> tuple[Passage, ...]:
        """The passages that are cited, each once, in the order of their first citation."""
        return tuple(self.passages[one.passage] for one in cited_by_number(self.passage_evidence))

    @property
    def memory(self) -> float | None:
        """Mean share of the model's memory in the tokens (`TokenEvidence.memory`); None without any."""
        shares = [token.memory for token in self.tokens if token.memory is not None]
        return math.fsum(shares) / len(shares) if shares else None

    def quote(self, support: Citation | Support) -> Quote | None:
        """Where a cited passage holds the stretch word for word; None where it does not.

        Args:
            support: one of `citations`, of which the leading passage counts, or of its `supports`.
        """
        return quote_of(support, self.passages[support.passage])

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

    def to_dict(self) -> Report:
        """The answer in plain JSON types (`nbce_rag.answers.report`): what `nbce-rag ask --json` prints."""
        return report(self)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stream yields: the next bit of the answer.

    The texts of all pieces joined are `Answer.text`, their thoughts `Answer.thought`.

    Attributes:
        text: New text. It may be "" while a character or a possible stop string is incomplete, or the
            model thinks.
        tokens: The tokens that came since the last piece.
        answer: The whole answer, on the last piece only; None before.
        thought: New text of the thought, which comes before the answer.
        citations: The citations that are certain since the last piece (`CitationStream`): behind their
            stretch, and those of a short answer on the last piece. Those of all pieces joined are
            `Answer.citations`; none is taken back.
        unsupported: The words inside of these that stand in no passage cited there; joined they are
            `Answer.unsupported`.
    """

    text: str
    tokens: tuple[TokenEvidence, ...]
    answer: Answer | None
    thought: str = ""
    citations: tuple[Citation, ...] = ()
    unsupported: tuple[UnsupportedWords, ...] = ()
