"""From requests to answers, piece by piece: the decoder's steps become text, evidence and citations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..answers.answer import Answer, Piece
from ..decoding.budget import Size, fits
from ..decoding.detokenizer import TextBuilder
from ..decoding.drafting import PromptLookup
from ..decoding.group import Group
from ..decoding.holders import Holders, holders_of
from ..decoding.loops import LOOP_TOKENS, is_loop
from ..decoding.reader import Engine, Prompted
from ..decoding.support import support_numbers
from ..decoding.thought import Share
from ..decoding.turn import TurnSampler
from ..evidence.calibration import SupportNumbers
from ..evidence.citations import CitationStream
from ..evidence.evidence import Citation, Timings, TokenEvidence, Usage
from ..evidence.spelling import Spelling
from ..evidence.unsupported import UnsupportedReader, UnsupportedWords
from ..models.model import Step
from ..request import Request
from .jobs import Job, label_of, notes_of

__all__ = ["Run", "group_of", "piece_of", "run_of"]


@dataclass(eq=False)
class Run:
    """One answer in the making."""

    request: Request
    prompted: Prompted
    text: TextBuilder
    sampler: TurnSampler
    ends: frozenset[int]  # tokens that end the answer, though not the turn
    started: float
    prefilled: float
    numbers: SupportNumbers | None = None
    holders: Holders | None = None  # where rows hold several passages
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
        share = shares.popleft() if shares else self.sampler.follow(step.token)
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
            holders = () if self.holders is None else self.holders.push(step.token)
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
                    weights=self.prompted.plan.share(step.evidence, holders),
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
            fusion=label_of(options.rule),
            warnings=(*notes_of(self.request, prompted.plan), *self._notes_of_course()),
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


def run_of(job: Job, prompted: Prompted, log_probs: Tensor) -> Run:
    """The answer to a question whose prompt was read.

    Args:
        job: the question.
        prompted: what reading told.
        log_probs: [R, V] of the first token, of the batch that it was read in.
    """
    engine, request = job.engine, job.request
    return Run(
        request=request,
        prompted=prompted,
        text=TextBuilder(engine.model.tokenizer, _stop(engine, request)),
        sampler=job.sampler,
        ends=engine.encoder_of(request).end_tokens,
        started=job.asked,
        prefilled=time.perf_counter(),
        numbers=support_numbers(
            request.question,
            request.options.rule,
            prompted,
            log_probs[prompted.rows[0] : prompted.rows[-1] + 1],
        )
        if engine.model.can.distributions
        else None,
        holders=holders_of(engine.encoder_of(request), prompted.plan, prompted.passages, request.options),
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


def group_of(run: Run, engine: Engine, size: Size) -> Group:
    """What the decoder has to know of an answer.

    Args:
        run: the answer.
        engine: model and wording.
        size: of all that is decoded with it.
    """
    options, plan = run.request.options, run.prompted.plan
    can_rewind = engine.model.can.rewind
    has_grammar = options.json_schema is not None or options.regex is not None
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
        # Rows that fall asleep are moved behind the others, which takes a copy of all.
        sleep=options.sleep and can_rewind and not has_grammar and fits(engine.model, size),
    )


def _stop(engine: Engine, request: Request) -> tuple[str, ...]:
    encoder = engine.encoder_of(request)
    mark = "" if encoder.thought is None else encoder.thought.format.stop
    return (*encoder.template.stop, *filter(None, [mark]), *request.options.stop)
