"""Documents of other vector stores: their scores as cosines, their ids, what their metadata may hold.

Where a store is not installed its tests are skipped; `make stores` lays all of them over the environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from unit_vectors import QUESTION, TEXTS, cosines, unit_vectors

from langchain_nbce import PassagePrompt, PassageRetriever, ScoredRetriever, create_nbce_documents_chain
from nbce_rag.errors import InputError

Chat = Callable[..., Any]


class Unit(Embeddings):
    """Bags of words of length 1."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return unit_vectors(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


class Stated(VectorStore):
    """A store that gives pairs as stated, or no scores at all."""

    def __init__(self, scores: Iterable[float] | None) -> None:
        self.scores = scores

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        return documents()[:k]

    def similarity_search_with_score(self, *args: Any, **kwargs: Any) -> list[tuple[Document, float]]:
        if self.scores is None:
            return super().similarity_search_with_score(*args, **kwargs)
        return list(zip(documents(), self.scores, strict=True))

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def documents(**metadata: Any) -> list[Document]:
    return [
        Document(text, metadata={"title": title, "source": f"{title}.txt", "year": year, **metadata})
        for year, (title, text) in enumerate(TEXTS.items())
    ]


def contexts_of(chat: Chat, found: Iterable[Document], **options: Any) -> tuple[list[Any], list[str]]:
    """(contexts, warnings) of the report of an answer, which JSON can hold."""
    report = chat().invoke(QUESTION, contexts=list(found), **options).response_metadata["nbce"]
    json.dumps(report)
    return report["contexts"], report["warnings"]


def qdrant(distance: str) -> Callable[..., VectorStore]:
    def make(found: list[Document]) -> VectorStore:
        package, models = pytest.importorskip("langchain_qdrant"), pytest.importorskip("qdrant_client.models")
        return package.QdrantVectorStore.from_documents(
            found, Unit(), location=":memory:", collection_name="town", distance=models.Distance(distance)
        )

    return make


def chroma(space: str) -> Callable[..., VectorStore]:
    def make(found: list[Document]) -> VectorStore:
        package, client = pytest.importorskip("langchain_chroma"), pytest.importorskip("chromadb")
        kept = client.EphemeralClient(client.Settings(anonymized_telemetry=False))
        for old in kept.list_collections():
            kept.delete_collection(old.name)
        configuration: Any = {"hnsw": {"space": space}}
        return package.Chroma.from_documents(
            found, Unit(), client=kept, collection_name="town", collection_configuration=configuration
        )

    return make


STORES = [
    pytest.param(lambda found: InMemoryVectorStore.from_documents(found, Unit()), "cosine", id="memory"),
    pytest.param(qdrant("Cosine"), "cosine", id="qdrant"),
    pytest.param(qdrant("Dot"), "cosine", id="qdrant-dot"),
    pytest.param(qdrant("Euclid"), "euclidean", id="qdrant-euclid"),
    pytest.param(chroma("cosine"), "cosine_distance", id="chroma"),
    pytest.param(chroma("l2"), "squared_euclidean", id="chroma-l2"),
    pytest.param(chroma("ip"), "cosine_distance", id="chroma-ip"),
]


@pytest.mark.parametrize(("make", "scale"), STORES)
async def test_scores_are_cosines_when_they_come_to_the_model(
    make: Callable[..., VectorStore], scale: str, chat: Chat
) -> None:
    store, right = make(documents()), sorted(cosines(list(TEXTS.values())), reverse=True)
    exact = ScoredRetriever(vectorstore=store, score_scale=scale, search_kwargs={"k": 3})
    for found in (exact.invoke(QUESTION), await exact.ainvoke(QUESTION)):
        assert [d.metadata["relevance_score"] for d in found] == pytest.approx(right, abs=1e-5)
    contexts, warnings = contexts_of(chat, found)
    assert [c["score"] for c in contexts] == pytest.approx(right, abs=1e-5)
    assert contexts[0]["title"] == "Ferry"
    assert not warnings
    untold = ScoredRetriever(vectorstore=store, search_kwargs={"k": 3}).invoke(QUESTION)
    # The same when the model is told, and never a distance for a cosine when nobody is.
    assert [c["score"] for c in contexts_of(chat, untold, score_scale=scale)[0]] == pytest.approx(
        right, abs=1e-5
    )
    contexts, warnings = contexts_of(chat, untold)
    if scale == "cosine":
        assert [c["score"] for c in contexts] == pytest.approx(right, abs=1e-5)
    else:
        assert [c["score"] for c in contexts] == [None] * 3
        assert "as distances do" in warnings[-1]
        assert "'cosine_distance'" in warnings[-1]
    # LangChain's own retriever keeps no scores.
    plain = store.as_retriever(search_kwargs={"k": 3}).invoke(QUESTION)
    assert [c["score"] for c in contexts_of(chat, plain)[0]] == [None] * 3


def test_an_id_of_qdrant_is_the_one_that_is_cited(chat: Chat) -> None:
    store: Any = qdrant("Cosine")(documents())
    found = ScoredRetriever(vectorstore=store, score_scale="cosine").invoke(QUESTION)
    contexts, _ = contexts_of(chat, found)
    assert [c["id"] for c in contexts] == [d.metadata["_id"] for d in found]
    assert store.get_by_ids([contexts[0]["id"]])[0].page_content == found[0].page_content
    prompt = ChatPromptTemplate.from_template("{context}\n\n{input}")
    chain = create_nbce_documents_chain(chat(), prompt, document_prompt=PassagePrompt(), output_parser=None)
    assert chain.invoke({"context": found, "input": QUESTION})


