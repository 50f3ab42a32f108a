"""Vector store, retriever, embeddings, retriever tool: LangChain's own suites, and what they do not ask."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.load import dumps
from langchain_core.tools import BaseTool, create_retriever_tool
from langchain_core.vectorstores import VectorStore

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    ToolsIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests, ToolsUnitTests

from langchain_nbce import NBCEEmbeddings, PassageRetriever, PassageVectorStore, import_community_faiss
from nbce_rag import Passage, PassageIndex
from nbce_rag.errors import EmbedderMismatchError, InputError, NbceWarning, ReadError

EMBEDDING = DeterministicFakeEmbedding(size=6)
TEXTS = ["cats purr", "dogs bark", "birds sing", "fish swim"]
METADATA: list[dict[str, Any]] = [
    {"n": 1, "source": "a.txt", "tags": ["x"]},
    {"n": 2, "source": "a.txt"},
    {"n": 3, "title": "Birds", "ok": True},
    {"n": 4, "extra": None},
]
IDS = ["c", "d", "b", "f"]


class TestPassageVectorStore(VectorStoreIntegrationTests):
    """There is one index type, exact search; the class below closes the store after every call."""

    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> Iterator[VectorStore]:  # type: ignore[override]
        store = PassageVectorStore(tmp_path / "index", self.get_embeddings())
        yield store
        store.close()


class Reopening(VectorStore):
    """Every call opens the folder anew and closes it again."""

    def __init__(self, path: Path, embedding: Embeddings) -> None:
        self.path, self.embedding = path, embedding

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        store = PassageVectorStore(self.path, self.embedding)
        try:
            return getattr(store, name)(*args, **kwargs)
        finally:
            store.close()

    def add_texts(self, *args: Any, **kwargs: Any) -> list[str]:
        return self._call("add_texts", *args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> bool | None:
        return self._call("delete", *args, **kwargs)

    def get_by_ids(self, ids: Any, /) -> list[Document]:
        return self._call("get_by_ids", ids)

    def similarity_search(self, *args: Any, **kwargs: Any) -> list[Document]:
        return self._call("similarity_search", *args, **kwargs)

    @classmethod
    def from_texts(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class TestReopenedPassageVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> VectorStore:  # type: ignore[override]
        return Reopening(tmp_path / "index", self.get_embeddings())


class TestPassageVectorStoreInTemporaryFolder(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self) -> Iterator[VectorStore]:  # type: ignore[override]
        store = PassageVectorStore(embedding=self.get_embeddings())
        yield store
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PassageVectorStore]:
    made = PassageVectorStore.from_texts(TEXTS, EMBEDDING, METADATA, ids=IDS, path=tmp_path / "index")
    yield made
    made.close()


class TestPassageRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, store: PassageVectorStore) -> None:
        self.store = store

    @property
    def retriever_constructor(self) -> type[PassageRetriever]:
        return PassageRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"store": self.store}

    @property
    def retriever_query_example(self) -> str:
        return "cats"


class _Tool:
    @pytest.fixture(autouse=True)
    def _store(self, store: PassageVectorStore) -> None:
        self.store = store

    @property
    def tool_constructor(self) -> BaseTool:
        retriever = PassageRetriever(store=self.store)
        return create_retriever_tool(retriever, "find", "Finds.", response_format="content_and_artifact")

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"query": "cats"}


class TestRetrieverToolUnit(_Tool, ToolsUnitTests):
    """Construction from the environment: the tool is an object, so there is nothing to construct."""


class TestRetrieverToolIntegration(_Tool, ToolsIntegrationTests):
    pass


@pytest.fixture(scope="session")
def embedder_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A sentence-transformers model with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    base = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    folder = tmp_path_factory.mktemp("embedder")
    transformer = Transformer(str(base))
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder))
    return folder


class _Embedding:
    @pytest.fixture(autouse=True)
    def _folder(self, embedder_folder: Path) -> None:
        self.folder = str(embedder_folder)

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return NBCEEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.folder, "device": "cpu"}


class TestNBCEEmbeddingsUnit(_Embedding, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"NBCE_EMBEDDER": "some/model"}, {}, {"model": "some/model"}


class TestNBCEEmbeddingsIntegration(_Embedding, EmbeddingsIntegrationTests):
    pass


def cosine(a: str, b: str) -> float:
    u, v = (np.array(vector) for vector in EMBEDDING.embed_documents([a, b]))
    return float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))


async def test_scores_are_cosines_and_relevance_lies_in_0_1(store: PassageVectorStore) -> None:
    found = store.similarity_search_with_score("cats purr", k=9)
    wanted = {
        text: cosine("cats purr", text if text != "birds sing" else "Birds\nbirds sing") for text in TEXTS
    }
    assert {d.page_content: s for d, s in found} == pytest.approx(wanted, abs=1e-5)
    assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    assert await store.asimilarity_search_with_score("cats purr", k=9) == found
    assert store.similarity_search_with_score_by_vector(EMBEDDING.embed_query("cats purr"), 9) == found
    relevance = store.similarity_search_with_relevance_scores("cats purr", k=9)
    assert [r for _, r in relevance] == pytest.approx([(1 + s) / 2 for _, s in found])
    assert len(store.similarity_search_with_relevance_scores("cats purr", k=9, score_threshold=0.99)) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n": 1}, "c"),
        ({"n": [1, 4]}, "cf"),
        ({"n": lambda n: n > 2}, "bf"),
        ({"n": {"$gt": 1, "$lte": 3}}, "db"),
        ({"n": {"$gte": 2}, "source": "a.txt"}, "d"),
        ({"n": {"$lt": 2}}, "c"),
        ({"n": {"$lt": "x"}}, ""),
        ({"n": {"$ne": 1}}, "dbf"),
        ({"n": {"$neq": 1}}, "dbf"),
        ({"n": {"$eq": 1}}, "c"),
        ({"n": {"$in": [2, 3]}}, "db"),
        ({"n": {"$nin": [2, 3]}}, "cf"),
        ({"source": {"$exists": False}}, "bf"),
        ({"title": {"$exists": True}}, "b"),
        ({"source": {"$nin": ["a.txt"]}}, "bf"),
        ({"$or": [{"n": 1}, {"title": "Birds"}]}, "cb"),
        ({"$and": [{"n": {"$gt": 1}}, {"source": "a.txt"}]}, "d"),
        ({"$not": {"n": {"$in": [1, 2]}}}, "bf"),
        ({"ok": True}, "b"),
        ({"ok": 1}, ""),
        ({"extra": None}, "f"),
        ({"id": "d"}, "d"),
        (lambda fields: fields["n"] % 2 == 0 and "title" not in fields, "df"),
        ({}, "cdbf"),
    ],
)
def test_filters_are_exact(store: PassageVectorStore, given: Any, expected: str) -> None:
    found = store.similarity_search("cats", k=len(expected) or 1, filter=given)
    assert sorted(d.id or "" for d in found) == sorted(expected)
    assert len(store.max_marginal_relevance_search("cats", k=4, fetch_k=4, filter=given)) == len(expected)


@pytest.mark.parametrize(
    "given", [{"n": {"$near": 1}}, {"$xor": []}, {"$and": 3}, "n = 1", {"n": {"$in": 3}}, {"$or": [3]}]
)
def test_filters_that_say_nothing(store: PassageVectorStore, given: Any) -> None:
    with pytest.raises(InputError):
        store.similarity_search("cats", filter=given)


async def test_documents_come_back_as_they_were(store: PassageVectorStore, tmp_path: Path) -> None:
    wanted = [
        Document(text, id=id_, metadata=metadata)
        for text, id_, metadata in zip(TEXTS, IDS, METADATA, strict=True)
    ]
    assert store.get_by_ids(IDS) == wanted
    assert await store.aget_by_ids(["?", *IDS]) == wanted
    store.close()
    # the index knows title and source as its own, so the command line and LlamaIndex see them too
    with PassageIndex.open(tmp_path / "index", store.index.embedder) as index:
        assert [(p.title, p.source) for p in map(index.get, IDS) if p] == [
            (None, "a.txt"),
            (None, "a.txt"),
            ("Birds", None),
            (None, None),
        ]
        index.add([Passage("ants dig", id="a", source="z.txt", start=3, end=11, title="Ants")])
    again = PassageVectorStore(tmp_path / "index", EMBEDDING)
    assert again.get_by_ids(["a"]) == [
        Document(
            "ants dig",
            id="a",
            metadata={"title": "Ants", "source": "z.txt", "start_index": 3, "end_index": 11},
        )
    ]
    assert len(again) == 5
    again.delete(source="a.txt")
    assert len(again) == 3
    again.delete()
    assert len(again) == 0
    again.close()


async def test_mmr(store: PassageVectorStore) -> None:
    near = store.max_marginal_relevance_search("cats purr", k=3, lambda_mult=1.0)
    assert near == store.similarity_search("cats purr", k=3)
    from langchain_core.vectorstores import InMemoryVectorStore

    other = InMemoryVectorStore(EMBEDDING)
    texts = [f"text {i}" for i in range(12)]
    other.add_texts(texts)
    ours = PassageVectorStore.from_texts(texts, EMBEDDING)
    for weight in (0.0, 0.3, 0.7):
        wanted = other.max_marginal_relevance_search("text 3", k=5, fetch_k=9, lambda_mult=weight)
        made = ours.max_marginal_relevance_search("text 3", k=5, fetch_k=9, lambda_mult=weight)
        assert [d.page_content for d in made] == [d.page_content for d in wanted]
        assert await ours.amax_marginal_relevance_search("text 3", k=5, fetch_k=9, lambda_mult=weight) == made
    ours.close()


def test_indexing_api(store: PassageVectorStore) -> None:
    from langchain_core.indexing import InMemoryRecordManager, index

    store.delete()
    manager = InMemoryRecordManager("test")
    manager.create_schema()
    documents = [Document(t, metadata={"source": s}) for t, s in zip(TEXTS, "xxyy", strict=True)]
    options: Any = {"cleanup": "incremental", "source_id_key": "source", "key_encoder": "sha256"}
    assert index(documents, manager, store, **options)["num_added"] == 4
    assert index(documents, manager, store, **options)["num_skipped"] == 4
    changed = index([Document("new", metadata={"source": "x"})], manager, store, **options)
    assert (changed["num_added"], changed["num_deleted"]) == (1, 2)
    assert index(documents[2:], manager, store, **options, force_update=True)["num_updated"] == 2
    assert sorted(d.page_content for d in store.similarity_search("new", k=9)) == [
        "birds sing",
        "fish swim",
        "new",
    ]


async def test_retriever(store: PassageVectorStore, tmp_path: Path) -> None:
    retriever = PassageRetriever(store=store, k=2)
    scored = store.similarity_search_with_score("cats purr", k=2)
    found = retriever.invoke("cats purr")
    assert [d.metadata["relevance_score"] for d in found] == [score for _, score in scored]
    assert [d.id for d in found] == [d.id for d, _ in scored]
    assert await retriever.ainvoke("cats purr") == found
    assert [d.id for d in retriever.invoke("cats purr", filter={"n": 3})] == ["b"]
    assert len(PassageRetriever(store=store, k=4, score_threshold=0.99).invoke("cats purr")) == 1
    diverse = PassageRetriever(store=store, search_type="mmr", k=2, lambda_mult=0.0).invoke("cats purr")
    assert diverse[0].metadata["relevance_score"] == pytest.approx(1, abs=1e-5)
    passages = store.search_passages("cats purr", 2, look=True)
    for looking in (
        PassageRetriever(store=store, k=2, look=True),
        store.as_retriever(search_kwargs={"k": 2, "look": True}),
    ):
        documents = looking.invoke("cats purr")
        assert [d.id for d in documents] == [p.id for p in passages]
        assert await looking.ainvoke("cats purr") == documents
    assert PassageRetriever(store=store.index).invoke("cats purr")
    with pytest.raises(InputError, match="kk"):
        retriever.invoke("cats", kk=2)
    with pytest.raises(ValueError, match="filtr"):
        PassageRetriever(store=store, filtr={})


def test_mistakes_are_named(store: PassageVectorStore, tmp_path: Path) -> None:
    with pytest.raises(EmbedderMismatchError):
        PassageVectorStore(tmp_path / "index", DeterministicFakeEmbedding(size=7))
    with pytest.raises(InputError, match="metadata"):
        store.add_texts(["x"], [{"when": object()}])
    with pytest.raises(InputError, match="2 ids were given for 1"):
        store.add_texts(["x"], ids=["a", "b"])
    with pytest.raises(InputError, match="colour"):
        store.similarity_search("x", colour="red")
    with pytest.raises(InputError, match="not both"):
        PassageVectorStore(tmp_path / "index", index=store.index)
    with pytest.raises(InputError, match="k must be"):
        store.similarity_search("x", k=0)


async def test_an_empty_store(tmp_path: Path) -> None:
    store = PassageVectorStore(tmp_path / "new", EMBEDDING)
    assert store.similarity_search("x") == []
    assert await store.asimilarity_search("x") == []
    assert store.max_marginal_relevance_search("x") == []
    assert store.get_by_ids(["x"]) == []
    assert not (tmp_path / "new").exists()
    assert store.add_texts([]) == []
    assert store.similarity_search("x") == []
    made = await PassageVectorStore.afrom_texts(TEXTS, EMBEDDING, path=tmp_path / "other")
    assert len(await made.asimilarity_search("cats", k=9)) == 4
    made.close()


# Folders of langchain-community's FAISS store, written by its release 0.4.2 (see the file beside them).

OLD = Path(__file__).with_name("community_faiss")


def test_importing_a_community_folder(tmp_path: Path) -> None:
    store = import_community_faiss(OLD, tmp_path / "new", EMBEDDING)
    assert store.get_by_ids(["a", "b", "c"]) == [
        Document("The ferry is run by Ada.", id="a", metadata={"source": "a.txt", "page": 1}),
        Document("The market opens at eight.", id="b", metadata={"page": 2, "tags": ["x", "y"]}),
        Document("Tea is grown here.", id="c"),
    ]
    for text in ("The ferry is run by Ada.", "Tea is grown here."):
        document, score = store.similarity_search_with_score(text, k=1)[0]
        assert document.page_content == text
        assert score == pytest.approx(1, abs=1e-5)
    anew = import_community_faiss(OLD, tmp_path / "anew", EMBEDDING, reembed=True)
    for ours, theirs in zip(*(s.similarity_search_with_score("Ada", 3) for s in (anew, store)), strict=True):
        assert ours[0] == theirs[0]
        assert ours[1] == pytest.approx(theirs[1], abs=1e-5)
    store.close()
    anew.close()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/nbce-evil-was-here"),))


class EvilState:
    def __reduce__(self) -> Any:
        return (__import__("os").system, ("touch /tmp/nbce-evil-was-here",))


@pytest.mark.parametrize("content", [Evil(), (EvilState(), {}), ({"a": 1}, {}), 3, (1, 2)])
def test_pickles_that_hold_something_else_are_refused(content: Any, tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    (tmp_path / "old" / "index.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ReadError, match=r"index\.pkl"):
        import_community_faiss(tmp_path / "old", tmp_path / "new", EMBEDDING)
    assert not Path("/tmp/nbce-evil-was-here").exists()
    assert not (tmp_path / "new").exists()


def test_damaged_community_folders(tmp_path: Path) -> None:
    def folder(name: str, change: Callable[[Path], Any]) -> Path:
        made = tmp_path / name
        shutil.copytree(OLD, made)
        change(made)
        return made

    damaged = [
        folder("no pickle", lambda f: (f / "index.pkl").unlink()),
        folder("short", lambda f: (f / "index.pkl").write_bytes((OLD / "index.pkl").read_bytes()[:50])),
        folder("no index", lambda f: (f / "index.faiss").unlink()),
        folder("other index", lambda f: (f / "index.faiss").write_bytes(b"nonsense")),
    ]
    for place in damaged:
        with pytest.raises(ReadError):
            import_community_faiss(place, tmp_path / "new", EMBEDDING)
    with pytest.raises(InputError, match="dimension"):
        import_community_faiss(OLD, tmp_path / "seven", DeterministicFakeEmbedding(size=7))


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "similarity_score_threshold"])
async def test_its_own_retriever_keeps_the_scores(store: PassageVectorStore, search_type: str) -> None:
    options = {"k": 2, **({"score_threshold": 0.1} if search_type == "similarity_score_threshold" else {})}
    retriever = store.as_retriever(search_type=search_type, search_kwargs=options, tags=["mine"])
    right = {d.id: score for d, score in store.similarity_search_with_score("cats purr", k=9)}
    for found in (retriever.invoke("cats purr"), await retriever.ainvoke("cats purr")):
        assert len(found) == 2
        for document in found:
            assert document.metadata["relevance_score"] == pytest.approx(right[document.id or ""], abs=1e-5)
    assert "mine" in (retriever.tags or [])


def test_another_score_makes_no_other_document(store: PassageVectorStore) -> None:
    """`MultiQueryRetriever` asks several times and drops what it has."""
    retriever = store.as_retriever(search_kwargs={"k": 1})
    one, other = (retriever.invoke(words)[0] for words in ("cats purr", "cats"))
    plain = store.similarity_search("cats purr", k=1)[0]
    assert one.metadata["relevance_score"] != other.metadata["relevance_score"]
    assert one == other == plain
    assert plain == one
    assert one != plain.model_copy(update={"metadata": {"year": 3}})
    assert dumps(one) == dumps(Document(one.page_content, id=one.id, metadata=one.metadata))
    for copied in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert copied == one
        assert copied.metadata == one.metadata


async def test_blank_texts_are_passed_over_and_named(tmp_path: Path) -> None:
    """A blank page must not end an ingestion."""
    documents = [Document("One.", id="1"), Document(" \n", id="2"), Document("Three.", id="3")]
    for ask in ("sync", "async"):
        store = PassageVectorStore(tmp_path / ask, EMBEDDING)
        with pytest.warns(NbceWarning, match=r"1 texts without a word were passed over: number 2\."):
            added = await store.aadd_documents(documents) if ask[0] == "a" else store.add_documents(documents)
        assert added == ["1", "3"]
        assert len(store) == 2


def test_an_empty_filter_deletes_nothing(store: PassageVectorStore) -> None:
    store.add_texts(["cats purr", "dogs bark"], ids=["a", "b"])
    with pytest.raises(InputError, match="asks nothing"):
        store.delete(filter={})
    assert len(store.get_by_ids(["a", "b"])) == 2
    store.delete(["a"], filter={})
    assert [document.id for document in store.get_by_ids(["a", "b"])] == ["b"]
    store.delete()
    assert store.get_by_ids(["a", "b"]) == []
