"""The lock-step loop: all rows of all questions step together, each question fused apart.

At every step the rows of a question give n + 1 distributions, a rule fuses them, one token is chosen,
and that token is appended to every row of the question. Rows that cannot change the choice may sleep: they
are left unread, and read what they lack in one pass when they might matter (`nbce_rag.decoding.sleepers`).

Questions come and go between steps. One that comes takes its first token from its own prompt; from then on
its rows stand behind the others' and all advance together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError, NumericalError
from ..fusion import Fused, FusionState, Rule, responsibilities
from ..fusion.base import NEG_INF
from ..fusion.bounds import BoundedRule
from ..models.model import Rows, Step
from .drafting import PromptLookup
from .group import Group
from .record import StepRecord, read_records
from .sampling import TokenChooser

__all__ = ["LOGITS_BYTES", "LockstepDecoder", "fuse"]

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
        cohorts = list(self._cohorts(index for index in questions if index not in drowsy))
        steps: list[Step] = []
        for index in drowsy:
            with self._ending(index):
                steps.append(self._choose_bounded(index, log_probs))
        fused = [step for cohort in cohorts for step in self._fused(cohort, log_probs)]
        records = read_records([(rows, step, self._groups[index].entropies) for index, rows, step in fused])
        for (index, _, step), record in zip(fused, records, strict=True):
            with self._ending(index):
                steps.append(self._choose(index, step, record))
        return steps

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

    def _cohorts(self, questions: Iterable[int]) -> Iterable[list[int]]:
        """Questions that one call of a rule can fuse: same rule, same rows, same things known."""
        cohorts: dict[Hashable, list[int]] = {}
        for index in questions:
            group = self._groups[index]
            rule = group.rule
            key = (_key_of(rule), len(group.rows), group.state.presence())
            cohorts.setdefault(key, []).append(index)
        return cohorts.values()

    def _fused(self, cohort: list[int], log_probs: Tensor) -> list[tuple[int, Tensor, Fused]]:
        """As `_fused_together`; where that fails, of each question by itself that does not fail then."""
        try:
            return list(self._fused_together(cohort, log_probs))
        except Exception as error:
            if len(cohort) == 1:
                self._fail(cohort[0], error)
                return []
            return [one for index in cohort for one in self._fused([index], log_probs)]

    def _fused_together(self, cohort: list[int], log_probs: Tensor) -> Iterator[tuple[int, Tensor, Fused]]:
        """Of questions that one call of a rule can fuse: index, rows [n + 1, V] and what they come to, with
        normalised scores [V]."""
        groups = [self._groups[index] for index in cohort]
        block = _rows_of(log_probs, [row for group in groups for row in group.rows])
        block = block.view(len(groups), len(groups[0].rows), -1)
        masks = [group.chooser.allowed() for group in groups]
        if any(mask is not None for mask in masks):
            block = torch.stack([_restrict(part, mask) for part, mask in zip(block, masks, strict=True)])
        state = FusionState.stack([group.state for group in groups])
        fused = fuse(groups[0].rule, block, state)
        for group, part in zip(groups, state.unstack(len(groups)), strict=True):
            group.state = part
        normalised = fused.log_probs.log_softmax(-1)
        for i, index in enumerate(cohort):
            yield index, block[i], Fused(normalised[i], fused.weights[i])

    def _choose_bounded(self, index: int, log_probs: Tensor) -> Step:
        """A token of a question of which rows sleep; those that could change it wake first."""
        group = self._groups[index]
        by_row = {row: log_probs[row] for row in group.rows_awake}  # views
        while (sleepers := group.sleepers) is not None and isinstance(group.rule, BoundedRule):
            awake = group.rows_awake
            run = all(row < len(log_probs) for row in awake)
            block = _rows_of(log_probs, awake) if run else torch.stack([by_row[row] for row in awake])
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
                    return self._step(index, token, record, sleepers.evidence)
            waking = sorted(sleepers.read) if token is None else sleepers.heaviest(of_token)
            by_row |= self._wake(group, waking)
        block = torch.stack([by_row[row] for row in group.rows])
        log_scores, weights = fuse(group.rule, block[None], group.state)
        fused = Fused(log_scores[0].log_softmax(-1), weights[0])
        return self._choose(index, fused, *read_records([(block, fused, group.entropies)]))

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

    def _choose(self, index: int, fused: Fused, record: StepRecord) -> Step:
        """Choose a question's token; scores and weights are `fused` where they were computed, and `record`
        what is known of them here."""
        group = self._groups[index]
        # On a CPU the model was looked at before.
        if record.rows.device.type != "cpu" and bool(record.scores.isnan().any()):
            raise NumericalError(
                "The model gave NaN instead of probabilities; load it with dtype='float32', or check its "
                "weights."
            )
        scores = group.chooser.process(record.scores)
        if bool((scores == NEG_INF).all()):
            # Every token that fusion left is banned: fuse again without the banned ones.
            rows = record.rows
            banned = (group.chooser.process(torch.zeros_like(record.scores)) == NEG_INF).to(rows.device)
            if not bool((rows > NEG_INF).any(0)[~banned].any()):
                raise InputError(
                    "Nothing may come next: json_schema or regex allows only tokens that bad_words or "
                    "no_repeat_ngram_size bans. Drop one of them."
                )
            rows = _restrict(rows, ~banned)
            again = fuse(group.rule, rows[None], group.state)
            fused = Fused(again.log_probs[0].log_softmax(-1), again.weights[0])
            [record] = read_records([(rows, fused, group.entropies)])
            scores = group.chooser.process(record.scores)
        token = group.chooser.choose(scores)
        # Once where the rows are, for the next step, and once here, to be told.
        there = responsibilities(fused.weights, record.rows[1:, token])
        here = there if there.device.type == "cpu" else _evidence(record, token)
        return self._step(index, token, record, here, there)

    def _step(
        self, index: int, token: int, record: StepRecord, evidence: Tensor, there: Tensor | None = None
    ) -> Step:
        """A token that was chosen from some rows; evidence [n] over all passage rows, and `there` the same
        where the rows are."""
        group = self._groups[index]
        there = evidence.to(record.rows) if there is None else there
        group.state.evidence = there[None]
        of_token = record.of_token(token)
        gain = 0.0
        if len(of_token) > 1:
            gain = float((record.weights.log() + of_token[1:]).logsumexp(-1) - of_token[0])
        log_prob = float(record.scores[token])
        return Step(
            question=index,
            token=token,
            log_prob=log_prob,
            evidence=group.notice(token, evidence, log_prob),
            gain=gain if math.isfinite(gain) else 0.0,
            entropies=() if record.entropies is None else group.by_row(record.entropies, math.nan),
            row_log_probs=group.by_row(of_token, NEG_INF),
            top=_top(record.scores, group.top) if group.top else (),
        )


def _key_of(rule: Rule) -> Hashable:
    """Equal of rules that fuse alike, as far as they tell."""
    if isinstance(rule, Hashable):
        with suppress(Exception):  # one of the user's may be frozen over a list
            hash(rule)
            return rule
    return id(rule)


def _evidence(record: StepRecord, token: int) -> Tensor:
    return responsibilities(record.weights, record.of_token(token)[1:])


def _top(log_probs: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """The best tokens of log-probs [V], excluded ones left out."""
    values, ids = log_probs.topk(min(count, len(log_probs)))
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return tuple((token, value) for token, value in pairs if value > NEG_INF)


def _rows_of(log_probs: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows of log-probs; those in a run are a view, only scattered ones are copied."""
    is_run = list(rows) == list(range(rows[0], rows[0] + len(rows)))
    return log_probs[rows[0] : rows[0] + len(rows)] if is_run else log_probs[list(rows)]


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


def fuse(rule: Rule, log_probs: Tensor, state: FusionState) -> Fused:
    """The rule, or the row without a passage where there are no others."""
    if log_probs.shape[1] == 1:
        return Fused(log_probs[:, 0], log_probs.new_zeros(len(log_probs), 0))
    return rule.fuse(log_probs, state)


def _restrict(log_probs: Tensor, allowed: Tensor | None) -> Tensor:
    """[..., V] log-probs given that the token is an allowed one ([V] bool)."""
    if allowed is None:
        return log_probs
    return log_probs.masked_fill(~allowed.to(log_probs.device), NEG_INF).log_softmax(-1)
