"""PassageVectorStore beyond the contract: full nodes, one folder for all, persistence, importers."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_tools import bag_of_words
from llama_index.core import (
    Document,
    MockEmbedding,
    StorageContext,
    VectorStoreIndex,
    load_index_from_storage,
)
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import TextBlock
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import DocstoreStrategy
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from llama_index_nbce import (
    NBCELLM,
    NBCESynthesizer,
    PassageEmbedding,
    PassageRetriever,
    PassageVectorStore,
    format_citations,
    import_faiss_store,
    nbce_query_engine,
)
from llama_index_nbce.contexts import citable
from llama_index_nbce.nodes import node_of, passage_of
from nbce_rag.embedding.function import CallableEmbedder
from nbce_rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import EmbedderMismatchError, IndexNotFoundError, InputError, NbceWarning
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

QUESTION = "Who runs the ferry?"


class Words(BaseEmbedding):
    """The tests' bag of words, as an embedding model of LlamaIndex."""

    model_name: str = "words"

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(x) for x in bag_of_words([text])[0]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class TestNodes:
    def test_a_node_comes_back_as_it_was(self, store: PassageVectorStore) -> None:
        node = TextNode(
            id_="n",
            text="The ferry\nis run by Ada.",
            metadata={"file_name": "a.txt", "page": 3, "tags": ["x"], "nested": {"a": None}},
            excluded_embed_metadata_keys=["page"],
            excluded_llm_metadata_keys=["file_name"],
            metadata_template="{key}={value}",
            metadata_separator="; ",
            text_template="[{metadata_str}] {content}",
            start_char_idx=5,
            end_char_idx=29,
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc", metadata={"m": 1}, hash="h"),
                NodeRelationship.NEXT: RelatedNodeInfo(node_id="next"),
                NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
            },
        )
        store.add([node])
        (found,) = store.get_nodes(["n"])
        found.embedding = None
        assert found == node
        assert found.hash == node.hash
        result = store.query(VectorStoreQuery(query_str="ferry", similarity_top_k=1))
        assert result.nodes == [node]
        assert isinstance(result.similarities[0], float)  # type: ignore[index]
        json.dumps(result.similarities)

    def test_index_nodes_and_documents_too(self, store: PassageVectorStore) -> None:
        made = [IndexNode(id_="i", text="One.", index_id="other"), Document(id_="d", text="Two.")]
        store.add(made)
        index_node, document = store.get_nodes(["i", "d"])
        assert isinstance(index_node, IndexNode)
        assert index_node.index_id == "other"
        assert (document.get_content(), document.ref_doc_id) == ("Two.", "d")

    def test_what_cannot_be_stored_is_named(self, store: PassageVectorStore) -> None:
        for node, match in (
            (ImageNode(id_="picture", text="x"), "'picture' is a ImageNode"),
            (TextNode(id_="odd", text="x", metadata={"when": object()}), "node 'odd' cannot be JSON"),
        ):
            with pytest.raises(InputError, match=match):
                store.add([TextNode(id_="fine", text="Fine."), node])
            assert store.get_nodes() == []

    def test_blank_nodes_are_passed_over_and_named(self, store: PassageVectorStore) -> None:
        """A blank page must not end an ingestion."""
        store.add([TextNode(id_="page-3", text="Once there was a text.")])
        nodes = [
            TextNode(id_="fine", text="Fine."),
            TextNode(id_="page-3", text=" \n", metadata={"file_name": "a.pdf", "page_label": "3"}),
            Document(id_="empty", text=""),
            TextNode(id_="last", text="Last."),
        ]
        with pytest.warns(NbceWarning, match=r"2 nodes without text.*a\.pdf, page 3 \(page-3\), empty\."):
            assert store.add(nodes) == ["fine", "last"]
        assert [node.node_id for node in store.get_nodes()] == ["fine", "last"]

    def test_the_embedder_goes_to_other_processes(self, tmp_path: Path) -> None:
        """`IngestionPipeline(num_workers=2)` pickles it; LlamaIndex leaves out what cannot be pickled."""
        by_name = PassageEmbedding(SentenceTransformerEmbedder("all-MiniLM-L6-v2", "cpu", 7))
        there = pickle.loads(pickle.dumps(by_name))
        assert there.embedder.name == "all-MiniLM-L6-v2"
        assert (there.embedder.device, there.embedder.batch_size) == ("cpu", 7)
        here = PassageEmbedding(CallableEmbedder(lambda texts: [[1.0, 2.0] for _ in texts], "mine"))
        with pytest.raises(InputError, match=r"'mine' cannot be sent.*num_workers=1"):
            pickle.dumps(here)

    def test_passages_of_others_are_nodes(self, store: PassageVectorStore, llm: NBCELLM) -> None:
        passage = Passage(
            "Ada runs the ferry.", id="p", title="Sea", source="sea.md", start=4, end=23, metadata={"page": 1}
        )
        store.client.add([passage])
        (node,) = store.get_nodes()
        assert isinstance(node, TextNode)
        assert node.metadata == {"page": 1, "title": "Sea", "source": "sea.md"}
        assert (node.node_id, node.ref_doc_id, node.start_char_idx) == ("p", "sea.md", 4)
        from llama_index.core.schema import MetadataMode

        assert node.get_content(MetadataMode.LLM) == passage.text
        assert isinstance(llm.engine, NBCE)
        core = llm.engine.answer(QUESTION, store.client.search(QUESTION))
        response: Any = nbce_query_engine(store.client, llm).query(QUESTION)
        assert response.response == core.text
        assert response.metadata["nbce"]["usage"]["row_tokens"] == list(core.usage.row_tokens)
        again = passage_of(node)
        assert (again.id, again.text, again.source, again.title) == ("p", passage.text, "sea.md", "Sea")
        assert node_of(again).metadata == node.metadata
        store.delete("sea.md")
        assert store.get_nodes() == []


