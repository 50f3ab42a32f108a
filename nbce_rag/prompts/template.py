"""The wording around passages and question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ..errors import InputError
from .tokenizer import Tokenizer

__all__ = ["STYLES", "PromptTemplate", "Style", "check_style"]

Style: TypeAlias = Literal["short", "long"]
"""How long an answer the built-in wordings ask for: as few words as possible, or full sentences."""
STYLES: tuple[Style, ...] = get_args(Style)


@dataclass(frozen=True)
class PromptTemplate:
    """The wording around passages and question; `PromptTemplate.plain()` and `.for_chat()` are the defaults.

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
    def plain(cls, style: Style = "short") -> PromptTemplate:
        """For base models: text, question, answer.

        Args:
            style: a short answer ends with its line, a long one where it begins to repeat the form.
        """
        again = ("\nQuestion:", "\n\nQuestion", "\nAnswer:")
        return cls(
            prefix="",
            passage="{heading}{text}\n\n",
            suffix="Question: {question}\nAnswer:",
            stop=("\n",) if style == "short" else again,
        )

    @classmethod
    def for_chat(cls, style: Style = "long") -> PromptTemplate:
        """For instruction-tuned models: asks for an answer from the text, or a fixed refusal.

        Args:
            style: whether as few words as possible are asked for, or full sentences with code where it helps.
        """
        refusal = "I don't know."
        otherwise = f"If the text does not contain the answer, reply exactly: {refusal}\n\nText:\n"
        if style == "short":
            return cls(
                prefix=f"Answer the question from the text, in as few words as possible. {otherwise}",
                passage="{heading}{text}\n\n",
                suffix="Question: {question}",
                chat=True,
                refusal=refusal,
            )
        # A rule and the request once more: behind "Question:" small models go on as the text did.
        return cls(
            prefix="Answer the question from the text. Give a complete answer in full sentences, in the "
            f"language of the question, with code where it helps. {otherwise}",
            passage="{heading}{text}\n\n",
            suffix="---\n\nUsing the text above, answer in full sentences, with code where it helps: "
            "{question}",
            chat=True,
            refusal=refusal,
        )

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer, style: Style | None = None) -> PromptTemplate:
        """`for_chat()` when the tokenizer has a chat template, else `plain()`; None is the style of these."""
        make = cls.for_chat if tokenizer.has_chat_template else cls.plain
        return make() if style is None else make(style)


def check_style(style: Style | None, template: PromptTemplate | None) -> None:
    """Raises InputError for a style beside a wording of one's own, which it says nothing of."""
    if style is not None and template is not None:
        raise InputError(
            f"style={style!r} chooses among the built-in wordings, and prompt= gives another; leave one "
            "of them out."
        )
