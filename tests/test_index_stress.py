"""The index against a plain dictionary, short versions of tests/benchmarks/stress_index.py, old formats."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from index_tools import ANIMALS, DIMENSION, bag_of_words, damage, ids, open_again

from nbce_rag.errors import IndexDamagedError
from nbce_rag.index import PassageIndex
from nbce_rag.index.vectors import compaction as maintenance
from nbce_rag.passages import Passage

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import chaos_postgres
import stress_index

WORDS = st.lists(st.sampled_from(["ant", "bee", "cow", "dog", "elk"]), min_size=1, max_size=4).map(" ".join)
KEYS = st.sampled_from("abcdefgh")
PASSAGES = st.lists(st.tuples(KEYS, WORDS, st.integers(0, 2)), min_size=1, max_size=5)


class Machine(RuleBasedStateMachine):
    """An index, and a dictionary of passages with their vectors."""

    @initialize(factory=st.sampled_from(["flat", "sq8", "hnsw"]))
    def make(self, factory: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.open_new(Path(self.folder.name) / "index", factory)

    def open_new(self, path: Path | str, factory: str) -> None:
        self.path = path
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(maintenance, "_TAIL", 6)
        self.index = PassageIndex.create(self.path, bag_of_words, factory=factory)
        self.reader = open_again(self.path)
        self.model: dict[str, tuple[Passage, np.ndarray]] = {}

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            self.reader.close()
            self.patch.undo()
            self.folder.cleanup()

    def put(self, given: Any, vector: np.ndarray | None) -> dict[str, tuple[Passage, np.ndarray]]:
        made = {}
        for key, text, n in given:
            passage = Passage(text, id=key, source=f"s{n}", metadata={"n": n})
            made[key] = (passage, bag_of_words([text])[0] if vector is None else vector)
        return made

    @rule(given=PASSAGES)
    def add(self, given: Any) -> None:
        made = self.put(given, None)
        for key, (passage, _) in list(made.items()):
            old = self.model.get(key)
            if old and old[0].text == passage.text:  # keeps the vector that it has
                made[key] = (passage, old[1])
        expected = sum(key not in self.model or self.model[key][0] != made[key][0] for key in made)
        assert self.index.add([passage for passage, _ in made.values()]) == expected
        self.model |= made

    @rule(given=PASSAGES, place=st.integers(0, DIMENSION - 1))
    def add_vectors(self, given: Any, place: int) -> None:
        made = self.put(given, np.eye(DIMENSION)[place])
        self.index.add([p for p, _ in made.values()], vectors=[vector for _, vector in made.values()])
        self.model |= made

    @rule(given=PASSAGES)
    def upsert_by_source(self, given: Any) -> None:
        made = self.put(given, None)
        sources = {passage.source for passage, _ in made.values()}
        for key, (passage, _) in list(made.items()):
            if key in self.model and self.model[key][0].text == passage.text:
                made[key] = (passage, self.model[key][1])
        self.index.upsert([passage for passage, _ in made.values()], by="source")
        self.model = {k: v for k, v in self.model.items() if v[0].source not in sources} | made

    @rule(keys=st.lists(KEYS, max_size=4))
    def delete(self, keys: list[str]) -> None:
        assert self.index.delete(keys) == len(self.model.keys() & set(keys))
        for key in keys:
            self.model.pop(key, None)

    @rule(n=st.integers(0, 2))
    def delete_where(self, n: int) -> None:
        self.index.delete(where={"n": n})
        self.model = {k: v for k, v in self.model.items() if v[0].metadata["n"] != n}

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule(how=st.sampled_from(["", "truncated", "random"]))
    def reopen(self, how: str) -> None:
        self.index.close()
        self.reader.close()
        for file in Path(self.path).glob("vectors-*.faiss") if how else ():
            damage(file, how)
        self.index, self.reader = open_again(self.path), open_again(self.path)
        if how:
            self.index.rebuild()

    @rule(text=WORDS, k=st.integers(1, 9), n=st.none() | st.integers(0, 2))
    def search(self, text: str, k: int, n: int | None) -> None:
        query = bag_of_words([text])[0]
        scores = {
            key: float(query @ vector / np.linalg.norm(query) / np.linalg.norm(vector))
            for key, (passage, vector) in self.model.items()
            if n is None or passage.metadata["n"] == n
        }
        for index in (self.index, self.reader):
            found = index.search(text, k, None if n is None else {"n": n})
            assert [p.score for p in found] == pytest.approx(sorted(scores.values())[::-1][:k], abs=1e-6)
            for p in found:
                assert p.score == pytest.approx(scores[p.id], abs=1e-6)
                assert (p.text, p.metadata) == (self.model[p.id][0].text, self.model[p.id][0].metadata)
            assert ids(found) == ids(sorted(found, key=lambda p: (-(p.score or 0.0), p.id)))

    @rule(text=WORDS)
    def words(self, text: str) -> None:
        wanted = set(text.split())
        expected = {key for key, (passage, _) in self.model.items() if wanted & set(passage.text.split())}
        assert set(ids(self.index.search(text, 9, mode="words"))) == expected

    @invariant()
    def holds_what_it_should(self) -> None:
        if hasattr(self, "index"):
            assert {p.id: p for p in self.reader} == {
                key: passage for key, (passage, _) in self.model.items()
            }
            assert len(self.reader) == len(self.model)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_a_database_is_such_a_machine_too(postgres_url: str) -> None:
    numbers = itertools.count()

    class DatabaseMachine(Machine):
        @initialize(factory=st.sampled_from(["flat", "hnsw"]))
        def make(self, factory: str) -> None:
            self.folder = tempfile.TemporaryDirectory()
            self.open_new(f"{postgres_url}m{next(numbers)}", factory)

    run_state_machine_as_test(
        DatabaseMachine, settings=settings(max_examples=6, stateful_step_count=15, deadline=None)
    )


def test_a_writer_that_is_killed_loses_nothing() -> None:
    stress_index.crash(3)


def test_failing_writes_lose_nothing() -> None:
    stored, refused = stress_index.faults(40, seed=1)
    assert stored > 50
    assert refused > 0


def test_readers_see_one_state_beside_a_writer() -> None:
    rounds, searches, _ = stress_index.readers(2.0, 2)
    assert rounds > 0
    assert searches > 0


def test_a_database_that_is_killed_loses_nothing(postgres_server: str) -> None:
    counts, faults = chaos_postgres.chaos(2)
    assert faults == []
    assert counts["restarts"] == 2
    assert counts["add"] > 0
    assert counts["search"] > 0


VERSION_1 = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE passages(
    key INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, content_hash TEXT NOT NULL, file TEXT,
    source TEXT, title TEXT, span_start INTEGER, span_end INTEGER, metadata TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX passages_source ON passages(source);
CREATE INDEX passages_file ON passages(file);
CREATE TABLE vectors(key INTEGER PRIMARY KEY, commit_id INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX vectors_commit ON vectors(commit_id);
CREATE TABLE removed(key INTEGER PRIMARY KEY, commit_id INTEGER NOT NULL);
CREATE INDEX removed_commit ON removed(commit_id);
CREATE TABLE commits(id INTEGER PRIMARY KEY AUTOINCREMENT, token INTEGER NOT NULL);
CREATE TABLE files(path TEXT PRIMARY KEY, fingerprint TEXT NOT NULL) WITHOUT ROWID;
PRAGMA application_id = 1312965445;
PRAGMA user_version = 1;
"""