class TestSearch:
    def test_a_new_embedding_of_the_same_text_counts(self, tmp_path: Path) -> None:
        store = PassageVectorStore.create(tmp_path / "kb", dimension=2)
        store.add([TextNode(id_="a", text="same", embedding=[1.0, 0.0])])
        store.add([TextNode(id_="a", text="same", embedding=[0.0, 3.0], metadata={"k": 1})])
        assert store.get_nodes()[0].embedding == [0.0, 1.0]
        assert store.get_nodes()[0].metadata == {"k": 1}

    def test_the_index_embeds_what_has_no_embedding(self, tmp_path: Path) -> None:
        store = PassageVectorStore.create(tmp_path / "kb", Words())
        store.add([TextNode(id_="a", text="cats purr"), TextNode(id_="b", text="x", embedding=[1.0] * 32)])
        vectors = store.client.vectors(["a", "b"])
        assert vectors["a"] == pytest.approx(bag_of_words(["cats purr"])[0] / np.sqrt(2), abs=1e-6)
        assert vectors["b"] == pytest.approx(np.ones(32) / np.sqrt(32), abs=1e-6)

    def test_mmr_is_the_textbook_s(self, tmp_path: Path) -> None:
        store = PassageVectorStore.create(tmp_path / "kb", dimension=3)
        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(12, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store.add(
            [TextNode(id_=f"{n:02}", text=f"t{n}", embedding=v.tolist()) for n, v in enumerate(vectors)]
        )
        query = vectors[3] + 0.1
        query /= np.linalg.norm(query)
        for threshold in (0.0, 0.3, 0.7, 1.0):
            chosen: list[int] = []
            while len(chosen) < 5:
                best = max(
                    (n for n in range(12) if n not in chosen),
                    key=lambda n: (
                        threshold * (vectors[n] @ query)
                        - (1 - threshold) * max((vectors[n] @ vectors[c] for c in chosen), default=0.0)
                    ),
                )
                if not chosen:
                    best = int(np.argmax(vectors @ query))
                chosen.append(best)
            wanted = VectorStoreQuery(
                query_embedding=query.tolist(), similarity_top_k=5, mode=VectorStoreQueryMode.MMR
            )
            found = store.query(wanted, mmr_threshold=threshold)
            if threshold > 0:
                assert found.ids == [f"{n:02}" for n in chosen]
            wanted.mmr_threshold = 1.0
            assert store.query(wanted).ids == store.query(wanted, mmr_threshold=1.0).ids
            if threshold > 0:
                assert store.query(wanted, mmr_threshold=threshold).ids == found.ids  # before the query's own
        for value in (-0.1, 1.5):
            with pytest.raises(InputError, match="mmr_threshold"):
                store.query(wanted, mmr_threshold=value)

    @pytest.mark.parametrize(
        "mode",
        sorted(
            set(VectorStoreQueryMode)
            - {
                VectorStoreQueryMode.DEFAULT,
                VectorStoreQueryMode.MMR,
                VectorStoreQueryMode.HYBRID,
                VectorStoreQueryMode.TEXT_SEARCH,
                VectorStoreQueryMode.SPARSE,
            }
        ),
    )
    def test_no_other_mode_is_answered_as_if_it_were_the_default(
        self, store: PassageVectorStore, mode: VectorStoreQueryMode
    ) -> None:
        with pytest.raises(NotImplementedError, match=mode.value):
            store.query(VectorStoreQuery(query_str="x", mode=mode))

    def test_words_and_meaning(self, tmp_path: Path) -> None:
        store = PassageVectorStore.create(tmp_path / "words", dimension=2)
        texts = {"a": "the ferry leaves at nine", "b": "a clock strikes ten", "c": "ferry, ferry, ferry"}
        vectors = {"a": [1.0, 0.0], "b": [0.9, 0.1], "c": [0.0, 1.0]}
        store.add([TextNode(id_=id_, text=text, embedding=vectors[id_]) for id_, text in texts.items()])

        def found(mode: str, **options: Any) -> list[str]:
            query = VectorStoreQuery(
                query_embedding=[1.0, 0.0],
                query_str="ferries",
                similarity_top_k=3,
                mode=VectorStoreQueryMode(mode),
                **options,
            )
            return store.query(query).ids or []

        assert found("default") == ["a", "b", "c"]
        assert found("text_search") == found("sparse") == ["c", "a"]
        assert found("hybrid")[0] == "a"
        assert found("hybrid", alpha=0.0)[0] == "c"
        assert found("hybrid", alpha=1.0) == ["a", "b", "c"]
        assert len(found("hybrid", hybrid_top_k=1)) == 1
        with pytest.raises(InputError, match="need the text"):
            store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], mode=VectorStoreQueryMode.HYBRID))

    def test_doc_ids_and_nested_filters(self, store: PassageVectorStore) -> None:
        store.add(
            [
                TextNode(
                    id_=f"{d}{n}",
                    text=f"word {d} {n}",
                    metadata={"n": n, "d": d},
                    relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=d)},
                )
                for d in "xyz"
                for n in range(3)
            ]
        )

        def found(**options: Any) -> set[str]:
            return set(
                store.query(VectorStoreQuery(query_str="word", similarity_top_k=20, **options)).ids or []
            )

        assert found(doc_ids=["x", "y"]) == {"x0", "x1", "x2", "y0", "y1", "y2"}
        nested = MetadataFilters(
            condition=FilterCondition.OR,
            filters=[
                MetadataFilters(
                    filters=[
                        MetadataFilter(key="d", value="x"),
                        MetadataFilter(key="n", value=1, operator=FilterOperator.GT),
                    ]
                ),
                MetadataFilters(
                    condition=FilterCondition.NOT,
                    filters=[MetadataFilter(key="d", value=["x", "y"], operator=FilterOperator.IN)],
                ),
            ],
        )
        assert found(filters=nested) == {"x2", "z0", "z1", "z2"}
        assert found(filters=nested, doc_ids=["x"], node_ids=["x2", "z1"]) == {"x2"}
        assert [n.node_id for n in store.get_nodes(filters=nested)] == ["x2", "z0", "z1", "z2"]
        store.delete_nodes(filters=nested)
        assert len(store.get_nodes()) == 5

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.fixed_dictionaries({}, optional={"a": st.integers(0, 3), "b": st.sampled_from("xy")}),
            min_size=1,
            max_size=8,
        ),
        st.integers(1, 4),
        st.sampled_from([FilterOperator.EQ, FilterOperator.NE, FilterOperator.IN, FilterOperator.NIN]),
        st.sampled_from(list(FilterCondition)),
    )
    def test_filtered_search_is_a_filtered_full_search(
        self, tmp_path_factory: pytest.TempPathFactory, rows: Any, k: int, operator: Any, condition: Any
    ) -> None:
        several = operator in (FilterOperator.IN, FilterOperator.NIN)
        filters = MetadataFilters(
            condition=condition,
            filters=[
                MetadataFilter(key="a", value=[1, 2] if several else 1, operator=operator),
                MetadataFilter(key="b", value=["x"] if several else "x", operator=operator),
            ],
        )
        store = PassageVectorStore.create(tmp_path_factory.mktemp("f") / "kb", dimension=2)
        with store.client:
            store.add(
                [
                    TextNode(id_=f"{n:02}", text=f"t{n}", metadata=row, embedding=[1.0, n / 10])
                    for n, row in enumerate(rows)
                ]
            )
            every = store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=99)).ids or []
            unwanted = operator in (FilterOperator.NE, FilterOperator.NIN)
            met = {
                f"{n:02}": [
                    (row.get(key) in wanted) != unwanted
                    for key, wanted in (("a", [1, 2][: 1 + several]), ("b", ["x"]))
                ]
                for n, row in enumerate(rows)
            }
            joined = {
                id_: all(m)
                if condition == FilterCondition.AND
                else any(m) == (condition == FilterCondition.OR)
                for id_, m in met.items()
            }
            expected = [id_ for id_ in every if joined[id_]][:k]
            query = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=k, filters=filters)
            assert store.query(query).ids == expected


