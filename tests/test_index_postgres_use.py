"""An index in PostgreSQL where people meet it: commands, `Rag`, both frameworks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_tools import ANIMALS, bag_of_words, ids, open_again
from typer.testing import CliRunner, Result

from nbce_rag import Rag
from nbce_rag.cli.main import app
from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex

SECRET = "s3cret"


@pytest.fixture
def url(postgres_url: str) -> str:
    """Of an index with three passages; with a password, that the server does not ask for."""
    url = postgres_url.replace("postgres:@", f"postgres:{SECRET}@")
    with PassageIndex.create(url, bag_of_words) as index:
        index.add(ANIMALS)
    return url


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class TestCommands:
    def test_list_show_and_remove(self, url: str) -> None:
        listed = json.loads(run("list", "--index", url, "--json").stdout)
        assert [(row["source"], row["passages"]) for row in listed["sources"]] == [("a.txt", 2), ("b.txt", 1)]
        assert listed["index"].startswith("postgresql://postgres@/")
        assert json.loads(run("show", "cat", "--index", url, "--json").stdout)["text"] == "cats purr"
        assert run("remove", "b.txt", "--index", url).stdout == "Passages: 1 removed, 2 in the index.\n"
        assert "No problems." in run("index", "--check", "--index", url).stdout
        assert run("index", "--factory", "hnsw", "--index", url).exit_code == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            ("show", "cow"),
            ("remove", "c.txt"),
            ("index", "docs", "--kv"),
            ("index", "--factory", "ivf-sq8"),
            ("ask", "When?", "--kv", "kv", "--where", "a<"),
        ],
    )
    def test_errors_are_one_line_without_a_password(self, url: str, arguments: tuple[str, ...]) -> None:
        result = run(*arguments, "--index", url)
        assert result.exit_code != 0
        assert result.stderr.startswith(("error: ", "Usage: "))
        assert SECRET not in result.output

    def test_a_store_of_keys_and_values_has_a_folder(self, url: str) -> None:
        result = run("kv", url)
        assert result.exit_code != 0
        assert "has no folder" in result.stderr

    def test_documents(self, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.txt").write_text("Cats purr.")
        create = PassageIndex.create
        monkeypatch.setattr(PassageIndex, "create", lambda path, **options: create(path, bag_of_words))
        assert "Passages: 1" in run("index", tmp_path / "a.txt", "--index", postgres_url).stdout
        with open_again(postgres_url) as index:
            assert [passage.text for passage in index] == ["Cats purr."]


def test_rag_answers_from_it(url: str, make_nbce: Callable[..., Any]) -> None:
    with open_again(url) as index:
        rag = Rag(index, make_nbce("llama", max_tokens=4))
        answer = rag.ask("Do cats purr?", k=2)
        assert ids(list(answer.passages)) == ids(index.search("Do cats purr?", 2))
    with pytest.raises(InputError, match="has no folder"):
        Rag.open(url, embedder=bag_of_words, kv_store=True)


def test_langchain(url: str) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.embeddings import Embeddings

    from langchain_nbce import PassageRetriever, PassageVectorStore

    with open_again(url) as index:
        store = PassageVectorStore(index=index)
        (document,) = store.similarity_search("cats purr", k=1, filter={"legs": {"$gte": 4}})
        assert document.id == "cat"
        found = PassageRetriever(store=store, k=2).invoke("cats purr")
        assert [one.id for one in found] == ids(index.search("cats purr", 2))
        assert SECRET not in json.dumps(PassageRetriever(store=store).to_json(), default=str)

    class Bag(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return bag_of_words(texts).tolist()  # type: ignore[no-any-return]

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    made = PassageVectorStore(f"{url}lc", Bag())
    made.add_texts(["cats purr", "dogs bark"], ids=["a", "b"])
    assert made.similarity_search("dogs", k=1)[0].id == "b"
    made.close()


def test_llama_index(url: str) -> None:
    pytest.importorskip("llama_index.core")
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores.types import VectorStoreQuery

    from llama_index_nbce import PassageVectorStore

    store = PassageVectorStore.create(f"{url}li", dimension=32)
    store.add([TextNode(text="cats purr", id_="a", embedding=bag_of_words(["cats purr"])[0].tolist())])
    store.client.close()
    again = PassageVectorStore.open(f"{url}li")
    query = VectorStoreQuery(query_embedding=bag_of_words(["cats"])[0].tolist(), similarity_top_k=1)
    assert again.query(query).ids == ["a"]
    assert SECRET not in again.to_json()
    again.client.close()
