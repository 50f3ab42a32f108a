"""Texts and metadata as PostgreSQL can hold them: it has no NUL character, and one kind of number.

A NUL is stored as a noncharacter and a zero; what PostgreSQL could take for something else because of that
(`is_odd`) filters ask Python about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..filters.conditions import GENERATED

__all__ = ["STORED_BYTES", "attributes", "decoded", "encoded", "is_odd", "jsonb"]

_ESCAPE = "\ufdef"
STORED_BYTES = f"octet_length(replace(replace(text, '{_ESCAPE}0', ' '), '{_ESCAPE}1', '{_ESCAPE}'))"
"""SQL for the bytes of a text as it was."""

_WHOLE_FROM = (
    2**53
)  # floats from here on are whole numbers; what is shortest in decimals is not what they are


def encoded(text: str) -> str:
    """A text as it is stored."""
    if "\0" in text or _ESCAPE in text:
        return text.replace(_ESCAPE, f"{_ESCAPE}1").replace("\0", f"{_ESCAPE}0")
    return text


def decoded(text: str) -> str:
    """A text that was stored, as it was."""
    if _ESCAPE in text:
        return text.replace(f"{_ESCAPE}0", "\0").replace(f"{_ESCAPE}1", _ESCAPE)
    return text


def is_odd(*texts: str | None) -> bool:
    """Whether one of some texts, or of JSON, is not stored as it is."""
    return any(text is not None and ("\0" in text or _ESCAPE in text or "\\u0000" in text) for text in texts)


def attributes(metadata: Mapping[str, Any], odd: bool) -> str:
    """Metadata as JSON for filters: large floats as the whole numbers that they are.

    Args:
        metadata: Of a passage.
        odd: Whether it is odd (`is_odd`). Then only that is kept which marks what searches leave out.
    """
    if odd:
        metadata = {key: value for key, value in GENERATED.items() if metadata.get(key) == value}
    return jsonb(metadata) or "{}"


def jsonb(value: Any) -> str | None:
    """A value of JSON in the form in which filters compare; None of one that metadata in it cannot have."""
    try:
        text = json.dumps(_numbers(value), ensure_ascii=False, allow_nan=False)
    except ValueError:  # infinity
        return None
    return None if "\\u0000" in text else text


def _numbers(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and abs(value) >= _WHOLE_FROM else value
    if isinstance(value, list | tuple):
        return [_numbers(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _numbers(one) for key, one in value.items()}
    return value
