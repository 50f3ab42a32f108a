"""Errors as OpenAI's clients know them: `{"error": {"message", "type", "param", "code"}}` and a status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import (
    AnswerTimeoutError,
    ContextLengthError,
    IndexLockedError,
    InputError,
    MissingDependencyError,
    NbceError,
    RemoteError,
)

__all__ = [
    "ErrorReply",
    "ServerError",
    "bad_field",
    "error_reply",
    "not_found",
    "status_reply",
    "validation_reply",
]

_BY_STATUS = {
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "forbidden"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    408: ("invalid_request_error", "request_timeout"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    499: ("invalid_request_error", "client_closed_request"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
    504: ("server_error", "timeout"),
}


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error on the wire: its HTTP status, body and headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class ServerError(NbceError):
    """Something that is answered with a status of its own.

    Args:
        status: HTTP status.
        message: a sentence that names the value and the way out.
        param: the field of the request that it is about.
        code: for programs; None is the usual one of the status.
        retry_after: seconds after which it may work.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after = status, param, code, retry_after


def bad_field(param: str, message: str, code: str | None = None) -> ServerError:
    """A field of a request that cannot be used."""
    return ServerError(400, message, param=param, code=code)


def not_found(message: str, *, param: str | None = None, code: str = "not_found") -> ServerError:
    """Something that is not there, or that the caller may not know of."""
    return ServerError(404, message, param=param, code=code)


def status_reply(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> ErrorReply:
    """An error of a status."""
    kind, usual = _BY_STATUS.get(status) or _BY_STATUS[400 if status < 500 else 500]
    error = {"message": message, "type": kind, "param": param, "code": code or usual}
    return ErrorReply(status, {"error": error})


def error_reply(error: BaseException) -> ErrorReply:
    """What an exception is on the wire. Of one that nobody foresaw nothing is told."""
    if isinstance(error, ServerError):
        reply = status_reply(error.status, str(error), param=error.param, code=error.code)
        if error.retry_after is not None:
            reply.headers["Retry-After"] = str(max(1, round(error.retry_after)))
        return reply
    if isinstance(error, ContextLengthError):
        return status_reply(400, str(error), code="context_length_exceeded")
    if isinstance(error, InputError):
        return status_reply(400, str(error))
    if isinstance(error, AnswerTimeoutError):
        return status_reply(504, str(error))
    if isinstance(error, MissingDependencyError):
        return status_reply(501, str(error), code="missing_dependency")
    if isinstance(error, IndexLockedError):
        return status_reply(503, str(error))
    if isinstance(error, RemoteError) and error.is_passing:  # it names servers, which are nobody's business
        return status_reply(503, "The servers of the model cannot answer now; ask again, or look at the log.")
    return status_reply(500, "The server failed; its log has the reason under this request's id.")


def validation_reply(errors: Sequence[Any]) -> ErrorReply:
    """A body that does not have the form that it should; the first fault is told, by the field's name."""
    first = errors[0] if errors else {}
    if first.get("type") == "json_invalid" or first.get("loc") == ("body",):
        reason = first.get("ctx", {}).get("error", "")
        why = f" ({reason})" if first.get("type") == "json_invalid" and reason else ""
        message = f"The body is no JSON object{why}; send one, with Content-Type: application/json."
        return status_reply(400, message)
    places = [str(part) for part in first.get("loc", ()) if part not in ("body", "query", "path")]
    param = ".".join(places) or None
    where = f"{param}: " if param else ""
    message = f"{where}{first.get('msg', 'the request is malformed')}"
    return status_reply(400, message, param=param)
