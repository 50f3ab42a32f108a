"""What is asked, checked and planned, before anything is computed; and where goes what becomes of it."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..answers.answer import Answer, Piece
from ..deadline import Deadline
from ..decoding.budget import Size, check_rows
from ..decoding.plan import RowPlan
from ..decoding.reader import Engine
from ..decoding.turn import TurnSampler, turn_sampler
from ..evidence.evidence import Timings, Usage
from ..fusion import Rule
from ..request import Request

__all__ = ["NO_PASSAGES", "Job", "Sink", "label_of", "notes_of", "prepare"]

NO_PASSAGES = "No passages were given; the answer comes from the question alone."
NOTHING_RETRIEVED = (
    "No passage was found, so the model was not asked; the option answer_without_context "
    "(--answer-without-context) answers from the question alone."
)


class Sink(Protocol):
    """Where goes what becomes of questions that are asked together; the thread that computes calls it."""

    @property
    def is_closed(self) -> bool:
        """Whether nobody waits any longer."""
        ...

    def put(self, index: int, piece: Piece) -> None:
        """A piece of the question with this index; its last one carries the `Answer`."""
        ...

    def fail(self, index: int, error: BaseException) -> None:
        """The question ended by an error."""
        ...

    def note(self, message: str) -> None:
        """Something that who waits is to be warned of."""
        ...


@dataclass(eq=False)
class Job:
    """One question that is to be answered.

    Attributes:
        index: among those that were asked together.
        engine: model and wording.
        request, plan, sampler: what is asked, its rows, who chooses its tokens.
        size: rows and tokens that it takes.
        deadline: when it has to be answered.
        sink: where its pieces go.
        priority: those of a higher one are read first.
        caller: callers take turns.
        asked: when, by `time.perf_counter`.
        is_alone: whether it is read and decoded without company, after memory was short.
        is_apart: whether its prompt is read apart, after a reading of several failed.
    """

    index: int
    engine: Engine
    request: Request
    plan: RowPlan
    sampler: TurnSampler
    size: Size
    deadline: Deadline
    sink: Sink
    priority: int = 0
    caller: Hashable = None
    asked: float = field(default_factory=time.perf_counter)
    is_alone: bool = False
    is_apart: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Of all rows."""
        return sum(self.plan.row_tokens)

    @property
    def suffix_tokens(self) -> int:
        """That all rows end with, which are read in one pass."""
        return len(self.plan.rows) * len(self.plan.suffix.ids)


def prepare(
    engine: Engine, requests: Sequence[Request], sink: Sink, running: Size
) -> tuple[list[Job], list[str]]:
    """Check and plan requests; nothing is computed.

    Those for which nothing was found are answered with the abstention at once.

    Args:
        engine: model and wording.
        requests: the questions.
        sink: where their pieces go.
        running: what is decoded at this time.

    Returns:
        (a job for each of the others, what their caller is to be warned of).

    Raises:
        InputError: an empty question or passage, or rows that will never fit into window or memory.
    """
    idle = {index: request for index, request in enumerate(requests) if _lacks_passages(request)}
    jobs = []
    for index, request in enumerate(requests):
        if index in idle:
            continue
        plan = engine.plan(request)
        jobs.append(
            Job(
                index=index,
                engine=engine,
                request=request,
                plan=plan,
                sampler=_sampler(engine, request),
                size=engine.size(request, plan),
                deadline=Deadline(request.options.max_seconds),
                sink=sink,
            )
        )
    for job in jobs:
        check_rows(engine.model, job.size, running)
    notes = [
        note
        for job in jobs
        for note in notes_of(job.request, job.plan)
        if note != NO_PASSAGES or _is_asked_over_passages(job.request)
    ]
    if any(_is_asked_over_passages(request) for request in idle.values()):
        notes.append(NOTHING_RETRIEVED)
    for index, request in idle.items():
        answer = _abstention(request)
        sink.put(index, Piece(answer.text, (), answer))
    return jobs, list(dict.fromkeys(notes))


def _lacks_passages(request: Request) -> bool:
    return request.is_retrieved and not request.passages and not request.options.answer_without_context


def _abstention(request: Request) -> Answer:
    """The answer where nothing was found; nothing is read for it."""
    return Answer(
        question=request.question,
        text=request.options.abstention,
        tokens=(),
        citations=(),
        passages=(),
        usage=Usage(0, 0, 0, (), ()),
        timings=Timings(retrieve=None, prefill=0.0, first_token=None, decode=0.0, total=0.0),
        finish_reason="no_evidence",
        grounding=None,
        fusion=label_of(request.options.rule),
        warnings=(NOTHING_RETRIEVED,),
    )


def _sampler(engine: Engine, request: Request) -> TurnSampler:
    options, model = request.options, engine.model
    constraint = None
    if options.json_schema is not None or options.regex is not None:
        from ..decoding.grammar import Constraint

        constraint = Constraint(
            model.tokenizer,
            json_schema=options.json_schema,
            regex=options.regex,
            vocab_size=model.vocab_size,
            eos_ids=model.eos_ids,
        )
    return turn_sampler(
        engine.encoder_of(request), options, engine.window, model.tokenizer, model.eos_ids, constraint
    )


def label_of(rule: Rule) -> str:
    """What an answer calls a rule: its label, or of one of the user's the name of it or its class."""
    return str(getattr(rule, "label", "") or getattr(rule, "name", "") or type(rule).__name__)


def notes_of(request: Request, plan: RowPlan) -> list[str]:
    """What a person should be told about a question and its rows."""
    # A conversation or a text of its own may well do without passages, unless some were looked for.
    lacks = not request.passages and (request.is_retrieved or _is_asked_over_passages(request))
    return [NO_PASSAGES, *plan.warnings] if lacks else list(plan.warnings)


def _is_asked_over_passages(request: Request) -> bool:
    """Whether the words of a request are made for passages; a caller of the engine is then warned at once."""
    return request.prompt is None or request.prompt.is_template