class TestIndex:
    def test_it_needs_no_other_store(self, index: VectorStoreIndex, store: PassageVectorStore) -> None:
        assert index.docstore.docs == {}
        again = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
        found = again.as_retriever(similarity_top_k=3).retrieve(QUESTION)
        assert [n.node_id for n in found] == [
            n.node_id for n in index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
        ]
        assert asyncio.run(again.as_retriever(similarity_top_k=3).aretrieve(QUESTION)) == found
        again.delete_ref_doc("town.txt")
        assert [n.node_id for n in again.as_retriever().retrieve(QUESTION)] == ["ferry"]
        again.insert(Document(text="The bakery sells bread.", id_="bakery.txt"))
        assert {n.ref_doc_id for n in store.get_nodes()} == {"sea.txt", "bakery.txt"}

    def test_retriever_options_of_llama_index(self, index: VectorStoreIndex) -> None:
        filters = MetadataFilters(filters=[MetadataFilter(key="page", value=0)])
        assert [n.node_id for n in index.as_retriever(filters=filters).retrieve(QUESTION)] == ["ferry"]
        assert {n.node_id for n in index.as_retriever(doc_ids=["town.txt"]).retrieve(QUESTION)} == {
            "market",
            "museum",
        }
        mmr = index.as_retriever(
            vector_store_query_mode="mmr", similarity_top_k=3, vector_store_kwargs={"mmr_threshold": 1.0}
        )
        plain = index.as_retriever(similarity_top_k=3)
        assert mmr.retrieve(QUESTION) == plain.retrieve(QUESTION)

    def test_passage_retriever(self, index: VectorStoreIndex, store: PassageVectorStore) -> None:
        expected = index.as_retriever(similarity_top_k=2).retrieve(QUESTION)
        for source in (store, store.client):
            retriever = PassageRetriever(source, similarity_top_k=2)
            assert retriever.retrieve(QUESTION) == expected
            assert asyncio.run(retriever.aretrieve(QUESTION)) == expected
        assert [n.node_id for n in PassageRetriever(store, doc_ids=["sea.txt"]).retrieve(QUESTION)] == [
            "ferry"
        ]
        diverse = PassageRetriever(store, mode="mmr", mmr_threshold=0.0, similarity_top_k=3).retrieve(
            QUESTION
        )
        assert {n.node_id for n in diverse} == {"ferry", "market", "museum"}
        looked = [p.id for p in store.client.search(QUESTION, 2, look=True)]
        kwargs = {"similarity_top_k": 2, "vector_store_kwargs": {"look": True}}
        for looking in (
            PassageRetriever(store, look=True, similarity_top_k=2),
            index.as_retriever(**kwargs),
        ):
            assert [n.node_id for n in looking.retrieve(QUESTION)] == looked
        with pytest.raises(InputError, match="int"):
            PassageRetriever(3)  # type: ignore[arg-type]

    def test_pipeline_upserts(self, store: PassageVectorStore) -> None:
        def run(text: str) -> None:
            pipeline.run(
                documents=[Document(text=text, id_="a.txt"), Document(text="Cats purr.", id_="b.txt")]
            )

        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), store.embed_model],
            vector_store=store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
        )
        run("Dogs bark.")
        run("Dogs bark.")
        assert sorted(n.get_content() for n in store.get_nodes()) == ["Cats purr.", "Dogs bark."]
        run("Dogs sleep.")
        assert sorted(n.get_content() for n in store.get_nodes()) == ["Cats purr.", "Dogs sleep."]
        assert {n.ref_doc_id for n in store.get_nodes()} == {"a.txt", "b.txt"}


