"""Server-sent events: lines in, events out."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..errors import StreamError

__all__ = ["Event", "EventReader"]


class Event(NamedTuple):
    """One event: its kind ("message" where the server names none), and what it holds."""

    kind: str
    data: Any


class EventReader:
    """Makes events of lines. Comments, ids and times for reconnecting are passed over."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []

    def push(self, line: str) -> Event | None:
        """The event that an empty line ends, if there is one.

        Args:
            line: without its end.

        Raises:
            StreamError: the event holds no JSON.
        """
        if not line:
            return self._finish()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        return None

    def _finish(self) -> Event | None:
        kind, data = self._kind or "message", "\n".join(self._data)
        self._kind, self._data = "", []
        if not data:
            return None
        try:
            return Event(kind, json.loads(data))
        except (ValueError, RecursionError) as error:
            raise StreamError(f"An event {kind!r} of the server holds no JSON ({error}).") from error
