"""`dumps` and `loads`: what a model, a prompt or a retriever is comes back, its weights load on use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_tools import bag_of_words
from langchain_core.documents import Document
from langchain_core.load import dumpd, dumps, loads
from langchain_core.prompts import ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableSequence
from pydantic import SecretStr

from langchain_nbce import NBCELLM, ChatNBCE, PassagePrompt, PassageRetriever, PassageVectorStore
from nbce_rag import CallableEmbedder, FusionState, Mean, PassageIndex, Posterior
from nbce_rag.fusion import Fused

CORE = [ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate, RunnableSequence]
CLASSES: list[Any] = [ChatNBCE, NBCELLM, PassagePrompt, PassageRetriever, *CORE]
Chat = Callable[..., ChatNBCE]


def revived(thing: Any, **secrets: str) -> Any:
    namespaces = ["langchain_nbce"]
    text = thing if isinstance(thing, str) else dumps(thing)
    return loads(text, allowed_objects=CLASSES, valid_namespaces=namespaces, secrets_map=secrets)


@pytest.mark.parametrize("kind", [ChatNBCE, NBCELLM])
def test_models_come_back_without_their_weights(kind: Any, tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder("llama", chat=True)
    llm = kind(model=folder, device="cpu", dtype="float32", max_tokens=3, fusion="mean", stop=["."], seed=4)
    text = llm.invoke("Who?", contexts=["Ada.", "Tea."])
    again = revived(llm)
    assert type(again) is kind
    assert again.identity == llm.identity
    assert not again._held
    answer = again.invoke("Who?", contexts=["Ada.", "Tea."])
    assert getattr(answer, "text", answer) == getattr(text, "text", text)
    assert "api_key" not in dumps(llm)


def test_the_default_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBCE_MODEL", "a/model")
    text = dumps(ChatNBCE())
    monkeypatch.setenv("NBCE_MODEL", "another/model")
    assert revived(text).model == "a/model"


@pytest.mark.parametrize("rule", [Mean(), Mean(beta=0.3), Posterior(epsilon=1 / 3, opening=0.0)])
def test_rules_come_back_with_their_numbers(rule: Any) -> None:
    again = revived(ChatNBCE(fusion=rule))
    assert again.fusion == rule
    assert again.identity == ChatNBCE(fusion=rule).identity


def test_what_cannot_be_written_says_so(chat: Chat) -> None:
    class Vote:
        name = "mean"

        def fuse(self, log_probs: Any, state: FusionState) -> Fused:
            raise NotImplementedError

    for llm in (ChatNBCE(fusion=Vote()), chat()):
        assert json.loads(dumps(llm))["id"]  # which traces show
        with pytest.raises(NotImplementedError):
            revived(llm)


def test_keys_of_marks_are_secrets() -> None:
    for thing in (ChatNBCE(mark_key=SecretStr("abc")), PassagePrompt(mark_key="abc")):
        assert "abc" not in dumps(thing)
        assert revived(thing, NBCE_MARK_KEY="abc").mark_key.get_secret_value() == "abc"
        with pytest.raises(ValueError, match="secrets_map="):  # rather than taking any marks
            revived(thing)


def test_a_chain_comes_back(tiny_folder: Callable[..., Path]) -> None:
    llm = ChatNBCE(model=str(tiny_folder("llama", chat=True)), dtype="float32", device="cpu", max_tokens=3)
    chain = ChatPromptTemplate.from_messages([("human", "{question}")]) | llm
    again = revived(chain)
    assert again.invoke({"question": "Who?"}).text == chain.invoke({"question": "Who?"}).text


def test_retrievers_are_written_by_their_folder(tmp_path: Path) -> None:
    store = PassageVectorStore(index=PassageIndex.create(tmp_path / "index", CallableEmbedder(bag_of_words)))
    store.add_documents([Document("The ferry is run by Ada.", id="a")])
    made: Any = dumpd(PassageRetriever(store=store, k=3, search_type="words"))
    assert made["kwargs"]["store"] == str(tmp_path / "index")
    assert made["kwargs"]["search_type"] == "words"
    assert dumpd(PassageRetriever(store=PassageVectorStore(embedding=None)))["type"] == "not_implemented"
