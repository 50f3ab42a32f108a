"""From requests to answers, piece by piece: the decoder's steps become text, evidence and citations."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from ..answers.answer import Answer, Piece
from ..deadline import Deadline
from ..decoding.budget import Size, check_rows, fits
from ..decoding.detokenizer import TextBuilder
from ..decoding.drafting import PromptLookup
from ..decoding.group import Group
from ..decoding.loops import LOOP_TOKENS, is_loop
from ..decoding.plan import RowPlan
from ..decoding.reader import Engine, Prompted
from ..decoding.support import support_numbers
from ..decoding.thought import Share
from ..decoding.turn import TurnSampler, turn_sampler
from ..evidence.calibration import SupportNumbers
from ..evidence.citations import cite
from ..evidence.evidence import Timings, TokenEvidence, Usage
from ..evidence.spelling import Spelling
from ..fusion import Rule
from ..models.model import Step
from ..request import Request

__all__ = ["Job", "Run", "Sink", "group_of", "piece_of", "prepare", "run_of"]

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
        for note in _notes(job.request, job.plan)
        if note != NO_PASSAGES or _is_asked_over_passages(job.request)
    ]
    if any(_is_asked_over_passages(request) for request in idle.values()):
        notes.append(NOTHING_RETRIEVED)
    for index, request in idle.items():
        answer = _abstention(request)
        sink.put(index, Piece(answer.text, (), answer))
    return jobs, list(dict.fromkeys(notes))


@dataclass(eq=False)
class Run:
    """One answer in the making."""

    request: Request
    prompted: Prompted
    text: TextBuilder
    sampler: TurnSampler
    ends: frozenset[int]  # tokens that end the answer, though not the turn
    asked: float
    started: float  # to be read
    prefilled: float
    numbers: SupportNumbers | None = None
    steps: list[Step] = field(default_factory=list)  # of the answer
    waiting: list[Step] = field(default_factory=list)  # that may turn out to be the answer's
    tokens: list[TokenEvidence] = field(default_factory=list)
    first_token: float | None = None
    read: int = 0  # steps that `collect` has seen
    dropped: int = 0  # rows that did not matter
    row_steps: tuple[int, int] = (0, 0)  # read, and slept
    is_loop: bool = False  # whether it went round in circles

    @property
    def support(self) -> float | None:
        """How much support the passages give, where that was calibrated."""
        calibration = self.request.calibration
        return None if calibration is None or self.numbers is None else calibration.support(self.numbers)

    @property
    def lacks_support(self) -> bool:
        """Whether to abstain before anything is decoded."""
        limit, support = self.request.options.abstain_below, self.support
        return limit is not None and support is not None and support <= limit

    def push(self, step: Step, eos_ids: frozenset[int]) -> tuple[str, str, str | None]:
        """Take a step in: text and thought that are now certain, and why the answer ends, if it does."""
        self.first_token = self.first_token or time.perf_counter()
        # A decoder that holds the loop itself chooses without the sampler.
        shares = self.sampler.shares
        share = shares.popleft() if shares else self.sampler.reader.push(step.token)
        if step.token in eos_ids:
            return "", share.thought, "stop"
        if share.tokens and step.token in self.ends:
            return self.add(replace(share, tokens=share.tokens - 1)), share.thought, "stop"
        self.waiting.append(step)
        text = self.add(share)
        if self.text.stopped or self.sampler.finished:
            return text, share.thought, "stop"
        options = self.request.options
        if len(self.steps) >= options.max_tokens:
            return text, share.thought, "length"
        if options.json_schema is None and options.regex is None:  # a grammar knows where it ends
            self.is_loop = is_loop([step.token for step in self.steps[-LOOP_TOKENS:]])
        return text, share.thought, "stop" if self.is_loop else None

    def add(self, share: Share) -> str:
        """Take in the steps that turn out to be the answer's: the text that is now certain."""
        if not share.tokens:
            return ""
        steps, skip, text = self.waiting[-share.tokens :], share.skip, ""
        self.waiting.clear()
        for step in steps:
            if self.text.stopped or len(self.steps) >= self.request.options.max_tokens:
                break
            self.steps.append(step)
            text += self.text.push(step.token, skip)
            skip = 0
        return text

    def finish(self) -> tuple[str, str]:
        """No more steps: the rest of text and thought."""
        share = self.sampler.reader.finish()
        return self.add(share) + self.text.finish(), share.thought

    def collect(self) -> tuple[TokenEvidence, ...]:
        """Evidence of the tokens whose text became certain since the last call."""
        new: list[TokenEvidence] = []
        while self.read < len(self.steps) and self.text.certain(self.read):
            place = self.read
            step, (start, end) = self.steps[place], self.text.span(place)
            self.read += 1
            if start == end:
                continue  # white space around the answer, or beyond a stop string
            # Of several tokens that spell one character the last one completes it.
            completes = self.read == len(self.steps) or self.text.span(self.read) != (start, end)
            new.append(
                TokenEvidence(
                    id=step.token,
                    text=self.text.text[start:end] if completes else "",
                    start=start,
                    end=end,
                    logprob=step.log_prob,
                    weights=self.prompted.plan.share(step.evidence),
                    gain=step.gain,
                    entropies=step.entropies,
                    row_log_probs=self._by_passage(step.row_log_probs),
                    top=tuple((self.text.spelled(token, place), value) for token, value in step.top),
                )
            )
        self.tokens += new
        return tuple(new)

    def _by_passage(self, row_log_probs: Sequence[float]) -> tuple[float, ...]:
        """A token's log-probs by row into those without a passage and by passage; () if there are none."""
        if not row_log_probs:
            return ()
        return (row_log_probs[0], *self.prompted.plan.best_alone(row_log_probs[1:]))

    def answer(self, finish_reason: str) -> Answer:
        """The finished answer, or the abstention that takes its place."""
        options, prompted = self.request.options, self.prompted
        tokens, text = tuple(self.tokens), self.text.text
        grounding = None
        if tokens and prompted.passages:
            grounding = sum(token.gain for token in tokens) / len(tokens)
        limit = None if self.request.calibration else options.abstain_below
        if limit is not None and prompted.passages and (grounding is None or grounding < limit):
            finish_reason = "no_evidence"
        if finish_reason == "no_evidence":
            text, tokens = options.abstention, ()
        done = time.perf_counter()
        return Answer(
            question=self.request.question,
            text=text,
            tokens=tokens,
            citations=cite(text, tokens, prompted.passages, options.citation_threshold),
            passages=prompted.passages,
            usage=Usage(
                prompt_tokens=sum(prompted.plan.row_tokens),
                cached_tokens=prompted.cached_tokens,
                generated_tokens=len(self.sampler.ids),
                row_tokens=prompted.plan.row_tokens,
                row_passages=tuple(row.members for row in prompted.plan.rows),
                sentence_rows=prompted.plan.sentences,
                thought_tokens=self.sampler.reader.tokens,
                row_steps=self.row_steps[0],
                slept_row_steps=self.row_steps[1],
            ),
            timings=Timings(
                retrieve=None,
                prefill=self.prefilled - self.started,
                first_token=None if self.first_token is None else self.first_token - self.asked,
                decode=done - self.prefilled,
                total=done - self.asked,
            ),
            finish_reason=finish_reason,
            grounding=grounding,
            fusion=_label(options.rule),
            warnings=(*_notes(self.request, prompted.plan), *self._notes_of_course()),
            thought=self.sampler.reader.thought,
            request=self.request,
            support=self.support,
            support_numbers=self.numbers,
            spelling=self._spelling() if tokens else None,
        )

    def _spelling(self) -> Spelling:
        spans = [self.text.span(place) for place in range(len(self.steps))]
        count = max(place for place, (start, end) in enumerate(spans, 1) if start < end)
        return Spelling(tuple(step.token for step in self.steps[:count]), tuple(spans[:count]))

    def _notes_of_course(self) -> list[str]:
        """What happened on the way that the reader of the answer should know."""
        notes = []
        if self.is_loop:
            notes.append("The answer went round in circles and was ended there.")
        if self.sampler.was_cut:
            notes.append(
                "The thought was cut off at the most tokens allowed (max_thought_tokens), and the answer "
                "begun."
            )
        if self.dropped:
            rows = len(self.prompted.rows) - 1
            notes.append(
                f"{self.dropped} of {rows} passage rows were dropped on the way, after "
                f"{self.request.options.drop_rows_after} tokens without evidence from them."
            )
        return notes


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
        fusion=_label(request.options.rule),
        warnings=(NOTHING_RETRIEVED,),
    )


