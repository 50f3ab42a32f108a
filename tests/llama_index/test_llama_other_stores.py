"""Nodes of other vector stores: their scores as cosines, filters, what their metadata may hold.

Where a store is not installed its tests are skipped; `make stores` lays all of them over the environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tools import DIMENSION
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    SimpleVectorStore,
)
from unit_vectors import QUESTION, TEXTS, cosines, unit_vectors

from llama_index_nbce import (
    NBCELLM,
    NBCESynthesizer,
    PassageEmbedding,
    format_citations,
    nbce_chat_engine,
    nbce_query_engine,
)
from nbce_rag import CallableEmbedder
from nbce_rag.errors import InputError

Store = Callable[[Path], Any]
RIGHT = sorted(cosines(list(TEXTS.values())), reverse=True)


def qdrant(folder: Path) -> Any:
    store = pytest.importorskip("llama_index.vector_stores.qdrant")
    client = pytest.importorskip("qdrant_client")
    return store.QdrantVectorStore("town", client=client.QdrantClient(":memory:"))


def chroma(space: str) -> Store:
    def make(folder: Path) -> Any:
        store = pytest.importorskip("llama_index.vector_stores.chroma")
        client = pytest.importorskip("chromadb")
        kept = client.PersistentClient(str(folder), client.Settings(anonymized_telemetry=False))
        made = kept.create_collection("town", configuration={"hnsw": {"space": space}})
        return store.ChromaVectorStore(chroma_collection=made)

    return make


def milvus(metric: str) -> Store:
    def make(folder: Path) -> Any:
        store = pytest.importorskip("llama_index.vector_stores.milvus")
        pytest.importorskip("milvus_lite")
        file = str(folder / "milvus.db")
        return store.MilvusVectorStore(file, dim=DIMENSION, similarity_metric=metric)

    return make


def faiss(metric: str) -> Store:
    def make(folder: Path) -> Any:
        store = pytest.importorskip("llama_index.vector_stores.faiss")
        library = pytest.importorskip("faiss")
        return store.FaissVectorStore(getattr(library, f"IndexFlat{metric}")(DIMENSION))

    return make


STORES = [
    pytest.param(lambda folder: SimpleVectorStore(), "cosine", True, id="simple"),
    pytest.param(qdrant, "cosine", True, id="qdrant"),
    pytest.param(chroma("cosine"), "exp_cosine_distance", True, id="chroma"),
    pytest.param(chroma("l2"), "exp_squared_euclidean", True, id="chroma-l2"),
    pytest.param(milvus("COSINE"), "cosine", True, id="milvus"),
    pytest.param(milvus("IP"), "cosine", True, id="milvus-ip"),
    pytest.param(milvus("L2"), "squared_euclidean", False, id="milvus-l2"),
    pytest.param(faiss("IP"), "cosine", True, id="faiss-ip"),
    pytest.param(faiss("L2"), "squared_euclidean", False, id="faiss-l2"),
]


def index_of(store: Any, **metadata: Any) -> VectorStoreIndex:
    nodes = [
        TextNode(
            text=text,
            id_=f"{number:08}-0000-0000-0000-000000000000",  # Qdrant takes no others
            metadata={"year": number, **metadata},
            excluded_embed_metadata_keys=["year", *metadata],
            excluded_llm_metadata_keys=["year", *metadata],
        )
        for number, text in enumerate(TEXTS.values())
    ]
    embedding = PassageEmbedding(CallableEmbedder(unit_vectors))
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=embedding)


def report(response: Any) -> dict[str, Any]:
    made: dict[str, Any] = response.metadata["nbce"]
    json.dumps(made)
    return made


@pytest.mark.parametrize(("make", "scale", "falls"), STORES)
async def test_scores_are_cosines_when_they_come_to_the_model(
    make: Store, scale: str, falls: bool, llm: NBCELLM, tmp_path: Path
) -> None:
    index = index_of(make(tmp_path))
    exact = nbce_query_engine(index, llm, similarity_top_k=3, score_scale=scale)
    response: Any = exact.query(QUESTION)
    assert [c["score"] for c in report(response)["contexts"]] == pytest.approx(RIGHT, abs=1e-5)
    assert not report(response)["warnings"]
    assert "Ada Quill" in response.source_nodes[0].node.text
    assert format_citations(response)
    chat: Any = nbce_chat_engine(
        index, llm, chat_mode="context", similarity_top_k=3, synthesis={"score_scale": scale}
    )
    assert [c["score"] for c in report(chat.chat(QUESTION))["contexts"]] == pytest.approx(RIGHT, abs=1e-5)
    # Told nothing, a similarity counts as it is, and a distance is never taken for one.
    untold = report(nbce_query_engine(index, llm, similarity_top_k=3).query(QUESTION))
    if falls:
        assert [c["score"] for c in untold["contexts"]] == pytest.approx(
            [node.score for node in response.source_nodes]
        )
        assert not untold["warnings"]
    else:
        assert [c["score"] for c in untold["contexts"]] == [None] * 3
        assert "as distances do" in untold["warnings"][-1]


@pytest.mark.parametrize(
    "make",
    [lambda folder: SimpleVectorStore(), qdrant, chroma("cosine"), milvus("COSINE")],
    ids=["simple", "qdrant", "chroma", "milvus"],
)
def test_filters_are_the_store_s_own(make: Store, llm: NBCELLM, tmp_path: Path) -> None:
    old = MetadataFilter(key="year", value=1, operator=FilterOperator.LT)
    options: dict[str, Any] = {"filters": MetadataFilters(filters=[old])}
    engine = nbce_query_engine(index_of(make(tmp_path)), llm, retriever_options=options)
    assert [c["text"] for c in report(engine.query(QUESTION))["contexts"]] == [TEXTS["Ferry"]]


@pytest.mark.parametrize("make", [qdrant, milvus("COSINE")], ids=["qdrant", "milvus"])
def test_nested_metadata_do_no_harm(make: Store, llm: NBCELLM, tmp_path: Path) -> None:
    deep = {"deep": {"a": [1, {"b": None}]}, "tags": ["x"], "none": None}
    response: Any = nbce_query_engine(index_of(make(tmp_path), **deep), llm).query(QUESTION)
    assert response.source_nodes[0].node.metadata == {"year": 0, **deep}
    assert report(response)["contexts"][0]["text"] == TEXTS["Ferry"]


def test_scores_of_other_kinds_of_numbers_count(llm: NBCELLM) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS.values()]
    for node, score in zip(nodes, np.array([0.5, 0.25, np.nan], np.float32), strict=True):
        node.score = score
    contexts = report(NBCESynthesizer(llm).synthesize(QUESTION, nodes))["contexts"]
    assert [c["score"] for c in contexts] == [0.5, 0.25, None]


def test_the_embedder_of_an_index_goes_to_other_stores() -> None:
    assert PassageEmbedding().model_name == PassageEmbedding(PassageEmbedding().embedder).model_name
    assert PassageEmbedding("some/model").model_name == "some/model"
    assert PassageEmbedding(embed_batch_size=7).embed_batch_size == 7


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "simple"])
def test_sums_of_reciprocal_ranks_are_no_cosines(llm: NBCELLM, mode: Any) -> None:
    index = index_of(SimpleVectorStore())
    fusing = QueryFusionRetriever(
        [index.as_retriever(similarity_top_k=3)],
        llm=llm,
        num_queries=1,
        mode=mode,
        similarity_top_k=3,
        use_async=False,
    )
    right = [None] * 3 if mode == "reciprocal_rerank" else pytest.approx(RIGHT)
    chat: Any = nbce_chat_engine(fusing, llm, chat_mode="context")
    for response in (nbce_query_engine(fusing, llm).query(QUESTION), chat.chat(QUESTION)):
        assert [c["score"] for c in report(response)["contexts"]] == right
    told: Any = nbce_query_engine(fusing, llm, score_scale="cosine").query(QUESTION)
    assert None not in [c["score"] for c in report(told)["contexts"]]


def test_a_wrong_scale_is_named(llm: NBCELLM) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text), score=9.0) for text in TEXTS.values()]
    with pytest.raises(InputError, match="9 to 9 are no exp_cosine_distance of vectors of length 1"):
        NBCESynthesizer(llm, score_scale="exp_cosine_distance").synthesize(QUESTION, nodes)
