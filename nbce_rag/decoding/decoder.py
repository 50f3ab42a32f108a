"""The lock-step loop: all rows of all questions step together, each question fused apart.

At every step the rows of a question give n + 1 distributions, a rule fuses them, one token is chosen
(`nbce_rag.decoding.choice`), and that token is appended to every row of the question. Rows that cannot change
the choice may sleep: they are left unread, and read what they lack in one pass when they might matter
(`nbce_rag.decoding.sleepers`).

Questions come and go between steps. One that comes takes its first token from its own prompt; from then on
its rows stand behind the others' and all advance together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..fusion import Fused
from ..fusion.base import NEG_INF
from ..fusion.bounds import BoundedRule
from ..models.model import Rows, Step
from .choice import choose, choose_together, fuse, rows_of, step_of
from .drafting import PromptLookup
from .group import Group
from .record import StepRecord, read_records
from .sampling import TokenChooser

__all__ = ["LOGITS_BYTES", "LockstepDecoder"]

LOGITS_BYTES = 256 * 2**20
"""Of logits in a pass over several tokens, at most."""

# Rows of finished questions run along until they are this share of the batch; dropping them copies the rest.
_DEAD_SHARE = 0.25
_ASLEEP_SHARE = 0.25  # rows fall asleep where that spares so much of a step; it moves the rows that are read


@dataclass(eq=False)
class _Arrival:
    """Questions whose rows do not stand in the batch yet.

    Attributes:
        rows: theirs; the rows of their groups count from the first of these.
        log_probs: [R, V] of the first token, until that is chosen.
        questions: their indexes.
    """

    rows: Rows
    log_probs: Tensor | None
    questions: range


class LockstepDecoder:
    """Decodes a batch of questions step by step; a `nbce_rag.models.model.Decoder` over rows of any backend.

    Args:
        rows: all rows, prompts read.
        log_probs: [R, V] of the first token.
        groups: the questions; their rows index the batch.
    """

    def __init__(self, rows: Rows, log_probs: Tensor, groups: Sequence[Group]) -> None:
        self._vocab_size = log_probs.shape[-1]
        self._rows: Rows = rows
        self._groups: dict[int, Group] = {}
        self._active: dict[int, None] = {}
        self._count = 0  # questions so far
        self._arrivals: list[_Arrival] = []
        self._errors: dict[int, Exception] = {}
        self._read = 0  # so many of the first rows are read at each step, the others sleep
        self._lags = False  # whether rows have slept since rows were dropped
        self._draft: tuple[int, ...] = ()  # tokens that were read and are not yet chosen
        self._ahead: list[Tensor] = []  # [R, V] behind each of them
        self._proposed: tuple[PromptLookup, int] | None = None  # who drafted how many
        self.add(rows, log_probs, groups)

    def add(self, rows: Rows, log_probs: Tensor, groups: Sequence[Group]) -> range:
        """Let questions join, whose prompts were read by the same model.

        Args:
            rows: theirs.
            log_probs: [R, V] of their first token.
            groups: the questions; their rows count from the first of `rows`.

        Returns:
            Their indexes. The next step gives their first tokens, and none of the others'.
        """
        questions = range(self._count, self._count + len(groups))
        self._count = questions.stop
        self._groups.update(zip(questions, groups, strict=True))
        self._active.update(dict.fromkeys(questions))
        self._arrivals.append(_Arrival(rows, log_probs, questions))
        return questions

    @property
    def active(self) -> list[int]:
        """Indexes of the questions that are still being answered."""
        return list(self._active)

    @property
    def errors(self) -> Mapping[int, Exception]:
        """The questions that ended with the last step since they, and not the others, met an error."""
        return self._errors

    def finish(self, question: int) -> None:
        """No more tokens for this question."""
        self._active.pop(question, None)

    def forget(self, question: int) -> None:
        """Nothing more will be asked about this question, which has ended."""
        self.finish(question)
        self._groups.pop(question, None)

    def dropped(self, question: int) -> int:
        """How many of a question's passage rows were dropped."""
        return self._groups[question].dropped

    def row_steps(self, question: int) -> tuple[int, int]:
        """Steps of a question's rows that were read, and that rows were spared while they slept."""
        return self._groups[question].row_steps

    def step(self) -> list[Step]:
        """One token for every active question, in their order; for those that are new, if there are any.

        A question that meets an error ends, and the others go on (`errors`).
        """
        self._errors = {}
        if not self._active:
            return []
        steps: list[Step] = []
        new = [arrival for arrival in self._arrivals if arrival.log_probs is not None]
        for arrival in new:
            assert arrival.log_probs is not None
            steps += self._chosen([i for i in arrival.questions if i in self._active], arrival.log_probs)
            arrival.log_probs = None
        if not new:
            log_probs = self._advance()
            steps = self._chosen(self.active, log_probs)
        return sorted(steps, key=lambda step: step.question)

    def _chosen(self, questions: Sequence[int], log_probs: Tensor) -> list[Step]:
        """The next token of questions by the log-probs [R, V] of their rows."""
        drowsy = [index for index in questions if self._groups[index].sleepers is not None]
        steps: list[Step] = []
        for index in drowsy:
            with self._ending(index):
                steps.append(self._choose_bounded(index, log_probs))
        awake = {index: self._groups[index] for index in questions if index not in drowsy}
        chosen, errors = choose_together(awake, log_probs)
        for index, error in errors.items():
            self._fail(index, error)
        return steps + chosen

    @contextmanager
    def _ending(self, index: int) -> Iterator[None]:
        """An error in here ends this question."""
        try:
            yield
        except Exception as error:
            self._fail(index, error)

    def _fail(self, index: int, error: Exception) -> None:
        self._errors[index] = error
        self.finish(index)

    def _advance(self) -> Tensor:
        """Append every question's last token to its rows; next log-probs [R, V]."""
        self._join()
        if self._draft:
            expected, *rest = self._draft
            if self._groups[next(iter(self._active))].answer[-1] == expected:
                self._draft = tuple(rest)
                return self._ahead.pop(0)
            self._rows.rewind(len(self._draft), self._stepped())
        self._judge()
        self._arrange()
        if not self._active:  # their rules failed
            return torch.zeros(0, self._vocab_size)
        draft = self._drafted()
        ids = torch.zeros(self._read, 1 + len(draft), dtype=torch.long)
        for index in self._active:
            group = self._groups[index]
            ids[group.rows_awake] = torch.tensor([group.answer[-1], *draft])
        try:
            log_probs, *ahead = self._rows.step(ids, self._stepped()).unbind(1)
        except Exception as error:
            return self._advance_apart(error, is_plain=not draft)
        self._draft, self._ahead = draft, ahead
        return log_probs

    def _advance_apart(self, error: Exception, *, is_plain: bool) -> Tensor:
        """As `_advance`, a question at a time, where a pass of all failed.

        Args:
            error: that of the pass.
            is_plain: whether there was no draft in it, so that the only question would fail again.
        """
        self._proposed = None
        log_probs = torch.zeros(self._read, self._vocab_size)
        # Rows of finished questions run along, and the error may be theirs.
        is_whole = sum(len(self._groups[index].rows_awake) for index in self._active) == self._read
        if is_plain and is_whole and len(self._active) == 1:
            self._fail(self.active[0], error)
        for index in self.active:
            group = self._groups[index]
            rows = group.rows_awake
            with self._ending(index):
                new = self._rows.step(torch.full((len(rows), 1), group.answer[-1]), rows)[:, 0]
                log_probs = log_probs.to(new.device)
                log_probs[rows] = new
        self._lags = True  # the rows of those that failed
        return log_probs

    def _join(self) -> None:
        """Put the rows of new questions behind the others'."""
        arrivals = [a for a in self._arrivals if any(index in self._active for index in a.questions)]
        self._arrivals = []
        if not arrivals:
            return
        new = {index for arrival in arrivals for index in arrival.questions}
        before = [self._groups[index] for index in self._active if index not in new]
        if before and self._draft:
            self._rows.rewind(len(self._draft), self._stepped())
        self._proposed, self._draft, self._ahead = None, (), []
        if not before:
            self._read = 0
        elif sum(len(group.rows) for group in before) < len(self._rows):
            self._keep(before)  # all is copied now anyway
        for arrival in arrivals:
            first = len(self._rows) if self._read else 0
            questions = [index for index in arrival.questions if index in self._active]
            try:
                self._rows = self._rows.joined(arrival.rows) if self._read else arrival.rows
            except Exception as error:  # the copy had no place: the others go on without them
                for index in questions:
                    self._fail(index, error)
                continue
            self._read += len(arrival.rows)
            for index in questions:
                group = self._groups[index]
                group.rows = tuple(first + row for row in group.rows)

    def _stepped(self) -> range | None:
        """The rows that are read, None for all."""
        return None if self._read == len(self._rows) else range(self._read)

    def _drafted(self) -> tuple[int, ...]:
        """Tokens to verify with the next pass.

        Only for one question at a time: of several, each would accept another number of tokens, and
        their rows would no longer end at one column.
        """
        if len(self._active) > 1:
            return ()
        group = self._groups[next(iter(self._active))]
        if group.lookup is None or group.leading is None:
            return ()
        leading = group.leading
        logits = 4 * self._vocab_size * self._read
        room = min(self._rows.room, LOGITS_BYTES // logits) - 1
        draft = group.lookup.draft(group.answer, leading, room)
        self._proposed = (group.lookup, len(draft)) if draft else None
        return draft

    def _judge(self) -> None:
        """Tell who drafted how many tokens were right."""
        if self._proposed is not None:
            lookup, count = self._proposed
            lookup.judge(count, count - len(self._draft))
        self._proposed, self._draft, self._ahead = None, (), []

    def _arrange(self) -> None:
        """Drop rows of finished questions and rows that do not matter; let those sleep that may."""
        drowsy: list[list[int]] = []
        for index in self.active:
            with self._ending(index):
                self._groups[index].drop_rows()
                drowsy.append(self._groups[index].drowsy())
        groups = [self._groups[index] for index in self._active]
        if not groups:
            return
        if sum(map(len, drowsy)) >= _ASLEEP_SHARE * self._read:
            for group, rows in zip(groups, drowsy, strict=True):
                if rows:
                    group.fall_asleep(rows)
        awake = [row for group in groups for row in group.rows_awake]
        asleep = [row for group in groups for row in group.rows_asleep]
        alive = len(awake) + len(asleep)
        # Rows in a run are read where they lie, and together if none of them lags behind.
        is_scattered = asleep and awake != list(range(len(awake)))
        is_whole = alive == len(self._rows)
        has_laggards = self._lags and not asleep and not is_whole
        is_full = not is_whole and self._rows.room < 1  # of those that run along, maybe
        if alive < (1 - _DEAD_SHARE) * len(self._rows) or is_scattered or has_laggards or is_full:
            self._keep(groups)
        self._lags = self._lags or bool(asleep)
        self._read = len(awake) if asleep else len(self._rows)

    def _keep(self, groups: Sequence[Group]) -> None:
        """Drop the rows of all other questions; those that are read stand before those that sleep."""
        awake = [row for group in groups for row in group.rows_awake]
        asleep = [row for group in groups for row in group.rows_asleep]
        self._rows = self._rows.keep([*awake, *asleep])
        place = {row: at for at, row in enumerate([*awake, *asleep])}
        for group in groups:
            group.rows = tuple(place[row] for row in group.rows)
        self._lags = bool(asleep)
        self._read = len(awake)

    def _choose_bounded(self, index: int, log_probs: Tensor) -> Step:
        """A token of a question of which rows sleep; those that could change it wake first."""
        group = self._groups[index]
        by_row = {row: log_probs[row] for row in group.rows_awake}  # views
        while (sleepers := group.sleepers) is not None and isinstance(group.rule, BoundedRule):
            awake = group.rows_awake
            run = all(row < len(log_probs) for row in awake)
            block = rows_of(log_probs, awake) if run else torch.stack([by_row[row] for row in awake])
            weights = sleepers.weights[sleepers.awake].to(block)
            bounded = group.rule.bounded(block[None], weights[None], sleepers.doubt)
            normalised = bounded.fused.log_probs[0].log_softmax(-1)
            token = _sure(group.chooser, normalised, bounded.low[0], bounded.high[0])
            of_token = torch.full((len(group.live_rows),), NEG_INF)
            if token is not None:
                of_token[sleepers.awake] = block[1:, token].float().cpu()
                if sleepers.holds(of_token):
                    group.chooser.choose(group.chooser.process(normalised))
                    sleepers.take(of_token)
                    record = StepRecord(normalised, weights, None, block, {})
                    return step_of(index, group, token, record, sleepers.evidence)
            waking = sorted(sleepers.read) if token is None else sleepers.heaviest(of_token)
            by_row |= self._wake(group, waking)
        block = torch.stack([by_row[row] for row in group.rows])
        log_scores, weights = fuse(group.rule, block[None], group.state)
        fused = Fused(log_scores[0].log_softmax(-1), weights[0])
        return choose(index, group, fused, *read_records([(block, fused, group.entropies)]))

    def _wake(self, group: Group, passages: Sequence[int]) -> dict[int, Tensor]:
        """Let passage rows read what they lack; by row of the batch, what they say of the next token."""
        assert group.sleepers is not None
        if self._draft:  # they would have to read it too, to no avail where they change the choice
            self._rows.rewind(len(self._draft), self._stepped())
            self._proposed, self._draft, self._ahead = None, (), []
        behind: dict[int, list[int]] = {}
        for passage in passages:
            behind.setdefault(group.sleepers.read[passage], []).append(passage)
        by_row: dict[int, Tensor] = {}
        woken: list[tuple[list[int], Tensor]] = []
        for read, some in behind.items():
            rows = [group.rows[passage + 1] for passage in some]
            lacking = group.answer[read:]
            most = max(1, LOGITS_BYTES // (4 * self._vocab_size * len(rows)))
            parts = []
            for first in range(0, len(lacking), most):
                ids = torch.tensor(lacking[first : first + most]).expand(len(rows), -1)
                log_probs = self._rows.step(ids, rows)
                following = torch.tensor(lacking[first + 1 : first + 1 + most], device=log_probs.device)
                wide = following.expand(len(rows), -1)[..., None]
                parts.append(log_probs[:, : len(following)].gather(-1, wide)[..., 0])
            woken.append((some, torch.cat(parts, 1)))
            by_row |= dict(zip(rows, log_probs[:, -1].clone(), strict=True))
        group.wake(woken)
        return by_row


def _sure(chooser: TokenChooser, scores: Tensor, low: Tensor, high: Tensor) -> int | None:
    """The token that is chosen whatever the scores [V] are between two bounds, if there is one.

    Args:
        chooser: chooses from scores that were normalised, and processed by itself.
        scores: as they are now, normalised.
        low, high: bounds of them before they are normalised.
    """
    if bool((low == NEG_INF).all()):
        return None
    bounds = low - high.logsumexp(-1), high - low.logsumexp(-1)
    processed = [chooser.process(values) for values in (bounds[0], scores, bounds[1])]
    return None if bool((processed[0] == NEG_INF).all()) else chooser.sure(*processed)
