"""A tokenizer of plain Python: one token a byte, and a few special ones. It stands for any backend's own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from nbce_rag.errors import ModelError

BOS, EOS, TURN = 256, 257, 258
SPECIALS = {"<s>": BOS, "</s>": EOS, "<|turn|>": TURN}
TEXTS = {number: text for text, number in SPECIALS.items()}
SIZE = 256 + len(SPECIALS)


class PlainTokenizer:
    """See the module.

    Args:
        chat: whether it has a chat template: `<|turn|>role: content</s>` for each message.
        offsets: whether it can tell which characters a token stands for.
    """

    name = "plain"
    bos_ids = (BOS,)
    specials = frozenset(SPECIALS)

    def __init__(self, *, chat: bool = True, offsets: bool = True) -> None:
        self.has_chat_template = chat
        self._offsets = offsets

    def encode(self, text: str) -> tuple[int, ...]:
        return self._encode(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]] | None:
        return self._encode(text) if self._offsets else None

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        pieces = b"".join(bytes([i]) if i < 256 else b"" if skip_specials else TEXTS[i].encode() for i in ids)
        return pieces.decode(errors="replace")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        if not self.has_chat_template:
            raise ModelError("The tokenizer 'plain' has no chat template.")
        told = "".join(f"<|turn|>tool: {tool['function']['name']}</s>" for tool in tools)
        lines = "".join(f"<|turn|>{m['role']}: {m['content']}</s>" for m in messages)
        thought = "" if (variables or {}).get("enable_thinking", True) else "(no thinking)"
        return f"<s>{told}{lines}<|turn|>assistant: {thought}"

    def grammar_index(self, eos_ids: Sequence[int]) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        class Bytes(SimpleNamespace):
            def __call__(self, text: bytes) -> list[int]:
                return list(text)

        tokens = [*(bytes([i]) for i in range(256)), *(b"\xff" + text.encode() for text in SPECIALS)]
        inner = Bytes(eos_token_id=EOS, bos_token_id=BOS, tokens=tokens, special_token_ids=[BOS, EOS, TURN])
        return LLTokenizer(TokenizerWrapper(inner), eos_token=list(eos_ids))

    def _encode(self, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for match in re.finditer("|".join(map(re.escape, SPECIALS)) + "|.", text, re.DOTALL):
            piece = match[0]
            numbers = [SPECIALS[piece]] if piece in SPECIALS else list(piece.encode("utf-8", "surrogatepass"))
            ids += numbers
            offsets += [match.span()] * len(numbers)
        return tuple(ids), offsets
