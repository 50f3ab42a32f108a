"""From requests to rows that are ready to decode: plans, prompts, and further rows of sentences."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..deadline import check_deadline
from ..errors import InputError, warn
from ..fusion import FusionState, Posterior, rule_fields
from ..kv.store import ContextStore, PassageKVStore
from ..models.model import LoopModel, Model, Reading, RowPrompt, Rows
from ..passages import Passage
from ..prompts.binding import Encoders
from ..prompts.encoder import PromptEncoder
from ..request import Request
from .budget import NOTHING, Size, check_rows, fits, size_of
from .pieces import Scratch, pieces_of
from .plan import RowPlan, plan_rows
from .sentences import focal_passages, sentence_rows
from .together import together_row
from .turn import thought_room

__all__ = ["Engine", "Prompted", "ReadBatch", "read_in_pieces", "read_prompts"]


_UNBOUNDED = 2**31 - 1
_PATIENCE = 0.02  # seconds until others are looked after while prompts are read elsewhere


@dataclass(frozen=True)
class Engine:
    """What reading and decoding share: the model, its wording, its memory.

    Attributes:
        model: the backend.
        encoders: the prompt template and the prompts of requests, bound to the tokenizer.
        store: what is kept of contexts from question to question, or None.
        window: the most tokens of a row, answer included.
        batch_tokens: rows times length of one forward pass, at most; None is the model's choice.
    """

    model: Model
    encoders: Encoders
    store: PassageKVStore | None
    window: int
    batch_tokens: int | None = None

    @property
    def contexts(self) -> ContextStore | None:
        """The store as the model sees it."""
        return None if self.store is None else self.store.of(self.model)

    @property
    def pass_tokens(self) -> int:
        """Rows times length of one forward pass, at most."""
        return self.batch_tokens or self.model.batch_tokens

    def encoder_of(self, request: Request) -> PromptEncoder:
        """The request's wording, or the engine's."""
        options = request.options
        return self.encoders.of(request.prompt, options.chat_template_kwargs, options.style, options.thinking)

    def output_tokens(self, request: Request) -> int:
        """Tokens that the request's thought and answer may take in a row."""
        encoder, options = self.encoder_of(request), request.options
        return options.max_tokens + thought_room(encoder, options, self.window)

    def plan(self, request: Request) -> RowPlan:
        """Rows of a request, before any work is done.

        Raises:
            InputError: what `plan_rows` raises, or something is asked for that the backend cannot do.
        """
        self._check(request)
        encoder = self.encoder_of(request)
        plan = plan_rows(encoder, request.question, request.passages, request.options, self.window)
        notes = [] if self.store is None or not self.store.codec.note else [self.store.codec.note]
        if getattr(request.options.rule, "uses_relevance", False) and not self.model.can.likelihood:
            notes.append(
                f"The backend of {self.model.name!r} gives no likelihoods, so the fusion rule does not know "
                "how much better each passage makes the model predict the question."
            )
        return replace(plan, warnings=(*plan.warnings, *notes)) if notes else plan

    def window_needed(self, request: Request) -> int:
        """Tokens of the request's longest row with its answer, as if the window had no end."""
        encoder, options = self.encoder_of(request), request.options
        plan = plan_rows(encoder, request.question, request.passages, options, _UNBOUNDED)
        behind = max(options.max_tokens, len(encoder.refusal)) + thought_room(encoder, options, _UNBOUNDED)
        return max(plan.row_tokens) + behind

    def check_steps(self, work: str) -> None:
        """Raises InputError where rows cannot be stepped from here, as some work needs ("score choices")."""
        if not self.model.can.steps:
            raise InputError(
                f"The backend of {self.model.name!r} cannot {work}, since it steps its rows by itself; load "
                "the model with backend='transformers' or 'llama.cpp' for it."
            )

    def _check(self, request: Request) -> None:
        options, rule, can = request.options, request.options.rule, self.model.can
        # Weights at the first token by which passages are chosen; those of `Posterior` are the prior.
        weighs = not isinstance(rule, Posterior) and any(
            getattr(rule, name, 0) for name in ("focus", "together")
        )
        is_calibrated = options.abstain_below is not None and request.calibration is not None
        denied = {
            "relevance": options.relevance and not can.likelihood,
            "json_schema": options.json_schema is not None and not can.grammar,
            "regex": options.regex is not None and not can.grammar,
            "abstain_below with a calibration": is_calibrated and not can.distributions,
            f"focus or together of {rule!r}": weighs and not can.distributions,
            "drop_rows_after": options.drop_rows_after > 0 and not can.steps,
            f"fusion={rule!r}, a rule of your own,": not can.steps and rule_fields(rule) is None,
            "a thought (thinking=False bars it)": not can.steps and self.encoder_of(request).thinks_first(),
        }
        if names := [name for name, is_denied in denied.items() if is_denied]:
            raise InputError(
                f"The backend of {self.model.name!r} cannot do what {' and '.join(names)} asks for; leave it "
                "out, or load the model with another backend."
            )

    def size(self, request: Request, plan: RowPlan) -> Size:
        """Rows and tokens that a request takes when it is decoded."""
        return size_of(plan.row_tokens, self.output_tokens(request))


