"""One folder: written by LangChain's adapter, read and extended by LlamaIndex's, asked by all."""

from __future__ import annotations

from pathlib import Path

import pytest
from index_tools import bag_of_words
from llama_index.core import Document, VectorStoreIndex

from llama_index_nbce import PassageRetriever, PassageVectorStore
from nbce_rag.index import PassageIndex

langchain_nbce = pytest.importorskip("langchain_nbce")

QUESTION = "Who runs the ferry?"


def test_one_folder_for_both_frameworks(tmp_path: Path) -> None:
    with PassageIndex.create(tmp_path / "kb", bag_of_words) as index:
        lc_store = langchain_nbce.PassageVectorStore(index=index)
        lc_store.add_texts(
            ["The ferry is run by Ada.", "The market opens at eight."],
            metadatas=[{"source": "sea.md", "page": 1}, {"source": "town.md", "page": 2}],
            ids=["ferry", "market"],
        )
    with PassageIndex.open(tmp_path / "kb", bag_of_words) as index:
        store = PassageVectorStore(index)
        assert {n.ref_doc_id for n in store.get_nodes()} == {"sea.md", "town.md"}
        VectorStoreIndex.from_vector_store(store, embed_model=store.embed_model).insert(
            Document(text="The museum was built in 1891.", id_="museum.md", metadata={"page": 3})
        )
    with PassageIndex.open(tmp_path / "kb", bag_of_words) as index:
        lc_store = langchain_nbce.PassageVectorStore(index=index)
        core = [(p.text, p.score) for p in index.search(QUESTION, 3)]
        nodes = PassageRetriever(index, similarity_top_k=3).retrieve(QUESTION)
        documents = lc_store.similarity_search_with_score(QUESTION, k=3)
        assert [(n.text, n.score) for n in nodes] == core
        assert [(d.page_content, s) for d, s in documents] == core
        assert len(core) == 3
