"""The seam between words and token ids: all that is asked of a model's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["Message", "Tokenizer"]

Message = Mapping[str, Any]
"""A message as chat templates take it: `role`, `content`, perhaps `name`, `tool_calls`, `tool_call_id`."""


class Tokenizer(Protocol):
    """One model's tokenizer, the same object for all that is done with the model.

    Its methods may be called from several threads at once.
    """

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """What it puts before a text by itself: one id, or none."""

    @property
    def specials(self) -> frozenset[str]:
        """The texts that it takes for special tokens, such as `<|im_end|>`; none is blank."""

    @property
    def has_chat_template(self) -> bool:
        """Whether `render` can be used."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, with nothing put around it. Special tokens that it spells count."""

    def encode_with_offsets(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]] | None:
        """The ids of `encode`, and of each the half-open range of characters that it stands for.

        Ranges may share characters, where several tokens spell one. None where the tokenizer cannot tell.
        """

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        """The text of some ids. Bytes that make no character become U+FFFD."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """A conversation in the words of the chat template, up to where the assistant's turn begins.

        Args:
            messages: oldest first.
            tools: OpenAI-style dicts, for templates that know tools.
            variables: further ones that the template may look at, such as `enable_thinking`.

        Raises:
            ModelError: the template fails, or there is none.
        """

    def grammar_index(self, eos_ids: Sequence[int]) -> LLTokenizer:
        """llguidance's index over the vocabulary, built once.

        Args:
            eos_ids: the tokens that end a text.

        Raises:
            InputError: the tokenizer is of a kind that has none.
        """
