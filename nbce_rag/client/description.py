"""What a server says of its engine: all that must be known where requests are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..models.model import Can
from ..options import Options
from ..prompts.template import STYLES, PromptTemplate

__all__ = ["EngineDescription"]


@dataclass(frozen=True)
class EngineDescription:
    """An engine, as its server tells of it.

    Attributes:
        version: of `nbce_rag.answers.wire`.
        model: name of the model, without a path.
        fingerprint: of the model.
        window: the most tokens of a row, answer included.
        has_chat_template: whether the model's tokenizer has one.
        can: what the model's backend can do.
        options: defaults of every request.
        prompts: the wording of each style, and that without one as "".
        has_own_prompt: whether the wording is the server's own, so that styles have no say in it.
    """

    version: int
    model: str
    fingerprint: str
    window: int
    has_chat_template: bool
    can: Can
    options: Options
    prompts: Mapping[str, PromptTemplate]
    has_own_prompt: bool = False

    def prompt(self, style: str | None) -> PromptTemplate:
        """The wording in a style of `nbce_rag.prompts.template.STYLES`, or in none."""
        return self.prompts[style if style in STYLES else ""]