def test_an_index_of_version_1_opens(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.mkdir()
    connection = sqlite3.connect(path / "passages.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(VERSION_1)
    meta = {
        "index": "abc",
        "embedder": "bag_of_words",
        "embedder_kind": "object",
        "dimension": str(DIMENSION),
    }
    connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
    connection.execute("INSERT INTO files VALUES ('/a.txt', 'fingerprint')")
    for key, p in enumerate(ANIMALS, 3):
        vector = bag_of_words([f"{p.title}\n{p.text}" if p.title else p.text])[0]
        data = (vector / np.linalg.norm(vector)).astype("<f4").tobytes()
        metadata = json.dumps(dict(p.metadata), ensure_ascii=False, sort_keys=True)
        fields = (key, p.id, p.content_hash, "/a.txt", p.source, p.title, p.start, p.end, metadata, p.text)
        connection.execute("INSERT INTO passages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", fields)
        connection.execute("INSERT INTO vectors VALUES (?, 1, ?)", (key, data))
    connection.commit()
    connection.close()
    with open_again(path) as index:
        assert index.check().ok
        assert list(index) == ANIMALS
        assert ids(index.search("cats purr", 1)) == ["cat"]
        assert ids(index.search("cats", where={"legs": 4, "tags": {"$contains": "pet"}})) == ["cat"]
        assert ids(index.search("cat", mode="words")) == ["cat"]
        assert index.add(ANIMALS) == 0
        assert index.delete("cat") == 1
        index.add([Passage("cats purr again", id="cat")])
    with open_again(path) as index:
        assert index.check().ok
        assert len(index) == 3


@pytest.mark.parametrize(
    ("statement", "mended"),
    [
        ("DELETE FROM attributes WHERE value = 4", True),
        ("UPDATE attributes SET value = 5 WHERE value = 4", True),
        ("UPDATE state SET count = 7", True),
        ("INSERT INTO words(words) VALUES ('delete-all')", True),
        ("UPDATE vectors SET vector = zeroblob(128) WHERE key = 2", True),
        ("DELETE FROM vectors WHERE key = 2", True),
        ("DELETE FROM segments", True),
        ("UPDATE passages SET text = 'dogs barked' WHERE id = 'dog'", False),
    ],
)
def test_check_and_rebuild(tmp_path: Path, statement: str, mended: bool) -> None:
    path = tmp_path / "index"
    with PassageIndex.create(path, bag_of_words) as index:
        index.add(ANIMALS[:2])
        index.compact()
        index.add(ANIMALS[2:])
    with sqlite3.connect(path / "passages.sqlite") as connection:
        connection.execute(statement)
    connection.close()
    with open_again(path) as index:
        report = index.check()
        # Without its row the file is just not used, which is no damage.
        assert report.ok == (statement == "DELETE FROM segments")
        assert report.ok or "--rebuild" in " ".join(report.problems) or "'dog'" in " ".join(report.problems)
        if not mended:
            with pytest.raises(IndexDamagedError, match="'dog'"):
                index.rebuild()
            with pytest.raises(IndexDamagedError, match="'dog'"):
                index.get("dog")
            return
        index.rebuild()
        assert index.check().ok
        assert list(index) == ANIMALS
        assert ids(index.search("dogs bark", 1, {"legs": 4})) == ["dog"]
    shutil.rmtree(path)
