"""One question in a batch that is decoded: its rows, its rule, its sampler, and which rows may sleep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..fusion import FusionState, Rule
from ..fusion.bounds import BoundedRule
from .drafting import PromptLookup
from .sampling import TokenChooser
from .sleepers import Sleepers

__all__ = ["Group"]

_NEGLIGIBLE = 1e-3  # evidence below which a row does not matter
_FIRST_WATCH = 16  # tokens for which a row that woke stays awake; twice as many the next time


@dataclass(eq=False)
class Group:
    """One question in the batch.

    Attributes:
        rows: its n + 1 rows in the batch, row 0 first; n may be 0.
        rule: fuses them; not used when n = 0.
        chooser: picks its tokens.
        state: what the rule may know, with G = 1 (n columns).
        entropies: whether its steps carry the entropy of each row.
        top: how many of the most probable tokens its steps carry.
        lookup: drafts tokens while this is the only question left, or None.
        drop_after: rows with negligible evidence for this many tokens in a row are dropped; 0 keeps all.
        sleep: whether rows that cannot change what is chosen may be left unread, if the rule knows bounds
            (`nbce_rag.decoding.sleepers`).
    """

    rows: tuple[int, ...]
    rule: Rule
    chooser: TokenChooser
    state: FusionState = field(default_factory=FusionState)
    lookup: PromptLookup | None = None
    drop_after: int = 0
    entropies: bool = False
    top: int = 0
    sleep: bool = False
    answer: list[int] = field(default_factory=list, init=False)
    live_rows: list[int] = field(init=False)
    negligible: list[int] = field(init=False)
    sleepers: Sleepers | None = field(default=None, init=False)
    leading: int | None = field(default=None, init=False)  # the passage row with the most evidence
    surprise: float = field(default=0.0, init=False)  # nats that the answer's tokens cost
    watches: dict[int, tuple[int, int]] = field(default_factory=dict, init=False)  # until, and how long
    dropped: int = field(default=0, init=False)  # rows, by `drop_after`
    _read_until: list[int] = field(default_factory=list, init=False)  # of rows without weight

    def __post_init__(self) -> None:
        self.passages = len(self.rows) - 1
        self.live_rows = list(range(self.passages))  # passage rows that are still read
        self.negligible = [0] * self.passages  # for how many tokens in a row

    def drop_rows(self) -> None:
        """Forget rows that count for nothing, and those that have not mattered; the caller drops them from
        the batch."""
        useless = self._weightless()
        self._read_until += [len(self.answer) - 1] * len(useless)
        if self.drop_after:
            late = [i for i, row in enumerate(self.live_rows) if self.negligible[row] >= self.drop_after]
            if len(useless.union(late)) < len(self.live_rows):
                self.dropped += len(set(late) - useless)
                useless |= set(late)
        if not useless:
            return
        stay = [i for i in range(len(self.live_rows)) if i not in useless]
        self.rows = (self.rows[0], *(self.rows[i + 1] for i in stay))
        self.live_rows = [self.live_rows[i] for i in stay]
        self.state = self.state.keep(torch.tensor(stay))

    def _weightless(self) -> set[int]:
        """Places among the live rows of those that the rule weighs by 0 and always will."""
        evidence = self.state.evidence
        # Known once, behind the first token. One more row costs a step on a GPU nothing.
        if len(self.answer) != 1 or evidence is None or evidence.device.type != "cpu" or self.entropies:
            return set()
        if self.passages < 2 or not isinstance(self.rule, BoundedRule):
            return set()
        _, restart = self.rule.drift(self.state)
        return set(((evidence[0] == 0) & (restart[0] == 0)).nonzero()[:, 0].tolist())

    @property
    def rows_awake(self) -> list[int]:
        """Its rows in the batch that are read, row 0 first."""
        if self.sleepers is None:
            return list(self.rows)
        return [self.rows[0], *(self.rows[row + 1] for row in self.sleepers.awake)]

    @property
    def rows_asleep(self) -> list[int]:
        """The others."""
        awake = set(self.rows_awake)
        return [row for row in self.rows if row not in awake]

    @property
    def row_steps(self) -> tuple[int, int]:
        """Tokens of the answer that rows were stepped by, and that rows were spared, over all rows."""
        steps = max(len(self.answer) - 1, 0)
        until = [*self._read_until, *(() if self.sleepers is None else self.sleepers.read.values())]
        slept = sum(steps - read for read in until)
        return steps * (len(self.rows) + len(self._read_until)) - slept, slept

    def drowsy(self) -> list[int]:
        """Passage rows that are read and may sleep from the next token on."""
        # Rows that are dropped for good need no sleep, and the entropy of a row is known when it is read.
        if not self.sleep or self.drop_after or self.entropies or self.state.evidence is None:
            return []
        if self.state.evidence.device.type != "cpu":  # where one more row costs a step nothing
            return []
        if self.passages < 2 or (sleepers := self._sleepers()) is None:
            return []
        on_watch = {row for row, (until, _) in self.watches.items() if until > len(self.answer)}
        return sleepers.drowsy(on_watch, self.surprise / len(self.answer))

    def fall_asleep(self, rows: list[int]) -> None:
        """Let passage rows sleep that have read all of the answer but its last token."""
        self.sleepers = self._sleepers()
        if self.sleepers is not None:
            self.sleepers.sleep(rows, len(self.answer) - 1)

    def wake(self, woken: Iterable[tuple[list[int], Tensor]]) -> None:
        """Passage rows have read what they lacked; see `Sleepers.wake`."""
        assert self.sleepers is not None
        assert self.state.evidence is not None
        for rows, log_probs in woken:
            self.sleepers.wake(rows, log_probs)
            for row in rows:
                watch = 2 * self.watches[row][1] if row in self.watches else _FIRST_WATCH
                self.watches[row] = (len(self.answer) + watch, watch)
        if not self.sleepers.read:
            self.state.evidence = self.sleepers.evidence[None].to(self.state.evidence)
            self.sleepers = None

    def _sleepers(self) -> Sleepers | None:
        rule, evidence = self.rule, self.state.evidence
        if self.sleepers is not None or evidence is None or not isinstance(rule, BoundedRule):
            return self.sleepers
        stay, restart = rule.drift(self.state)
        return Sleepers((stay, restart[0]), evidence[0], len(self.answer))

    def by_row(self, values: Tensor, unread: float) -> tuple[float, ...]:
        """Values of the rows that are read, row 0 first, in the places of all rows.

        Args:
            values: of `rows_awake`.
            unread: what stands for rows that sleep or were dropped.
        """
        first, *others = values.tolist()
        if self.sleepers is not None:
            of_row = dict(zip(self.sleepers.awake, others, strict=True))
            others = [of_row.get(row, unread) for row in range(len(self.live_rows))]
        return (first, *self._in_place(others, unread))

    def notice(self, token: int, evidence: Tensor, log_prob: float) -> tuple[float, ...]:
        """Take in a chosen token, its evidence over the kept rows and its log-prob; the evidence over all
        passages."""
        self.surprise -= log_prob
        self.answer.append(token)
        shares = evidence.tolist()
        if shares:
            self.leading = self.live_rows[max(range(len(shares)), key=shares.__getitem__)]
        for row, share in zip(self.live_rows, shares, strict=True):
            self.negligible[row] = self.negligible[row] + 1 if share < _NEGLIGIBLE else 0
        return self._in_place(shares, 0.0)

    def _in_place(self, values: Sequence[float], dropped: float) -> tuple[float, ...]:
        """Values over the kept passage rows into one a passage row."""
        of_row = dict(zip(self.live_rows, values, strict=True))
        return tuple(of_row.get(row, dropped) for row in range(self.passages))
