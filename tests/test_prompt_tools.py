"""Tool calls: read out of text, whole and in pieces, and forced by a grammar."""

from __future__ import annotations

from typing import Any

import pytest

from nbce_rag.prompts.tools import ToolCallReader

CALL = [("f", {"x": 1})]


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ('{"name": "f", "arguments": {"x": 1}}', "", CALL),
        ('{"name": "f", "parameters": {"x": 1}}', "", CALL),
        ('{"type": "function", "function": {"name": "f", "arguments": "{\\"x\\": 1}"}}', "", CALL),
        ('Sure: <tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "Sure: ", CALL),
        (
            '[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {}}]',
            "",
            [*CALL, ("f", {})],
        ),
        ("a < b and [x] <tool", "a < b and [x] <tool", []),
        ('{"a": 1} is JSON', '{"a": 1} is JSON', []),
        ('{"name": "g", "arguments": {}}', '{"name": "g", "arguments": {}}', []),
        ("{" * 500, "{" * 500, []),
        ("", "", []),
    ],
)
def test_calls_are_read_and_other_text_is_shown(text: str, shown: str, calls: list[Any]) -> None:
    for pieces in ([text], list(text)):
        reader = ToolCallReader(["f"])
        early = "".join(map(reader.push, pieces))
        rest, found, unreadable = reader.finish()
        assert early + rest == shown
        assert [(call.name, call.arguments) for call in found] == calls
        assert len({call.id for call in found}) == len(calls)
        assert unreadable == []


def test_a_call_that_cannot_be_read_is_invalid_and_not_shown() -> None:
    reader = ToolCallReader(["f"])
    assert reader.push('Well. <tool_call>{"name": "f"') == "Well. "
    rest, calls, (unreadable,) = reader.finish()
    assert (rest, calls) == ("", [])
    assert "{" in unreadable.text
