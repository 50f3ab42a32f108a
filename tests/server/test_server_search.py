"""Passages alone, vectors alone, and what else is done with a question than answering it."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
import openai
import pytest
from index_tools import bag_of_words
from test_server_chat import client

from nbce_rag.engine.nbce import NBCE

__all__ = ["client"]

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

ZETA = "What is the code of Zeta?"


def test_a_vector_store_is_an_index(client: Any, server: Any, server_indexes: dict[str, Any]) -> None:
    page = client.vector_stores.search("codes", query=ZETA, max_num_results=2)
    wanted = server_indexes["codes"].search(ZETA, k=2)
    assert [one.file_id for one in page.data] == [passage.id for passage in wanted]
    assert [one.score for one in page.data] == pytest.approx([passage.score for passage in wanted])
    assert page.data[0].content[0].text == wanted[0].text
    old = client.vector_stores.search(
        "codes", query=ZETA, filters={"type": "lt", "key": "year", "value": 1980}
    )
    assert [one.file_id for one in old.data] == ["ferry"]
    assert old.data[0].attributes == {"year": 1950}
    none = client.vector_stores.search("codes", query=ZETA, ranking_options={"score_threshold": 0.999})
    assert none.data == []
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.search("nowhere", query=ZETA)
    reply = server.post("/v1/vector_stores/codes/search", {"query": ZETA, "filters": {"type": "like"}})
    assert reply.json()["error"]["param"] == "filters.type"


async def test_models_as_the_client_lists_them(client: Any, server: Any) -> None:
    assert [model.id for model in client.models.list()] == ["nbce", "nbce-codes", "nbce-laws"]
    assert client.models.retrieve("nbce-codes").owned_by == "nbce-rag"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nbce-nowhere")
    other = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none")
    messages: Any = [{"role": "user", "content": ZETA}]
    reply = await other.chat.completions.create(model="nbce-codes", messages=messages)
    assert reply.choices[0].message.content == "seven blue apples"


def test_a_search_says_what_and_why_not(server: Any) -> None:
    found = server.post("/v1/search", {"query": ZETA, "index": ["codes", "laws"], "k": 3}).json()
    assert len(found["passages"]) == 3
    assert {one["index"] for one in found["passages"]} == {"codes", "laws"}
    assert [one["score"] for one in found["passages"]] == sorted(
        (one["score"] for one in found["passages"]), reverse=True
    )
    assert found["explanation"] is None
    words = server.post("/v1/search", {"query": "ferry", "index": "codes", "mode": "words"}).json()
    assert [one["id"] for one in words["passages"]] == ["ferry"]
    nothing = server.post("/v1/search", {"query": ZETA, "index": "codes", "where": {"year": 3}}).json()
    assert nothing["passages"] == []
    assert "year" in nothing["explanation"]
    unnamed = server.post("/v1/search", {"query": ZETA})
    assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "index")


def test_embeddings_in_both_encodings(client: Any, server: Any) -> None:
    texts = ["cats purr", "dogs bark"]
    wanted = np.array(bag_of_words(texts))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    by_client = client.embeddings.create(model="nbce-codes", input=texts)  # asks for base64
    assert np.array([one.embedding for one in by_client.data]) == pytest.approx(wanted, abs=1e-6)
    plain = server.post("/v1/embeddings", {"model": "nbce", "input": texts[0]}).json()
    assert plain["data"][0]["embedding"] == pytest.approx(wanted[0], abs=1e-6)
    coded = {"model": "nbce-laws", "input": texts[0], "encoding_format": "base64", "input_type": "query"}
    raw = base64.b64decode(server.post("/v1/embeddings", coded).json()["data"][0]["embedding"])
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(wanted[0], abs=1e-6)
    for change, param in (
        ({"dimensions": 3}, "dimensions"),
        ({"input": [[1, 2]]}, "input.0"),
        ({"input": " "}, "input.0"),
    ):
        reply = server.post("/v1/embeddings", {"model": "nbce", "input": "x", **change})
        assert reply.json()["error"]["param"] == param


def test_completions_go_on_or_answer(client: Any) -> None:
    plain = client.completions.create(model="nbce", prompt="Once upon a time", max_tokens=4, logprobs=2)
    choice = plain.choices[0]
    assert plain.usage.completion_tokens <= 4
    assert "".join(choice.logprobs.tokens) == choice.text
    assert any("chat" in warning for warning in choice.model_extra["nbce"]["warnings"])
    asked = client.completions.create(model="nbce-codes", prompt=[ZETA, "What is the code of Omega?"])
    assert [one.text for one in asked.choices] == ["seven blue apples", "55"]
    pieces = list(client.completions.create(model="nbce-codes", prompt=ZETA, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "seven blue apples"
    last = pieces[-1].choices[0]
    assert last.finish_reason == "stop"
    assert last.model_extra["nbce"]["cited_ids"] == ["zeta"]
    for change, param in (
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt": [[1]]}, "prompt"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": "nbce", "prompt": "x", **change})
        assert caught.value.param == param


def test_comparing_lets_each_passage_answer(server: Any, reading_nbce: NBCE) -> None:
    documents = [
        {"id": "a", "text": "The code of Zeta is 1."},
        {"id": "b", "text": "The code of Zeta is 2."},
        {"id": "c", "text": "The ferry leaves at noon."},
    ]
    told = server.post("/v1/compare", {"question": ZETA, "documents": documents}).json()
    assert {group["text"] for group in told["groups"]} == {"1", "2"}
    assert not told["agree"]
    assert [passage["id"] for passage in told["silent"]] == ["c"]
    total = sum(group["weight"] for group in told["groups"]) + told["silent_weight"]
    assert total == pytest.approx(1)
    nothing = server.post("/v1/compare", {"question": ZETA, "index": "codes", "where": {"year": 3}})
    assert nothing.json()["error"]["code"] == "no_passages"


def test_attributing_and_scoring(server: Any) -> None:
    body = {"question": ZETA, "index": "codes"}
    given = server.post("/v1/attribute", {**body, "text": "seven blue apples"}).json()
    assert given["finish_reason"] == "given"
    assert given["cited_ids"] == ["zeta"]
    assert given["words"]
    choices = ["seven blue apples", "nine"]
    scores = server.post("/v1/score", {**body, "choices": choices}).json()
    assert scores["best"] == choices[0]
    assert sum(one["probability"] for one in scores["choices"]) == pytest.approx(1)
    assert [one["text"] for one in scores["choices"]] == choices
    assert server.post("/v1/score", {**body, "choices": []}).json()["error"]["param"] == "choices"
