"""Whole answers by both adapters on a hybrid, a recurrent model and Gemma 4: what the engine says itself."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

from llama_index.core.schema import NodeWithScore, TextNode
from unusual_models import build_unusual

from langchain_nbce import NBCELLM as LangChainLLM
from langchain_nbce import ChatNBCE, create_nbce_chain
from llama_index_nbce import NBCELLM, NBCESynthesizer
from nbce_rag import NBCE, Passage
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.prompts.marks import format_passages

TEXTS = ["The ferry to the island is run by Ada.", "The market opens at eight.", "Tea is grown here."]
QUESTION = "Who runs the ferry?"
RANKED = [Passage(text, rank=rank) for rank, text in enumerate(TEXTS, 1)]


@pytest.fixture(scope="module", params=["qwen3_5", "jamba", "gemma4"])
def nbce(request: pytest.FixtureRequest, chat_tokenizer: Any) -> NBCE:
    model = build_unusual(request.param, len(chat_tokenizer))
    return NBCE(wrap_model(model, chat_tokenizer), max_tokens=6, style="short")


def test_langchain(nbce: NBCE) -> None:
    direct = nbce.answer(QUESTION, TEXTS)
    chat = ChatNBCE(engine=nbce)
    words = nbce.prompt.prefix + PASSAGES + nbce.prompt.suffix.replace("{question}", QUESTION)
    assert chat.invoke(words, contexts=TEXTS).text == direct.text
    assert "".join(chunk.text for chunk in chat.stream(words, contexts=TEXTS)) == direct.text
    completion = LangChainLLM(engine=nbce)
    text = f"{format_passages(RANKED)}\n{QUESTION}"
    assert completion.invoke(text) == completion.batch([text])[0]


def test_a_chain(nbce: NBCE) -> None:
    from langchain_core.documents import Document
    from langchain_core.runnables import RunnableLambda

    documents = [Document(text) for text in TEXTS]
    result = create_nbce_chain(RunnableLambda(lambda _: documents), ChatNBCE(engine=nbce)).invoke(QUESTION)
    assert result["answer"] == nbce.answer(QUESTION, RANKED).text


def test_llama_index(nbce: NBCE) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    synthesizer = NBCESynthesizer(NBCELLM(engine=nbce))
    assert str(synthesizer.synthesize(QUESTION, nodes)) == nbce.answer(QUESTION, RANKED).text
