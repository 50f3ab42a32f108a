"""`~` in every path that a person can give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from index_tools import bag_of_words
from typer.testing import CliRunner

from nbce_rag import IndexFolder, PassageIndex, expand_home
from nbce_rag.cli.main import app
from nbce_rag.documents.folders import file_key, find_files, read_files
from nbce_rag.documents.readers import read_document
from nbce_rag.documents.watch import watch_changes
from nbce_rag.embedding.sentence_transformer import SentenceTransformerEmbedder, canonical_embedder_name
from nbce_rag.errors import ModelError, NbceError
from nbce_rag.evaluation.data.corpus import is_documents, read_documents
from nbce_rag.evaluation.data.dataset import load_dataset
from nbce_rag.evaluation.data.records import read_records
from nbce_rag.evaluation.log import RunLog
from nbce_rag.files import cache_dir, check_writable, write_json, write_whole
from nbce_rag.kv.folder import KVFolder
from nbce_rag.kv.store import PassageKVStore, resolve_store
from nbce_rag.models.description import describe_model
from nbce_rag.models.loading import load_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    for folder in (home / "docs", tmp_path / "here"):
        folder.mkdir(parents=True)
    (home / "docs" / "a.txt").write_text("Cats purr.")
    (home / "questions.jsonl").write_text(
        json.dumps({"question": "Who purrs?", "answers": ["cats"], "gold_sources": ["a.txt"]}) + "\n"
    )
    (home / "passages.jsonl").write_text('{"id": "1", "text": "Cats purr."}\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path / "here")
    return home


def _error(act: Callable[[], object]) -> str:
    with pytest.raises(NbceError) as caught:
        act()
    return str(caught.value)


def _made(path: str, act: Callable[[str], object]) -> str:
    act(path)
    place = Path.home() / path.removeprefix("~/")
    assert place.exists()
    return str(place)


def _watched() -> str:
    seen: list[str] = []

    def watch(*paths: str, **options: Any) -> Any:
        seen.extend(paths)
        yield set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "watchfiles", SimpleNamespace(watch=watch))
        next(watch_changes(["~/docs"], "~/index"))
    return seen[0]


def _cache(name: str, value: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NBCE_CACHE", raising=False)
        patch.setenv(name, value)
        return str(cache_dir())


PLACES: dict[str, tuple[str, Callable[[], object]]] = {
    "expand_home": ("x", lambda: expand_home("~/x")),
    "a Path": ("x", lambda: expand_home(Path("~/x"))),
    "IndexFolder": ("x", lambda: IndexFolder("~/x").path),
    "PassageIndex.create": ("x", lambda: PassageIndex.create("~/x", bag_of_words).path),
    "PassageIndex.open": ("x", lambda: _error(lambda: PassageIndex.open("~/x"))),
    "IndexFolder.copy": ("x", lambda: _error(lambda: IndexFolder("~/x").copy("~/y"))),
    "KVFolder": ("x", lambda: KVFolder("~/x").path),
    "PassageKVStore": ("docs/a.txt", lambda: _error(lambda: PassageKVStore(folder="~/docs/a.txt"))),
    "kv_store=": ("docs/a.txt", lambda: _error(lambda: resolve_store("~/docs/a.txt"))),
    "read_files": ("docs/a.txt", lambda: next(read_files(["~/docs"]))[0]),
    "read_files of a path": ("docs/a.txt", lambda: next(read_files("~/docs/a.txt"))[0]),
    "find_files": ("docs/a.txt", lambda: next(find_files(["~/docs"], print))),
    "file_key": ("docs/a.txt", lambda: file_key("~/docs/a.txt")),
    "read_document": ("none.txt", lambda: _error(lambda: read_document("~/none.txt"))),
    "watch_changes": ("docs", _watched),
    "write_whole": ("x", lambda: _made("~/x", lambda path: write_whole(path, b""))),
    "write_json": ("d/x", lambda: _made("~/d/x", lambda path: write_json(path, 1, make_folder=True))),
    "check_writable": ("docs", lambda: _error(lambda: check_writable("~/docs"))),
    "NBCE_CACHE": ("x", lambda: _cache("NBCE_CACHE", "~/x")),
    "XDG_CACHE_HOME": ("x/nbce-rag", lambda: _cache("XDG_CACHE_HOME", "~/x")),
    "embedder's name": ("docs", lambda: canonical_embedder_name("~/docs")),
    "embedder": ("docs", lambda: SentenceTransformerEmbedder("~/docs").name),
    "GGUF file": ("x.gguf", lambda: _error(lambda: load_model("~/x.gguf", backend="transformers"))),
    "model": ("docs", lambda: _error(lambda: load_model("~/docs"))),
    "describe_model": ("x.gguf", lambda: _error(lambda: describe_model("~/x.gguf", rows=1, tokens=1))),
    "log": ("x", lambda: RunLog("~/x").path),
    "records": ("x.jsonl", lambda: _error(lambda: read_records("~/x.jsonl"))),
}


@pytest.mark.parametrize("place", PLACES)
def test_home(place: str, home: Path) -> None:
    inner, act = PLACES[place]
    result = act()
    assert str(home / inner) in str(result), result
    assert not (Path.cwd() / "~").exists()


def test_home_of_an_adapter(home: Path) -> None:
    pytest.importorskip("peft")
    from nbce_rag.models.transformers.adapters import adapter_to_lay

    with pytest.raises(ModelError, match=str(home / "docs")):
        adapter_to_lay("~/none.gguf", "~/docs", {})


def test_home_of_llama_cpp(home: Path) -> None:
    pytest.importorskip("llama_cpp")
    assert str(home / "x.gguf") in _error(lambda: load_model("~/x.gguf", backend="llama.cpp"))


def test_home_of_an_evaluation() -> None:
    assert not is_documents("~/passages.jsonl")
    assert is_documents("~/docs")
    assert [passage.source for passage in read_documents("~/docs", bag_of_words)] == ["a.txt"]
    data = load_dataset("~/docs", "~/questions.jsonl", bag_of_words)
    assert len(data.passages) == 1


def test_home_in_an_index(home: Path) -> None:
    with PassageIndex.create("~/index", bag_of_words) as index:
        assert index.sync_files(["~/docs"]).files_added == (str(home / "docs" / "a.txt"),)
        assert index.add_files("~/docs/a.txt").files_unchanged == 1
        assert index.delete(source="~/docs/a.txt") == 1
        assert index.add_files("~/docs").files_added == 1
        (home / "docs" / "a.txt").rename(home / "docs" / "b.txt")
        assert len(index.sync_files("~/docs").files_moved) == 1


def test_home_on_the_command_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PassageIndex.create("~/index", bag_of_words).close()
    for command in (
        ["list", "--index", "~/index"],
        ["index", "--check", "--index", "~/index"],
        ["kv", "~/docs"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, (command, result.output)
    for command in (
        ["ask", "Who purrs?", "--index", "~/index", "--html", "~/docs"],
        ["bench", "--json", "~/docs"],
        ["list", "--index", "~/none"],
        ["kv", "~/none"],
        ["attribute", "Who purrs?", "--index", "~/none", "--text-file", "~/docs/a.txt"],
        ["attribute", "Who purrs?", "--index", "~/index", "--text-file", "~/docs/none.txt"],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code != 0
        assert str(home) in result.stderr, (command, result.output)
    assert list(Path.cwd().iterdir()) == []


def test_home_in_llama_index(home: Path) -> None:
    pytest.importorskip("llama_index.core")
    from llama_index_nbce.persistence import folder_of, locate, persist

    with PassageIndex.create("~/index", bag_of_words) as index:
        persist(index, "~/kept/store.json")
    assert folder_of("~/index") == home / "index"
    assert locate("~/kept/store.json") == home / "index"


def test_home_in_langchain(home: Path) -> None:
    pytest.importorskip("langchain_core")
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from langchain_nbce import PassageVectorStore

    store = PassageVectorStore("~/index", DeterministicFakeEmbedding(size=8))
    store.add_texts(["Cats purr."])
    assert store.index.path == home / "index"


def test_what_is_called_so_is_meant_itself(home: Path) -> None:
    folder = Path.cwd() / "~"
    folder.mkdir()
    (folder / "b.txt").write_text("Dogs bark.")
    assert [path.as_posix() for path, _ in read_files(["."])] == ["~/b.txt"]
    assert [path.as_posix() for path, _ in read_files(["~"])] == ["~/b.txt"]
    assert expand_home("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    assert expand_home("~/\0") == f"{home}/\0"
    assert expand_home("a/~/b") == "a/~/b"
