"""Logs: JSON, one line a request. No question and no answer stands in them, unless the server was told to."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any

from .record import CURRENT, RequestRecord

__all__ = ["JsonFormatter", "log_request", "set_up_logs"]

_requests = logging.getLogger("nbce_rag.server.requests")
_CONTENTS = ("question", "text")
_ALWAYS = ("/livez", "/readyz", "/health", "/metrics")  # asked every few seconds, by machines
_NUMBERS = ("queue", "retrieve", "prefill", "first_token", "decode", "seconds", "grounding")


class JsonFormatter(logging.Formatter):
    """Writes a record of logging as JSON in one line.

    Args:
        contents: also what may hold words of users: messages of exceptions.
    """

    def __init__(self, *, contents: bool = False) -> None:
        super().__init__()
        self._contents = contents

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        current = CURRENT.get()
        if current is not None:
            line["request_id"] = current.request_id
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            line.update(self._error(record.exc_info[1]))
        return json.dumps(line, ensure_ascii=True, default=str)

    def _error(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)
        told: dict[str, Any] = {
            "error": type(error).__name__,
            "trace": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        }
        return {**told, "error_message": str(error)} if self._contents else told


def log_request(record: RequestRecord, *, contents: bool = False) -> None:
    """Writes the line of a request that is over.

    Args:
        record: what was noted.
        contents: also question and answer.
    """
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": record.method,
        "endpoint": record.endpoint,
        "status": record.status,
        "key": record.caller,
        "indexes": list(record.indexes) or None,
        "rows": record.rows,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "generated_tokens": record.generated_tokens,
        "finish_reason": record.finish_reason,
        "abstained": record.abstained if record.finish_reason else None,
        "cancelled": record.is_cancelled or None,
        "error": record.error,
    }
    for name in _NUMBERS:
        value = getattr(record, name)
        fields[name] = None if value is None else round(value, 4)
    if contents:
        fields |= {name: getattr(record, name) for name in _CONTENTS}
    level = logging.ERROR if record.status >= 500 and record.status != 503 else logging.INFO
    if record.endpoint in _ALWAYS and record.status in (200, 503):
        level = logging.DEBUG
    told = {name: value for name, value in fields.items() if value is not None}
    _requests.log(level, "request", extra={"fields": told})


def set_up_logs(*, contents: bool = False, stream: IO[str] | None = None) -> None:
    """Sends what this package and uvicorn log to a stream, as JSON. For a process that is a server.

    Args:
        contents: as in `JsonFormatter`.
        stream: default: stderr.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(contents=contents))
    for name in ("nbce_rag", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        # Where it begins and ends is told by us; uvicorn tells it in four lines more.
        logger.setLevel(logging.INFO if name == "nbce_rag" else logging.WARNING)
        logger.propagate = False
    # Each request has a line of ours.
    logging.getLogger("uvicorn.access").handlers[:] = []
    logging.getLogger("uvicorn.access").propagate = False
