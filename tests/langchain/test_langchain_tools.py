"""Tools of LangChain under the grammar of a call."""

from __future__ import annotations

import pytest

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
