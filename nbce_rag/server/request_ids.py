"""The id of a request: the client's own where it is short and plain, else one of ours."""

from __future__ import annotations

import re
import uuid

__all__ = ["HEADER", "request_id"]

HEADER = b"x-request-id"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")  # what cannot break a line of a log


def request_id(header: bytes | None) -> str:
    """An id for a request.

    Args:
        header: what the client sent as `x-request-id`, or None.
    """
    text = "" if header is None else header.decode("latin-1")
    return text if _PLAIN.fullmatch(text) else f"req_{uuid.uuid4().hex}"