@dataclass(frozen=True)
class Prompted:
    """One request after its prompt was read.

    Attributes:
        plan: its rows.
        rows: their places in the batch.
        state: what fusion may know, G = 1.
        passages: the passages, with `relevance` filled in where it was computed.
        refused: whether every passage row refuses.
        cached_tokens: prompt tokens that came from the store.
    """

    plan: RowPlan
    rows: tuple[int, ...]
    state: FusionState
    passages: tuple[Passage, ...]
    refused: bool
    cached_tokens: int


@dataclass(frozen=True)
class ReadBatch:
    """Several requests after their prompts were read.

    Attributes:
        rows: all rows, one request after another.
        log_probs: [R, V] of the first token.
        prompted: one a request.
        notes: what a person should be told.
    """

    rows: Rows
    log_probs: Tensor
    prompted: tuple[Prompted, ...]
    notes: tuple[str, ...]


def read_prompts(
    engine: Engine, requests: Sequence[Request], plans: Sequence[RowPlan], *, sentences: bool = True
) -> tuple[Rows, Tensor, list[Prompted]]:
    """Read the prompts of several requests into one batch.

    Where a rule has a `focus`, the passages that matter get rows of their sentences beside their own
    (`nbce_rag.decoding.sentences`), so that a plan may come back with more rows than it had.

    Args:
        engine: model and wording.
        requests: the questions.
        plans: their rows (`Engine.plan`).
        sentences: False reads none, whatever the rules say.

    Returns:
        (all rows, first log-probs [R, V], one `Prompted` a request).

    Raises:
        InputError: the rows do not fit into memory.
        NumericalError: the model gave NaN.
    """
    reading = read_in_pieces(engine, requests, plans, sentences=sentences)
    while True:
        try:
            next(reading)
        except StopIteration as end:
            batch: ReadBatch = end.value
            break
    for note in batch.notes:
        warn(note)
    return batch.rows, batch.log_probs, list(batch.prompted)


