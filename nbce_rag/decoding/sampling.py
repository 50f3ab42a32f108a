"""Choosing a token from fused scores, through transformers' own logits processors."""

from __future__ import annotations

import math
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

    def sure(self, low: Tensor, scores: Tensor, high: Tensor) -> int | None:
        """The token that `choose` would take from any scores between two bounds, None if it may be several.

        Args:
            low: [V] processed lower bounds, at least one of them finite.
            scores: [V] some processed scores between them.
            high: [V] processed upper bounds.
        """


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
        self.follow(token)
        return token

    def follow(self, token: int) -> None:
        """A token counts as chosen, whoever chose it."""
        self.ids.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def sure(self, low: Tensor, scores: Tensor, high: Tensor) -> int | None:
        support = (high > NEG_INF).nonzero()[:, 0]
        low, scores, high = (values[support].cpu().double() for values in (low, scores, high))
        if self._greedy:
            best = int(scores.argmax())
            others = torch.cat([high[:best], high[best + 1 :]])
            return int(support[best]) if not len(others) or bool(low[best] > others.max()) else None
        # Which token is drawn depends on how many there are to draw from.
        if bool((low == NEG_INF).any() | (high == math.inf).any()):
            return None
        off = float(torch.maximum(high - scores, scores - low).max())
        ids: Any = torch.tensor([self.ids], dtype=torch.long)
        warped = scores.float()[None]
        for warper in self._warpers:
            before, warped = warped, warper(ids, warped)
            if isinstance(warper, TemperatureLogitsWarper):
                off /= warper.temperature
            elif not _is_settled(warper, before[0].double(), warped[0] > NEG_INF, off):
                return None
        drawn = _drawn(warped.softmax(-1), self._generator, off)
        return None if drawn is None else int(support[drawn])


def _is_settled(warper: Any, scores: Tensor, kept: Tensor, off: float) -> bool:
    """Whether a warper keeps the same tokens of all scores that are off by so much at most.

    Args:
        warper: cuts off the least probable tokens.
        scores: [N] before it, -inf for what was cut already.
        kept: [N] what it keeps of them.
        off: nats.
    """
    p = scores.softmax(-1)
    cut = ~kept & (scores > NEG_INF)
    if isinstance(warper, MinPLogitsWarper):
        distance = (p.log() - p.max().log() - math.log(warper.min_p)).abs()
        return bool((distance[scores > NEG_INF] > 2 * off).all())
    if bool(cut.any()) and not bool(scores[kept].min() - scores[cut].max() > 2 * off):
        return False
    if isinstance(warper, TopPLogitsWarper):
        # It keeps a token if what is below it, and the token itself, is more than 1 - top_p.
        below, slack = float(p[cut].sum()), math.expm1(2 * off) + 1e-6
        is_enough = not bool(cut.any()) or below + slack < 1 - warper.top_p
        return is_enough and (int(kept.sum()) == 1 or below + float(p[kept].min()) - slack > 1 - warper.top_p)
    return isinstance(warper, TopKLogitsWarper)


def _drawn(p: Tensor, generator: torch.Generator, off: float) -> int | None:
    """The index that the generator's next draw from p [1, N] takes, None if it may be another one.

    torch draws one number of an exponential distribution a token, and takes the token with the largest
    p over that number. Where it does not, nothing is known. The generator stays as it is.

    Args:
        p: probabilities.
        generator: on the CPU.
        off: nats by which the log of each may be off, before they are normalised.
    """
    first, second = torch.Generator(), torch.Generator()
    for copy in (first, second):
        copy.set_state(generator.get_state())
    drawn = int(torch.multinomial(p, 1, generator=first))
    race = (p.log() - torch.empty_like(p).exponential_(1, generator=second).log())[0].double()
    order = race.argsort(descending=True)
    if int(order[0]) != drawn:
        return None
    return drawn if len(order) == 1 or bool(race[order[0]] - race[order[1]] > 2 * off + 1e-5) else None


class ForcedTokens:
    """Chooses given tokens one after the other, whatever their scores: for scoring a given text."""

    def __init__(self, ids: tuple[int, ...]) -> None:
        self._ids = ids
        self._next = 0

    def allowed(self) -> Tensor | None:
        return None

    def process(self, log_probs: Tensor) -> Tensor:
        return log_probs

    def sure(self, low: Tensor, scores: Tensor, high: Tensor) -> int | None:
        return self._ids[self._next]

    def choose(self, scores: Tensor) -> int:
        self._next += 1
        return self._ids[self._next - 1]

    @property
    def finished(self) -> bool:
        return self._next == len(self._ids)
