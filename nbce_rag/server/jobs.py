"""Files on their way into indexes: one after the other, in a thread, and read in processes of their own."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..documents.document import source_name
from ..documents.limits import ReadLimits
from ..errors import NbceError, ReadError
from .job import Batch, Job
from .limits import Limits
from .stored_file import StoredFile
from .wire.errors import ServerError

if TYPE_CHECKING:
    from ..index import PassageIndex

__all__ = ["Jobs"]

_log = logging.getLogger("nbce_rag.server")
_PLACE = re.compile(r"passage (\d+) of (\d+)$")  # as `PassageIndex.add_files` tells of long files
_MOST_JOBS = 10_000  # that are remembered once they are over


class _CancelledError(Exception):
    pass


class Jobs:
    """Takes files into indexes, one at a time, so that questions have the machine to themselves but for that.

    Args:
        limits: `max_jobs` and `max_upload_bytes` count.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._read_limits = ReadLimits(max_bytes=limits.max_upload_bytes, max_seconds=limits.max_seconds)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nbce-jobs")
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], Job] = {}
        self._batches: dict[str, Batch] = {}

    @property
    def waiting(self) -> int:
        """Jobs that are not over."""
        with self._lock:
            return sum(job.status == "in_progress" for job in self._jobs.values())

    def begin(
        self,
        name: str,
        index: PassageIndex,
        files: Sequence[tuple[StoredFile, Path]],
        attributes: Mapping[str, Any],
    ) -> list[Job]:
        """Begins to take files into an index. One that is on its way there already goes on.

        Args:
            name: of the index.
            index: the index.
            files: with where they lie.
            attributes: for the metadata of all their passages.

        Raises:
            ServerError: too many wait (429).
        """
        with self._lock:
            waiting = sum(job.status == "in_progress" for job in self._jobs.values())
            if waiting + len(files) > self._limits.max_jobs:
                raise ServerError(
                    429,
                    f"{waiting} files wait to be taken in already (max_jobs={self._limits.max_jobs}).",
                    code="jobs_full",
                    retry_after=30,
                )
            begun = []
            for file, path in files:
                job = self._jobs.get((name, file.id))
                if job is None or job.status != "in_progress" or job.is_cancelled:
                    job = self._jobs[name, file.id] = Job(name, file, dict(attributes))
                    self._thread.submit(self._run, job, index, path)
                begun.append(job)
            self._forget()
        return begun

    def batch(self, index: str, owner: str, jobs: Sequence[Job]) -> Batch:
        """Jobs under one id."""
        batch = Batch(f"vsfb_{uuid.uuid4().hex[:24]}", index, owner, tuple(jobs))
        with self._lock:
            self._batches[batch.id] = batch
        return batch

    def get_batch(self, batch_id: str) -> Batch | None:
        """A batch, or None."""
        return self._batches.get(batch_id)

    def get(self, index: str, file_id: str) -> Job | None:
        """The last job of a file and an index, or None."""
        return self._jobs.get((index, file_id))

    def of_index(self, index: str) -> list[Job]:
        """All jobs of an index that are remembered."""
        with self._lock:
            return [job for (name, _), job in self._jobs.items() if name == index]

    def cancel(self, job: Job) -> None:
        """Ends a job soon, with nothing of its file in the index. What is over stays as it is."""
        job.is_cancelled = True

    def forget(self, index: str, file_id: str) -> None:
        """Forgets a job, so that another one may be begun."""
        with self._lock:
            self._jobs.pop((index, file_id), None)

    def close(self) -> None:
        """Cancels what is not over, and waits for it."""
        with self._lock:
            for job in self._jobs.values():
                job.is_cancelled = True
        self._thread.shutdown(cancel_futures=True)

    def _forget(self) -> None:
        over = [key for key, job in self._jobs.items() if job.status != "in_progress"]
        for key in over[: max(0, len(self._jobs) - _MOST_JOBS)]:
            del self._jobs[key]
        for batch_id in list(self._batches)[: max(0, len(self._batches) - _MOST_JOBS)]:
            del self._batches[batch_id]

    def _run(self, job: Job, index: PassageIndex, path: Path) -> None:
        try:
            self._take_in(job, index, path)
            job.status = "completed"
        except _CancelledError:
            job.status = "cancelled"
        except NbceError as error:
            job.error = str(error).replace(f"{path}: ", "").replace(str(path.parent), "")
            job.status = "failed"
        except Exception as error:
            _log.exception("A file could not be taken in", exc_info=error)
            job.error, job.status = "The server failed; its log has the reason.", "failed"

    def _take_in(self, job: Job, index: PassageIndex, path: Path) -> None:
        def follow(done: int, total: int, what: str) -> None:
            _check(job)
            if match := _PLACE.search(what):
                job.passages, job.total = int(match[1]), int(match[2])

        _check(job)
        try:
            # Two processes, so that a file that ends or stalls what reads it does not do so to the server.
            report = index.add_files([path], workers=2, limits=self._read_limits, progress=follow)
            if report.files_failed:
                raise ReadError("; ".join(report.files_failed.values()))
            known = {"file_id": job.file.id, "filename": job.file.name}
            passages = list(index.find({"source": source_name(path)}))
            index.add(replace(one, metadata={**one.metadata, **job.attributes, **known}) for one in passages)
            _check(job)
        except BaseException:
            index.delete(source=path)
            job.passages = 0
            raise
        job.passages = job.total = len(passages)


def _check(job: Job) -> None:
    if job.is_cancelled:
        raise _CancelledError
