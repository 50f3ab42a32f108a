"""The report of an answer: one form, plain JSON, held to its published schema."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from view_tools import a_citation, an_answer

from nbce_rag import NBCE, Answer, Passage, Report, report_schema
from nbce_rag.answers.report import CitationReport, ContextReport, TimingsReport, UsageReport, report
from nbce_rag.evidence.evidence import Timings

SCHEMA = report_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
TEXTS = ["The ferry is run by Ada.", "市场八点开门,卖鱼。", "The harbour \U0001f434 e\u0301."]


def valid(answer: Answer) -> Any:
    """The report as JSON brings it back, after it met the schema."""
    made = json.loads(json.dumps(report(answer), allow_nan=False))
    VALIDATOR.validate(made)
    assert made == report(answer) == answer.to_dict()
    return made


def test_the_schema_is_a_schema_and_a_copy() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    SCHEMA_COPY = report_schema()
    SCHEMA_COPY.clear()
    assert report_schema() == SCHEMA


@pytest.mark.parametrize(
    ("form", "part"),
    [
        (Report, SCHEMA),
        (CitationReport, SCHEMA["$defs"]["citation"]),
        (ContextReport, SCHEMA["$defs"]["context"]),
        (UsageReport, SCHEMA["$defs"]["usage"]),
        (TimingsReport, SCHEMA["$defs"]["timings"]),
    ],
)
def test_types_and_schema_name_the_same_keys(form: Any, part: dict[str, Any]) -> None:
    keys = set(form.__annotations__)
    assert set(part["properties"]) == set(part["required"]) == keys == form.__required_keys__
    assert part["additionalProperties"] is False
    for name, about in part["properties"].items():
        where = SCHEMA["$defs"][about["$ref"].rpartition("/")[2]] if "$ref" in about else {}
        assert about.get("description") or where.get("description"), name


def test_answers_of_an_engine(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=12, citation_threshold=0.01)
    passages = [
        Passage(text, title=title, source=f"{place}.txt", start=0, end=len(text), score=score)
        for place, (text, title, score) in enumerate(
            zip(TEXTS, ("A", None, "É"), (0.5, 0.1, -0.2), strict=True)
        )
    ]
    answer = nbce.answer("Who runs the ferry, 谁?", passages)
    made = valid(answer)
    assert made["citations"]
    assert [context["text"] for context in made["contexts"]] == TEXTS
    assert sum(context["weight"] for context in made["contexts"]) == pytest.approx(1, abs=1e-4)
    assert sum(context["tokens_won"] for context in made["contexts"]) == len(answer.tokens)
    assert all(context["relevance"] is not None for context in made["contexts"])
    for citation in made["citations"]:
        assert made["answer"][citation["start"] : citation["end"]] == citation["text"]
        assert made["contexts"][citation["context_index"]]["id"] == citation["passage_id"]
    assert made["cited_ids"] == list(dict.fromkeys(c["passage_id"] for c in made["citations"]))
    assert made["rows"] == 1 + len(passages)
    assert made["rows"] + made["sentence_rows"] == len(made["usage"]["row_tokens"])
    assert made["usage"]["row_passages"][:4] == [[], [0], [1], [2]]
    assert made["usage"]["total_tokens"] == sum(made["usage"]["row_tokens"]) + answer.usage.generated_tokens


@pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")
def test_without_passages_and_when_abstaining(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=4)
    alone = valid(nbce.answer("Who runs the ferry?"))
    assert (alone["contexts"], alone["citations"], alone["rows"]) == ([], [], 1)
    assert alone["grounding"] is None
    assert alone["warnings"]
    silent = valid(nbce.answer("Who?", ["The ferry is run by Ada."], abstain_below=1e9))
    assert silent["finish_reason"] == "no_evidence"
    assert [context["weight"] for context in silent["contexts"]] == [0.0]
    many = valid(nbce.answer("Who?", TEXTS, passages_per_row=2, joint_row=True, temperature=1.0, seed=1))
    assert [0, 1, 2] in many["usage"]["row_passages"]


NUMBERS: st.SearchStrategy[Any] = (
    st.floats() | st.none() | st.sampled_from([np.float32("nan"), np.float32(0.5), np.int64(1)])
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(b"x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    passages = [
        Passage(
            draw(st.text(max_size=20)),
            id=draw(st.sampled_from(["", "one", "邬"])),
            title=draw(st.none() | st.text(max_size=5)),
            source=draw(st.none() | st.text(max_size=5)),
            start=draw(st.none() | st.integers(0, 9)),
            end=draw(st.none() | st.integers(10, 99)),
            score=draw(NUMBERS),
            relevance=draw(NUMBERS),
            metadata=draw(st.dictionaries(st.text(max_size=4), VALUES, max_size=3)),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    shares = st.lists(st.floats(0.001, 1), min_size=len(passages), max_size=len(passages))
    weights = [
        tuple(v / math.fsum(row) for v in row) for row in draw(st.lists(shares, min_size=1, max_size=3))
    ]
    seconds = st.none() | st.floats(0)
    return an_answer(
        draw(st.text(max_size=30)),
        passages,
        weights,
        question=draw(st.text(max_size=9)),
        grounding=draw(NUMBERS),
        timings=Timings(*(draw(seconds) for _ in range(5))),  # type: ignore[arg-type]
        finish_reason=draw(st.sampled_from(["stop", "length", "no_evidence"])),
        warnings=tuple(draw(st.lists(st.text(max_size=9), max_size=2))),
    )


@settings(max_examples=200)
@given(answers())
def test_whatever_an_answer_holds_its_report_meets_the_schema(answer: Answer) -> None:
    made = valid(answer)
    assert len(made["contexts"]) == len(answer.passages)
    assert len(made["citations"]) == len(answer.citations)


def test_metadata_that_json_cannot_hold_is_left_out() -> None:
    endless: dict[str, Any] = {}
    endless["self"] = endless
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    metadata = {
        "year": 1931,
        "tags": ("a", ["b", None]),
        "by": {"name": "邬铁梅", "sure": True},
        "nan": math.nan,
        "within": [1.0, math.inf],
        "bytes": b"x",
        "object": object(),
        "endless": endless,
        "deep": deep,
        "_notes": {"of": "an adapter"},
        7: "no name",
    }
    passage = Passage("One.", metadata=metadata)  # type: ignore[arg-type]
    (context,) = valid(an_answer("One", [passage], [(1.0,)]))["contexts"]
    assert context["metadata"] == {
        "year": 1931,
        "tags": ["a", ["b", None]],
        "by": {"name": "邬铁梅", "sure": True},
    }
    assert passage.metadata is metadata


def test_a_citation_of_a_passage_that_is_not_there_is_left_out() -> None:
    answer = an_answer("one two", [Passage("One.", id="a")], [(1.0,)])
    answer = replace(answer, citations=(a_citation("one two", 0, 3, 1, "gone"), *answer.citations))
    made = valid(answer)
    assert [c["passage_id"] for c in made["citations"]] == made["cited_ids"] == ["a"]


def test_a_report_belongs_to_its_caller() -> None:
    answer = an_answer("one", [Passage("One.", id="a", metadata={"tags": ["x"]})], [(1.0,)])
    made = report(answer)
    made["warnings"].append("mine")
    made["contexts"][0]["metadata"]["tags"].append("y")
    assert report(answer)["warnings"] == []
    assert report(answer)["contexts"][0]["metadata"] == {"tags": ["x"]}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"more": 1},
        {"question": None},
        {"finish_reason": "tired"},
        {"grounding": "high"},
        {"rows": -1},
        {"warnings": "none"},
        {"contexts": [{}]},
        {"citations": [{"start": 0, "end": 1}]},
        {"timings": {}},
    ],
)
def test_the_schema_refuses_other_forms(change: dict[str, Any]) -> None:
    made: dict[str, Any] = dict(report(an_answer("one", [Passage("One.", id="a")], [(1.0,)])))
    VALIDATOR.validate(made)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({**made, **change})
    for key in made:
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({name: value for name, value in made.items() if name != key})
