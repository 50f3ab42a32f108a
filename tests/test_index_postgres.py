"""An index in PostgreSQL, where it differs from a folder: addresses, rights, failures, several machines."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tools import ANIMALS, DIMENSION, bag_of_words, ids, open_again
from postgres_tools import with_index

from nbce_rag.errors import (
    IndexDamagedError,
    IndexLockedError,
    IndexNotFoundError,
    InputError,
    MissingDependencyError,
    PassageIndexError,
)
from nbce_rag.index import GENERATED, IndexFolder, PassageIndex
from nbce_rag.passages import Passage

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")

SECRET = "s3cret"


@pytest.fixture
def index(postgres_url: str) -> Iterator[PassageIndex]:
    with PassageIndex.create(postgres_url, bag_of_words) as made:
        yield made


def connect(url: str) -> Any:
    """A connection to the schema of an index, as the server's superuser."""
    from nbce_rag.index.postgres.address import Address

    address = Address.of(url)
    connection = psycopg.connect(address.conninfo, autocommit=True)
    connection.execute(f'SET search_path = "{address.schema}", public')
    return connection


class TestAddress:
    def test_parts(self) -> None:
        from nbce_rag.index.postgres.address import Address

        url = f"postgresql://me:{SECRET}@db.example:5433/docs?sslmode=verify-full&index=notes&connections=3"
        address = Address.of(url)
        assert (address.schema, address.connections, address.statement_timeout) == ("notes", 3, 60)
        assert address.conninfo == f"postgresql://me:{SECRET}@db.example:5433/docs?sslmode=verify-full"
        assert address.shown == "postgresql://me@db.example:5433/docs?index=notes"
        assert SECRET not in repr(address)
        assert Address.of("postgres://h/d").schema == "nbce_rag"
        assert Address.of("postgres://h/d?statement_timeout=0").statement_timeout == 0

    @pytest.mark.parametrize(
        ("url", "name", "value", "shown"),
        [
            ("postgresql://me@h/d?password=a+b%2Bc%20d", "password", "a+b+c d", "postgresql://me@h/d"),
            ("postgresql://me@h/d?options=-c%20jit%3Doff", "options", "-c jit=off", "postgresql://me@h/d"),
            ("postgres://me@[::1]:5/d", "host", "::1", "postgresql://me@[::1]:5/d"),
            ("postgres://a:1,b:2/d", "port", "1,2", "postgresql://a:1,b:2/d"),
            ("postgres://a,b/d", "host", "a,b", "postgresql://a,b/d"),
            ("postgres:///d?host=/run/a&port=6", "host", "/run/a", "postgresql://:6/d?host=/run/a"),
        ],
    )
    def test_what_is_of_the_driver_reaches_it_as_it_was_written(
        self, url: str, name: str, value: str, shown: str
    ) -> None:
        from nbce_rag.index.postgres.address import Address

        address = Address.of(f"{url}{'&' if '?' in url else '?'}index=i")
        assert psycopg.conninfo.conninfo_to_dict(address.conninfo)[name] == value
        assert address.shown == f"{shown}{'&' if '?' in shown else '?'}index=i"

    @pytest.mark.parametrize(
        ("rest", "message"),
        [
            ("me:s3cret@h/d?nonsense=1", "cannot be read"),
            ("me:s3cret@[::1/d", "cannot be read"),
            ("me:s3cret%@h/d", "cannot be read"),
            ("me:s3cret@h/d?connections=0", "connections=0 must be a number"),
            ("me:s3cret@h/d?statement_timeout=long", "must be a number"),
            ("me:s3cret@h/d?index=", "no name of a schema"),
            ("me:s3cret@h/d?index=pg_x", "no name of a schema"),
        ],
    )
    def test_what_is_no_address_is_not_repeated(self, rest: str, message: str) -> None:
        with pytest.raises(InputError, match=message) as raised:
            PassageIndex.open(f"postgresql://{rest}")
        error: BaseException | None = raised.value
        while error is not None:
            assert SECRET not in str(error)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def test_a_path_has_lost_a_slash(self) -> None:
        with pytest.raises(InputError, match="give it as text"):
            PassageIndex.open(Path("postgresql://host/database"))

    def test_a_password_is_shown_nowhere(
        self, postgres_server: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = with_index(postgres_server, "secret").replace("postgres:@", f"postgres:{SECRET}@")
        caplog.set_level("DEBUG")
        with PassageIndex.create(url, bag_of_words) as index:
            index.add(ANIMALS)
            shown = [repr(index), index.location, index.explain({"x": 1}), repr(vars(index))]
            with pytest.raises(InputError) as raised:
                _ = index.path
        with pytest.raises(PassageIndexError) as again:
            PassageIndex.create(url, bag_of_words)
        with pytest.raises(PassageIndexError) as closed:
            len(index)
        errors = (raised, again, closed)
        assert SECRET not in "".join([*shown, *(str(one.value) for one in errors), caplog.text])
        assert index.location in str(again.value)

    def test_it_has_no_folder(self, index: PassageIndex, postgres_url: str) -> None:
        assert not index.has_folder
        with pytest.raises(InputError, match="has no folder"):
            _ = index.path
        with pytest.raises(InputError, match="has no folder"):
            IndexFolder(postgres_url)


def test_the_extra_is_named_when_it_is_missing() -> None:
    code = """
import sys
sys.modules["psycopg"] = None
from nbce_rag import PassageIndex
from nbce_rag.errors import MissingDependencyError
try:
    PassageIndex.open("postgresql://host/database")
except MissingDependencyError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'nbce-rag[postgres]'" in run.stdout
    assert issubclass(MissingDependencyError, ImportError)


def test_a_folder_needs_no_driver(tmp_path: Path) -> None:
    code = f"""
import sys
import numpy as np
from nbce_rag import Passage, PassageIndex
with PassageIndex.create({str(tmp_path / "index")!r}, lambda texts: np.ones((len(texts), 2))) as index:
    index.add([Passage("a")])
    index.search("a")
assert not any(name.split(".")[0] in ("psycopg", "pgvector") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class TestOpening:
    def test_what_is_not_there(self, postgres_server: str) -> None:
        with pytest.raises(IndexNotFoundError, match=r"no schema 'nothing' with one.*--index URL"):
            PassageIndex.open(with_index(postgres_server, "nothing"))
        with pytest.raises(IndexNotFoundError, match="CREATE DATABASE"):
            PassageIndex.open(postgres_server.replace("/postgres?", "/nowhere?"))
        with pytest.raises(IndexNotFoundError, match="CREATE DATABASE"):
            PassageIndex.create(postgres_server.replace("/postgres?", "/nowhere?"), bag_of_words)

    @pytest.mark.parametrize("url", ["postgresql://127.0.0.1:1/d", "postgresql:///d?host=/nowhere"])
    def test_a_server_that_is_away(self, url: str) -> None:
        started = time.monotonic()
        acts: list[Callable[..., PassageIndex]] = [PassageIndex.open, PassageIndex.create]
        for act in acts:
            with pytest.raises(PassageIndexError, match=r"no connection to postgresql://.*is the server up"):
                act(url, bag_of_words)
        assert time.monotonic() - started < 10

    def test_tls_is_asked_for_by_the_url(self, postgres_server: str) -> None:
        # The server of the tests listens to a socket alone, which has no TLS: a port shows what is asked for.
        listener = _Listener()
        with pytest.raises(PassageIndexError, match="no connection"):
            PassageIndex.open(f"postgresql://127.0.0.1:{listener.port}/d?sslmode=require", timeout=2)
        assert listener.first[:8] == b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # SSLRequest

    def test_no_extension(self, postgres_server: str) -> None:
        with closing(psycopg.connect(postgres_server, autocommit=True)) as connection:
            connection.execute("CREATE DATABASE plain")
        url = postgres_server.replace("/postgres?", "/plain?")
        acts: list[Callable[..., PassageIndex]] = [PassageIndex.open, PassageIndex.create]
        for act in acts:
            with pytest.raises(PassageIndexError, match=r"no extension pgvector.*CREATE EXTENSION vector"):
                act(url, bag_of_words)

    def test_a_schema_of_others(self, postgres_server: str) -> None:
        with closing(psycopg.connect(postgres_server, autocommit=True)) as connection:
            connection.execute("CREATE SCHEMA others; CREATE TABLE others.mine(x int)")
        with pytest.raises(PassageIndexError, match=r"'others' is not empty.*'mine'.*index=NAME"):
            PassageIndex.create(with_index(postgres_server, "others"), bag_of_words)

    def test_versions(self, index: PassageIndex, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        index.add(ANIMALS)
        with closing(connect(postgres_url)) as connection:
            connection.execute("UPDATE meta SET value = '99' WHERE key = 'version'")
            with pytest.raises(PassageIndexError, match=r"version 99.*newer nbce-rag"):
                open_again(postgres_url)
            connection.execute("UPDATE meta SET value = '1' WHERE key = 'version'")
            steps: list[str] = []

            def to_version_2(connection: Any) -> None:
                connection.execute("ALTER TABLE files ADD COLUMN more text")
                steps.append("made")

            monkeypatch.setattr("nbce_rag.index.postgres.schema.VERSION", 2)
            monkeypatch.setattr("nbce_rag.index.postgres.schema._MIGRATIONS", {1: to_version_2})
            for _ in range(2):
                with open_again(postgres_url) as again:
                    assert list(again) == ANIMALS
            assert steps == ["made"]
            row = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
            assert row == ("2",)

    def test_factories(self, postgres_url: str) -> None:
        with pytest.raises(InputError, match=r"'ivf-sq8'.*auto, flat, hnsw, hnsw-halfvec"):
            PassageIndex.create(postgres_url, bag_of_words, factory="ivf-sq8")

        def wide(texts: list[str]) -> Any:
            return np.ones((len(texts), 3000))

        with pytest.raises(InputError, match="up to 2,000 numbers by 'hnsw'"):
            PassageIndex.create(postgres_url, wide, factory="hnsw")
        with PassageIndex.create(postgres_url, wide, factory="hnsw-halfvec") as index:
            index.add(ANIMALS)
            assert len(index.search("cats")) == 3


class _Listener:
    """Takes one connection, remembers what comes first, and ends it."""

    def __init__(self) -> None:
        import socket

        self.first = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._socket, self._socket.accept()[0] as client:
            self.first = client.recv(64)


class TestRights:
    @pytest.fixture
    def reader_url(self, index: PassageIndex, postgres_url: str) -> str:
        from nbce_rag.index.postgres.schema import GRANTS

        index.add([*ANIMALS, Passage("made up", id="made", metadata=dict(GENERATED))])
        with closing(connect(postgres_url)) as connection:
            role = "reader_" + postgres_url.rpartition("=")[2]
            connection.execute(f"CREATE ROLE {role} LOGIN")
            schema = postgres_url.rpartition("=")[2]
            connection.execute(GRANTS.format(schema=schema, role=role))
        return postgres_url.replace("//postgres:@", f"//{role}@")

    def test_a_reader_searches_and_changes_nothing(self, reader_url: str) -> None:
        with open_again(reader_url) as reader:
            assert ids(reader.search("cats purr", 1)) == ["cat"]
            assert ids(reader.search("cats purr", 1, {"legs": {"$gte": 4}}, mode="hybrid")) == ["cat"]
            assert ids(reader.search("cats", 2, look=True, mmr=0.5)) != []
            assert reader.check().ok
            assert (len(reader), len(list(reader)), reader.sources()) == (4, 4, {"a.txt": 2, "b.txt": 1})
            changes: list[Callable[[], object]] = [
                lambda: reader.add([Passage("new")]),
                lambda: reader.delete("cat"),
                reader.rebuild,
                lambda: reader.compact("hnsw"),
            ]
            for change in changes:
                with pytest.raises(PassageIndexError, match=r"lacks a right .*permission denied"):
                    change()
            assert len(reader) == 4

    def test_a_writer_adds_and_removes(self, reader_url: str, postgres_url: str) -> None:
        role, schema = reader_url.partition("//")[2].partition("@")[0], postgres_url.rpartition("=")[2]
        with closing(connect(postgres_url)) as connection:
            connection.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
        with open_again(reader_url) as writer:
            assert writer.add([Passage("cows moo", id="cow"), Passage("cats purr loud", id="cat")]) == 2
            assert writer.delete("dog") == 1
            assert writer.check().ok
            with pytest.raises(PassageIndexError, match=r"lacks a right .*owner"):
                writer.compact("hnsw")

    def test_a_role_without_rights(self, index: PassageIndex, postgres_url: str) -> None:
        with closing(connect(postgres_url)) as connection:
            connection.execute("CREATE ROLE nobody_at_all LOGIN")
        url = postgres_url.replace("//postgres:@", "//nobody_at_all@")
        with pytest.raises(PassageIndexError, match=r"GRANT|no schema"):
            open_again(url)
        with pytest.raises(PassageIndexError, match="lacks a right"):
            PassageIndex.create(f"{url}_own", bag_of_words)


class TestWriters:
    def test_a_second_writer_is_told(self, index: PassageIndex, postgres_url: str) -> None:
        index.add(ANIMALS)
        with closing(connect(postgres_url)) as blocker, open_again(postgres_url, timeout=0.2) as second:
            blocker.execute("BEGIN")
            blocker.execute("SELECT FROM state FOR UPDATE")
            acts: list[Callable[[], int]] = [
                lambda: second.add([Passage("new", id="new")]),
                lambda: second.delete("cat"),
            ]
            for act in acts:
                with pytest.raises(IndexLockedError, match=r"Another process is writing.*0\.2 s.*try again"):
                    act()
            assert len(second.search("cats")) == 3  # reading goes on
            blocker.execute("ROLLBACK")
            assert second.add([Passage("new", id="new")]) == 1

    def test_two_processes_write_and_a_third_sees_one_state(
        self, index: PassageIndex, postgres_url: str
    ) -> None:
        code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from index_tools import open_again
from nbce_rag import Passage
with open_again({postgres_url!r}, timeout=60) as index:
    for n in range(9):
        name = f"{{sys.argv[1]}}/{{n}}"
        index.add(Passage(f"writer number {{n}}", f"{{name}}/{{part}}", source=name) for part in range(4))
        if n % 3 == 0:
            index.delete(source=name)
"""
        writers = [subprocess.Popen([sys.executable, "-c", code, str(name)]) for name in range(2)]
        while any(writer.poll() is None for writer in writers):
            found = index.search("writer number", 500)
            by_source: dict[str, int] = {}
            for passage in found:
                by_source[str(passage.source)] = by_source.get(str(passage.source), 0) + 1
            assert set(by_source.values()) <= {4}  # of each change all or nothing
            time.sleep(0.05)
        assert [writer.returncode for writer in writers] == [0, 0]
        assert len(index) == 2 * 6 * 4
        assert index.check().ok

    def test_two_make_one_index(self, postgres_url: str) -> None:
        made: list[PassageIndex] = []
        threads = [
            threading.Thread(
                target=lambda: made.append(PassageIndex.create(postgres_url, bag_of_words, exist_ok=True))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4
        made[0].add(ANIMALS)
        assert [len(index) for index in made] == [3] * 4
        for index in made:
            index.close()


class TestConnections:
    def test_one_that_is_lost_is_made_again(self, index: PassageIndex, postgres_url: str) -> None:
        index.add(ANIMALS)
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nbce-rag'"
        with closing(connect(postgres_url)) as connection:
            connection.execute(end)
            assert len(index.search("cats")) == 3
            connection.execute(end)
            assert index.add([Passage("new", id="new")]) == 1
            ended: list[bool] = []

            def once(name: object) -> bool:
                if not ended:
                    ended.append(True)
                    connection.execute(end)
                return True

            # In the middle of a search, which is begun again.
            assert len(index.search("cats", where={"id": once})) == 4
            assert ended

            def always(name: object) -> bool:
                connection.execute(end)
                return True

            with pytest.raises(PassageIndexError, match=r"connection to .* was lost .*try again"):
                index.search("cats", where={"id": always})
            assert len(index.search("cats")) == 4

            def delete() -> None:
                with index._storage.write():
                    connection.execute(end)
                    index.delete("cat")

            with pytest.raises(PassageIndexError, match=r"lost while something was stored.*again"):
                delete()
            assert len(index) == 4

    def test_each_transaction_may_have_another_session(self, index: PassageIndex) -> None:
        """As behind a pooler such as PgBouncer."""
        index.add(ANIMALS)
        for connection in index._storage._connections._idle:  # type: ignore[attr-defined]
            connection.execute("DISCARD ALL")
        assert ids(index.search("cats purr", 1, mode="hybrid")) == ["cat"]
        assert index.add([Passage("new", id="new")]) == 1

    def test_a_limit_of_connections(self, postgres_url: str) -> None:
        with PassageIndex.create(f"{postgres_url}&connections=1", bag_of_words, timeout=0.2) as index:
            index.add(ANIMALS)
            errors: list[BaseException] = []

            def look() -> None:
                try:
                    len(index)
                except PassageIndexError as error:
                    errors.append(error)

            with index._storage.read():
                thread = threading.Thread(target=look)
                thread.start()
                thread.join()
            assert "All 1 connections" in str(errors[0])
            assert "connections=N" in str(errors[0])
            assert len(index) == 3

    def test_a_statement_that_takes_too_long(self, postgres_url: str) -> None:
        with PassageIndex.create(f"{postgres_url}&statement_timeout=0.1", bag_of_words) as index:
            index.add(ANIMALS)

            def sleep() -> None:
                with index._storage.read() as connection:
                    connection.execute("SELECT pg_sleep(5)")  # type: ignore[attr-defined]

            with pytest.raises(PassageIndexError, match=r"more than 0\.1 s.*statement_timeout="):
                sleep()
            assert len(index) == 3


class TestGraph:
    @pytest.mark.parametrize("factory", ["hnsw", "hnsw-halfvec"])
    def test_it_finds_the_nearest_and_filters_lose_none(
        self, postgres_url: str, factory: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rng = np.random.default_rng(5)
        vectors = rng.normal(size=(1200, DIMENSION)).astype(np.float32)
        passages = [
            Passage(f"word{n}", id=f"{n:04}", metadata={"n": n, "rare": n % 200 == 0, "tenth": n % 10 == 0})
            for n in range(1200)
        ]
        queries = rng.normal(size=(8, DIMENSION)).astype(np.float32)
        wheres: list[Any] = [None, {"tenth": True}, {"rare": True}, {"n": {"$lt": 600}}, {"n": 7}]
        with PassageIndex.create(postgres_url, bag_of_words) as index:
            index.add(passages, vectors=vectors)
            exact = {n: index.search_batch(queries, 10, where) for n, where in enumerate(wheres)}
            index.compact(factory)
            monkeypatch.setattr("nbce_rag.index.postgres.storage._EXACT_UP_TO", 0)
            for n, where in enumerate(wheres):
                found = index.search_batch(queries, 10, where, options={"efSearch": 200})
                assert [len(one) for one in found] == [len(one) for one in exact[n]]
                hits = sum(
                    len(set(ids(a)) & set(ids(b))) / max(len(b), 1)
                    for a, b in zip(found, exact[n], strict=True)
                )
                assert hits / len(queries) > 0.97
                scores = {p.id: p.score for one in exact[n] for p in one}
                assert all(p.score is not None for one in found for p in one)
                assert scores
            with closing(connect(postgres_url)) as connection:
                connection.execute("SET enable_seqscan = off")
                plan = connection.execute(
                    "EXPLAIN SELECT key FROM vectors v ORDER BY embedding <#> %s::vector LIMIT 5"
                    if factory == "hnsw"
                    else "EXPLAIN SELECT key FROM vectors v ORDER BY embedding::halfvec(32) <#> "
                    "%s::vector::halfvec(32) LIMIT 5",
                    (str(queries[0].tolist()),),
                ).fetchall()
            assert "vectors_hnsw" in str(plan)
            index.add([Passage("later", id="later")], vectors=queries[:1])
            assert ids(index.search(queries[0], 1)) == ["later"]
            index.compact("flat")
            assert index.search_batch(queries, 10)[1:] == exact[0][1:]
            assert index.check().ok


@pytest.mark.parametrize(
    ("statement", "mended"),
    [
        ("UPDATE passages SET attributes = '{}' WHERE id = 'cat'", True),
        ("UPDATE passages SET terms = '' WHERE id = 'cat'", True),
        ("UPDATE state SET passages = 7", True),
        ("DELETE FROM terms", True),
        ("UPDATE terms SET passages = passages + 1 WHERE term = 'cats'", True),
        ("UPDATE vectors SET crc = 0 WHERE key = 2", True),
        ("DELETE FROM vectors WHERE key = 2", True),
        ("UPDATE passages SET text = 'dogs barked' WHERE id = 'dog'", False),
    ],
)
def test_check_and_rebuild(index: PassageIndex, postgres_url: str, statement: str, mended: bool) -> None:
    index.add(ANIMALS)
    with closing(connect(postgres_url)) as connection:
        connection.execute(statement)
    report = index.check()
    assert not report.ok
    assert "--rebuild" in " ".join(report.problems) or "'dog'" in " ".join(report.problems)
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
    assert ids(index.search("purr", mode="words")) == ["cat"]


def test_words_rank_as_in_a_folder_where_endings_do_not_matter(
    index: PassageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(7)
    names = [f"w{n}x" for n in range(60)]
    weights = 1 / np.arange(1, 61)
    texts = [
        " ".join(rng.choice(names, size=rng.integers(5, 40), p=weights / weights.sum())) for _ in range(300)
    ]
    passages = [Passage(text, id=f"{n:03}", title=names[n % 60]) for n, text in enumerate(texts)]
    queries = [" ".join(rng.choice(names, size=4)) for _ in range(15)]
    index.add(passages)
    with PassageIndex.create(tmp_path / "folder", bag_of_words) as folder:
        folder.add(passages)
        for candidates in (2_000, 1):
            monkeypatch.setattr("nbce_rag.index.postgres.words._CANDIDATES", candidates)
            for query in queries:
                expected = ids(folder.search(query, 10, mode="words"))
                if candidates > 1:
                    assert ids(index.search(query, 10, mode="words")) == expected
                else:  # words that are common are only scored where rarer ones find enough
                    assert len(set(ids(index.search(query, 10, mode="words"))) & set(expected)) > 3
        assert ids(index.search("w3x 東京", 5, mode="words")) == ids(
            folder.search("w3x 東京", 5, mode="words")
        )


def test_texts_of_any_length(index: PassageIndex) -> None:
    book = " ".join(f"word{n}" for n in range(200_000))
    long = "x" * 5000
    index.add([Passage(book, id=long, title=long, source=long), Passage(long, id="one")])
    assert ids(index.search("word7", mode="words")) == [long]
    assert set(ids(index.search(long, mode="words"))) == {long, "one"}
    assert ids(index.search("word7", where={"source": long})) == [long]
    assert index.delete(source=long) == 1
    assert index.check().ok
