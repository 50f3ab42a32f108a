"""A backend made for tests: what comes next is looked up in a table of everything that stands before.

It keeps its rows as plain lists of token ids, so that it is right by inspection, and passes the contract
suite of all backends. Tests of what stands above the seam run on it where they need a model that says what
they want, fails when they want, or tells what it was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nbce_rag.errors import InputError, NumericalError
from nbce_rag.kv.context import Packed
from nbce_rag.kv.store import ContextStore
from nbce_rag.models.model import Can, Reading, RowPrompt, Rows, TokenIds

__all__ = ["Table", "TableModel", "TableRows", "random_table"]

Table = Callable[[TokenIds], Tensor]
"""Log-probs [V] of the token after these ids."""


def random_table(vocab_size: int, *, seed: int = 0) -> Table:
    """A table in which every token that stands before matters, and its place too."""

    def log_probs(ids: TokenIds) -> Tensor:
        digest = hashlib.sha256(repr((seed, ids)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return (3 * torch.randn(vocab_size, generator=generator)).log_softmax(-1)

    return log_probs


class TableRows:
    """Rows of a `TableModel`."""

    def __init__(
        self, table: Table, ids: Sequence[TokenIds], prompts: Sequence[int], room: int, can: Can
    ) -> None:
        self._table = table
        self.can = can
        self._ids = [tuple(row) for row in ids]
        self._prompts = list(prompts)  # tokens that cannot be taken back
        self._capacity = [len(row) + room for row in self._ids]

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def room(self) -> int:
        return min(most - len(row) for most, row in zip(self._capacity, self._ids, strict=True))

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        chosen = self._checked(rows)
        if ids.dim() != 2 or len(ids) != len(chosen) or ids.shape[1] < 1:
            raise InputError(f"step: token ids of shape {list(ids.shape)} do not fit {len(chosen)} rows.")
        if any(len(self._ids[row]) + ids.shape[1] > self._capacity[row] for row in chosen):
            raise InputError(f"step: {ids.shape[1]} tokens do not fit; there is room for {self.room}.")
        grown = {row: (*self._ids[row], *new) for row, new in zip(chosen, ids.tolist(), strict=True)}
        out = torch.stack(
            [
                torch.stack([self._table(grown[row][: len(grown[row]) - behind]) for behind in ends])
                for ends in [range(ids.shape[1] - 1, -1, -1)]
                for row in chosen
            ]
        )
        _refuse_nan(out)
        for row, tokens in grown.items():
            self._ids[row] = tokens
        return out

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        if not self.can.rewind:
            raise InputError("The backend 'table' takes no token back.")
        chosen = self._checked(rows)
        most = min(len(self._ids[row]) - self._prompts[row] for row in chosen)
        if not 0 <= tokens <= most:
            raise InputError(f"rewind: {tokens} tokens cannot be taken back; {most} were appended.")
        for row in chosen:
            self._ids[row] = self._ids[row][: len(self._ids[row]) - tokens]

    def keep(self, rows: Sequence[int]) -> TableRows:
        self._check(rows)
        if not self.can.repeat and len(set(rows)) < len(rows):
            raise InputError("The backend 'table' keeps no row twice.")
        kept = TableRows(
            self._table, [self._ids[r] for r in rows], [self._prompts[r] for r in rows], 0, self.can
        )
        kept._capacity = [self._capacity[row] for row in rows]
        return kept

    def joined(self, other: Rows) -> TableRows:
        assert isinstance(other, TableRows)
        both = TableRows(
            self._table, [*self._ids, *other._ids], [*self._prompts, *other._prompts], 0, self.can
        )
        both._capacity = [*self._capacity, *other._capacity]
        return both

    def _checked(self, rows: Sequence[int] | None) -> list[int]:
        if rows is None:
            return list(range(len(self)))
        self._check(rows)
        if len(set(rows)) < len(rows):
            raise InputError(f"rows={list(rows)!r} names a row twice.")
        return list(rows)

    def _check(self, rows: Sequence[int]) -> None:
        if not rows:
            raise InputError("rows=[] names no row; None stands for all of them.")
        for row in rows:
            if not 0 <= row < len(self):
                raise InputError(f"Row {row} is not there; the rows are 0 to {len(self) - 1}.")


class TableModel:
    """A `nbce_rag.models.model.Model` over a table.

    Args:
        table: what comes next; None takes a `random_table`.
        vocab_size: width of the table.
        tokenizer: for tests of whole answers.
        window: the most tokens of a row.
        free: bytes that `free` answers.
        can: what is not denied.

    Attributes:
        opened: the prompts of each `open`.
        read_contexts: token ids of contexts that were not in a store, in the order in which they were read.
    """

    name = "table"
    dtype = "float32"
    eos_ids = frozenset({1})
    batch_tokens = 8192
    device = torch.device("cpu")

    def __init__(
        self,
        table: Table | None = None,
        *,
        vocab_size: int = 40,
        tokenizer: Any = None,
        window: int = 512,
        free: int = 2**33,
        can: Can | None = None,
    ) -> None:
        self.table = table or random_table(vocab_size)
        self.vocab_size = vocab_size
        self.tokenizer = tokenizer
        self.window = window
        self.free_bytes = free
        self.can = can or Can()
        self.fingerprint = f"table {id(self.table)}"
        self.staging = None
        self.opened: list[list[RowPrompt]] = []
        self.read_contexts: list[TokenIds] = []

    def cost(self, rows: int, tokens: int) -> int:
        return rows * (8 * tokens + 16 * self.vocab_size)

    def context_bytes(self, tokens: int) -> int:
        return 8 * tokens

    def free(self) -> int:
        return self.free_bytes

    def open(
        self,
        prompts: Sequence[RowPrompt],
        room: int,
        store: ContextStore | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[TableRows, list[Reading]]:
        self.opened.append(list(prompts))
        if not self.can.likelihood and any(p.question is not None or p.refusal for p in prompts):
            raise InputError("The backend 'table' gives no likelihoods.")
        found: dict[TokenIds, int] = {}
        for ids in dict.fromkeys(ids for prompt in prompts for ids in prompt.contexts if ids):
            found[ids] = len(ids) if self._from_store(ids, store) else 0
        rows: list[TokenIds] = []
        readings = []
        for prompt in prompts:
            own = [(*ids, *prompt.suffix) for ids in prompt.contexts]
            rows += own
            reused = tuple(found.get(ids, 0) for ids in prompt.contexts)
            readings.append(self._reading(prompt, own, reused))
        return TableRows(self.table, rows, [len(row) for row in rows], room, self.can), readings

    def read(
        self, contexts: Iterable[TokenIds], store: ContextStore, batch_tokens: int | None = None
    ) -> None:
        for ids in contexts:
            if ids and ids not in store:
                self._from_store(ids, store)

    def _from_store(self, ids: TokenIds, store: ContextStore | None) -> bool:
        packed: Packed | None = None if store is None else store.get(ids)
        if packed is not None and packed.keys() == {"ids"} and tuple(packed["ids"].tolist()) == ids:
            return True
        self.read_contexts.append(ids)
        if store is not None:
            if packed is not None:
                store.drop(ids)
            store.put(ids, {"ids": torch.tensor(ids)})
        return False

    def _reading(self, prompt: RowPrompt, rows: Sequence[TokenIds], reused: tuple[int, ...]) -> Reading:
        log_probs = torch.stack([self.table(row) for row in rows])
        _refuse_nan(log_probs)
        question = refusal = None
        if prompt.question is not None:
            # A token that nothing stands before in row 0 is left out everywhere.
            places = range(max(prompt.question.start, 1), prompt.question.stop)
            question = torch.stack(
                [
                    torch.stack(
                        [self.table((*ids, *prompt.suffix[:at]))[prompt.suffix[at]] for at in places]
                        or [torch.zeros(())]
                    ).sum()
                    for ids in prompt.contexts
                ]
            )
        if prompt.refusal:
            said = prompt.refusal
            refusal = torch.stack(
                [
                    torch.stack([self.table((*row, *said[:at]))[said[at]] for at in range(len(said))]).sum()
                    for row in rows
                ]
            ).exp()
        return Reading(log_probs, question, refusal, reused)


def table_of(entries: Mapping[int, Mapping[int, float]], vocab_size: int) -> Table:
    """A table by the last token alone: probabilities of what follows; the rest is shared out evenly."""

    def log_probs(ids: TokenIds) -> Tensor:
        given = entries.get(ids[-1], {})
        rest = (1 - sum(given.values())) / max(1, vocab_size - len(given))
        p = torch.full((vocab_size,), rest)
        for token, probability in given.items():
            p[token] = probability
        return p.log()

    return log_probs


def _refuse_nan(log_probs: Tensor) -> None:
    if bool(log_probs.isnan().any()):
        raise NumericalError("'table' gave NaN instead of probabilities.")
