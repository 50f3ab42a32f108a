"""What stood behind each token of an answer, what is cited for it, and what it took.

Everything here is frozen, holds plain Python values and imports neither torch nor numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Citation", "Support", "Timings", "TokenEvidence", "Usage", "leading"]


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
        top: The most probable tokens at this place, the best first, each as it is spelled, with its log-prob
            under the same distribution. `()` unless it was asked for with `top_logprobs`.
    """

    id: int
    text: str
    start: int
    end: int
    logprob: float
    weights: tuple[float, ...]
    gain: float
    entropies: tuple[float, ...] = ()
    top: tuple[tuple[str, float], ...] = ()

    @property
    def passage(self) -> int | None:
        """Index in `Answer.passages` of the leading passage, the lowest on a tie; None without passages."""
        return leading(self.weights) if self.weights else None


@dataclass(frozen=True, slots=True)
class Support:
    """A passage that stands behind a stretch of the answer.

    Attributes:
        passage: Its place in `Answer.passages`; of several with one id, the first.
        passage_id: Its `Passage.id`.
        share: Its share of the evidence for the stretch, in (0, 1].
        verbatim: Whether all of the stretch stands word for word in it, as
            `nbce_rag.evidence.verbatim` compares: NFKC, case folding, runs of white space as one space,
            no word cut.
    """

    passage: int
    passage_id: str
    share: float
    verbatim: bool


@dataclass(frozen=True, slots=True)
class Citation:
    """A stretch of the answer and the passages that support it. Never begins or ends inside a word.

    Its own attributes speak of the passage with the largest share, `others` of those besides. In a short
    answer a citation is a run of words of one passage; in a longer one it is a sentence, a clause, a list
    item or lines of code, and several passages may stand behind it (`nbce_rag.evidence.citations`).

    Attributes:
        start: Where the stretch begins in `Answer.text`, in characters.
        end: Where it ends in `Answer.text`, in characters; exclusive.
        text: The stretch itself, `Answer.text[start:end]`.
        passage: Place in `Answer.passages` of the leading passage; of several with one id, the first.
        passage_id: `Passage.id` of the leading passage.
        share: Its share of the evidence for the stretch, in (0, 1].
        verbatim: Whether `text` stands word for word in it, as in `Support`.
        others: Further passages that are cited for the stretch, the largest share first.
    """

    start: int
    end: int
    text: str
    passage: int
    passage_id: str
    share: float
    verbatim: bool
    others: tuple[Support, ...] = ()

    @property
    def supports(self) -> tuple[Support, ...]:
        """All passages that are cited for the stretch, the leading one first."""
        return (Support(self.passage, self.passage_id, self.share, self.verbatim), *self.others)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written.

    Attributes:
        prompt_tokens: Prompt tokens over all rows, whether computed for this question or reused.
        cached_tokens: How many of these were reused from stored keys and values.
        generated_tokens: Tokens of thought and answer, counted once, not once a row.
        row_tokens: Prompt tokens of each row; the row without a passage comes first, then the passages' rows,
            then those that hold a sentence.
        row_passages: Which passages each row reads, by their places in `Answer.passages`.
        sentence_rows: How many rows, the last ones, read sentences of passages that have rows already.
        thought_tokens: How many of the generated tokens are the thought's, with its marks.
        row_steps: Tokens of the answer that rows were stepped by, over all rows; the last token is not read.
        slept_row_steps: Those that rows were spared, since they slept and could not change what was chosen.
    """

    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    row_tokens: tuple[int, ...]
    row_passages: tuple[tuple[int, ...], ...] = ()
    sentence_rows: int = 0
    thought_tokens: int = 0
    row_steps: int = 0
    slept_row_steps: int = 0


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


def leading(weights: Sequence[float]) -> int:
    """Index of the largest of one or more weights, the lowest one on a tie."""
    return max(range(len(weights)), key=weights.__getitem__)
