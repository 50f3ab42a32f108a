"""The lock-step loop: all rows of all questions step together, each question fused apart.

At every step the rows of a question give n + 1 distributions, a rule fuses them, one token is chosen,
and that token is appended to every row of the question.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..fusion import Fused, FusionState, Rule, responsibilities
from ..fusion.base import NEG_INF
from ..fusion.truncation import nucleus
from ..models.model import Rows, Step
from .drafting import PromptLookup
from .sampling import TokenChooser

__all__ = ["Group", "LockstepDecoder"]

# Rows of finished questions run along until they are this share of the batch; dropping them copies the rest.
_DEAD_SHARE = 0.25
_NEGLIGIBLE = 1e-3  # evidence below which a row does not matter
_DRAFT_BYTES = 256 * 2**20  # of logits in a pass over a draft


@dataclass(eq=False)
class Group:
    """One question in the batch.

    Attributes:
        rows: its n + 1 rows in the batch, row 0 first; n may be 0.
        rule: fuses them; not used when n = 0.
        chooser: picks its tokens.
        state: what the rule may know, with G = 1 (n columns).
        entropies: whether its steps carry the entropy of each row.
        lookup: drafts tokens while this is the only question left, or None.
        drop_after: rows with negligible evidence for this many tokens in a row are dropped; 0 keeps all.
    """

    rows: tuple[int, ...]
    rule: Rule
    chooser: TokenChooser
    state: FusionState = field(default_factory=FusionState)
    lookup: PromptLookup | None = None
    drop_after: int = 0
    entropies: bool = False
    answer: list[int] = field(default_factory=list, init=False)
    live_rows: list[int] = field(init=False)
    negligible: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.passages = len(self.rows) - 1
        self.live_rows = list(range(self.passages))  # passage rows that are still read
        self.negligible = [0] * self.passages  # for how many tokens in a row

    @property
    def dropped(self) -> int:
        """How many passage rows were dropped."""
        return self.passages - len(self.live_rows)

    def drop_negligible(self) -> None:
        """Forget rows that have not mattered; the caller drops them from the batch."""
        stay = [i for i, row in enumerate(self.live_rows) if self.negligible[row] < self.drop_after]
        if not self.drop_after or len(stay) == len(self.live_rows) or not stay:
            return
        self.rows = (self.rows[0], *(self.rows[i + 1] for i in stay))
        self.live_rows = [self.live_rows[i] for i in stay]
        self.state = self.state.keep(torch.tensor(stay))

    def by_row(self, values: Tensor) -> tuple[float, ...]:
        """Values of the rows that are still read, row 0 first, in the places of all rows."""
        first, *others = values.tolist()
        return (first, *self._in_place(others, math.nan))

    def notice(self, token: int, evidence: Tensor) -> tuple[float, ...]:
        """Take in a chosen token and its evidence over the kept rows; the evidence over all passages."""
        self.answer.append(token)
        shares = evidence.tolist()
        for row, share in zip(self.live_rows, shares, strict=True):
            self.negligible[row] = self.negligible[row] + 1 if share < _NEGLIGIBLE else 0
        return self._in_place(shares, 0.0)

    def _in_place(self, values: Sequence[float], dropped: float) -> tuple[float, ...]:
        """Values over the kept passage rows into one a passage row."""
        of_row = dict(zip(self.live_rows, values, strict=True))
        return tuple(of_row.get(row, dropped) for row in range(self.passages))


class LockstepDecoder:
    """Decodes a batch of questions step by step; a `nbce_rag.models.model.Decoder` over rows of any backend.

    Args:
        rows: all rows, prompts read.
        log_probs: [R, V] of the first token.
        groups: the questions; their rows index the batch.
    """

    def __init__(self, rows: Rows, log_probs: Tensor, groups: Sequence[Group]) -> None:
        self._rows = rows
        self._vocab_size = log_probs.shape[-1]
        self._log_probs: Tensor | None = log_probs
        self._groups = list(groups)
        self._active = dict.fromkeys(range(len(groups)))
        self._draft: tuple[int, ...] = ()  # tokens that were read and are not yet chosen
        self._ahead: list[Tensor] = []  # [R, V] behind each of them
        self._proposed: tuple[PromptLookup, int] | None = None  # who drafted how many

    @property
    def active(self) -> list[int]:
        """Indexes of the questions that are still being answered."""
        return list(self._active)

    def finish(self, question: int) -> None:
        """No more tokens for this question."""
        self._active.pop(question, None)

    def dropped(self, question: int) -> int:
        """How many of a question's passage rows were dropped."""
        return self._groups[question].dropped

    def step(self) -> list[Step]:
        """One token for every active question, in their order."""
        if not self._active:
            return []
        log_probs = self._log_probs if self._log_probs is not None else self._advance()
        self._log_probs = None
        steps: list[Step] = []
        for cohort in self._cohorts():
            steps += self._choose(cohort, log_probs)
        return sorted(steps, key=lambda step: step.question)

    def _advance(self) -> Tensor:
        """Append every question's last token to its rows; next log-probs [R, V]."""
        if self._draft:
            expected, *rest = self._draft
            if self._groups[next(iter(self._active))].answer[-1] == expected:
                self._draft = tuple(rest)
                return self._ahead.pop(0)
            self._rows.rewind(len(self._draft))
        self._judge()
        self._drop_rows()
        self._draft = self._drafted()
        ids = torch.zeros(len(self._rows), 1 + len(self._draft), dtype=torch.long)
        for index in self._active:
            group = self._groups[index]
            ids[list(group.rows)] = torch.tensor([group.answer[-1], *self._draft])
        log_probs, *self._ahead = self._rows.step(ids).unbind(1)
        return log_probs

    def _drafted(self) -> tuple[int, ...]:
        """Tokens to verify with the next pass.

        Only for one question at a time: of several, each would accept another number of tokens, and
        their rows would no longer end at one column.
        """
        if len(self._active) > 1:
            return ()
        group = self._groups[next(iter(self._active))]
        if group.lookup is None or group.state.evidence is None or not group.live_rows:
            return ()
        leading = group.live_rows[int(group.state.evidence[0].argmax())]
        logits = 4 * self._vocab_size * len(self._rows)
        room = min(self._rows.room, _DRAFT_BYTES // logits) - 1
        draft = group.lookup.draft(group.answer, leading, room)
        self._proposed = (group.lookup, len(draft)) if draft else None
        return draft

    def _judge(self) -> None:
        """Tell who drafted how many tokens were right."""
        if self._proposed is not None:
            lookup, count = self._proposed
            lookup.judge(count, count - len(self._draft))
        self._proposed, self._draft, self._ahead = None, (), []

    def _drop_rows(self) -> None:
        """Drop rows of finished questions and rows that do not matter."""
        for index in self._active:
            self._groups[index].drop_negligible()
        alive = [row for index in self._active for row in self._groups[index].rows]
        if len(alive) >= (1 - _DEAD_SHARE) * len(self._rows):
            return
        self._rows = self._rows.keep(alive)
        first = 0
        for index in self._active:
            count = len(self._groups[index].rows)
            self._groups[index].rows = tuple(range(first, first + count))
            first += count

    def _cohorts(self) -> Iterable[list[int]]:
        """Active questions that one call of a rule can fuse: same rule, same rows, same things known."""
        cohorts: dict[Hashable, list[int]] = {}
        for index in self._active:
            group = self._groups[index]
            rule = group.rule
            key = (rule if isinstance(rule, Hashable) else id(rule), len(group.rows), group.state.presence())
            cohorts.setdefault(key, []).append(index)
        return cohorts.values()

    def _choose(self, cohort: list[int], log_probs: Tensor) -> list[Step]:
        groups = [self._groups[index] for index in cohort]
        rows = [row for group in groups for row in group.rows]
        width = len(groups[0].rows)
        # Rows in a run are a view; only scattered ones are copied.
        run = rows == list(range(rows[0], rows[0] + len(rows)))
        block = log_probs[rows[0] : rows[0] + len(rows)] if run else log_probs[rows]
        block = block.view(len(groups), width, -1)
        masks = [group.chooser.allowed() for group in groups]
        if any(mask is not None for mask in masks):
            block = torch.stack([_restrict(part, mask) for part, mask in zip(block, masks, strict=True)])
        state = FusionState.stack([group.state for group in groups])
        fused = _fuse(groups[0].rule, block, state)
        for group, part in zip(groups, state.unstack(len(groups)), strict=True):
            group.state = part
        return [
            self._choose_one(index, block[i], Fused(fused.log_probs[i], fused.weights[i]))
            for i, index in enumerate(cohort)
        ]

    def _choose_one(self, index: int, rows: Tensor, fused: Fused) -> Step:
        group = self._groups[index]
        normalised = fused.log_probs.log_softmax(-1)
        scores = group.chooser.process(normalised)
        if bool((scores == NEG_INF).all()):
            # Every token that fusion left is banned: fuse again without the banned ones.
            banned = group.chooser.process(torch.zeros_like(normalised)) == NEG_INF
            if not bool((rows > NEG_INF).any(0)[~banned].any()):
                raise InputError(
                    "Nothing may come next: json_schema or regex allows only tokens that bad_words or "
                    "no_repeat_ngram_size bans. Drop one of them."
                )
            rows = _restrict(rows, ~banned)
            again = _fuse(group.rule, rows[None], group.state)
            normalised = again.log_probs[0].log_softmax(-1)
            fused, scores = Fused(normalised, again.weights[0]), group.chooser.process(normalised)
        token = group.chooser.choose(scores)
        of_token = rows[:, token]
        evidence = responsibilities(fused.weights, of_token[1:])
        group.state.evidence = evidence[None]
        gain = 0.0
        if len(of_token) > 1:
            gain = float((fused.weights.log() + of_token[1:]).logsumexp(-1) - of_token[0])
        return Step(
            question=index,
            token=token,
            log_prob=float(normalised[token]),
            evidence=group.notice(token, evidence),
            gain=gain if math.isfinite(gain) else 0.0,
            entropies=group.by_row(nucleus(rows, 1.0)[1]) if group.entropies else (),
        )


def _fuse(rule: Rule, log_probs: Tensor, state: FusionState) -> Fused:
    """The rule, or the row without a passage where there are no others."""
    if log_probs.shape[1] == 1:
        return Fused(log_probs[:, 0], log_probs.new_zeros(len(log_probs), 0))
    return rule.fuse(log_probs, state)


def _restrict(log_probs: Tensor, allowed: Tensor | None) -> Tensor:
    """[..., V] log-probs given that the token is an allowed one ([V] bool)."""
    if allowed is None:
        return log_probs
    return log_probs.masked_fill(~allowed.to(log_probs.device), NEG_INF).log_softmax(-1)