def read_in_pieces(
    engine: Engine,
    requests: Sequence[Request],
    plans: Sequence[RowPlan],
    *,
    sentences: bool = True,
    tokens: int | None = None,
    running: Size = NOTHING,
) -> Generator[None, None, ReadBatch]:
    """As `read_prompts`, a piece at a time; nothing is warned of.

    Args:
        engine, requests, plans, sentences: as there.
        tokens: rows times length of the contexts that are read in one piece, at most (a longer one goes
            alone); None reads all contexts with the suffixes behind them. A suffix in all rows of its
            question is one piece, and so are the rows of sentences, and the row of several passages.
        running: what is decoded meanwhile, and becomes as long as the longest of these rows when they join.

    Yields:
        None between two pieces, and while a backend that holds the loop itself reads them elsewhere.
    """
    sizes = [engine.size(request, plan) for request, plan in zip(requests, plans, strict=True)]
    check_rows(engine.model, sum(sizes, NOTHING))
    room = max(max(engine.output_tokens(r), len(engine.encoder_of(r).refusal)) for r in requests)
    questions = [_Question(engine, request, plan) for request, plan in zip(requests, plans, strict=True)]
    shared = _by_prompt(questions)
    prompts = [users[0].prompt_of(users) for users in shared]
    store = engine.contexts
    scratch = Scratch(store)
    if tokens is not None:
        contexts = [ids for prompt in prompts for ids in prompt.contexts]
        scratch.expect(contexts)
        for piece in pieces_of(engine.model, contexts, scratch, tokens):
            engine.model.read(piece, scratch, tokens)
            yield
    rows, readings = yield from _open(engine, prompts, room, store if tokens is None else scratch)
    readings = [(prompt, scratch.as_new(prompt, reading)) for prompt, reading in readings]
    scratch.clear()
    first = 0
    for users, (prompt, reading) in zip(shared, readings, strict=True):
        for question in users:
            question.take(prompt, reading, first)
        first += len(prompt.contexts)
    notes: list[str] = []
    if sentences:
        for read in (_read_together, _read_sentences):
            yield
            rows, more = yield from read(engine, questions, rows, readings, room, running)
            notes += more
    if engine.store is not None:
        notes += engine.store.take_notes()
    for question in questions:
        question.plan = replace(question.plan, warnings=(*question.plan.warnings, *notes))
    order = [row for question in questions for row in question.rows]
    if order != list(range(len(rows))):
        rows = rows.keep(order)
    log_probs = torch.cat([question.reading.log_probs for question in questions])
    prompted, first = [], 0
    for question in questions:
        places = range(first, first + len(question.rows))
        first = places.stop
        prompted.append(question.prompted(places))
    return ReadBatch(rows, log_probs, tuple(prompted), tuple(notes))


