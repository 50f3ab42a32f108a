"""A text as the tokens that the rows read, and the characters of it that each stands for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Spelling"]


@dataclass(frozen=True, slots=True)
class Spelling:
    """A text as tokens.

    Attributes:
        ids: what the model reads behind the prompt, up to the last token that has a part in the text.
        spans: the characters of the text that each of them completes. Those that are not empty follow one
            another over the whole text; tokens that spell one character share its span. Tokens without
            text, such as white space before it, have an empty one.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