def run_of(job: Job, prompted: Prompted, log_probs: Tensor, started: float) -> Run:
    """The answer to a question whose prompt was read.

    Args:
        job: the question.
        prompted: what reading told.
        log_probs: [R, V] of the first token, of the batch that it was read in.
        started: when reading began.
    """
    engine, request = job.engine, job.request
    return Run(
        request=request,
        prompted=prompted,
        text=TextBuilder(engine.model.tokenizer, _stop(engine, request)),
        sampler=job.sampler,
        ends=engine.encoder_of(request).end_tokens,
        asked=job.asked,
        started=started,
        prefilled=time.perf_counter(),
        numbers=support_numbers(
            request.question,
            request.options.rule,
            prompted,
            log_probs[prompted.rows[0] : prompted.rows[-1] + 1],
        ),
    )


def piece_of(run: Run, text: str, thought: str, reason: str | None) -> Piece | None:
    """What is shown after a token, if anything.

    Args:
        run: the answer.
        text, thought, reason: as `Run.push` gives them.
    """
    # By grounding it is known only of a whole answer whether to abstain, so until then it is not shown.
    held = run.request.options.abstain_below is not None and run.request.calibration is None
    if reason is None:
        if held or not (text or thought):
            return None
        return Piece(text, run.collect() if text else (), None, thought)
    rest = run.finish()
    last = run.collect()
    answer = run.answer(reason)
    if held:
        return Piece(answer.text, answer.tokens, answer, answer.thought)
    return Piece(text + rest[0], last, answer, thought + rest[1])


