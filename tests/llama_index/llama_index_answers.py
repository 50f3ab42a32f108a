"""What holds for every answer of every engine, and how many rows the model read for it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from nbce_rag import report_schema


def check(text: str, made: dict[str, Any], sources: list[str], rows: int) -> None:
    """What holds for every answer."""
    jsonschema.Draft202012Validator(report_schema()).validate(made)
    assert made["answer"] == text
    assert text
    assert made["rows"] == rows
    assert len(made["contexts"]) == rows - 1
    assert json.loads(json.dumps(made)) == made
    assert made["citations"]
    for citation in made["citations"]:
        assert 0 <= citation["start"] < citation["end"] <= len(text)
        assert citation["passage_id"] in sources
    assert {c["id"] for c in made["contexts"]} <= set(sources)


def rows_of_calls(events: Any) -> list[int]:
    """Number of rows of every call of the model, in their order."""
    ends = [e for e in events.seen if e.class_name() in ("LLMChatEndEvent", "LLMCompletionEndEvent")]
    assert len(ends) == events.llm_calls
    return [e.response.raw["nbce"]["rows"] for e in ends]