class TestFolder:
    def test_command_line_and_llama_index_share_it(self, tmp_path: Path, make_engine: Any) -> None:
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "sea.txt").write_text("The ferry is run by Ada. It leaves at noon.")
        with PassageIndex.create(tmp_path / "kb", bag_of_words) as index:
            index.add_files([tmp_path / "docs"], max_tokens=64)
            written = index.search(QUESTION)
        with PassageIndex.open(tmp_path / "kb", bag_of_words) as index:
            store = PassageVectorStore(index)
            found = PassageRetriever(store).retrieve(QUESTION)
            assert [(n.node_id, n.text, n.score) for n in found] == [(p.id, p.text, p.score) for p in written]
            vector_index = VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model)
            vector_index.insert(Document(text="The market opens at eight.", id_="market.txt"))
            from_vectors = vector_index.as_retriever(similarity_top_k=9).retrieve(QUESTION)
            assert [n.node_id for n in from_vectors] == [p.id for p in index.search(QUESTION, 9)]
        with PassageIndex.open(tmp_path / "kb", bag_of_words) as index:
            assert {p.text for p in index} == {written[0].text, "The market opens at eight."}
            engine = make_engine()
            core = engine.answer(QUESTION, index.search(QUESTION))
            response: Any = nbce_query_engine(index, NBCELLM(engine=engine)).query(QUESTION)
            assert response.response == core.text
            assert response.metadata["nbce"]["cited_ids"] == [p.id for p in core.cited_passages]

    def test_any_embedding_model(self, tmp_path: Path) -> None:
        with PassageVectorStore.create(tmp_path / "kb", Words()).client as index:
            assert (index.embedder_name, index.dimension) == ("Words:words", 32)
        store = PassageVectorStore.open(tmp_path / "kb", Words())
        store.add([TextNode(id_="a", text="cats purr")])
        assert PassageRetriever(store).retrieve("cats")[0].node_id == "a"
        with pytest.raises(EmbedderMismatchError):
            PassageVectorStore.open(tmp_path / "kb", MockEmbedding(32))
        with pytest.raises(EmbedderMismatchError):
            PassageVectorStore.open(tmp_path / "kb")
        with pytest.raises(IndexNotFoundError):
            PassageVectorStore.open(tmp_path / "nothing")
        with pytest.raises(InputError, match="embed_model is a int"):
            PassageVectorStore.create(tmp_path / "other", 3)  # type: ignore[arg-type]
        assert isinstance(store.embed_model, PassageEmbedding)
        assert asyncio.run(store.embed_model.aget_query_embedding("cats")) == list(bag_of_words(["cats"])[0])
        assert asyncio.run(store.embed_model.aget_text_embedding_batch(["cats"]))[0] == list(
            bag_of_words(["cats"])[0]
        )

    def test_without_a_model_it_wants_vectors(self, tmp_path: Path) -> None:
        with PassageVectorStore.create(tmp_path / "kb", dimension=2).client:
            pass
        store = PassageVectorStore.open(tmp_path / "kb")
        store.add([TextNode(id_="a", text="x", embedding=[1.0, 0.0])])
        assert store.query(VectorStoreQuery(query_embedding=[1.0, 0.0])).ids == ["a"]
        with pytest.raises(InputError, match="embed_model"):
            store.add([TextNode(id_="b", text="y")])
        with pytest.raises(InputError, match="embed_model"):
            store.query(VectorStoreQuery(query_str="x"))
        with pytest.raises(InputError, match="neither"):
            store.query(VectorStoreQuery())


