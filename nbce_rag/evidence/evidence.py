"""What stood behind each token of an answer, what is cited for it, and what it took.

Everything here is frozen, holds plain Python values and imports neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

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
        row_log_probs: Log-probability of this token in nats by the row without a passage, and by the best
            row of each passage, in their order; -inf where no row of a passage was read for it (it slept
            or was dropped). `()` where that was not noted. Citations use it to tell passages that say the
            same; it does not count when tokens are compared.
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
    row_log_probs: tuple[float, ...] = field(default=(), compare=False, repr=False)
    top: tuple[tuple[str, float], ...] = ()

    @property
    def memory(self) -> float | None:
        """The share of the model's memory in this token, in [0, 1]; None without passages.

        p_0(y) / (p_0(y) + sum_k w_k p_k(y)) for the chosen token y: the probability that the row without a
        passage wrote it and not the mixture of the passages' rows, had a fair coin decided between the two
        (by Bayes' rule, as `weights` are). It is 1 / (1 + exp(gain)). At 0.5 the passages changed nothing;
        above, they made the token less likely, which `weights` cannot say: these sum to 1 whatever the
        passages hold. 0.5 too where `gain` is 0 because it is not known.
        """
        if not self.weights:
            return None
        # Beyond this exp would overflow, and 1 is what is left.
        return 1.0 / (1.0 + math.exp(min(self.gain, 700.0)))

    @property
    def passage(self) -> int | None:
        """Index in `Answer.passages` of the leading passage, the lowest on a tie; None without passages."""
        return leading(self.weights) if self.weights else None


@dataclass(frozen=True, slots=True)
class Support:
    """A passage that stands behind a stretch of the answer.

    Attributes:
        passage: Its place in `Answer.passages`; of several with one id, or that hold the stretch at the same
            place of one source (overlapping windows), the first.
        passage_id: Its `Passage.id`.
        share: Its share of the evidence for the stretch, in (0, 1].
        verbatim: Whether all of the stretch stands word for word in it, as
            `nbce_rag.evidence.verbatim` compares: NFKC, case folding, no invisible characters, runs of white
            space as one space, no word cut.
        quote_start: Where it stands in `Passage.text` the first time, in characters; None unless verbatim.
        quote_end: Where that ends; exclusive.
    """

    passage: int
    passage_id: str
    share: float
    verbatim: bool
    quote_start: int | None = None
    quote_end: int | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A stretch of the answer and the passages that support it. Never begins or ends inside a word.

    Its own attributes speak of the passage with the largest share, `others` of those besides. In a short
    answer a citation is a run of words of one passage, or of several that say the same; in a longer one it
    is a sentence, a clause, a list item or lines of code (`nbce_rag.evidence.citations`). The shares of the
    passages together are what the citation was decided by.

    Attributes:
        start: Where the stretch begins in `Answer.text`, in characters.
        end: Where it ends in `Answer.text`, in characters; exclusive.
        text: The stretch itself, `Answer.text[start:end]`.
        passage: Place in `Answer.passages` of the leading passage; of several with one id, the first.
        passage_id: `Passage.id` of the leading passage.
        share: Its share of the evidence for the stretch, in (0, 1].
        verbatim: Whether `text` stands word for word in it, as in `Support`.
        others: Further passages that are cited for the stretch, the largest share first.
        quote_start, quote_end: Where it stands in the leading passage, as in `Support`.
    """

    start: int
    end: int
    text: str
    passage: int
    passage_id: str
    share: float
    verbatim: bool
    others: tuple[Support, ...] = ()
    quote_start: int | None = None
    quote_end: int | None = None

    @property
    def supports(self) -> tuple[Support, ...]:
        """All passages that are cited for the stretch, the leading one first."""
        first = Support(
            self.passage, self.passage_id, self.share, self.verbatim, self.quote_start, self.quote_end
        )
        return (first, *self.others)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written.

    Attributes:
        prompt_tokens: Prompt tokens over all rows, whether computed for this question or reused.
        cached_tokens: How many of these were reused from stored keys and values.
        generated_tokens: Tokens of thought and answer, counted once, not once a row.
        row_tokens: Prompt tokens of each row; the row without a passage comes first, then the passages' rows,
            then those that hold a sentence. Of a question with several parts the rows of one kind stand
            together, in the order of the parts.
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
        prefill: Waiting for its turn, and reading the prompts of all rows.
        first_token: From the question to its first token; None when there is no token, or the text was given.
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
