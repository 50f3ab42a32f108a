"""HTTP to a server of nbce-rag: requests, event streams, what is tried again, and errors as ours."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from ..checks import Range
from ..errors import InputError, MissingDependencyError, RemoteError, StreamError
from .events import Event, EventReader
from .failures import error_of

if TYPE_CHECKING:
    import httpx

__all__ = ["Connection"]

_T = TypeVar("_T")
_CONNECT = 5.0  # seconds until a connection must stand
_SILENCE = 60.0  # seconds without a byte; a server at work sends a comment every 15
_UNSTREAMED = 600.0  # seconds for what is answered in one go, during which nothing comes
_LONGEST_WAIT = 120.0
_AGAIN = (429, 503)  # the queue is full; the model is being loaded, or the server is going


class Connection:
    """Where a server is, and how it is spoken to. Safe to use from several threads and event loops.

    A request is tried again if the server says that it has no room yet (429, 503), after the time that it
    names, and if no byte of a response came, since then nothing is lost by it.

    Args:
        url: of the server, with or without `/v1`.
        api_key: a key of the server's, if it wants one.
        timeout: seconds without a byte after which a request is given up; None is 60 for streams, and 600
            for what is answered in one go.
        max_retries: how often a request is tried again.

    Raises:
        InputError: the URL is none of HTTP, or a number is out of range.
        MissingDependencyError: httpx is not installed (extra `[client]`).
    """

    def __init__(
        self, url: str, api_key: str | None = None, *, timeout: float | None = None, max_retries: int = 2
    ) -> None:
        self.url = _server_url(url)
        if timeout is not None:
            Range(0, above=True, note="or None").check("timeout", timeout)
        Range(0, whole=True, note="0 for never").check("max_retries", max_retries)
        self._httpx = _httpx()
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._retries = max_retries
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._async_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            WeakKeyDictionary()
        )

    def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            RemoteError: the server cannot be reached, refuses, or answers something else.
            NbceError: what the server says is wrong.
        """
        with self._response("GET", path, None, _SILENCE) as response, self._broken_off():
            return self._json(response, response.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that a body of JSON is answered with; errors as in `get`."""
        with self._response("POST", path, body, _UNSTREAMED) as response, self._broken_off():
            return self._json(response, response.read())

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Event]:
        """The events that a body is answered with, as they come; closing the iterator ends the request.

        Raises:
            RemoteError, NbceError: as in `get`, at any time.
            StreamError: the connection was broken off.
        """
        reader = EventReader()
        with self._response("POST", path, body, _SILENCE) as response, self._broken_off():
            for line in response.iter_lines():
                if (event := reader.push(line)) is not None:
                    yield event

    async def aevents(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Event]:
        """`events` on an event loop."""
        reader = EventReader()
        async with self._aresponse("POST", path, body, _SILENCE) as response:
            with self._broken_off():
                async for line in response.aiter_lines():
                    if (event := reader.push(line)) is not None:
                        yield event

    @contextmanager
    def _response(
        self, method: str, path: str, body: Mapping[str, Any] | None, silence: float
    ) -> Iterator[httpx.Response]:
        request = self._request(self._sync_client(), method, path, body, silence)
        for attempt in range(self._retries + 1):
            delay = None
            try:
                response = self._sync_client().send(request, stream=True)
            except self._httpx.TransportError as error:
                delay = self._delay_after(error, attempt)
            else:
                try:
                    delay = self._delay_by(response, attempt)
                    if delay is None:
                        if response.status_code >= 400:
                            raise error_of(self.url, response.status_code, response.read())
                        yield response
                        return
                finally:
                    response.close()
            time.sleep(delay)

    @asynccontextmanager
    async def _aresponse(
        self, method: str, path: str, body: Mapping[str, Any] | None, silence: float
    ) -> AsyncIterator[httpx.Response]:
        client = self._async_client()
        request = self._request(client, method, path, body, silence)
        for attempt in range(self._retries + 1):
            delay = None
            try:
                response = await client.send(request, stream=True)
            except self._httpx.TransportError as error:
                delay = self._delay_after(error, attempt)
            else:
                try:
                    delay = self._delay_by(response, attempt)
                    if delay is None:
                        if response.status_code >= 400:
                            raise error_of(self.url, response.status_code, await response.aread())
                        yield response
                        return
                finally:
                    await response.aclose()
            await asyncio.sleep(delay)

    def _request(
        self,
        client: httpx.Client | httpx.AsyncClient,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        silence: float,
    ) -> httpx.Request:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        headers = {**self._headers, **({"content-type": "application/json"} if data is not None else {})}
        timeout = self._httpx.Timeout(
            self._timeout or silence, connect=min(_CONNECT, self._timeout or _CONNECT)
        )
        return client.build_request(
            method, f"{self.url}{path}", content=data, headers=headers, timeout=timeout
        )

    def _delay_after(self, error: Exception, attempt: int) -> float:
        """Seconds until a request is tried again that no response came for.

        Raises:
            RemoteError: it is not.
        """
        # One that is silent may be at work on it, and the same once more would not make it faster.
        if attempt == self._retries or isinstance(error, self._httpx.ReadTimeout):
            reason = str(error) or type(error).__name__
            raise RemoteError(
                f"The server at {self.url} cannot be reached, or does not answer ({reason}); see that "
                "`nbce-rag serve` runs there, or give a longer timeout."
            ) from error
        return _backoff(attempt)

    def _delay_by(self, response: httpx.Response, attempt: int) -> float | None:
        """Seconds until a request is tried again by what came of it; None if it is not."""
        if response.status_code not in _AGAIN or attempt == self._retries:
            return None
        named = response.headers.get("retry-after", "")
        seconds = float(named) if named.replace(".", "", 1).isdigit() else _backoff(attempt)
        return min(seconds, _LONGEST_WAIT)

    def _json(self, response: httpx.Response, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RemoteError(
                f"The server at {self.url} answers {response.headers.get('content-type')}, not JSON; "
                "base_url has to be that of `nbce-rag serve`."
            ) from error

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        try:
            yield
        except self._httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise StreamError(
                f"The server at {self.url} broke the answer off ({reason}); ask again."
            ) from error

    def _sync_client(self) -> httpx.Client:
        with self._lock:
            if self._client is None:
                self._client = self._made(self._httpx.Client)
            return self._client

    def _async_client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._async_clients:  # its connections belong to it
                self._async_clients[loop] = self._made(self._httpx.AsyncClient)
            return self._async_clients[loop]

    def _made(self, kind: Callable[..., _T]) -> _T:
        # As many at once as the server has room for; it says itself when it has none.
        limits = self._httpx.Limits(max_connections=None, max_keepalive_connections=8)
        return kind(limits=limits, follow_redirects=False)


def _server_url(url: str) -> str:
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise InputError(f"base_url={url!r} is no URL of a server; give one like 'http://localhost:8000'.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _backoff(attempt: int) -> float:
    """Half a second, doubled each time up to eight; less by chance, so that clients do not come at once."""
    return float(min(0.5 * 2**attempt, 8.0) * (1 - random.random() / 4))


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingDependencyError(
            "A server (base_url) is reached with the package httpx: pip install 'nbce-rag[client]'"
        ) from error
    return httpx
