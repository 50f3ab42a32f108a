"""Tools of LangChain under the grammar of a call."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages.content import Citation
from pydantic import BaseModel, Field

from langchain_nbce.argument_citations import argument_citations
from langchain_nbce.tools import tool_dicts
from nbce_rag.prompts.tools import tool_call_schema


def test_the_grammar_of_a_call_names_the_tools_that_may_be_called() -> None:
    jsonschema = pytest.importorskip("jsonschema")

    def f(x: int) -> None:
        """F."""

    def g() -> None:
        """G."""

    tools = tool_dicts([f, g])
    schema = tool_call_schema(tools, ["f", "g"])
    jsonschema.validate({"name": "f", "arguments": {"x": 1}}, schema)
    jsonschema.validate({"name": "g", "arguments": {}}, schema)
    for wrong in ({"name": "f", "arguments": {}}, {"name": "h", "arguments": {}}, {"name": "g"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "g", "arguments": {}}, tool_call_schema(tools, ["f"]))


def test_citations_of_arguments_count_in_the_values() -> None:
    arguments: dict[str, Any] = {
        "name": "Ada",
        "note": 'She "runs" it.',
        "years": [1891, 91],
        "at": {"name": "Ada"},
        "no": None,
    }
    text = json.dumps({"name": "Ada", "arguments": arguments})
    first = text.index("Ada", text.index("arguments"))
    spans = [
        (first + 1, first + 3),
        (text.index("runs"), text.index("runs") + 4),
        (text.rindex("91"), text.rindex("91") + 2),
        (text.rindex("Ada") - 4, len(text)),
    ]
    cited = [
        Citation(type="citation", start_index=a, end_index=b, title=str(n)) for n, (a, b) in enumerate(spans)
    ]
    made = argument_citations(text, cited, [("one", arguments)])["one"]
    found = {
        path: [(c["title"], c["start_index"], c["end_index"]) for c in each] for path, each in made.items()
    }
    assert found == {
        "name": [("0", 1, 3)],
        "note": [("1", 0, len(arguments["note"]))],  # escapes count in the text only
        "years.1": [("2", 0, 2)],
        "at.name": [("3", 0, 3)],
        "no": [("3", 0, 4)],
    }
    assert argument_citations(text, [], [("one", arguments)]) == {}
    assert argument_citations("no JSON", cited, [("one", arguments)]) == {}


def test_of_a_part_of_a_citation_only_what_is_true_of_it_is_told() -> None:
    text = '{"arguments": {"who": "Ada", "when": "1908"}}'
    extras = {"verbatim": True, "quote_start": 3, "quote_end": 30, "unsupported": ["1908"]}
    cited = Citation(type="citation", start_index=0, end_index=len(text), extras=extras)
    parts = argument_citations(text, [cited], [("a", {"who": "Ada", "when": "1908"})])["a"]
    assert parts["who"][0]["extras"] == {"verbatim": True}
    assert parts["when"][0]["extras"] == {"verbatim": True, "unsupported": ["1908"]}
    begin = text.index("1908")
    exact = Citation(type="citation", start_index=begin, end_index=begin + 4, extras=extras)
    assert argument_citations(text, [exact], [("a", {"when": "1908"})])["a"]["when"][0]["extras"] == extras


def test_a_forced_call_is_cited_by_its_arguments(chat: Any) -> None:
    pytest.importorskip("llguidance")

    class Ferry(BaseModel):
        """Who runs it."""

        early: bool
        size: int = Field(ge=1, le=9)

    llm = chat(max_tokens=60, citation_threshold=0.001)
    structured = llm.with_structured_output(Ferry, method="function_calling", include_raw=True)
    contexts = ["The ferry is run by Ada.", "The market opens at eight."]
    message = structured.invoke("Who?", contexts=contexts)["raw"]
    (call,) = message.tool_calls
    cited = message.response_metadata["argument_citations"][call["id"]]
    assert cited.keys() <= {"early", "size"}
    assert {one["cited_text"] for each in cited.values() for one in each} <= set(contexts)
    (block,) = message.content_blocks
    assert block["extras"] == {"citations": cited}
    json.dumps(message.response_metadata)
    whole: Any = None
    for chunk in llm.bind_tools([Ferry], tool_choice="any").stream("Who?", contexts=contexts):
        whole = chunk if whole is None else whole + chunk
    assert list(whole.response_metadata["argument_citations"]) == [whole.tool_calls[0]["id"]]
