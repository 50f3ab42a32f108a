"""Choosing a token from fused scores, through transformers' own logits processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..options import Options
from ..prompts.tokenizer import Tokenizer

__all__ = ["ForcedTokens", "Sampler", "TokenChooser"]

if TYPE_CHECKING:
    from .grammar import Constraint

NEG_INF = float("-inf")


class TokenChooser(Protocol):
    """What the decoder asks for each token of one answer."""

    def allowed(self) -> Tensor | None:
        """[V] bool of the tokens that a constraint allows next, or None for all."""

    def process(self, log_probs: Tensor) -> Tensor:
        """[V] fused log-probs after penalties and bans."""

    def choose(self, scores: Tensor) -> int:
        """A token from processed scores [V] with at least one finite entry; it counts as chosen."""


class Sampler:
    """Greedy or random choice with penalties and bans; see `nbce_rag.options.Options` for the numbers.

    Penalties and bans run over the whole vocabulary. Temperature, top-k, top-p and min-p run over the
    tokens that fusion left, usually a few dozen of 262,144: they treat every token alike, so the result
    is the same and no sort over the vocabulary is needed.

    Args:
        options: sampling options, checked.
        tokenizer: spells out `bad_words`.
        eos_ids: tokens that end an answer, never banned as part of a bad word.
        constraint: a grammar (see `nbce_rag.decoding.grammar`), or None.
    """

    def __init__(
        self,
        options: Options,
        tokenizer: Tokenizer,
        eos_ids: frozenset[int],
        constraint: Constraint | None = None,
    ) -> None:
        self.ids: list[int] = []
        self._constraint = constraint
        # Far below any difference of scores; smaller ones overflow when scores are divided by them.
        self._greedy = options.temperature < 1e-6
        self._generator = torch.Generator()
        if options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(options.seed)
        self._processors = LogitsProcessorList()
        if options.repetition_penalty != 1:
            self._processors.append(RepetitionPenaltyLogitsProcessor(float(options.repetition_penalty)))
        if options.no_repeat_ngram_size:
            self._processors.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
        if options.bad_words:
            # A word is spelled by other tokens at the start of a text than after a blank.
            spellings = {tokenizer.encode(form) for word in options.bad_words for form in (word, " " + word)}
            banned = [list(ids) for ids in sorted(spellings) if ids]
            self._processors.append(NoBadWordsLogitsProcessor(banned, eos_token_id=sorted(eos_ids) or None))
        self._warpers = LogitsProcessorList()
        if not self._greedy:
            if options.temperature != 1:
                self._warpers.append(TemperatureLogitsWarper(float(options.temperature)))
            if options.top_k:
                self._warpers.append(TopKLogitsWarper(options.top_k))
            if options.top_p < 1:
                self._warpers.append(TopPLogitsWarper(float(options.top_p)))
            if options.min_p > 0:
                self._warpers.append(MinPLogitsWarper(float(options.min_p)))

    @property
    def finished(self) -> bool:
        """Whether a constraint leaves nothing to add."""
        return self._constraint is not None and self._constraint.finished

    def allowed(self) -> Tensor | None:
        return None if self._constraint is None else self._constraint.allowed()

    def process(self, log_probs: Tensor) -> Tensor:
        if not self._processors:
            return log_probs
        ids: Any = torch.tensor([self.ids], dtype=torch.long, device=log_probs.device)
        scores: Tensor = self._processors(ids, log_probs[None].clone())[0]
        return scores

    def choose(self, scores: Tensor) -> int:
        if self._greedy:
            token = int(scores.argmax())
        else:
            support = (scores > NEG_INF).nonzero()[:, 0]
            ids: Any = torch.tensor([self.ids], dtype=torch.long)
            warped = self._warpers(ids, scores[support].float().cpu()[None])[0]
            drawn = torch.multinomial(warped.softmax(-1), 1, generator=self._generator)
            token = int(support[drawn])
        self.ids.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)
        return token


class ForcedTokens:
    """Chooses given tokens one after the other, whatever their scores: for scoring a given text."""

    def __init__(self, ids: tuple[int, ...]) -> None:
        self._ids = ids
        self._next = 0

    def allowed(self) -> Tensor | None:
        return None

    def process(self, log_probs: Tensor) -> Tensor:
        return log_probs

    def choose(self, scores: Tensor) -> int:
        self._next += 1
        return self._ids[self._next - 1]

    @property
    def finished(self) -> bool:
        return self._next == len(self._ids)
