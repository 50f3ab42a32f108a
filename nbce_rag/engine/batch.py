"""The answers that one model writes at this time: they come and go between steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from ..answers.answer import Piece
from ..decoding.budget import NOTHING, Size
from ..decoding.decoder import LockstepDecoder
from ..decoding.reader import ReadBatch
from ..models.model import Decoder, GroupRequest, JoinableDecoder, LoopModel, Step
from .generation import Run, group_of, piece_of, run_of
from .jobs import Job

__all__ = ["Batch"]


class Batch:
    """Runs of one decoder. Used from one thread at a time."""

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._jobs: dict[int, Job] = {}  # by their number in the decoder
        self._runs: dict[int, Run] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> list[Job]:
        """The questions that are being answered."""
        return list(self._jobs.values())

    @property
    def size(self) -> Size:
        """About what they take."""
        return sum((job.size for job in self.jobs), NOTHING)

    def add(self, jobs: Sequence[Job], batch: ReadBatch) -> None:
        """Begin to answer questions.

        Args:
            jobs: the questions.
            batch: their prompts.
        """
        runs = []
        for job, prompted in zip(jobs, batch.prompted, strict=True):
            runs.append(run_of(job, prompted, batch.log_probs))
        # With the rows that came on top.
        sizes = [job.engine.size(run.request, run.prompted.plan) for job, run in zip(jobs, runs, strict=True)]
        numbers = self._added(jobs, runs, batch, sum(sizes, self.size))
        for number, job, run, size in zip(numbers, jobs, runs, sizes, strict=True):
            job.size = size
            self._jobs[number], self._runs[number] = job, run
        for number, job, run in zip(numbers, jobs, runs, strict=True):
            for note in batch.notes:
                job.sink.note(note)
            if run.prompted.refused or run.lacks_support:
                self._abstain(number)

    def _added(self, jobs: Sequence[Job], runs: Sequence[Run], batch: ReadBatch, size: Size) -> range:
        """Their numbers in the decoder: ours, or that of a backend which holds the loop itself."""
        model = jobs[0].engine.model
        if isinstance(model, LoopModel):
            decoder = self._decoder or model.decoder()
            requests = [
                GroupRequest(
                    run.prompted.rows,
                    run.prompted.state,
                    run.request.options,
                    job.engine.output_tokens(run.request),
                )
                for job, run in zip(jobs, runs, strict=True)
            ]
            numbers = cast(JoinableDecoder, decoder).add(batch.rows, requests)
            self._decoder = decoder
            return numbers
        groups = [group_of(run, job.engine, size) for job, run in zip(jobs, runs, strict=True)]
        if self._decoder is None:
            self._decoder = LockstepDecoder(batch.rows, batch.log_probs, groups)
            return range(len(groups))
        return cast(LockstepDecoder, self._decoder).add(batch.rows, batch.log_probs, groups)

    def step(self) -> None:
        """A token for each question, or the first ones of those that are new; pieces go to the sinks."""
        decoder = self._decoder  # which is let go of with the last answer
        assert decoder is not None
        for step in decoder.step():
            if step.question in decoder.active:  # or it ended with an earlier one of these
                self._take(step)
        for number, error in list(decoder.errors.items()):
            self._fail(number, error)

    def fail(self, error: Exception) -> None:
        """All questions end by an error."""
        for number in list(self._jobs):
            self._fail(number, error)

    def drop(self, is_over: Callable[[Job], bool]) -> None:
        """Forget questions that need no answer any more; their rows are read no further."""
        for number, job in list(self._jobs.items()):
            if is_over(job):
                self._end(number)

    def _abstain(self, number: int) -> None:
        job, run = self._jobs[number], self._runs[number]
        self._end(number)
        try:
            answer = run.answer("no_evidence")
            job.sink.put(job.index, Piece(answer.text, (), answer))
        except Exception as error:
            job.sink.fail(job.index, error)

    def _take(self, step: Step) -> None:
        assert self._decoder is not None
        job, run = self._jobs[step.question], self._runs[step.question]
        try:
            text, thought, reason = run.push(step, job.engine.model.eos_ids)
            if reason is not None:
                run.dropped = self._decoder.dropped(step.question)
                run.row_steps = self._decoder.row_steps(step.question)
            piece = piece_of(run, text, thought, reason)
            if reason is not None:
                self._end(step.question)
            if piece is not None:
                job.sink.put(job.index, piece)
        except Exception as error:  # that of one answer, whatever went wrong with it
            self._end(step.question)
            job.sink.fail(job.index, error)

    def _fail(self, number: int, error: Exception) -> None:
        job = self._jobs[number]
        self._end(number)
        job.sink.fail(job.index, error)

    def _end(self, number: int) -> None:
        self._jobs.pop(number, None)
        self._runs.pop(number, None)
        if self._decoder is not None:
            self._decoder.forget(number)
            if not self._jobs:
                self._decoder = None  # and the memory of its rows