class _Question:
    """One request while its prompt is read: its rows, where they are in the batch, what was read."""

    def __init__(self, engine: Engine, request: Request, plan: RowPlan) -> None:
        self.engine, self.request, self.plan = engine, request, plan
        self.encoder = engine.encoder_of(request)
        self.rows: list[int] = []
        self.reading: Reading
        self.prompt: RowPrompt

    @property
    def layout(self) -> Hashable:
        """Equal where a prompt can be read once for several requests, as when rules are compared."""
        contexts = tuple(row.context for row in self.plan.rows)
        return contexts, self.plan.suffix, self.encoder.refusal

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether relevance and refusal are to be computed."""
        rule, options = self.request.options.rule, self.request.options
        if len(self.plan.rows) == 1 or not self.engine.model.can.likelihood:
            return False, False  # rules do without what is not known
        relevance = getattr(rule, "uses_relevance", False) or options.relevance
        return relevance, getattr(rule, "uses_refusal", False)

    def prompt_of(self, users: Sequence[_Question]) -> RowPrompt:
        """The rows as the backend takes them, with all that one of these requests needs."""
        contexts = tuple(row.context for row in self.plan.rows)
        relevance = any(question.needs[0] for question in users)
        refusal = any(question.needs[1] for question in users)
        return RowPrompt(
            contexts=contexts,
            suffix=self.plan.suffix.ids,
            question=range(*self.plan.suffix.question) if relevance else None,
            refusal=self.encoder.refusal if refusal else (),
            vocabulary=frozenset(token for ids in contexts for token in ids) if relevance else frozenset(),
        )

    def take(self, prompt: RowPrompt, reading: Reading, first: int) -> None:
        """Take in what was read of the request's own rows, which stand from `first` on."""
        self.prompt, self.reading = prompt, reading
        self.rows = list(range(first, first + len(prompt.contexts)))

    def together_prompt(self, longest: int) -> tuple[RowPrompt, RowPlan] | None:
        """As `sentence_prompt`, with the row of the best passages together.

        Args:
            longest: most tokens of a row.
        """
        state = self._state()
        if self._is_refused(state):
            return None
        row = together_row(
            self.encoder,
            self.plan,
            self.request.question,
            self.request.passages,
            self.request.options,
            self.reading.log_probs,
            state,
            longest - len(self.plan.suffix.ids),
        )
        if row is None:
            return None
        contexts = (self.plan.rows[0].context, row.context)
        prompt = replace(self.prompt, contexts=contexts, measure=self.reading.measure)
        return prompt, self.plan.with_row(row)

    def sentence_prompt(self, longest: int) -> tuple[RowPrompt, RowPlan] | None:
        """The further rows that the request's rule wants to read beside these, and the plan with them.

        Args:
            longest: most tokens of a row.
        """
        focal = focal_passages(self.plan, self.request.options, self.reading.log_probs, self._state())
        room = longest - len(self.plan.suffix.ids)
        further = sentence_rows(self.encoder, self.request.passages, focal, self.request.options, room)
        if not further:
            return None
        # Row 0 again, as what likelihoods are measured against.
        contexts = (self.plan.rows[0].context, *(row.context for row in further))
        prompt = replace(self.prompt, contexts=contexts, measure=self.reading.measure)
        return prompt, self.plan.with_sentences(further)

    def add(self, plan: RowPlan, reading: Reading, first: int) -> None:
        """Take in further rows, which stand from `first` on without their row 0."""
        self.plan = plan
        self.rows += range(first, first + len(reading.log_probs) - 1)
        self.reading = self.reading.joined(reading)

    def _is_refused(self, state: FusionState) -> bool:
        """Whether every passage row refuses."""
        refusal = state.refusal
        return refusal is not None and bool((refusal >= self.request.options.refusal_threshold).all())

    def prompted(self, places: range) -> Prompted:
        state = self._state()
        passages = tuple(self.request.passages)
        if state.relevance is not None:
            best = self.plan.best(state.relevance[0].tolist())
            passages = tuple(replace(p, relevance=m) for p, m in zip(passages, best, strict=True))
        return Prompted(
            plan=self.plan,
            rows=tuple(places),
            state=state,
            passages=passages,
            refused=self._is_refused(state),
            cached_tokens=sum(self.reading.reused),
        )

    def _state(self) -> FusionState:
        """What the request's rule may know before the first token."""
        reading = self.reading
        relevance = refusal = None
        needs_relevance, needs_refusal = self.needs
        if needs_relevance and reading.question is not None:
            relevance = (reading.question[1:] - reading.question[:1])[None]
        if needs_refusal and reading.refusal is not None:
            refusal = reading.refusal[1:][None]
        scores, joint, extract = (
            None if values is None else values.to(self.engine.model.device)
            for values in (self.plan.scores(), self.plan.joint(), self.plan.extract())
        )
        return FusionState(scores, relevance, refusal, joint=joint, extract=extract)


def _by_prompt(questions: Sequence[_Question]) -> list[list[_Question]]:
    """Requests with the same rows: their prompts are read once."""
    users: dict[Hashable, list[_Question]] = {}
    for question in questions:
        users.setdefault(question.layout, []).append(question)
    return list(users.values())


def _open(
    engine: Engine, prompts: Sequence[RowPrompt], room: int, store: ContextStore | None
) -> Generator[None, None, tuple[Rows, list[tuple[RowPrompt, Reading]]]]:
    if store is not None:
        store.expect(ids for prompt in prompts for ids in prompt.contexts)
    if isinstance(engine.model, LoopModel):
        opening = engine.model.opening(prompts, room)
        try:
            while not opening.wait(_PATIENCE):
                check_deadline()
                yield
            rows, readings = opening.result()
        finally:
            opening.cancel()
    else:
        rows, readings = engine.model.open(prompts, room, store, engine.batch_tokens)
    return rows, list(zip(prompts, readings, strict=True))


