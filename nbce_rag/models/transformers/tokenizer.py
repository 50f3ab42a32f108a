"""A tokenizer of transformers behind the seam that all code above the models sees."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ...errors import InputError, ModelError
from ...prompts.tokenizer import Message

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedTokenizerBase

__all__ = ["TransformersTokenizer", "end_ids"]

# What steers a model looks like a tag. Vocabularies hold tags of HTML too, which steer nothing.
_CONTROL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|col|dd|div|dl|dt|em|h[1-6]|head|hr|html|i|img|li|ol|p|pre|s|span|"
    r"strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|u|ul)>"
)
_locks: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


class TransformersTokenizer:
    """`nbce_rag.prompts.tokenizer.Tokenizer` by a tokenizer of transformers.

    Args:
        native: the tokenizer.

    Attributes:
        native: the same, for what is transformers' own business: saving it, or `generate`.
    """

    def __init__(self, native: PreTrainedTokenizerBase) -> None:
        self.native: Any = native
        # Fast tokenizers change their own state while encoding ("Already borrowed" in threads).
        with _locks_lock:
            self._lock = _locks.setdefault(native, threading.Lock())
        self._specials: tuple[int, frozenset[str]] = (-1, frozenset())
        self._index: tuple[object, LLTokenizer] | None = None

    @property
    def name(self) -> str:
        return str(getattr(self.native, "name_or_path", "") or type(self.native).__name__)

    @property
    def bos_ids(self) -> tuple[int, ...]:
        with self._lock:
            ids = tuple(self.native("", add_special_tokens=True)["input_ids"])
        return ids[:1] if ids and ids[0] == self.native.bos_token_id else ()

    @property
    def specials(self) -> frozenset[str]:
        size = len(self.native)  # tokens may have been added since the last time
        if self._specials[0] != size:
            # Many chat tokens have no name such as `eos_token`, and some are not called special (`</think>`).
            added = (
                str(token)
                for token in getattr(self.native, "added_tokens_decoder", {}).values()
                if token.special or (_CONTROL.fullmatch(str(token)) and not _HTML.fullmatch(str(token)))
            )
            every = (*self.native.all_special_tokens, *added)
            self._specials = (size, frozenset(token for token in every if token.strip()))
        return self._specials[1]

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.native, "chat_template", None))

    def encode(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        with self._lock:
            return tuple(self.native(text, add_special_tokens=False)["input_ids"])

    def encode_with_offsets(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]] | None:
        if not self.native.is_fast:
            return None
        with self._lock:
            encoded = self.native(text, add_special_tokens=False, return_offsets_mapping=True)
        return tuple(encoded["input_ids"]), encoded["offset_mapping"]

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        with self._lock:
            text: str = self.native.decode(
                list(ids), skip_special_tokens=skip_specials, clean_up_tokenization_spaces=False
            )
        return text

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        try:
            text = self.native.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=True,
                **({"tools": list(tools)} if tools else {}),
                **(variables or {}),
            )
        except Exception as error:  # jinja raises whatever the template's author chose
            raise ModelError(f"The chat template of {self.name!r} fails: {error}") from error
        return str(text)

    def grammar_index(self, eos_ids: Sequence[int]) -> LLTokenizer:
        kind = type(self.native).__name__
        if not getattr(self.native, "is_fast", False):
            raise InputError(
                f"{kind} is not a fast tokenizer, which a JSON schema or regular expression for the answer "
                "needs; load it with AutoTokenizer, or convert it to a tokenizer.json."
            )
        from llguidance.hf import from_tokenizer

        size = len(self.native)
        ends = sorted(i for i in eos_ids if i < size)
        state = (size, ends)  # tokens may have been added since the last time
        with self._lock:
            if self._index is not None and self._index[0] == state:
                return self._index[1]
            try:
                index = from_tokenizer(self.native, eos_token=ends or None)
            except ValueError as error:
                raise InputError(
                    f"llguidance cannot read the tokenizer {kind}: {error}. Answer without json_schema and "
                    "regex, or use a model with another tokenizer."
                ) from error
            self._index = (state, index)
            return index


def end_ids(values: Iterable[int | Iterable[int] | None]) -> frozenset[int]:
    """Every token that ends an answer, by what several configs call `eos_token_id`: one, some or none each.

    Chat models often end a turn with a token that the tokenizer does not call its EOS.
    """
    ends: set[int] = set()
    for value in values:
        if value is not None:
            ends.update([value] if isinstance(value, int) else value)
    return frozenset(map(int, ends))
