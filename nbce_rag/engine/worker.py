"""The one thread that reads prompts and decodes on a model, for all who ask it.

It works in turns: a piece of the prompt that is being read, then a step of the answers that are being
written. While answers are written, a piece is at most `PIECE_TOKENS` tokens of contexts (or one longer
context), or the suffixes of a few questions in all of their rows (of one longer question), or a question's
rows of sentences, or its row of several passages. That is how long a new question holds up the others'
tokens. Where nothing is written nobody is held up, and prompts are read at once.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch

from ..deadline import kept_deadline
from ..decoding.budget import Size, joins
from ..decoding.reader import ReadBatch, read_in_pieces
from ..errors import AnswerTimeoutError, StreamError
from ..models.model import Model
from ..openmp import give_back_team
from .batch import Batch
from .jobs import Job
from .waiting import WaitingJobs

__all__ = ["MOST_ROWS", "PIECE_TOKENS", "Load", "Worker", "worker_of"]

PIECE_TOKENS = 512
"""Rows times length of the contexts that are read between two steps of others, at most."""
MOST_ROWS = 256
"""Rows that are decoded together at most, but for one question that has more by itself."""

_CLOSED = "The scheduler was closed before the answer was whole."
_EXIT_SECONDS = 10.0  # that the end of the process waits for the pass under way


@dataclass(frozen=True, slots=True)
class Load:
    """What a model's thread has to do.

    Attributes:
        running: questions that are being read or answered.
        waiting: questions whose turn has not come.
        rows: that are being decoded.
        prompt_tokens: of all rows of the questions that wait.
    """

    running: int
    waiting: int
    rows: int
    prompt_tokens: int


@dataclass(eq=False)
class _Reading:
    """Prompts that are being read."""

    jobs: list[Job]
    pieces: Generator[None, None, ReadBatch]


class _Nobody(Exception):
    """Nobody waits any more for what is being read."""


class Worker:
    """See the module; `worker_of` gives the one of a model. Its thread begins with the first question.

    The thread ends with `close`, when nobody holds the worker any more, and with the process, which waits for
    the pass under way. A child process that is forked begins without thread and without questions.

    Args:
        model: a backend, which nobody else steps with rows of these questions.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._begin()
        _workers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()  # of what waits, and of the thread
        self.turn = threading.RLock()  # held during each turn
        self._waiting = WaitingJobs()
        self._batch = Batch()
        self._reading: _Reading | None = None
        self._thread: threading.Thread | None = None
        self._closed: threading.Thread | None = None  # it may be in its last pass
        self._wake, self._stop = threading.Event(), threading.Event()

    @property
    def load(self) -> Load:
        """What there is to do now."""
        with self._lock:
            reading = self._reading
            return Load(
                running=len(self._batch) + (0 if reading is None else len(reading.jobs)),
                waiting=len(self._waiting),
                rows=self._batch.size.rows,
                prompt_tokens=sum(job.prompt_tokens for job in self._waiting),
            )

    @property
    def is_here(self) -> bool:
        """Whether the caller is in its thread, which cannot wait for an answer of its own."""
        return threading.current_thread() is self._thread

    @property
    def running(self) -> Size:
        """About what is being decoded."""
        return self._batch.size

    def add(self, jobs: Sequence[Job], *, first: bool = False) -> None:
        """Let questions wait for their turn.

        Args:
            jobs: of engines over this model.
            first: before all others, as what belongs to an answer that is written already.
        """
        if not jobs:
            return
        if not self.is_here:
            give_back_team()  # of a caller that has embedded, or loaded a model, and now waits
        with self._lock:
            for job in jobs:
                (self._waiting.add_first if first else self._waiting.add)(job)
            if self._thread is None or not self._thread.is_alive():
                self._start()
            self._wake.set()

    def _start(self) -> None:
        wake, stop = threading.Event(), threading.Event()
        self._wake, self._stop = wake, stop
        weakref.finalize(self, wake.set).atexit = False  # the thread looks, and finds that nobody is left
        self._thread = threading.Thread(
            target=_serve,
            args=(weakref.ref(self), wake, stop, self._closed),
            name="nbce-decoding",
            daemon=True,
        )
        self._closed = None
        self._thread.start()

    def close(self, timeout: float | None = None) -> None:
        """End the thread; questions that are not answered end with a `StreamError`. Another question begins
        another thread.

        Args:
            timeout: seconds to wait for the pass under way, None for as long as it takes.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            self._closed = thread or self._closed
            left, self._waiting = list(self._waiting), WaitingJobs()
            self._stop.set()
            self._wake.set()
        for job in left:
            job.sink.fail(job.index, StreamError(_CLOSED))
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def renew(self) -> None:
        """In a child process: the thread is not there, and whoever waits for it waits in the parent."""
        left = [*self._waiting, *self._batch.jobs, *(self._reading.jobs if self._reading else ())]
        self._begin()
        for job in left:
            job.sink.fail(job.index, StreamError("The process was forked; its parent gets the answer."))

    def work(self, stop: threading.Event) -> None:
        """Turns, until nothing is left to do or the thread is to end."""
        while not stop.is_set():
            _calm.wait()  # a lock alone would be taken again before who waits for it looks
            with self.turn:
                try:
                    if not self._turn():
                        return
                except BaseException as error:  # a fault of ours, which ends no thread
                    self._abandon(error)
        with self.turn:
            self._abandon(StreamError(_CLOSED), waiting=False)  # those that wait came behind `close`

    def _turn(self) -> bool:
        """A piece, and a step; False when there is nothing to do."""
        with self._lock:
            self._waiting.drop(_is_over)
            self._batch.drop(_is_over)
            cohort = self._cohort() if self._reading is None else []
            if cohort:
                self._begin_reading(cohort)
        if self._reading is not None:
            self._read(self._reading)
        if len(self._batch):
            try:
                self._batch.step()
            except Exception as error:
                self._batch.fail(error)
        return bool(self._reading or len(self._batch) or len(self._waiting))

    def _cohort(self) -> list[Job]:
        """The questions to be read next, which are all of one engine."""
        cohort: list[Job] = []
        running = self._batch.size
        while (job := self._waiting.first()) is not None and self._has_place(job, cohort, running):
            cohort.append(self._waiting.take())
        return cohort

    def _has_place(self, job: Job, cohort: list[Job], running: Size) -> bool:
        others = [*cohort, *self._batch.jobs]
        if others and (job.is_alone or any(other.is_alone for other in others)):
            return False
        if cohort and (job.is_apart or cohort[0].is_apart or job.engine is not cohort[0].engine):
            return False
        sizes = [one.size for one in cohort]
        if not self.model.can.steps:  # rows and prompts are the backend's business, which lets them wait
            return True
        rows = job.size.rows + running.rows + sum(size.rows for size in sizes)
        if others and rows > MOST_ROWS:
            return False
        suffixes = job.suffix_tokens + sum(one.suffix_tokens for one in cohort)
        if cohort and running.rows and suffixes > PIECE_TOKENS:
            return False
        return joins(self.model, running, sizes, job.size)

    def _begin_reading(self, cohort: list[Job]) -> None:
        engine = cohort[0].engine
        in_pieces = len(self._batch) > 0 and self.model.can.steps
        pieces = read_in_pieces(
            engine,
            [job.request for job in cohort],
            [job.plan for job in cohort],
            tokens=min(PIECE_TOKENS, engine.pass_tokens) if in_pieces else None,
            running=self._batch.size,
        )
        self._reading = _Reading(cohort, pieces)

    def _read(self, reading: _Reading) -> None:
        """One more piece of the prompts that are being read."""
        batch: ReadBatch | None = None
        try:
            with kept_deadline(_Watch(reading.jobs)):
                _Watch(reading.jobs).check()
                next(reading.pieces)
        except StopIteration as end:
            self._reading, batch = None, end.value
        except _Nobody:
            self._reading = None
        except Exception as error:
            self._reading = None
            self._read_again(reading.jobs, error)
        if batch is not None:
            try:
                self._batch.add(reading.jobs, batch)
            except Exception as error:
                for job in reading.jobs:
                    job.sink.fail(job.index, error)

    def _read_again(self, jobs: list[Job], error: Exception) -> None:
        """Questions whose reading failed: those that can do without the others' company go without it."""
        is_short = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        for job in jobs:
            if _is_over(job):
                continue
            if is_short and not job.is_alone and (len(jobs) > 1 or len(self._batch)):
                job.is_alone = True
            elif len(jobs) > 1:
                job.is_apart = True
            else:
                job.sink.fail(job.index, error)
                continue
            with self._lock:
                self._waiting.add_first(job)

    def _abandon(self, error: BaseException, *, waiting: bool = True) -> None:
        with self._lock:
            reading, batch = self._reading, self._batch
            left = [*batch.jobs, *(reading.jobs if reading else ())]
            self._batch, self._reading = Batch(), None
            if waiting:
                left += self._waiting
                self._waiting = WaitingJobs()
        for job in left:
            job.sink.fail(job.index, error)


