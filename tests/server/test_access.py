"""Keys, whose they are, and what they may read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nbce_rag.cli.main import app
from nbce_rag.errors import InputError
from nbce_rag.server.access import NOBODY_ELSE, Caller, Key, KeyRing, check_write, may_read, sees_files_of
from nbce_rag.server.key_file import KeyFile, digest_of, key_text, new_key, read_keys
from nbce_rag.server.wire.errors import ServerError

READER = Caller("reader", frozenset({"harbour"}), requests_per_minute=30, max_tokens=100)
CHIEF = Caller("chief", None, write=True, admin=True)


def keys_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def new(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["key", "new", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_a_key_reads_its_indexes_and_no_other() -> None:
    assert may_read(READER, "harbour")
    assert not may_read(READER, "law")
    assert may_read(CHIEF, "law")
    assert may_read(NOBODY_ELSE, "law")
    assert not may_read(Caller("fresh"), "harbour")


def test_a_ring_tells_callers_by_their_keys() -> None:
    ring = KeyRing([Key(digest_of("first"), READER), Key(digest_of("second").upper(), CHIEF)])
    assert ring.caller("first") is READER
    assert ring.caller("second") is CHIEF


@pytest.mark.parametrize("key", ["", "third", "FIRST", "first ", "\ud800", "schlüssel", digest_of("first")])
def test_any_other_key_is_refused(key: str) -> None:
    with pytest.raises(ServerError) as caught:
        KeyRing([Key(digest_of("first"), READER)]).caller(key)
    assert caught.value.status == 401


def test_without_a_key_the_message_says_how_to_send_one() -> None:
    with pytest.raises(ServerError, match="Authorization: Bearer KEY"):
        KeyRing([Key(digest_of("first"), READER)]).caller(None)


def test_without_keys_any_key_will_do() -> None:
    assert KeyRing().caller(None) is NOBODY_ELSE
    assert KeyRing().caller("whatever a client insists on") is NOBODY_ELSE


def test_writing_needs_a_server_and_a_key_that_allow_it() -> None:
    check_write(CHIEF, allow_write=True)
    with pytest.raises(ServerError, match="--allow-write"):
        check_write(CHIEF, allow_write=False)
    with pytest.raises(ServerError, match="'reader' may read, and not write") as caught:
        check_write(READER, allow_write=True)
    assert caught.value.status == 403


def test_files_are_seen_by_their_key_and_by_admins() -> None:
    assert sees_files_of(READER, "reader")
    assert not sees_files_of(READER, "chief")
    assert sees_files_of(CHIEF, "reader")


def test_new_keys_differ_and_are_long() -> None:
    keys = {new_key() for _ in range(20)}
    assert len(keys) == 20
    assert all(key.startswith("nbce-") and len(key) > 40 for key in keys)


def test_a_keys_file_says_what_was_written_into_it(tmp_path: Path) -> None:
    path = keys_file(tmp_path / "keys.toml", key_text(READER, "first") + "\n" + key_text(CHIEF, "second"))
    ring = read_keys(path)
    assert ring.caller("first") == READER
    assert ring.caller("second") == CHIEF
    assert "first" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[keys", "is no TOML"),
        ("[other]\n", "holds tables"),
        ("keys = 3\n", "no tables"),
        ('[keys.a]\nsha256 = "12"\nindexes = ["*"]\n', "no SHA-256"),
        (f'[keys.a]\nsha256 = "{digest_of("x")}"\n', "indexes must be a list"),
        (f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = "harbour"\n', "indexes must be a list"),
        (f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\nwrites = true\n', "'writes' is not known"),
        (f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\nwrite = 1\n', "true or false"),
        (f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\nmax_tokens = 0\n', "max_tokens=0"),
        (
            f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\noptions = {{ k = 3 }}\n',
            "Unknown option k",
        ),
        (f'[keys."a b"]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\n', "no name of a key"),
        (
            f'[keys.a]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\n'
            f'[keys.b]\nsha256 = "{digest_of("x")}"\nindexes = ["*"]\n',
            "Two keys have the hash",
        ),
    ],
)
def test_a_keys_file_that_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_keys(keys_file(tmp_path / "keys.toml", text))


def test_a_keys_file_that_is_missing_or_empty_lets_nobody_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        KeyFile(tmp_path / "none.toml")
    with pytest.raises(InputError, match="holds no key"):
        KeyFile(keys_file(tmp_path / "empty.toml", ""))


def test_a_key_is_taken_away_and_given_while_the_server_runs(tmp_path: Path) -> None:
    path = keys_file(tmp_path / "keys.toml", key_text(READER, "first"))
    file = KeyFile(path)
    assert file.ring().caller("first") == READER
    keys_file(path, key_text(CHIEF, "second"))
    os.utime(path, ns=(1, 1))
    assert file.ring().caller("second") == CHIEF
    with pytest.raises(ServerError):
        file.ring().caller("first")
    keys_file(path, "")  # a mistake lets neither everybody in nor all out
    assert file.ring().caller("second") == CHIEF
    path.unlink()
    assert file.ring().caller("second") == CHIEF


def test_key_new_prints_a_key_and_keeps_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    code, key, _ = new("reader", "--keys", str(path), "--index", "harbour", "--per-minute", "30")
    assert code == 0
    assert key.strip() not in path.read_text(encoding="utf-8")
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code, second, _ = new("chief", "--keys", str(path), "--write", "--admin")
    assert code == 0
    ring = read_keys(path)
    assert ring.caller(key.strip()) == Caller("reader", frozenset({"harbour"}), requests_per_minute=30)
    assert ring.caller(second.strip()) == CHIEF


def test_key_new_keeps_what_a_person_wrote_into_the_file(tmp_path: Path) -> None:
    path = keys_file(tmp_path / "keys.toml", "# the reading room\n" + key_text(READER, "first"))
    assert new("chief", "--keys", str(path))[0] == 0
    assert path.read_text(encoding="utf-8").startswith("# the reading room\n")
    assert len(read_keys(path)) == 2


def test_key_new_refuses_a_name_twice_and_a_file_that_is_damaged(tmp_path: Path) -> None:
    path = keys_file(tmp_path / "keys.toml", key_text(READER, "first"))
    code, _, err = new("reader", "--keys", str(path))
    assert code == 2
    assert "has a key 'reader' already" in err
    path = keys_file(tmp_path / "damaged.toml", "[keys")
    assert new("other", "--keys", str(path))[0] == 2
    assert path.read_text(encoding="utf-8") == "[keys"
    assert new("no name", "--keys", str(tmp_path / "new.toml"))[0] == 2
    assert not (tmp_path / "new.toml").exists()
