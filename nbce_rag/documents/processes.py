"""Documents are read in other processes, several at once: a file that ends or stalls its reader costs itself.

The processes start with nothing of the caller's in them: no module of theirs is imported again, as it would
be by `multiprocessing`, and no lock of their threads is copied, as it would be by a fork.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self

from ..errors import NbceError, NbceWarning, ReadError, warn
from .document import Document
from .limits import ReadLimits
from .readers import read_document

__all__ = ["ReadingProcesses", "serve"]

_START_S = 60.0
_GRACE_S = 5.0  # readers look at the clock themselves, and say better what is wrong
_LENGTH = struct.Struct("<Q")
_READY = "ready"
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nbce_rag.documents.processes import serve; serve()"
)

_Reply = tuple[Document | str, list[str]]  # the document or what is wrong, and warnings


class ReadingProcesses:
    """Processes that read documents ahead of their being asked for. To be closed, as by `with`.

    Args:
        count: How many at once.
        limits: Of each file; a process that takes longer is ended.
    """

    def __init__(self, count: int, limits: ReadLimits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="nbce-reading")
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._running: set[_Process] = set()
        self._begun: dict[str, Future[_Reply | None]] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def begin(self, path: Path) -> None:
        """Begins to read a file, or puts it in the queue."""
        self._begun[str(path)] = self._threads.submit(self._read, path)

    def read(self, path: Path, limits: ReadLimits) -> Document:
        """The document of a file, as `read_document` gives it. One that was not begun is read here.

        Raises:
            ReadError: As `read_document`; or the process ended.
        """
        begun = self._begun.pop(str(path), None)
        reply = None if begun is None else begun.result()
        if reply is None:
            return read_document(path, limits)
        document, messages = reply
        for message in messages:
            warn(message)
        if isinstance(document, str):
            raise ReadError(document)
        return document

    def close(self) -> None:
        """Ends all processes at once, whatever they are doing."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
        for process in running:
            process.kill()
        self._threads.shutdown(cancel_futures=True)

    def _read(self, path: Path) -> _Reply | None:
        """What a process says of a file; None where there can be no process."""
        process = self._living() or self._start()
        if process is None:
            return None
        reply = process.read(path, self._limits)
        if process.is_alive:
            self._idle.put(process)
        else:
            with self._lock:
                self._running.discard(process)
        return reply

    def _living(self) -> _Process | None:
        """One that waits. Of one that ended meanwhile, as when memory ran out, no file is guilty."""
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return None
            if process.is_alive:
                return process
            process.kill()
            with self._lock:
                self._running.discard(process)

    def _start(self) -> _Process | None:
        with self._lock:
            if self._is_closed:
                return None
            try:
                process = _Process(self._limits)
            except OSError:  # no memory, no more processes, no interpreter
                return None
            self._running.add(process)
        if process.is_ready():
            return process
        with self._lock:
            self._running.discard(process)
        return None


class _Process:
    """One process, which reads one file after the other."""

    def __init__(self, limits: ReadLimits) -> None:
        # A group of its own, so that Ctrl-C does not reach it: it is ended by `kill`.
        own_group: dict[str, Any] = (
            {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
            if os.name == "nt"
            else {"start_new_session": True}
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps(list(map(str, sys.path)))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            **own_group,
        )
        self._limits = limits
        self._is_late = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def is_ready(self) -> bool:
        """Waits until it is. False when it cannot be: it is ended then."""
        try:
            _send(self._stream("stdin"), self._limits)
            if self._receive(_START_S) == _READY:
                return True
        except (OSError, EOFError, pickle.UnpicklingError):
            pass
        self.kill()
        return False

    def read(self, path: Path, limits: ReadLimits) -> _Reply:
        try:
            _send(self._stream("stdin"), os.fspath(path))
            reply: _Reply = self._receive(limits.max_seconds + _GRACE_S)
            return reply
        except (OSError, EOFError, pickle.UnpicklingError):
            self.kill()
        if self._is_late:
            seconds = f"{limits.max_seconds:g}"
            return f"{path}: takes over {seconds} seconds to read; split it, or raise max_seconds.", []
        return f"{path}: ended the process that read it ({self._end()}); leave it out, or convert it.", []

    def kill(self) -> None:
        """Ends it and waits until it is gone."""
        self._process.kill()
        self._process.wait()
        for name in ("stdin", "stdout"):
            # What was to be written still is written at the close, to nobody.
            with contextlib.suppress(OSError):
                self._stream(name).close()

    def _receive(self, seconds: float) -> Any:
        timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._expire)
        timer.daemon = True
        timer.start()
        try:
            return _receive(self._stream("stdout"))
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._is_late = True
        self._process.kill()

    def _stream(self, name: str) -> IO[bytes]:
        stream: IO[bytes] = getattr(self._process, name)
        return stream

    def _end(self) -> str:
        code = self._process.returncode
        if code is None or code >= 0:
            return f"exit status {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:  # one of those without a name
            name = f"signal {-code}"
        return f"{name}, as when memory runs out" if name == "SIGKILL" else name


def serve() -> None:
    """What such a process does: reads the files that it is told to, until nobody is there."""
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries may print
    orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(os.fdopen(os.dup(0), "rb"), orders), daemon=True).start()
    limits = orders.get()
    _send(channel, _READY)
    while True:
        _send(channel, _reply(Path(orders.get()), limits))


def _listen(stream: IO[bytes], orders: queue.SimpleQueue[Any]) -> None:
    """Takes orders, and ends the process at once when whoever gives them is gone."""
    try:
        while True:
            orders.put(_receive(stream))
    finally:
        os._exit(0)


def _reply(path: Path, limits: ReadLimits) -> _Reply:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NbceWarning)
        document: Document | str
        try:
            document = read_document(path, limits)
        except NbceError as error:
            document = str(error)
        except (MemoryError, RecursionError):
            document = f"{path}: takes more memory or nests deeper than can be read; split it."
        except Exception as error:
            document = f"{path}: cannot be read ({type(error).__name__}: {str(error)[:200]})."
    return document, [str(entry.message) for entry in caught if issubclass(entry.category, NbceWarning)]


def _send(stream: IO[bytes], value: Any) -> None:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """Raises EOFError when the other end is gone."""
    length = _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]
    return pickle.loads(_exactly(stream, length))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
