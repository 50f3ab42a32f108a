"""An engine that writes a text of the test's choice, surer where a passage begins a sentence like it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from plain_tokenizer import EOS, SIZE, PlainTokenizer
from table_model import TableModel
from torch import Tensor

from nbce_rag.engine.nbce import NBCE

__all__ = ["FERRY", "LONG", "MARKET", "PASSAGES", "make_writer"]

FERRY = "The ferry over the Lune is run by Ada Fenwick and her son."
MARKET = "The market on the quay opens at eight and closes at noon."
PASSAGES = [f"{FERRY} It was built in 1908.", f"{MARKET} It sells fish."]
LONG = f"{FERRY} {MARKET}\n\n- {FERRY}\n- {MARKET}\n\nAll of this is as it always was."
_TURN = "assistant: "


class _Writer:
    """A table of a model that writes `text`, a byte a token, and then ends."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sentences = [match.span() for match in re.finditer(r"[^.\n]+\.?", text)]

    def __call__(self, ids: Sequence[int]) -> Tensor:
        prompt, turn, written = PlainTokenizer().decode(ids).rpartition(_TURN)
        written = written.removeprefix("(no thinking)")
        at = len(written)
        if not turn or not self._text.startswith(written):
            return torch.full((SIZE,), -math.log(SIZE))
        sentences = [self._text[start:end].strip(" -") for start, end in self._sentences if start <= at < end]
        p = 0.9 if any(sentence[:16] in prompt for sentence in sentences) else 0.2
        probabilities = torch.full((SIZE,), (1 - p) / (SIZE - 1))
        probabilities[self._text[at].encode()[0] if at < len(self._text) else EOS] = p
        return probabilities.log()


def make_writer(text: str = LONG, **options: Any) -> NBCE:
    """An engine whose answers are an ASCII text; options are those of `NBCE`."""
    model: Any = TableModel(_Writer(text), vocab_size=SIZE, tokenizer=PlainTokenizer(), window=2048)
    model.eos_ids = frozenset({EOS})
    return NBCE(model, kv_store=False, **{"max_tokens": 400, **options})
