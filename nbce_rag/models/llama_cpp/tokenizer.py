"""The tokenizer of a GGUF file behind the seam that all code above the models sees."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...errors import InputError, ModelError
from ...prompts.tokenizer import Message
from .library import library
from .weights import Weights

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["GgufTokenizer"]

_TEMPLATE = "tokenizer.chat_template"
_TEMPLATE_TOKENS = ("bos", "eos", "unknown", "padding", "seperator")  # as GGUF spells them
_TEMPLATE_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token")


class GgufTokenizer:
    """`nbce_rag.prompts.tokenizer.Tokenizer` by llama.cpp and what stands in the file.

    Args:
        weights: the model of the file.

    Attributes:
        eos_ids: every token that ends an answer.
    """

    def __init__(self, weights: Weights) -> None:
        bound = library()
        self._weights, self._vocab = weights, weights.vocab
        self._size = weights.vocab_size
        self._pieces: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._index: tuple[object, LLTokenizer] | None = None
        attributes = [bound.llama_vocab_get_attr(self._vocab, token) for token in range(self._size)]
        special = bound.LLAMA_TOKEN_ATTR_CONTROL | bound.LLAMA_TOKEN_ATTR_UNKNOWN
        self._special_ids = frozenset(token for token, kinds in enumerate(attributes) if kinds & special)
        self.eos_ids = frozenset(
            token for token in range(self._size) if bound.llama_vocab_is_eog(self._vocab, token)
        )
        first = self.encode("a")
        self._adds_blank = bool(first) and self._piece(first[0]).startswith(b" ")

    @property
    def name(self) -> str:
        return self._weights.name

    @cached_property
    def bos_ids(self) -> tuple[int, ...]:
        bound = library()
        adds = bound.llama_vocab_get_add_bos(self._vocab)
        bos = int(bound.llama_vocab_bos(self._vocab))
        return (bos,) if adds and bos >= 0 else ()

    @cached_property
    def specials(self) -> frozenset[str]:
        texts = (self._piece(token).decode(errors="replace") for token in self._special_ids)
        return frozenset(text for text in texts if text.strip())

    @property
    def has_chat_template(self) -> bool:
        return bool(self._template(()))

    def encode(self, text: str) -> tuple[int, ...]:
        return self._encode(_bytes(text))

    def encode_with_offsets(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]] | None:
        raw = _bytes(text)
        ids = self._encode(raw)
        spans = self._spans(raw, ids)
        if spans is None:
            return None
        if not raw:
            return ids, []
        # Bytes that go on with a character are 0b10......
        starts = [place for place, byte in enumerate(raw) if byte & 0xC0 != 0x80]
        character = [0] * (len(raw) + 1)
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(raw)], strict=True)):
            character[start:end] = [number] * (end - start)
        offsets = [(character[a], character[b - 1] + 1 if a < b else character[a]) for a, b in spans]
        return ids, offsets

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        pieces = [
            self._piece(token) for token in ids if not (skip_specials and int(token) in self._special_ids)
        ]
        if pieces and self._adds_blank and pieces[0].startswith(b" "):
            pieces[0] = pieces[0][1:]
        return b"".join(pieces).decode(errors="replace")

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        template = self._template(tools)
        if template is None:
            raise ModelError(f"The tokenizer of {self.name!r} has no chat template.")
        try:
            given: dict[str, Any] = {**self._template_tokens, **(variables or {})}
            rendered: Any = render_jinja_template(
                [[dict(message) for message in messages]],
                [dict(tool) for tool in tools] or None,
                chat_template=template,
                add_generation_prompt=True,
                **given,
            )
        except Exception as error:  # jinja raises whatever the template's author chose
            raise ModelError(f"The chat template of {self.name!r} fails: {error}") from error
        [text], _ = rendered
        return str(text)

    def grammar_index(self, eos_ids: Sequence[int]) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        ends = sorted(eos_ids)
        with self._lock:
            if self._index is not None and self._index[0] == ends:
                return self._index[1]
            try:
                index = LLTokenizer(TokenizerWrapper(_ForGrammars(self, ends)), eos_token=ends or None)
            except ValueError as error:
                raise InputError(
                    f"llguidance cannot read the tokenizer of {self.name!r}: {error}. Answer without "
                    "json_schema and regex, or use another model."
                ) from error
            self._index = (ends, index)
            return index

    def pieces(self) -> list[bytes]:
        """What each token spells, specials with a byte before them that no text has."""
        return [
            (b"\xff" if token in self._special_ids else b"") + self._piece(token)
            for token in range(self._size)
        ]

    def _encode(self, raw: bytes) -> tuple[int, ...]:
        if not raw:
            return ()
        bound = library()
        room = len(raw) + 16
        while True:
            tokens = (ctypes.c_int32 * room)()
            count = bound.llama_tokenize(self._vocab, raw, len(raw), tokens, room, False, True)
            if count >= 0:
                return tuple(tokens[:count])
            room = -count

    def _piece(self, token: int) -> bytes:
        """The bytes that a token spells; a special token its name."""
        token = int(token)
        piece = self._pieces.get(token)
        if piece is None:
            if not 0 <= token < self._size:
                raise InputError(f"Token {token} is not there; the vocabulary has {self._size}.")
            bound, room = library(), 64
            while True:
                text = ctypes.create_string_buffer(room)
                size = bound.llama_token_to_piece(self._vocab, token, text, room, 0, True)
                if size >= 0:
                    break
                room = -size
            piece = self._pieces[token] = text.raw[:size]
        return piece

    def _spans(self, raw: bytes, ids: Sequence[int]) -> list[tuple[int, int]] | None:
        """The bytes that each token stands for, or None where they do not add up to the text."""
        spans: list[tuple[int, int]] = []
        at = 0
        for token in ids:
            piece = self._piece(token)
            if not raw.startswith(piece, at):
                if not piece.startswith(b" ") or not raw.startswith(piece[1:], at):
                    return None
                piece = piece[1:]  # a blank that the tokenizer put there
            spans.append((at, at + len(piece)))
            at += len(piece)
        return spans if at == len(raw) else None

    def _template(self, tools: Sequence[Mapping[str, Any]]) -> str | None:
        with_tools = self._weights.meta(f"{_TEMPLATE}.tool_use") if tools else None
        return with_tools or self._weights.meta(_TEMPLATE)

    @cached_property
    def _template_tokens(self) -> dict[str, str]:
        """Names of special tokens that templates look at, and their texts."""
        tokens = {}
        for name, key in zip(_TEMPLATE_NAMES, _TEMPLATE_TOKENS, strict=True):
            number = self._weights.meta(f"tokenizer.ggml.{key}_token_id")
            if number is not None and number.isdecimal() and int(number) < self._size:
                tokens[name] = self._piece(int(number)).decode(errors="replace")
        return tokens


class _ForGrammars:
    """What llguidance asks of a tokenizer."""

    def __init__(self, tokenizer: GgufTokenizer, ends: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.tokens = tokenizer.pieces()
        self.special_token_ids = [token for token, piece in enumerate(self.tokens) if piece[:1] == b"\xff"]
        self.eos_token_id = ends[0] if ends else None
        self.bos_token_id = next(iter(tokenizer.bos_ids), None)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(self._tokenizer.encode(text if isinstance(text, str) else text.decode(errors="replace")))


def _bytes(text: str) -> bytes:
    # Halves of characters cannot be spelled, and one byte keeps all others in their places.
    return text.encode(errors="replace")
