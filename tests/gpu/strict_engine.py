"""Engines on the pretended device, and what their answers are held against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbce_rag import NBCE, Answer, load_model

PASSAGES = [
    "The ferry is run by Ada. It sails at nine. It is blue.",
    "The mill is run by Bob. It is old and has a wheel.",
    "The tower was built by Cy. It leans. Nobody lives there.",
    "The market opens at eight. Fish is sold there.",
]
QUESTION = "Who runs the ferry?"

Folder = Callable[[str], Path]
"""Makes a checkpoint of a family."""


def engine(path: Path, device: str, **options: Any) -> NBCE:
    loaded = load_model(path, device=device, dtype="float32", check=False)
    return NBCE(loaded, **{"max_tokens": 10, "kv_store": False, **options})


def ids(answer: Answer) -> list[int]:
    return [token.id for token in answer.tokens]


def assert_same(answer: Answer, expected: Answer) -> None:
    assert ids(answer) == ids(expected)
    for token, other in zip(answer.tokens, expected.tokens, strict=True):
        assert token.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert token.weights == pytest.approx(other.weights, abs=1e-4)
        assert token.gain == pytest.approx(other.gain, abs=1e-4)
        assert token.entropies == pytest.approx(other.entropies, abs=1e-4)
        assert [one for one, _ in token.top] == [one for one, _ in other.top]
