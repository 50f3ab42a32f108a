"""A server that runs: uvicorn on a free port, over a model that reads and two small indexes."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from index_tools import bag_of_words
from scripted_model import ScriptedModel
from tiny_models import build_tokenizer

from nbce_rag.passages import Passage

CODES = [
    Passage(
        "The code of Zeta is seven blue apples.",
        id="zeta",
        title="Zeta",
        source="codes/zeta.md",
        start=0,
        end=38,
        metadata={"year": 1990},
    ),
    Passage(
        "The code of Omega is 55.",
        id="omega",
        title="Omega",
        source="https://example.org/omega",
        metadata={"year": 2001},
    ),
    Passage(
        "The ferry to the island is run by Ada and leaves at noon.",
        id="ferry",
        source="ferry.txt",
        metadata={"year": 1950},
    ),
]
LAWS = [Passage("The code of Theta is nine.", id="theta", source="laws/theta.txt")]


class RunningServer:
    """An application on a port.

    Attributes:
        url: its address, without a slash at the end.
        app: the application.
    """

    def __init__(self, app: Any) -> None:
        import uvicorn

        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.app = app
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [sock]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def begin_to_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        self.begin_to_stop()
        self._thread.join(20)


@pytest.fixture(scope="session")
def reading_nbce() -> Any:
    """An engine on a model that answers "What is the code of X?"."""
    from nbce_rag.engine.nbce import NBCE
    from nbce_rag.models.transformers.loading import wrap_model

    tokenizer = build_tokenizer(chat=True)
    return NBCE(wrap_model(ScriptedModel(tokenizer), tokenizer), max_tokens=24)


@pytest.fixture(scope="session")
def server_indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Indexes `codes` and `laws`, by a cheap embedder."""
    from nbce_rag.index import PassageIndex

    indexes = {}
    for name, passages in (("codes", CODES), ("laws", LAWS)):
        indexes[name] = PassageIndex.create(tmp_path_factory.mktemp("indexes") / name, bag_of_words)
        indexes[name].add(passages)
    return indexes


@pytest.fixture(scope="session")
def run_app() -> Iterator[Callable[..., RunningServer]]:
    """`run_app(app)`: the application on a port, until all tests are over."""
    running: list[RunningServer] = []

    def run(app: Any) -> RunningServer:
        running.append(RunningServer(app))
        return running[-1]

    yield run
    for server in running:  # each waits for its connections, so all at once
        server.begin_to_stop()
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server(
    reading_nbce: Any, server_indexes: dict[str, Any], run_app: Callable[..., RunningServer]
) -> RunningServer:
    """The server over both indexes, for everybody."""
    from nbce_rag.server import Served, create_app

    return run_app(create_app(served=Served(reading_nbce, server_indexes)))


@pytest.fixture(scope="session")
def keyed_server(
    reading_nbce: Any,
    server_indexes: dict[str, Any],
    run_app: Callable[..., RunningServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> RunningServer:
    """The same behind keys: "chief" may all, "stranger" reads `laws` alone, "hasty" asks twice a minute."""
    from nbce_rag.server import Served, ServerSettings, create_app
    from nbce_rag.server.access import Caller
    from nbce_rag.server.key_file import key_text

    callers = (
        Caller("chief", None, write=True, admin=True),
        Caller("stranger", frozenset({"laws"}), write=True, max_tokens=3),
        Caller("hasty", None, requests_per_minute=2),
    )
    folder = tmp_path_factory.mktemp("keyed")
    keys = folder / "keys.toml"
    keys.write_text("\n".join(key_text(one, f"{one.name}-key") for one in callers), encoding="utf-8")
    settings = ServerSettings(keys=keys, allow_write=True, files=folder / "files")
    return run_app(create_app(settings, Served(reading_nbce, server_indexes)))
