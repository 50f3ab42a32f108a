"""The whole way with the packaged models: indexes are opened and a model is loaded behind the port."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from packaged_tools import share_packaged_model

from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage
from nbce_rag.server import ServerSettings, create_app

pytestmark = [
    pytest.mark.packaged,
    pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning"),
]


def test_it_opens_and_answers_with_citations(
    run_app: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_packaged_model(monkeypatch)
    texts = [
        "The ferry to the island is run by Ada and leaves at noon from the old harbour.",
        "The market in the square opens at eight and sells fish, bread and apples.",
        "The museum was built in 1891 and holds 2,350 paintings.",
    ]
    with PassageIndex.create(tmp_path / "town") as index:
        index.add([Passage(text, id=str(place), source="town.txt") for place, text in enumerate(texts)])
    settings = ServerSettings(
        indexes={"town": tmp_path / "town"}, search={"k": 2}, options={"max_tokens": 16}
    )
    server = run_app(create_app(settings))
    while not server.app.state.opening.is_done:
        time.sleep(0.05)
    assert server.app.state.opening.error is None
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    question: Any = [{"role": "user", "content": "Who runs the ferry?"}]
    message: Any = client.chat.completions.create(model="nbce-town", messages=question).choices[0].message
    assert "Ada" in message.content
    assert message.annotations[0].url_citation.url == f"{server.url}/source/town/0"
    assert len(message.nbce["contexts"]) == 2
    talk: Any = [
        *question,
        {"role": "assistant", "content": "Ada"},
        {"role": "user", "content": "When was the museum built?"},
    ]
    with client.chat.completions.stream(model="nbce-town", messages=talk) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final: Any = stream.get_final_completion().choices[0].message
    assert "".join(texts) == final.content
    assert "1891" in final.content
    plain = client.chat.completions.create(model="nbce", messages=question, max_tokens=4)
    assert plain.usage is not None
    assert plain.usage.completion_tokens <= 4