class _Watch:
    """The time and the patience of those whose prompts are read together, looked at between passes."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def check(self) -> None:
        over = [_is_over(job) for job in self._jobs]  # of each, so that its time is looked at
        if all(over):
            raise _Nobody


def _is_over(job: Job) -> bool:
    """Whether a question needs no answer any more; if its time is over, its caller is told."""
    if job.sink.is_closed:
        return True
    try:
        job.deadline.check()
    except AnswerTimeoutError as error:
        job.sink.fail(job.index, error)
        return True
    return False


def _serve(
    reference: Callable[[], Worker | None],
    wake: threading.Event,
    stop: threading.Event,
    before: threading.Thread | None,
) -> None:
    """The thread. It holds its worker only while there is something to do, and begins when the one before
    has ended."""
    if before is not None:
        before.join()
    while True:
        wake.wait()
        wake.clear()
        worker = reference()
        if worker is None:
            return
        worker.work(stop)
        if stop.is_set():
            return
        del worker
        give_back_team()


_workers: weakref.WeakSet[Worker] = weakref.WeakSet()
_by_model: weakref.WeakValueDictionary[int, Worker] = weakref.WeakValueDictionary()
_making = threading.Lock()


def worker_of(model: Model) -> Worker:
    """The worker of a model: one for all engines over it."""
    with _making:
        worker = _by_model.get(id(model))
        if worker is None:
            worker = _by_model[id(model)] = Worker(model)
        return worker


@atexit.register
def _end() -> None:
    """A thread that is in the middle of a pass when the interpreter goes takes it down."""
    for worker in list(_workers):
        worker.close(_EXIT_SECONDS)


_held: list[Worker] = []
_calm = threading.Event()  # while nobody forks
_calm.set()


def _hold() -> None:
    """Before a fork: all threads are between turns, so that the child finds no lock held."""
    _making.acquire()
    _calm.clear()
    _held.extend(_workers)
    for worker in _held:
        worker.turn.acquire()


def _release() -> None:
    while _held:
        _held.pop().turn.release()
    _calm.set()
    _making.release()


def _renew() -> None:
    global _calm
    _calm = threading.Event()
    _calm.set()
    for worker in _held:
        worker.renew()
    _held.clear()
    _making.release()


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_renew)
