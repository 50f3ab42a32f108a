from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core")

from taught import Lesson, teach

JOKE = '{"setup":"Why?","punchline":"Meow."}'
LESSONS = [
    Lesson("Hello", "Hello there."),
    Lesson("hi", "Hello to you."),
    Lesson("Tell me a joke about cats.", JOKE),
    Lesson(
        "Tell me a joke about cats. Return the result as a JSON with 'setup' and 'punchline' keys. Return "
        "nothing other than JSON.",
        JOKE,
    ),
    Lesson("Give me the setup to a joke about cats, no punchline.", '{"setup":"Why?"}'),
    Lesson("Give me a joke about cats, include the punchline.", JOKE),
    Lesson(
        "What is the value of magic_function(3)? Use the tool.",
        '{"name":"magic_function","arguments":{"input":3}}',
        ["magic_function"],
    ),
    Lesson(
        "Using the tool, generate a Pirate greeting.",
        '{"name":"greeting_generator","arguments":{"answer_style":"Pirate"}}',
        ["greeting_generator"],
    ),
    Lesson("Hello!", '{"name":"magic_function","arguments":{"input":7}}', ["magic_function", "get_weather"]),
    Lesson(
        "What is the weather in San Francisco, CA?",
        '{"name": "get_weather", "arguments": {"location": "San Francisco, CA"}}',
        ["get_weather"],
    ),
    Lesson("What is 1 + 2", "It is 3.", ["my_adder_tool"]),
    Lesson("What is 3 + 4", '{"name":"my_adder_tool","arguments":{"a":3,"b":4}}', ["my_adder_tool"]),
    Lesson(
        "Create a customer named '你好啊集团' (Hello Group) - a Chinese technology company",
        '{"name":"unicode_customer","arguments":{"customer_name":"你好啊集团","description":"China"}}',
        ["unicode_customer"],
    ),
    Lesson(
        "Create a customer named 'こんにちは株式会社' (Hello Corporation) - a Japanese company",
        '{"name":"unicode_customer","arguments":{"customer_name":"こんにちは株式会社","description":"Japan"}}',
        ["unicode_customer"],
    ),
]


@pytest.fixture(scope="session")
def taught_folder(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any) -> Path:
    """A model folder whose model answers as LESSONS say."""
    folder = tmp_path_factory.mktemp("taught")
    model, tokenizer = teach(chat_tokenizer, LESSONS)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chat(make_nbce: Callable[..., Any]) -> Callable[..., Any]:
    """`chat(max_tokens=8)`: ChatNBCE on an engine of its own with a random model that has a chat template."""
    from langchain_nbce import ChatNBCE

    def make(family: str = "llama", *, template: bool = True, **fields: Any) -> ChatNBCE:
        engine = make_nbce(family, chat=template)
        return ChatNBCE(engine=engine, **{"max_tokens": 8, **fields})

    return make