class TestPersistence:
    def test_through_a_storage_context(self, tmp_path: Path, index: VectorStoreIndex, store: Any) -> None:
        folder = tmp_path / "storage"
        index.storage_context.persist(folder)
        expected = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
        loaded = PassageVectorStore(PassageIndex.open(_located(folder), bag_of_words))
        context = StorageContext.from_defaults(persist_dir=str(folder), vector_store=loaded)
        again = load_index_from_storage(context, embed_model=loaded.embed_model)
        assert again.as_retriever(similarity_top_k=3).retrieve(QUESTION) == expected

    def test_it_never_loads_as_an_empty_store_of_another_kind(
        self, tmp_path: Path, index: VectorStoreIndex
    ) -> None:
        """LlamaIndex fails before it asks us, with an error that says how to load it."""
        index.storage_context.persist(tmp_path / "storage")
        with pytest.raises(ValueError, match=r"vector_store=PassageVectorStore\.open\(folder\)"):
            StorageContext.from_defaults(persist_dir=str(tmp_path / "storage"))

    def test_from_persist_dir(self, tmp_path: Path) -> None:
        store = PassageVectorStore.create(tmp_path / "kb", dimension=2)
        store.add([TextNode(id_="a", text="x", embedding=[1.0, 0.0])])
        path = tmp_path / "storage" / "default__vector_store.json"
        store.persist(str(path))
        json.loads(path.read_text(encoding="utf-8"))
        for again in (
            PassageVectorStore.from_persist_dir(tmp_path / "storage"),
            PassageVectorStore.from_persist_path(str(path)),
            PassageVectorStore.from_persist_dir(tmp_path / "kb"),
        ):
            assert [n.node_id for n in again.get_nodes()] == ["a"]
        (tmp_path / "elsewhere").mkdir()
        os.rename(tmp_path / "kb", tmp_path / "elsewhere" / "kb")
        os.rename(tmp_path / "storage", tmp_path / "elsewhere" / "storage")
        moved = PassageVectorStore.from_persist_dir(tmp_path / "elsewhere" / "storage")
        assert [n.node_id for n in moved.get_nodes()] == ["a"]

    def test_a_bare_file_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        store = PassageVectorStore.create("kb", dimension=2)
        store.persist("store.json")
        assert PassageVectorStore.from_persist_path("store.json").get_nodes() == []

    def test_other_file_systems_get_a_copy(self, tmp_path: Path) -> None:
        store = PassageVectorStore.create(tmp_path / "kb", dimension=2)
        store.add([TextNode(id_="a", text="x", embedding=[1.0, 0.0])])
        memory = fsspec.filesystem("memory")
        store.persist("/bucket/default__vector_store.json", fs=memory)
        store.client.close()
        again = PassageVectorStore.from_persist_dir("/bucket", fs=memory, into=tmp_path / "copy")
        assert again.query(VectorStoreQuery(query_embedding=[1.0, 0.0])).ids == ["a"]

    def test_files_of_others_are_named(self, tmp_path: Path) -> None:
        SimpleVectorStore().persist(str(tmp_path / "default__vector_store.json"))
        with pytest.raises(InputError, match="another vector store"):
            PassageVectorStore.from_persist_dir(tmp_path)
        (tmp_path / "x.json").write_bytes(b"\x00\xff\xfe")
        with pytest.raises(InputError, match="not JSON"):
            PassageVectorStore.from_persist_path(str(tmp_path / "x.json"))
        with pytest.raises(IndexNotFoundError):
            PassageVectorStore.from_persist_path(str(tmp_path / "nothing.json"))