def _read_sentences(
    engine: Engine,
    questions: Sequence[_Question],
    rows: Rows,
    before: Sequence[tuple[RowPrompt, Reading]],
    room: int,
    running: Size,
) -> Generator[None, None, tuple[Rows, list[str]]]:
    """Rows of sentences behind the others, and what a person should be told."""
    longest = max(prompt.longest for prompt, _ in before)
    users = _users(questions, lambda question: question.sentence_prompt(longest))
    if not users:
        return rows, []
    # Rows of several passages, which are there already, may be longer than these.
    longest = max(longest, *(max(question.plan.row_tokens) for question in questions))
    lengths = _lengths(prompt for prompt, _ in before)
    lengths += [longest] * (len(rows) - len(lengths))
    size = running + size_of([*lengths, *_lengths(users)], room)
    if not fits(engine.model, size):
        return rows, [
            f"No passage was read sentence by sentence: {size.rows} rows of {size.tokens} tokens need about "
            f"{size.cost(engine.model) / 2**30:.1f} GiB. Ask fewer questions at once, or lower max_tokens."
        ]
    more, readings = yield from _open(engine, list(users), room, engine.contexts)
    # What was put into the store a moment ago was not spared.
    fresh = {
        ids
        for prompt, reading in before
        for ids, tokens in zip(prompt.contexts, reading.reused, strict=True)
        if not tokens
    }
    spared = [
        replace(
            reading,
            reused=tuple(
                0 if c in fresh else n for c, n in zip(prompt.contexts, reading.reused, strict=True)
            ),
        )
        for prompt, reading in readings
    ]
    return _joined(rows, more, users, spared), []


def _read_together(
    engine: Engine,
    questions: Sequence[_Question],
    rows: Rows,
    before: Sequence[tuple[RowPrompt, Reading]],
    room: int,
    running: Size,
) -> Generator[None, None, tuple[Rows, list[str]]]:
    """Rows of several passages behind the others, and what a person should be told."""
    users = _users(questions, lambda question: question.together_prompt(engine.window - room))
    if not users:
        return rows, []
    size = running + size_of(_lengths([*(prompt for prompt, _ in before), *users]), room)
    if not fits(engine.model, size):
        return rows, [
            f"No passages were read together: {size.rows} rows of {size.tokens} tokens need about "
            f"{size.cost(engine.model) / 2**30:.1f} GiB. Ask fewer questions at once, or lower max_tokens."
        ]
    # Such a context is hardly ever read again, and would take the place of passages in the store.
    more, readings = yield from _open(engine, list(users), room, None)
    return _joined(rows, more, users, [reading for _, reading in readings]), []


def _lengths(prompts: Iterable[RowPrompt]) -> list[int]:
    """Tokens of each of their rows."""
    return [len(ids) + len(prompt.suffix) for prompt in prompts for ids in prompt.contexts]


def _users(
    questions: Sequence[_Question], further: Callable[[_Question], tuple[RowPrompt, RowPlan] | None]
) -> dict[RowPrompt, list[tuple[_Question, RowPlan]]]:
    """Further prompts, each with the questions that want it and their plans with it."""
    users: dict[RowPrompt, list[tuple[_Question, RowPlan]]] = {}
    for question in questions:
        if (wanted := further(question)) is not None:
            users.setdefault(wanted[0], []).append((question, wanted[1]))
    return users


def _joined(
    rows: Rows,
    more: Rows,
    users: Mapping[RowPrompt, Sequence[tuple[_Question, RowPlan]]],
    readings: Sequence[Reading],
) -> Rows:
    """Further rows behind the others. Their row 0 was read as a measure only, and is there already."""
    kept: list[int] = []
    first, behind = 0, len(rows)
    for (prompt, waiting), reading in zip(users.items(), readings, strict=True):
        for question, plan in waiting:
            question.add(plan, reading, behind + len(kept))
        kept += range(first + 1, first + len(prompt.contexts))
        first += len(prompt.contexts)
    return rows.joined(more.keep(kept))
