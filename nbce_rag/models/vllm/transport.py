"""HTTP to vLLM's API: JSON and streams of events, and what of their failures another try may mend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ...errors import MissingDependencyError, RemoteError

if TYPE_CHECKING:
    import httpx

__all__ = ["SILENCE", "Transport", "TryAgain"]

SILENCE = 120.0
"""Seconds without a byte after which a request is given up; a long prompt may take that long to be read."""
_CONNECT = 5.0  # seconds until a connection must stand
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_MESSAGE = 500


class TryAgain(Exception):
    """A request failed in a way that another try, perhaps elsewhere, may mend.

    Attributes:
        is_down: whether the instance seems to be away, so that others are asked first for a while.
    """

    def __init__(self, reason: str, *, is_down: bool) -> None:
        super().__init__(reason)
        self.is_down = is_down


class Transport:
    """Connections to any number of servers, within one event loop.

    Args:
        api_key: sent to all of them, if not None.
        timeout: seconds without a byte after which a request is given up.

    Raises:
        MissingDependencyError: httpx is not installed (extra `[vllm]`).
    """

    def __init__(self, api_key: str | None, timeout: float) -> None:
        self._httpx = _httpx()
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._client: tuple[asyncio.AbstractEventLoop, httpx.AsyncClient] | None = None

    async def get(self, url: str) -> Any:
        """The JSON at a URL.

        Raises:
            TryAgain: the server is away, or says that it cannot now.
            RemoteError: it refuses, or answers something else.
        """
        async with self._response("GET", url, None, {}) as response:
            return _json(url, await response.aread())

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """The JSON that a body of JSON is answered with; errors as in `get`."""
        async with self._response("POST", url, body, headers) as response:
            return _json(url, await response.aread())

    async def refusal(self, url: str, body: Mapping[str, Any]) -> str | None:
        """Why a body of JSON is refused as one that is wrong, None if it is not; errors as in `get`."""
        try:
            await self.post(url, body, {})
        except _Refused as error:
            if error.status not in (400, 422):
                raise
            return error.message
        return None

    async def events(
        self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """The events that a body is answered with, as they come, up to `[DONE]`; errors as in `get`, at any
        time."""
        async with self._response("POST", url, body, headers) as response:
            async for line in response.aiter_lines():
                name, _, data = line.partition(":")
                if name != "data":
                    continue
                if (data := data.strip()) == "[DONE]":
                    return
                event = _json(url, data.encode())
                if "error" in event:
                    _refuse(url, _status_of(event), event)
                yield event
        raise TryAgain(f"{url} ended the stream before it was whole", is_down=True)

    async def close(self) -> None:
        """End all connections."""
        client, self._client = self._client, None
        if client is not None:
            await client[1].aclose()

    @asynccontextmanager
    async def _response(
        self, method: str, url: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        kind = {} if data is None else {"content-type": "application/json"}
        try:
            async with self._open().stream(
                method, url, content=data, headers={**self._headers, **kind, **headers}
            ) as response:
                if response.status_code >= 400:
                    content = await response.aread()
                    try:
                        told = json.loads(content)
                    except (ValueError, RecursionError):
                        told = content.decode(errors="replace")
                    _refuse(url, response.status_code, told)
                yield response
        except self._httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise TryAgain(f"{url} cannot be reached or is silent ({reason})", is_down=True) from error

    def _open(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if self._client is None or self._client[0] is not loop:  # its connections belong to it
            limits = self._httpx.Limits(max_connections=None, max_keepalive_connections=32)
            timeout = self._httpx.Timeout(self._timeout, connect=min(_CONNECT, self._timeout), pool=None)
            self._client = loop, self._httpx.AsyncClient(limits=limits, timeout=timeout)
        return self._client[1]


class _Refused(RemoteError):
    """A server refuses a request as it is."""

    def __init__(self, url: str, status: int, message: str) -> None:
        way_out = "; give the right api_key" if status in (401, 403) else ""
        super().__init__(f"The vLLM server refuses a request to {url} ({status}): {message}{way_out}.")
        self.status = status
        self.message = message


def _refuse(url: str, status: int, told: Any) -> None:
    message = _message_of(told)
    if status in _AGAIN:
        raise TryAgain(f"{url} says {status}: {message[:_LONGEST_MESSAGE]}", is_down=status != 429)
    raise _Refused(url, status, message)


def _message_of(told: Any) -> str:
    """What an error of vLLM's API says, of any of the forms that it has had."""
    error = told.get("error", told) if isinstance(told, Mapping) else told
    message = error.get("message", error.get("detail", error)) if isinstance(error, Mapping) else error
    return str(message).strip().rstrip(".")


def _status_of(event: Mapping[str, Any]) -> int:
    code = event["error"].get("code") if isinstance(event["error"], Mapping) else None
    return code if isinstance(code, int) else 500


def _json(url: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RemoteError(
            f"{url} answers something that is no JSON; give the URL of a vLLM server, such as "
            "'http://localhost:8000'."
        ) from error


def _httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise MissingDependencyError(
            "A vLLM server is reached with the package httpx: pip install 'nbce-rag[vllm]'"
        ) from error
    return httpx
