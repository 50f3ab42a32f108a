"""The wording around passages and question."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .tokenizer import Tokenizer

__all__ = ["PromptTemplate"]


@dataclass(frozen=True)
class PromptTemplate:
    """The wording around passages and question; `PromptTemplate.plain()` and `.chat()` are the defaults.

    Fields in braces are filled in: `{heading}` (the title and a line break, or nothing), `{title}`,
    `{text}`, `{source}` and `{id}` in `passage`; `{question}` in `suffix`. Other braces stay as they
    are, so JSON examples need no escaping.

    Attributes:
        prefix: stands before the passage, the same for all questions.
        passage: one passage; left out in the row that reads none.
        suffix: stands after the passage and holds the question.
        chat: whether the three make up a user message, rendered by the tokenizer's chat template.
        system: system message for chat models, or None. Where a chat template knows no system role, it
            is put at the head of the user message.
        stop: strings that end the answer, beside the model's own end tokens.
        refusal: the reply that the wording asks for when the text holds no answer, or None. Its
            probability in each row tells how far that row refuses.

    Raises:
        InputError: a part lacks its field, prefix or passage holds the question (their ids could not be
            reused), or the suffix holds it twice.
    """

    prefix: str
    passage: str
    suffix: str
    chat: bool = False
    system: str | None = None
    stop: tuple[str, ...] = ()
    refusal: str | None = None

    def __post_init__(self) -> None:
        if "{text}" not in self.passage:
            raise InputError(f"PromptTemplate.passage={self.passage!r} lacks the field {{text}}.")
        if "{question}" not in self.suffix:
            raise InputError(f"PromptTemplate.suffix={self.suffix!r} lacks the field {{question}}.")
        if self.suffix.count("{question}") > 1:
            raise InputError(f"PromptTemplate.suffix={self.suffix!r} holds {{question}} more than once.")
        for part in ("prefix", "passage"):
            if "{question}" in getattr(self, part):
                raise InputError(f"PromptTemplate.{part} must not hold {{question}}; put it into the suffix.")
        if isinstance(self.stop, str):  # type: ignore[unreachable]
            raise InputError(f"PromptTemplate.stop={self.stop!r} is one string; give a tuple of strings.")

    @classmethod
    def plain(cls) -> PromptTemplate:
        """For base models: text, question, answer; the answer ends with its line."""
        return cls(
            prefix="",
            passage="{heading}{text}\n\n",
            suffix="Question: {question}\nAnswer:",
            stop=("\n",),
        )

    @classmethod
    def for_chat(cls) -> PromptTemplate:
        """For instruction-tuned models: asks for a short answer from the text, or a fixed refusal."""
        refusal = "I don't know."
        return cls(
            prefix="Answer the question from the text, in as few words as possible. "
            f"If the text does not contain the answer, reply exactly: {refusal}\n\nText:\n",
            passage="{heading}{text}\n\n",
            suffix="Question: {question}",
            chat=True,
            refusal=refusal,
        )

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> PromptTemplate:
        """`for_chat()` when the tokenizer has a chat template, else `plain()`."""
        return cls.for_chat() if tokenizer.has_chat_template else cls.plain()
