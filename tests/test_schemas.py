"""JSON schemas that answers are held to, and calls of tools as such."""

from __future__ import annotations

from typing import Any

import pytest

from nbce_rag.errors import InputError
from nbce_rag.prompts.schemas import closed_schema, response_schema
from nbce_rag.prompts.tools import distinct_tools, forced_tools, tool_call_schema

jsonschema = pytest.importorskip("jsonschema")

ITEM = {"type": "object", "properties": {"name": {"type": "string"}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (ITEM, {"name": "a"}, {"name": "a", "b": 1}),
        ({"properties": {"x": ITEM}}, {"x": {"name": "a"}}, {"x": {"b": 1}}),
        ({"properties": {"x": ITEM}}, {}, 3),
        ({"type": "array", "items": ITEM}, [{"name": "a"}], [{"b": 1}]),
        ({"$defs": {"I": ITEM}, "anyOf": [{"$ref": "#/$defs/I"}, {"type": "null"}]}, None, {"b": 1}),
        ({"anyOf": [ITEM, {"type": "integer"}]}, 3, {"b": 1}),
        ({"type": ["object", "null"], "properties": {"a": {}}}, None, {"b": 1}),
        ({"type": "object", "additionalProperties": ITEM}, {"k": {"name": "a"}}, {"k": {"b": 1}}),
        # A member that is called like a keyword.
        (
            {"properties": {"properties": ITEM, "type": {"type": "string"}}},
            {"type": "x"},
            {"properties": {"b": 1}},
        ),
    ],
)
def test_members_that_are_not_named_are_refused(schema: dict[str, Any], good: Any, bad: Any) -> None:
    before = repr(schema)
    closed = closed_schema(schema)
    assert repr(schema) == before
    jsonschema.validate(good, closed)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, closed)


@pytest.mark.parametrize(
    ("schema", "good"),
    [
        ({"type": "object"}, {"anything": 1}),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"a": 1, "b": 2}),
        ({"allOf": [ITEM, {"properties": {"b": {}}}]}, {"name": "a", "b": 1}),
        (
            {"properties": {"a": {}, "b": {}}, "anyOf": [{"properties": {"a": {"const": 1}}}]},
            {"a": 1, "b": 2},
        ),
        ({"const": {"type": "object", "properties": {}}}, {"type": "object", "properties": {}}),
        ({"items": True, "additionalProperties": False}, [1]),
    ],
)
def test_what_says_itself_what_may_be_there_is_left_alone(schema: dict[str, Any], good: Any) -> None:
    jsonschema.validate(good, closed_schema(schema))


def test_response_formats() -> None:
    assert response_schema({"type": "json_object"}) == {"type": "object"}
    openai = {"type": "json_schema", "json_schema": {"name": "x", "schema": ITEM}}
    assert response_schema(openai) == ITEM
    assert response_schema({"type": "json_schema", "json_schema": ITEM}) == ITEM
    assert response_schema({"type": "json_schema", "schema": '{"type": "object"}'}) == '{"type": "object"}'
    for wrong in (
        "json",
        {"type": "xml"},
        {"type": "json_schema"},
        {"type": "json_schema", "schema": 3},
        None,
    ):
        with pytest.raises(InputError, match="response_format="):
            response_schema(wrong)


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_the_grammar_of_calls() -> None:
    tools = [tool("find", {"type": "object", "properties": {"q": ITEM}, "required": ["q"]}), tool("stay")]
    schema = tool_call_schema(tools, ["find", "stay"])
    jsonschema.validate({"name": "find", "arguments": {"q": {"name": "a"}}}, schema)
    jsonschema.validate({"name": "stay", "arguments": {}}, schema)
    for arguments in ({}, {"q": {"b": 1}}, {"q": {}, "r": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"name": "find", "arguments": arguments}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "stay", "arguments": {"x": 1}}, schema)
    free = tool_call_schema([tool("any", {"$ref": "#/$defs/I", "$defs": {"I": ITEM}})], ["any"])
    jsonschema.validate({"name": "any", "arguments": {"name": "a"}}, free)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "any", "arguments": {"b": 1}}, free)


def test_which_tools_are_forced() -> None:
    tools = distinct_tools([tool("find"), tool("stay"), tool("find", ITEM)])
    assert [one["function"]["name"] for one in tools] == ["find", "stay"]
    assert tools[0]["function"]["parameters"] == ITEM
    for choice in (None, False, "auto", "none"):
        assert forced_tools(choice, tools) == []
    for choice in (True, "any", "required"):
        assert forced_tools(choice, tools) == ["find", "stay"]
    for named in ("stay", {"name": "stay"}, {"type": "function", "function": {"name": "stay"}}):
        assert forced_tools(named, tools) == ["stay"]
    for wrong in ("fnd", {"name": "fnd"}, {}, 3):
        with pytest.raises(InputError, match=r"the tools are \['find', 'stay'\]"):
            forced_tools(wrong, tools)
