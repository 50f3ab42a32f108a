from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from view_tools import a_citation

from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.evidence.evidence import Citation, Timings, TokenEvidence, Usage, leading
from nbce_rag.passages import Passage

TEXT = "Ada Lovelace."


def token(weights: tuple[float, ...]) -> TokenEvidence:
    return TokenEvidence(id=1, text="a", start=0, end=1, logprob=-0.5, weights=weights, gain=0.1)


def an_answer(**changes: Any) -> Answer:
    values: dict[str, Any] = {
        "question": "Who?",
        "text": TEXT,
        "tokens": (token((0.25, 0.75)),),
        "citations": (a_citation(TEXT, 0, 3, 1, "b", 0.75, True), a_citation(TEXT, 4, 12, 0, "a", 0.5)),
        "passages": (
            Passage("Lovelace.", id="a", title="T", source="a.txt", score=0.5),
            Passage("Ada.", id="b"),
        ),
        "usage": Usage(prompt_tokens=30, cached_tokens=4, generated_tokens=3, row_tokens=(8, 11, 11)),
        "timings": Timings(retrieve=None, prefill=0.5, first_token=0.6, decode=0.25, total=0.75),
        "finish_reason": "stop",
        "grounding": 1.5,
        "fusion": "posterior",
        "warnings": (),
    }
    return Answer(**(values | changes))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((), None), ((1.0,), 0), ((0.2, 0.8), 1), ((0.5, 0.5), 0), ((0.2, 0.4, 0.4), 1)],
)
def test_leading_passage_of_a_token(weights: tuple[float, ...], expected: int | None) -> None:
    assert token(weights).passage == expected


def test_leading_is_the_first_of_equals() -> None:
    assert leading([0.1, 0.3, 0.3]) == 1


def test_to_dict_has_the_shape_that_the_command_line_prints() -> None:
    assert an_answer().to_dict() == {
        "schema": 1,
        "question": "Who?",
        "answer": "Ada Lovelace.",
        "thought": "",
        "citations": [
            {
                "start": 0,
                "end": 3,
                "text": "Ada",
                "context_index": 1,
                "passage_id": "b",
                "share": 0.75,
                "verbatim": True,
                "quote_start": None,
                "quote_end": None,
                "source_start": None,
                "source_end": None,
                "page": None,
                "others": [],
            },
            {
                "start": 4,
                "end": 12,
                "text": "Lovelace",
                "context_index": 0,
                "passage_id": "a",
                "share": 0.5,
                "verbatim": False,
                "quote_start": None,
                "quote_end": None,
                "source_start": None,
                "source_end": None,
                "page": None,
                "others": [],
            },
        ],
        "unsupported": [],
        "cited_ids": ["b", "a"],
        "contexts": [
            {
                "index": 0,
                "id": "a",
                "title": "T",
                "source": "a.txt",
                "start": None,
                "end": None,
                "score": 0.5,
                "relevance": None,
                "weight": 0.25,
                "tokens_won": 0,
                "cited": 8 / 11,
                "text": "Lovelace.",
                "metadata": {},
            },
            {
                "index": 1,
                "id": "b",
                "title": None,
                "source": None,
                "start": None,
                "end": None,
                "score": None,
                "relevance": None,
                "weight": 0.75,
                "tokens_won": 1,
                "cited": 3 / 11,
                "text": "Ada.",
                "metadata": {},
            },
        ],
        "rows": 3,
        "sentence_rows": 0,
        "usage": {
            "prompt_tokens": 30,
            "cached_tokens": 4,
            "generated_tokens": 3,
            "thought_tokens": 0,
            "total_tokens": 33,
            "row_tokens": [8, 11, 11],
            "row_passages": [],
            "row_steps": 0,
            "slept_row_steps": 0,
        },
        "timings": {"retrieve": None, "prefill": 0.5, "first_token": 0.6, "decode": 0.25, "total": 0.75},
        "finish_reason": "stop",
        "grounding": 1.5,
        "memory": pytest.approx(1 / (1 + math.exp(0.1))),
        "support": None,
        "fusion": "posterior",
        "warnings": [],
        "conflicts": [],
        "words": [],
        "ablation": None,
    }


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_what_is_not_finite_becomes_null(bad: float) -> None:
    answer = an_answer(
        grounding=bad,
        citations=(a_citation(TEXT, 0, 3, 0, "b", bad),),
        passages=(Passage("B.", id="b", score=bad),),
        timings=Timings(bad, bad, bad, bad, bad),
    )
    printed = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert printed["grounding"] is None
    assert printed["citations"][0]["share"] is None
    assert printed["contexts"][0]["score"] is None
    assert set(printed["timings"].values()) == {None}


def test_numpy_numbers_become_pythons_own() -> None:
    answer = an_answer(
        grounding=np.float32(0.5),
        citations=(Citation(np.int64(0), np.int64(3), "Ada", np.int64(0), "b", np.float32(0.5), np.True_),),  # type: ignore[arg-type]
        passages=(Passage("B.", id="b", score=np.float32(0.25)),),  # type: ignore[arg-type]
        usage=Usage(np.int64(9), np.int64(0), np.int64(1), (np.int64(4), np.int64(5))),  # type: ignore[arg-type]
    )
    again = json.loads(json.dumps(answer.to_dict()))
    assert again == answer.to_dict()
    assert again["usage"]["row_tokens"] == [4, 5]
    assert again["contexts"][0]["score"] == 0.25


def test_cited_passages_come_in_the_order_of_their_first_citation_and_once() -> None:
    places = [(0, 3, 1, "b"), (4, 6, 0, "a"), (6, 12, 1, "b")]
    answer = an_answer(citations=tuple(a_citation(TEXT, *place) for place in places))
    assert [passage.id for passage in answer.cited_passages] == ["b", "a"]
    assert an_answer(citations=()).cited_passages == ()


def test_answers_cannot_be_changed_and_compare_by_value() -> None:
    answer = an_answer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.text = "other"  # type: ignore[misc]
    assert answer == an_answer()
    assert answer != an_answer(text="other")
    assert Piece("a", (), None) == Piece("a", (), None)


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, nbce_rag.answers.answer, nbce_rag.evidence.citations;"
        "print([m for m in ('torch', 'numpy', 'faiss', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
