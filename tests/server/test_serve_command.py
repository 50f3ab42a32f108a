"""`nbce-rag serve`: what it refuses to start with, and one process from start to SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from index_tools import bag_of_words
from paced import until
from typer.testing import CliRunner

from nbce_rag.cli import serve
from nbce_rag.cli.main import app
from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage
from nbce_rag.server.access import Caller
from nbce_rag.server.key_file import key_text
from nbce_rag.server.process import listening_socket
from nbce_rag.server.settings import ServerSettings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerSettings]:
    """The settings that would have been served."""
    settings: list[ServerSettings] = []
    monkeypatch.setattr(serve, "_serve", settings.append)
    return settings


def run(*arguments: str, **environ: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["serve", *arguments], env=environ)
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "There is no index at 'nowhere'"),
        (("--index", "harbour=nowhere"), "to be served as 'harbour'"),
        (("--index", "a/b=nowhere"), "cannot be served as 'a/b'"),
        (("x/one", "y/one"), "Two indexes would be served as 'one'"),
        (("--host", "0.0.0.0"), "nbce-rag key new"),
        (("--workers", "4"), "one process holds the model"),
        (("--limit", "max_rows"), "sets no limit"),
        (("--limit", "rows=3"), "'rows' is no limit"),
        (("--limit", "max_rows=0"), "max_rows=0"),
        (("--limit", "max_rows=x"), "limits: max_rows: 'x' is no number"),
        (("--config", "none.toml"), "none.toml cannot be read"),
        (("--cors-origin", "*"), "every page"),
    ],
)
def test_it_says_in_one_line_what_is_wrong(
    served: list[ServerSettings], arguments: tuple[str, ...], message: str
) -> None:
    code, err = run(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not served


def test_it_names_the_extra(monkeypatch: pytest.MonkeyPatch, served: list[ServerSettings]) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else find_spec(name))
    code, err = run()
    assert code == 2
    assert "needs uvicorn: pip install 'nbce-rag[server]'" in err


def test_flags_become_settings(
    served: list[ServerSettings], server_indexes: dict[str, Any], tmp_path: Path
) -> None:
    codes, laws = (str(server_indexes[name].path) for name in ("codes", "laws"))
    config = tmp_path / "server.toml"
    config.write_text("port = 1\nlog_content = true\n[limits]\nmax_rows = 9\n", encoding="utf-8")
    arguments = ("--index", f"law={laws}", "--port", "0", "--limit", "max_body_bytes=1MiB", "--limit")
    code, err = run(
        codes, *arguments, "max_waiting=3", "--device", "cpu", NBCE_CONFIG=str(config), NBCE_HOST="::1"
    )
    assert code == 0, err
    [settings] = served
    assert dict(settings.indexes) == {"codes": Path(codes), "law": Path(laws)}
    assert (settings.host, settings.port, settings.log_content) == ("::1", 0, True)
    limits = settings.limits
    assert (limits.max_body_bytes, limits.max_waiting, limits.max_rows) == (1 << 20, 3, 9)
    assert settings.opening == {"device": "cpu"}


def test_the_only_index_brings_its_keys_and_values(
    served: list[ServerSettings], server_indexes: dict[str, Any]
) -> None:
    index = server_indexes["laws"]
    (index.path / "kv").mkdir(exist_ok=True)
    try:
        assert run(str(index.path))[0] == 0
    finally:
        (index.path / "kv").rmdir()
    assert served[0].opening == {"kv_store": str(index.path / "kv")}


def test_a_process_from_its_start_to_its_end(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(key_text(Caller("reader", frozenset()), "reader-key"), encoding="utf-8")
    flags = ["--port", "0", "--keys", str(keys), "--dtype", "float32", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nbce_rag", "serve", "--model", str(tiny_folder("llama", chat=True)), *flags],
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("wb"),
        text=True,
        env={**os.environ, "NBCE_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        greeting = [process.stdout.readline().strip() for _ in range(6)]
        url = greeting[0].removeprefix("nbce-rag at ")
        assert greeting[1] == "indexes: none"
        assert greeting[3] == "keys: on, 1"
        assert "the page" in greeting[5]
        until(lambda: _status(url + "/livez") == 200)  # before the model is there
        until(lambda: _status(url + "/readyz") == 200, 200)
        body = {"question": "Who?", "documents": ["Ada did it."], "options": {"max_tokens": 3}}
        assert httpx.post(url + "/v1/ask", json=body).status_code == 401
        headers = {"authorization": "Bearer reader-key", "x-request-id": "the-one"}
        reply = httpx.post(url + "/v1/ask", json=body, headers=headers, timeout=60)
        assert reply.status_code == 200, reply.text
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()
    log = (tmp_path / "log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line.get("request_id") == "the-one"]
    assert (line["key"], line["endpoint"], line["status"]) == ("reader", "/v1/ask", 200)
    assert "Ada" not in log
    assert "reader-key" not in log
    assert {line["logger"].partition(".")[0] for line in lines} == {"nbce_rag"}


def test_a_port_that_is_taken_is_told_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError) as told:
            listening_socket("127.0.0.1", port)
    assert str(told.value).count(str(port)) == 1
    assert "(Address already in use); take another --port" in str(told.value)


def _status(url: str) -> int:
    try:
        return httpx.get(url, timeout=60).status_code
    except httpx.HTTPError:
        return 0


def test_an_index_in_a_database_is_served_too(served: list[ServerSettings], postgres_url: str) -> None:
    code, err = run(postgres_url)
    assert code == 2
    assert "There is no index at" in err
    with PassageIndex.create(postgres_url, bag_of_words) as index:
        index.add([Passage("The ferry is run by Ada.", id="ferry")])
    code, err = run("--index", f"ships={postgres_url}")
    assert (code, err) == (0, "")
    assert served[-1].indexes == {"ships": postgres_url}
