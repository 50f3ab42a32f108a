"""The groups that one worker of vLLM answers: their rules, states and samplers, and a step of them.

A worker sees the logits of a step, and which requests their rows are. Where all rows of a group are there,
it fuses them and chooses a token as `nbce_rag.decoding.choice` does anywhere, and writes it into the logits
of all rows, with what there is to tell of it (`nbce_rag.models.vllm.wire`). Where some are missing, those
that are there get the poison of the group, which ends them: what fell apart shows, and is asked again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from ..decoding.choice import choose_together
from ..decoding.grammar import Constraint
from ..decoding.group import Group
from ..decoding.sampling import Sampler
from ..errors import NumericalError
from ..fusion import FusionState
from ..models.model import Step
from ..models.vllm.wire import CHOSEN, FLOOR, GroupSpec, carrier_ids, encode_step
from ..prompts.tokenizer import Tokenizer
from .member import Member

__all__ = ["Groups", "Seat"]

_log = logging.getLogger("vllm.nbce_rag")  # vLLM shows what comes under its own name


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a row of a group stands in the logits of a step.

    Attributes:
        at: row of the logits.
        member: which row of which group.
        place: of the token that is chosen, in the answer, from 0.
        is_live: whether the token counts; False in the middle of a prompt, whose tokens nobody sees, and None
            where vLLM does not tell.
    """

    at: int
    member: Member
    place: int
    is_live: bool | None = None


@dataclass(eq=False)
class _Answer:
    """A group in the making."""

    group: Group
    place: int = 0  # of its next token


@dataclass(eq=False)
class _Writing:
    """What is to be written into the logits of a step."""

    rows: list[int] = field(default_factory=list)  # all else of them is `FLOOR`
    at: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def put(self, at: int, tokens: Sequence[int], values: Sequence[float]) -> None:
        self.rows.append(at)
        self.at += [at] * len(tokens)
        self.tokens += tokens
        self.values += values

    def write(self, logits: Tensor) -> None:
        if not self.rows:
            return
        device = logits.device
        logits.index_fill_(0, torch.tensor(self.rows, device=device), FLOOR)
        at, tokens = torch.tensor([self.at, self.tokens], device=device)
        logits[at, tokens] = torch.tensor(self.values, device=device, dtype=logits.dtype)


class Groups:
    """All groups of a worker. Used by one thread.

    Args:
        tokenizer: the model's, asked for when a group has a grammar.
        most: groups that are remembered; beyond them, those are forgotten that were seen longest ago. There
            must not be more in flight.
    """

    def __init__(self, tokenizer: Callable[[], Tokenizer], most: int = 1024) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self._answers: OrderedDict[str, _Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def choose(self, logits: Tensor, seats: Iterable[Seat]) -> None:
        """Choose a token of each group and write it into its rows; never raises.

        Args:
            logits: [N, V] float32 of a step, changed in place.
            seats: the rows that belong to groups.
        """
        by_group: dict[str, list[Seat]] = {}
        for seat in seats:
            if seat.is_live is not False:
                by_group.setdefault(seat.member.group, []).append(seat)
        if not by_group:
            return
        writing = _Writing()
        try:
            whole = {id: rows for id, rows in by_group.items() if self._joins(id, rows, logits)}
            chosen = self._chosen(logits, whole)
        except Exception:  # one that leaves here would end the server
            _log.exception("The groups of a step could not be fused.")
            chosen = {}
        for id, rows in by_group.items():
            spec = rows[0].member.spec
            if (step := chosen.get(id)) is not None:
                token, place = step.token, rows[0].place
                carriers = carrier_ids(token, spec.shape.carriers)
                for seat, numbers in zip(_in_order(rows), encode_step(place, step, spec.shape), strict=True):
                    writing.put(seat.at, [token, *carriers], [CHOSEN, *numbers])
                self._answers[id].place = place + 1
            else:
                self._answers.pop(id, None)
                for seat in rows:
                    writing.put(seat.at, [spec.poison], [CHOSEN])
        writing.write(logits)
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def _joins(self, id: str, rows: Sequence[Seat], logits: Tensor) -> bool:
        """Whether all rows of a group are here and in step; one that begins is made."""
        spec, places = rows[0].member.spec, {seat.place for seat in rows}
        if len(rows) != spec.rows or {seat.member.row for seat in rows} != set(range(spec.rows)):
            return False
        if len(places) != 1:
            return False
        [place] = places
        if place == 0:
            # Anew, since a first token may have been chosen in the middle of a prompt, and thrown away.
            try:
                self._answers[id] = _Answer(self._begun(spec, logits))
            except Exception:
                _log.exception("Group %s cannot be answered.", id)
                return False
        answer = self._answers.get(id)
        if answer is None or answer.place != place:
            return False
        self._answers.move_to_end(id)
        return True

    def _begun(self, spec: GroupSpec, logits: Tensor) -> Group:
        options, eos = spec.options, frozenset(spec.eos)
        constraint = None
        if spec.json_schema is not None or spec.regex is not None:
            constraint = Constraint(
                self._tokenizer(),
                json_schema=spec.json_schema,
                regex=spec.regex,
                vocab_size=logits.shape[-1],
                eos_ids=eos,
            )
        sampler = Sampler(options, cast(Tokenizer, _Spellings(spec)), eos, constraint)

        def known(values: Sequence[float] | None) -> Tensor | None:
            return None if values is None else torch.tensor([values], device=logits.device)

        state = FusionState(
            scores=known(spec.scores),
            relevance=known(spec.relevance),
            refusal=known(spec.refusal),
            joint=known(spec.joint),
        )
        rows = tuple(range(spec.rows))
        return Group(rows, options.rule, sampler, state, entropies=spec.entropies, top=spec.top)

    def _chosen(self, logits: Tensor, whole: dict[str, list[Seat]]) -> dict[str, Step]:
        """The next token of groups that are in step, by their ids; those that failed are left out."""
        if not whole:
            return {}
        seats = [seat for rows in whole.values() for seat in _in_order(rows)]
        at = torch.tensor([seat.at for seat in seats], device=logits.device)
        log_probs = logits.index_select(0, at).float().log_softmax(-1)
        groups: dict[int, Group] = {}
        errors: dict[int, Exception] = {}
        first = 0
        for number, (id, rows) in enumerate(whole.items()):
            group = self._answers[id].group
            group.rows = tuple(range(first, first + len(rows)))
            # A GPU is looked at later, with what it tells anyway.
            if logits.device.type == "cpu" and bool(log_probs[first : first + len(rows), 0].isnan().any()):
                errors[number] = NumericalError("The model gave NaN instead of probabilities.")
            else:
                groups[number] = group
            first += len(rows)
        steps, failed = choose_together(groups, log_probs)
        ids = list(whole)
        for number, error in (errors | failed).items():
            _log.error("Group %s ends: %s", ids[number], error)
        return {ids[step.question]: step for step in steps}


class _Spellings:
    """In the place of a tokenizer, for the sampler, which asks for the forms of banned words alone."""

    def __init__(self, spec: GroupSpec) -> None:
        self._spec = spec

    def encode(self, text: str) -> tuple[int, ...]:
        return self._spec.spellings.get(text, ())


def _in_order(rows: Sequence[Seat]) -> list[Seat]:
    return sorted(rows, key=lambda seat: seat.member.row or 0)
