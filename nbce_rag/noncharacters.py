"""The Unicode noncharacters U+FDD0 to U+FDEF, by which passages are marked in plain text.

They never occur in interchanged text, so they can mark the seams of prompts. They are taken out of all
that users and documents contribute.
"""

from __future__ import annotations

__all__ = ["NONCHARACTERS", "PASSAGES", "strip_marks"]

# Unicode noncharacters never occur in interchanged text, so they can mark the seams of a rendered chat
# template. They are taken out of everything that users and documents contribute. Halves of surrogate pairs,
# which tokenizers do not take, become U+FFFD on the way.
NONCHARACTERS: dict[int, str | None] = {
    **dict.fromkeys(range(0xFDD0, 0xFDF0)),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}
PASSAGES = "\ufdd3"
"""Stands in a prompt where the passages go."""


def strip_marks(text: str) -> str:
    """The text without U+FDD0 to U+FDEF, and with U+FFFD for halves of surrogate pairs."""
    return text.translate(NONCHARACTERS)
