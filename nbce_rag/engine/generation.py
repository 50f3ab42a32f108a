"""From requests to answers, piece by piece: the decoder's steps become text, evidence and citations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..answers.answer import Answer, Piece
from ..deadline import Deadline, kept_deadline
from ..decoding.budget import Size, batches, check_rows, fits
from ..decoding.decoder import LockstepDecoder
from ..decoding.detokenizer import TextBuilder
from ..decoding.drafting import PromptLookup
from ..decoding.group import Group
from ..decoding.loops import LOOP_TOKENS, is_loop
from ..decoding.plan import RowPlan
from ..decoding.reader import Engine, Prompted, read_prompts
from ..decoding.support import support_numbers
from ..decoding.thought import Share
from ..decoding.turn import TurnSampler, turn_sampler
from ..errors import warn
from ..evidence.calibration import SupportNumbers
from ..evidence.citations import CitationStream
from ..evidence.evidence import Citation, Timings, TokenEvidence, Usage
from ..evidence.spelling import Spelling
from ..evidence.unsupported import UnsupportedReader, UnsupportedWords
from ..fusion import Rule
from ..models.model import Decoder, Step
from ..request import Request

__all__ = ["Run", "generate"]

NO_PASSAGES = "No passages were given; the answer comes from the question alone."
NOTHING_RETRIEVED = (
    "No passage was found, so the model was not asked; the option answer_without_context "
    "(--answer-without-context) answers from the question alone."
)


def generate(engine: Engine, requests: Sequence[Request]) -> Iterator[tuple[int, Piece]]:
    """Answer requests in decoding batches as large as memory allows.

    Nothing is computed between pieces, so a consumer that stops asking stops the work.

    Args:
        engine: model and wording.
        requests: the questions.

    Yields:
        (index of the request, piece); the last piece of each request carries its `Answer`. Requests for which
        nothing was found come first: they are answered with the abstention, and nothing is read for them.

    Raises:
        InputError: an empty question or passage, or rows that do not fit into window or memory. Raised
            before anything is computed.
        NumericalError: the model gave NaN.
        AnswerTimeoutError: it took longer than the least `max_seconds` of the requests.
    """
    limits = [seconds for request in requests if (seconds := request.options.max_seconds) is not None]
    deadline = Deadline(min(limits, default=None))
    idle = {index: request for index, request in enumerate(requests) if _lacks_passages(request)}
    places = [index for index in range(len(requests)) if index not in idle]
    requests = [requests[place] for place in places]
    plans = [engine.plan(request) for request in requests]
    samplers = [_sampler(engine, request) for request in requests]
    sizes = [engine.size(request, plan) for request, plan in zip(requests, plans, strict=True)]
    for size in sizes:
        check_rows(engine.model, size)
    notes = [
        note
        for request, plan in zip(requests, plans, strict=True)
        for note in _notes(request, plan)
        if note != NO_PASSAGES or _is_asked_over_passages(request)
    ]
    if any(_is_asked_over_passages(request) for request in idle.values()):
        notes.append(NOTHING_RETRIEVED)
    for note in dict.fromkeys(notes):
        warn(note)
    for index, request in idle.items():
        answer = _abstention(request)
        yield index, Piece(answer.text, (), answer)
    for batch in batches(engine.model, sizes):
        some = [(places[i], requests[i], plans[i], samplers[i]) for i in batch]
        yield from _generate_batch(engine, some, deadline)


@dataclass(eq=False)
class Run:
    """One answer in the making."""

    index: int
    request: Request
    prompted: Prompted
    text: TextBuilder
    sampler: TurnSampler
    ends: frozenset[int]  # tokens that end the answer, though not the turn
    started: float
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
    citations: tuple[Citation, ...] = ()  # that are certain
    unsupported: tuple[UnsupportedWords, ...] = ()  # inside of these
    stream: CitationStream = field(init=False)
    reader: UnsupportedReader = field(init=False)

    def __post_init__(self) -> None:
        self.stream = CitationStream(self.prompted.passages, self.request.options.citation_threshold)
        self.reader = UnsupportedReader(self.prompted.passages)

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

    def cite(
        self, text: str, tokens: Sequence[TokenEvidence]
    ) -> tuple[tuple[Citation, ...], tuple[UnsupportedWords, ...]]:
        """Take in further text and tokens: the citations that are now certain, and what they lack."""
        citations = self.stream.push(text, tokens)
        unsupported = self.reader.push(self.stream.text, citations) if citations else ()
        self.citations += citations
        self.unsupported += unsupported
        return citations, unsupported

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
            text, tokens, self.citations = options.abstention, (), ()
        else:
            self.citations += self.stream.finish()
        done = time.perf_counter()
        return Answer(
            question=self.request.question,
            text=text,
            tokens=tokens,
            citations=self.citations,
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
                first_token=None if self.first_token is None else self.first_token - self.started,
                decode=done - self.prefilled,
                total=done - self.started,
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


def _generate_batch(
    engine: Engine, batch: list[tuple[int, Request, RowPlan, TurnSampler]], deadline: Deadline
) -> Iterator[tuple[int, Piece]]:
    started = time.perf_counter()
    requests, plans = [request for _, request, _, _ in batch], [plan for _, _, plan, _ in batch]
    with kept_deadline(deadline):
        rows, log_probs, prompted = read_prompts(engine, requests, plans)
    prefilled = time.perf_counter()
    runs = [
        Run(
            index=index,
            request=request,
            prompted=ready,
            text=TextBuilder(engine.model.tokenizer, _stop(engine, request)),
            sampler=sampler,
            ends=engine.encoder_of(request).end_tokens,
            started=started,
            prefilled=prefilled,
            numbers=support_numbers(
                request.question,
                request.options.rule,
                ready,
                log_probs[ready.rows[0] : ready.rows[-1] + 1],
            ),
        )
        for (index, request, _, sampler), ready in zip(batch, prompted, strict=True)
    ]
    decoder: Decoder = LockstepDecoder(rows, log_probs, [_group(run, engine, len(rows)) for run in runs])
    del rows, log_probs  # the decoder drops them as rows finish
    for place, run in enumerate(runs):
        if run.prompted.refused or run.lacks_support:
            decoder.finish(place)
            answer = run.answer("no_evidence")
            yield run.index, Piece(answer.text, (), answer)
    while decoder.active:
        deadline.check()
        for step in decoder.step():
            if step.question not in decoder.active:
                continue  # it ended with an earlier one of these
            run = runs[step.question]
            text, thought, reason = run.push(step, engine.model.eos_ids)
            if reason is not None:
                decoder.finish(step.question)
                run.dropped = decoder.dropped(step.question)
                run.row_steps = decoder.row_steps(step.question)
            piece = _piece(run, text, thought, reason)
            if piece is not None:
                yield run.index, piece


def _piece(run: Run, text: str, thought: str, reason: str | None) -> Piece | None:
    # By grounding it is known only of a whole answer whether to abstain, so until then it is not shown.
    held = run.request.options.abstain_below is not None and run.request.calibration is None
    if reason is None:
        if not (text or thought):
            return None
        tokens = run.collect() if text else ()
        cited = run.cite(text, tokens)
        return None if held else Piece(text, tokens, None, thought, *cited)
    rest = run.finish()
    text, last = text + rest[0], run.collect()
    citations, unsupported = len(run.citations), len(run.unsupported)
    run.cite(text, last)
    answer = run.answer(reason)
    if held:
        return Piece(answer.text, answer.tokens, answer, answer.thought, answer.citations, answer.unsupported)
    return Piece(
        text,
        last,
        answer,
        thought + rest[1],
        answer.citations[citations:],
        answer.unsupported[unsupported:],
    )


def _group(run: Run, engine: Engine, rows: int) -> Group:
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
