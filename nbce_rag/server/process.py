"""The process that is a server: one, with a socket, an end that takes its time, and the model in it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from ..errors import InputError
from .idle import IdleConnections
from .operation import Operation
from .routes.health import readiness
from .served import Opening
from .settings import ServerSettings
from .systemd import notify

__all__ = ["EndingServer", "address_of", "check_single", "listening_socket", "run"]

_log = logging.getLogger("nbce_rag.server")
_LAST_WORDS_S = 2.0  # for error items of streams that are broken off
_MOST_CONNECTIONS = 1000
_SWEEP_TICKS = 10  # a second


class EndingServer(uvicorn.Server):
    """uvicorn, which at the first signal lets nobody new in and lets running answers end.

    After `shutdown_timeout` they are broken off, and their streams end with an error item. A second Ctrl-C
    ends the process at once; what it writes is then whole or not there, as after a kill.

    Args:
        config: of uvicorn.
        operation: of the application.
        opening: what the application serves.
        end: what ends the process at once.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        operation: Operation,
        opening: Opening,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        super().__init__(config)
        self._operation = operation
        self._opening = opening
        self._end = end
        self._interrupts = 0
        self._status = ""
        self._idle = IdleConnections(operation.settings.limits.max_stall)
        self._begun: float | None = None
        self._ended: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a signal does; not uvicorn's, which would raise it once more at the end."""
        self._interrupts += sig == signal.SIGINT
        if self._interrupts > 1:
            self._end(128 + sig)
        self._operation.drain.begin()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: what has changed, and whether this is the end."""
        if await super().on_tick(counter):
            return True
        self._tell()
        if counter % _SWEEP_TICKS == 0:
            self._idle.sweep(self.server_state.connections)
        if self._opening.error is not None:
            return True  # whoever started it has to know, and not only who asks whether it is ready
        drain, now = self._operation.drain, time.monotonic()
        if not drain.has_begun:
            return False
        if self._begun is None:
            self._begun = now
        if not self._operation.under_way:
            return self._leave()
        if self._ended is None and now - self._begun >= self._operation.settings.shutdown_timeout:
            self._ended = now
            drain.end()
        return self._ended is not None and now - self._ended >= _LAST_WORDS_S and self._leave()

    def _leave(self) -> bool:
        if not self._opening.is_done:
            self._end(0)  # nobody waits for a model that is still being loaded; nothing was asked yet
        return True

    def _tell(self) -> None:
        status, reason = readiness(self._opening, self._operation.drain)
        if status == self._status:
            return
        self._status = status
        level, error = (logging.ERROR, self._opening.error) if status == "failed" else (logging.INFO, None)
        _log.log(level, reason, exc_info=error, extra={"fields": {"status": status}})
        words = {"ready": "READY=1\n", "draining": "STOPPING=1\n"}
        notify(f"{words.get(status, '')}STATUS={reason}")


def check_single(workers: int | None, environ: Mapping[str, str]) -> None:
    """Refuses several processes.

    Raises:
        InputError: more than one is wanted, by a flag or by WEB_CONCURRENCY, which uvicorn goes by.
    """
    text = environ.get("WEB_CONCURRENCY", "")
    count, place = (workers, "--workers") if workers is not None else (text, "WEB_CONCURRENCY")
    if str(count) not in ("", "1"):
        raise InputError(
            f"{place}={count}: one process holds the model, its keys and values, and the queue; a second one "
            "would load all of it again, and neither would know of the other's queue and rates. One answers "
            "many questions at once already. For more, start several servers behind a proxy that sends a "
            "user's questions to the same one."
        )


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: the address is none, or taken.
    """
    try:
        [family, *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # create_server says the address once more, in words of its own.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise InputError(
            f"Nothing can listen at {host} port {port} ({reason}); take another --port."
        ) from error


def address_of(listener: socket.socket) -> str:
    """The address of a listening socket as browsers write it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    app: ASGIApp, settings: ServerSettings, operation: Operation, opening: Opening, at: socket.socket
) -> Exception | None:
    """Serves until a signal comes.

    Args:
        app: the application.
        settings, operation, opening: of it.
        at: a listening socket.

    Returns:
        What kept it from opening what it was to serve; None where it served.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=list(settings.proxies),
        root_path=settings.root_path,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(_LAST_WORDS_S)),
    )
    EndingServer(config, operation, opening).run(sockets=[at])
    return opening.error