def group_of(run: Run, engine: Engine, rows: int) -> Group:
    """What the decoder has to know of an answer.

    Args:
        run: the answer.
        engine: model and wording.
        rows: of all that is decoded with it.
    """
    options, plan = run.request.options, run.prompted.plan
    can_rewind = engine.model.can.rewind
    has_grammar = options.json_schema is not None or options.regex is not None
    # Rows that fall asleep are moved behind the others, which takes a copy of all.
    copy = Size(rows, engine.size(run.request, plan).tokens)
    contexts = [row.context for row in plan.rows[1:]]
    drafts = options.prompt_lookup_num_tokens
    return Group(
        run.prompted.rows,
        options.rule,
        run.sampler,
        run.prompted.state,
        lookup=PromptLookup(contexts, drafts) if drafts and contexts and can_rewind else None,
        drop_after=options.drop_rows_after,
        entropies=options.entropies,
        top=options.top_logprobs,
        sleep=options.sleep and can_rewind and not has_grammar and fits(engine.model, copy),
    )


def _stop(engine: Engine, request: Request) -> tuple[str, ...]:
    encoder = engine.encoder_of(request)
    mark = "" if encoder.thought is None else encoder.thought.format.stop
    return (*encoder.template.stop, *filter(None, [mark]), *request.options.stop)


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


def _label(rule: Rule) -> str:
    """What an answer calls a rule: its label, or of one of the user's the name of it or its class."""
    return str(getattr(rule, "label", "") or getattr(rule, "name", "") or type(rule).__name__)


def _notes(request: Request, plan: RowPlan) -> list[str]:
    # A conversation or a text of its own may well do without passages, unless some were looked for.
    lacks = not request.passages and (request.is_retrieved or _is_asked_over_passages(request))
    return [NO_PASSAGES, *plan.warnings] if lacks else list(plan.warnings)


def _is_asked_over_passages(request: Request) -> bool:
    """Whether the words of a request are made for passages; a caller of the engine is then warned at once."""
    return request.prompt is None or request.prompt.is_template