@pytest.mark.parametrize("make", [qdrant("Cosine"), chroma("cosine")], ids=["qdrant", "chroma"])
def test_filters_are_the_store_s_own(make: Callable[..., VectorStore], chat: Chat) -> None:
    store = make(documents())
    where: Any = {"year": {"$lt": 1}}
    if type(store).__name__.startswith("Qdrant"):
        models = pytest.importorskip("qdrant_client.models")
        where = models.Filter(must=[models.FieldCondition(key="metadata.year", range=models.Range(lt=1))])
    found = ScoredRetriever(vectorstore=store, search_kwargs={"filter": where}).invoke(QUESTION)
    assert [d.metadata["title"] for d in found] == ["Ferry"]
    assert len(contexts_of(chat, found)[0]) == 1


def test_odd_metadata_do_no_harm(chat: Chat) -> None:
    odd: dict[str, Any] = {
        "deep": {"a": [1, {"b": None}]},
        "tags": ["x"],
        "day": date(2020, 1, 2),
        "none": None,
    }
    for make in (lambda found: InMemoryVectorStore.from_documents(found, Unit()), qdrant("Cosine")):
        found = ScoredRetriever(vectorstore=make(documents(**odd))).invoke(QUESTION)
        assert found[0].metadata["deep"] == odd["deep"]
        contexts, warnings = contexts_of(chat, found)
        assert contexts[0]["source"] == "Ferry.txt"
        assert not warnings


@pytest.mark.parametrize(
    ("scores", "scale", "right"),
    [
        ([0.9, 0.4, -0.2], None, [0.9, 0.4, -0.2]),
        ([1.004, 0.4, 0.2], None, [1.0, 0.4, 0.2]),
        ([-1e-7, 0.6, 0.9], None, [None] * 3),  # the question is one of the documents
        ([-1e-7, 0.6, 0.9], "cosine_distance", [1.0, 0.4, 0.1]),
        ([12.5, 3.0, 0.1], None, [None] * 3),
        ([0.95, 0.7, 0.4], "shifted_cosine", [0.9, 0.4, -0.2]),
        (None, None, [None] * 3),
    ],
)
async def test_any_score_or_none(chat: Chat, scores: Any, scale: str | None, right: list[Any]) -> None:
    retriever = ScoredRetriever(vectorstore=Stated(scores), score_scale=scale)
    for found in (retriever.invoke(QUESTION), await retriever.ainvoke(QUESTION)):
        assert [c["score"] for c in contexts_of(chat, found)[0]] == pytest.approx(right)


async def test_mmr_and_thresholds(chat: Chat) -> None:
    store = InMemoryVectorStore.from_documents(documents(), Unit())
    diverse = ScoredRetriever(vectorstore=store, search_type="mmr", search_kwargs={"k": 2})
    assert ["relevance_score" in d.metadata for d in await diverse.ainvoke(QUESTION)] == [False, False]
    above = {"search_type": "similarity_score_threshold", "search_kwargs": {"score_threshold": 0.0}}
    with pytest.raises(NotImplementedError):  # it says of no score whether it is relevant
        ScoredRetriever(vectorstore=store, **above).invoke(QUESTION)
    retriever = ScoredRetriever(vectorstore=chroma("cosine")(documents()), **above)
    for found in (retriever.invoke(QUESTION), await retriever.ainvoke(QUESTION)):
        assert [d.metadata["relevance_score"] for d in found] == pytest.approx(
            sorted(cosines(list(TEXTS.values())), reverse=True), abs=1e-5
        )


def test_checkpoints_read_scored_documents_as_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangGraph's serializer refuses classes that it does not know, or will."""
    monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", "true")
    serializers = pytest.importorskip("langgraph.checkpoint.serde.jsonplus")
    found = ScoredRetriever(vectorstore=Stated([0.9, 0.5, 0.1])).invoke(QUESTION)
    for options in ({}, {"allowed_msgpack_modules": None}):
        serializer = serializers.JsonPlusSerializer(**options)
        back = serializer.loads_typed(serializer.dumps_typed(found))
        assert [type(document) for document in back] == [Document] * 3
        assert [document.metadata["relevance_score"] for document in back] == [0.9, 0.5, 0.1]
        assert found == back


def test_mistakes_are_named() -> None:
    store = Stated([0.9, 40.0, 50.0])
    with pytest.raises(
        ValueError, match="score_scale='distance' tells no cosines; cosine or cosine_distance"
    ):
        ScoredRetriever(vectorstore=store, score_scale="distance")
    with pytest.raises(ValueError, match="score_scale='l2' is not known"):
        ScoredRetriever(vectorstore=store, score_scale="l2")
    with pytest.raises(InputError, match="40 are no squared_euclidean of vectors of length 1"):
        ScoredRetriever(vectorstore=store, score_scale="squared_euclidean").invoke(QUESTION)
    with pytest.raises(ValueError, match=r"A Stated holds no passage index.*ScoredRetriever\(vectorstore"):
        PassageRetriever(store=store)  # type: ignore[arg-type]