class TestImport:
    @pytest.mark.parametrize("kind", ["positions", "map", "map2", "squared distances"])
    def test_faiss_stores(self, tmp_path: Path, kind: str) -> None:
        """Files as llama-index-vector-stores-faiss 0.7 writes them."""
        import faiss

        nodes = [TextNode(id_=f"n{i}", text=f"word{i}", metadata={"i": i}) for i in range(4)]
        vectors = np.eye(4, dtype=np.float32) + 0.1
        flat = faiss.IndexFlatL2(4) if kind == "squared distances" else faiss.IndexFlatIP(4)
        index: Any = flat
        if kind.startswith("map"):
            index = (faiss.IndexIDMap if kind == "map" else faiss.IndexIDMap2)(flat)
            index.add_with_ids(vectors, np.arange(4))
            index.remove_ids(np.array([1]))
            names = {str(i): f"n{i}" for i in (0, 2, 3)}
            ids = {"node_id_to_faiss_id_map": {}, "faiss_id_to_node_id_map": names}
            (tmp_path / "id_map.json").write_text(json.dumps(ids))
        else:
            index.add(vectors)
        faiss.write_index(index, str(tmp_path / "default__vector_store.json"))
        documents = SimpleDocumentStore()
        documents.add_documents(nodes)
        documents.persist(str(tmp_path / "docstore.json"))
        from llama_index.core.data_structs import IndexDict
        from llama_index.core.storage.index_store import SimpleIndexStore

        structs = SimpleIndexStore()
        structs.add_index_struct(IndexDict(nodes_dict={str(i): f"n{i}" for i in range(4)}))
        structs.persist(str(tmp_path / "index_store.json"))
        store = import_faiss_store(tmp_path, tmp_path / "kb")
        expected = ["n0", "n2", "n3"] if kind.startswith("map") else ["n0", "n1", "n2", "n3"]
        assert [n.node_id for n in store.get_nodes()] == expected
        assert store.get_nodes(["n2"])[0].metadata == {"i": 2}
        for i, id_ in ((int(e[1]), e) for e in expected):
            found = store.query(VectorStoreQuery(query_embedding=vectors[i].tolist(), similarity_top_k=1))
            assert found.ids == [id_]
            assert found.similarities == pytest.approx([1.0], abs=1e-5)

    def test_what_is_no_faiss_store(self, tmp_path: Path) -> None:
        with pytest.raises(IndexNotFoundError):
            import_faiss_store(tmp_path, tmp_path / "kb")
        (tmp_path / "default__vector_store.json").write_text("{}")
        with pytest.raises(InputError, match="not a file of FAISS"):
            import_faiss_store(tmp_path, tmp_path / "kb")


def _located(folder: Path) -> Path:
    from llama_index_nbce.persistence import locate

    return locate(str(folder / "default__vector_store.json"))


class TestOneFolder:
    """Whatever accepts a folder accepts all that leads to it."""

    @pytest.fixture
    def places(self, tmp_path: Path) -> list[Path]:
        store = PassageVectorStore.create(tmp_path / "kb", Words())
        store.add([TextNode(id_="a", text="Ada runs the ferry.", metadata={"file_name": "a.pdf"})])
        StorageContext.from_defaults(vector_store=store).persist(str(tmp_path / "storage"))
        (tmp_path / "storage" / "image__vector_store.json").write_text("{}")  # of another store
        store.client.close()
        return [tmp_path / "kb", tmp_path / "storage", tmp_path / "storage" / "default__vector_store.json"]

    def test_open_and_the_other_ways_take_each(self, places: list[Path]) -> None:
        for place in places:
            for open_ in (PassageVectorStore.open, PassageVectorStore.from_persist_path):
                store = open_(str(place), embed_model=Words())
                assert [node.node_id for node in store.get_nodes()] == ["a"]
                store.client.close()
        with pytest.raises(IndexNotFoundError, match="nowhere"):
            PassageVectorStore.open(places[0].parent / "nowhere")

    def test_engines_and_retrievers_take_stores(self, places: list[Path], llm: NBCELLM) -> None:
        store = PassageVectorStore.open(places[1], Words())
        for source in (store, store.as_index(), store.client):
            response = nbce_query_engine(source, llm, similarity_top_k=1).query(QUESTION)
            assert [node.node_id for node in response.source_nodes] == ["a"]

    def test_as_index_asks_nobody_for_an_embedding_model(self, places: list[Path]) -> None:
        store = PassageVectorStore.open(places[0], Words())
        (found,) = store.as_index().as_retriever(similarity_top_k=1).retrieve("ferry")
        assert found.node.node_id == "a"
        assert found.score == pytest.approx(store.client.search("ferry", 1)[0].score)


def test_sparse_top_k_is_how_many_come_of_words(store: PassageVectorStore) -> None:
    store.add([TextNode(id_=str(n), text=f"Ferry number {n}.") for n in range(5)])
    for mode in (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH):
        query = VectorStoreQuery(query_str="ferry", mode=mode, similarity_top_k=1, sparse_top_k=3)
        assert len(store.query(query).nodes or ()) == 3


def test_pages_are_cited_and_paths_are_not_read(llm: NBCELLM) -> None:
    """As `SimpleDirectoryReader` makes nodes: a path says nothing to a model, a page does to a reader."""
    node = TextNode(
        id_="a",
        text="The ferry is run by Ada.",
        metadata={"file_name": "a.pdf", "page_label": "3", "file_path": "/home/me/a.pdf"},
        excluded_llm_metadata_keys=["file_name"],
    )
    (text,) = [block.text for block in citable(node).content if isinstance(block, TextBlock)]
    assert text == "page_label: 3\n\nThe ferry is run by Ada."
    assert node.excluded_llm_metadata_keys == ["file_name"]
    synthesizer = NBCESynthesizer(llm, citation_threshold=0.01)
    response: Any = synthesizer.synthesize(QUESTION, [NodeWithScore(node=node, score=0.5)])
    assert response.metadata["nbce"]["contexts"][0]["metadata"]["page_label"] == "3"
    if response.metadata["nbce"]["citations"]:
        assert format_citations(response).endswith("[1] a.pdf, page 3")
    plain = node.model_copy(update={"excluded_llm_metadata_keys": []})
    assert "file_path" in str(citable(plain).content[0])
