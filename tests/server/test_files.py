"""Files over HTTP: upload, taking in, progress, cancelling, deleting; whose they are, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from index_tools import bag_of_words
from paced import until
from server_keys import CHIEF, STRANGER

from nbce_rag.errors import NbceError
from nbce_rag.index import PassageIndex
from nbce_rag.server import Served, ServerSettings, create_app
from nbce_rag.server.access import NOBODY_ELSE, Caller
from nbce_rag.server.job import Job
from nbce_rag.server.jobs import Jobs
from nbce_rag.server.limits import Limits
from nbce_rag.server.uploads import Uploads, plain_name
from nbce_rag.server.wire.errors import ServerError

TEXT = b"The lighthouse keeper of Morra is called Ines.\n\nShe keeps bees."


class Client:
    """A server with an index that takes files."""

    def __init__(self, server: Any, index: PassageIndex, headers: dict[str, str] | None = None) -> None:
        self.server, self.index, self.headers = server, index, headers or {}

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return httpx.request(method, self.server.url + path, headers=self.headers, timeout=60, **options)

    def upload(self, content: bytes = TEXT, name: str = "morra.txt", **fields: str) -> httpx.Response:
        return self.ask("POST", "/v1/files", files={"file": (name, content)}, data=fields)

    def take_in(self, file_id: str, **fields: Any) -> httpx.Response:
        return self.ask("POST", "/v1/vector_stores/notes/files", json={"file_id": file_id, **fields})

    def status(self, file_id: str) -> dict[str, Any]:
        reply: dict[str, Any] = self.ask("GET", f"/v1/vector_stores/notes/files/{file_id}").json()
        return reply

    def settled(self, file_id: str) -> dict[str, Any]:
        until(lambda: self.status(file_id)["status"] != "in_progress")
        return self.status(file_id)


@pytest.fixture
def notes(tmp_path: Path) -> Any:
    with PassageIndex.create(tmp_path / "notes", bag_of_words) as index:
        yield index


@pytest.fixture
def client(reading_nbce: Any, notes: PassageIndex, run_app: Callable[..., Any], tmp_path: Path) -> Client:
    settings = ServerSettings(
        allow_write=True, files=tmp_path / "files", limits=Limits(max_upload_bytes=10_000, max_files=3)
    )
    return Client(run_app(create_app(settings, Served(reading_nbce, {"notes": notes}))), notes)


def test_a_file_becomes_passages_that_are_found_and_goes_again(client: Client) -> None:
    uploaded = client.upload().json()
    assert (uploaded["object"], uploaded["filename"], uploaded["bytes"]) == ("file", "morra.txt", len(TEXT))
    file_id = uploaded["id"]
    begun = client.take_in(file_id, attributes={"town": "Morra"}).json()
    assert (begun["id"], begun["object"], begun["vector_store_id"]) == (file_id, "vector_store.file", "notes")
    done = client.settled(file_id)
    assert done["status"] == "completed", done
    assert done["nbce"]["passages"] == done["nbce"]["total"] == len(client.index) > 0
    assert done["attributes"] == {"town": "Morra"}
    [passage, *_] = client.index.search("lighthouse keeper", 1, {"town": "Morra"})
    assert (passage.metadata["file_id"], passage.metadata["filename"]) == (file_id, "morra.txt")
    listed = client.ask("GET", "/v1/vector_stores/notes/files").json()
    assert [entry["id"] for entry in listed["data"]] == [file_id]
    gone = client.ask("DELETE", f"/v1/vector_stores/notes/files/{file_id}").json()
    assert gone == {"id": file_id, "object": "vector_store.file.deleted", "deleted": True}
    assert len(client.index) == 0
    assert client.ask("GET", f"/v1/vector_stores/notes/files/{file_id}").status_code == 404
    assert client.ask("GET", f"/v1/files/{file_id}").status_code == 200  # the file is still there
    assert client.ask("DELETE", f"/v1/files/{file_id}").json()["deleted"]
    assert client.ask("GET", f"/v1/files/{file_id}").status_code == 404


def test_a_file_may_go_into_an_index_at_once(client: Client) -> None:
    file_id = client.upload(index="notes").json()["id"]
    assert client.settled(file_id)["status"] == "completed"
    assert client.upload(index="nothing").status_code == 404
    assert len(client.ask("GET", "/v1/files").json()["data"]) == 1


def test_taken_in_twice_it_is_there_once(client: Client) -> None:
    file_id = client.upload(index="notes").json()["id"]
    client.settled(file_id)
    count = len(client.index)
    client.take_in(file_id)
    assert client.settled(file_id)["status"] == "completed"
    assert len(client.index) == count


def test_what_was_taken_in_is_known_after_a_new_start(
    client: Client, reading_nbce: Any, run_app: Callable[..., Any]
) -> None:
    file_id = client.upload(index="notes").json()["id"]
    client.settled(file_id)
    settings = client.server.app.state.settings
    other = Client(run_app(create_app(settings, Served(reading_nbce, {"notes": client.index}))), client.index)
    assert other.status(file_id)["status"] == "completed"
    assert other.ask("GET", f"/v1/files/{file_id}/content").content == TEXT
    assert other.ask("DELETE", f"/v1/vector_stores/notes/files/{file_id}").status_code == 200
    assert len(client.index) == 0


def test_several_files_at_once(client: Client) -> None:
    files = [client.upload(f"Note {number}.".encode(), f"{number}.txt").json()["id"] for number in range(2)]
    path = "/v1/vector_stores/notes/file_batches"
    batch = client.ask("POST", path, json={"file_ids": files}).json()
    assert batch["file_counts"]["total"] == 2
    until(lambda: client.ask("GET", f"{path}/{batch['id']}").json()["status"] != "in_progress")
    assert client.ask("GET", f"{path}/{batch['id']}").json()["file_counts"]["completed"] == 2
    assert len(client.ask("GET", f"{path}/{batch['id']}/files").json()["data"]) == 2
    cancelled = client.ask("POST", f"{path}/{batch['id']}/cancel").json()
    assert cancelled["status"] == "completed"  # what is over stays
    assert len(client.index) == 2


@pytest.mark.parametrize(
    ("name", "content", "status", "word"),
    [
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00\x00", 400, "no type that is read"),
        ("empty.txt", b"", 400, "is empty"),
        ("long.txt", b"x" * 10_001, 413, "max_upload_bytes"),
        ("longer.txt", b"x" * 200_000, 413, "max_upload_bytes"),
    ],
)
def test_what_is_no_file_for_us_leaves_nothing(
    client: Client, name: str, content: bytes, status: int, word: str
) -> None:
    reply = client.upload(content, name)
    assert reply.status_code == status
    assert word in reply.json()["error"]["message"]
    assert client.ask("GET", "/v1/files").json()["data"] == []
    folder = client.server.app.state.settings.files
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_file_that_cannot_be_read_fails_alone_and_says_why(client: Client) -> None:
    file_id = client.upload(b"%PDF-1.4 broken", "broken.pdf", index="notes").json()["id"]
    entry = client.settled(file_id)
    assert entry["status"] == "failed"
    assert entry["last_error"]["message"]
    assert str(client.server.app.state.settings.files) not in str(entry)  # no path of the server's
    assert len(client.index) == 0
    good = client.upload(index="notes").json()["id"]
    assert client.settled(good)["status"] == "completed"


def test_a_key_has_so_many_files(client: Client) -> None:
    for _ in range(3):
        assert client.upload().status_code == 200
    assert "max_files" in client.upload().json()["error"]["message"]


@pytest.mark.parametrize(
    "attributes", [{"file_id": "x"}, {"": 1}, {"a": [1]}, {"a": "x" * 513}, {str(n): n for n in range(17)}]
)
def test_attributes_are_checked(client: Client, attributes: dict[str, Any]) -> None:
    file_id = client.upload().json()["id"]
    assert client.take_in(file_id, attributes=attributes).status_code == 400


def test_without_being_switched_on_nothing_is_taken(server: Any) -> None:
    reply = httpx.post(server.url + "/v1/files", files={"file": ("a.txt", b"x")}, timeout=60)
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "write_disabled"


def test_a_key_without_write_uploads_nothing(keyed_server: Any, server_indexes: dict[str, Any]) -> None:
    hasty = Client(keyed_server, server_indexes["laws"], {"x-api-key": "hasty-key"})
    reply = hasty.upload()
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "write_not_allowed"


def test_a_file_is_its_keys_own(keyed_server: Any, server_indexes: dict[str, Any]) -> None:
    chief = Client(keyed_server, server_indexes["laws"], CHIEF)
    stranger = Client(keyed_server, server_indexes["laws"], STRANGER)
    file_id = chief.upload().json()["id"]
    own = stranger.upload(b"Mine.", "mine.txt").json()["id"]
    for method, path, body in (
        ("GET", f"/v1/files/{file_id}", None),
        ("GET", f"/v1/files/{file_id}/content", None),
        ("DELETE", f"/v1/files/{file_id}", None),
        ("GET", f"/v1/vector_stores/laws/files/{file_id}", None),
        ("DELETE", f"/v1/vector_stores/laws/files/{file_id}", None),
        ("POST", "/v1/vector_stores/laws/files", {"file_id": file_id}),
        ("POST", "/v1/vector_stores/laws/file_batches", {"file_ids": [own, file_id]}),
        ("POST", "/v1/vector_stores/codes/files", {"file_id": own}),
    ):
        assert stranger.ask(method, path, json=body).status_code == 404, (method, path)
    assert [file["id"] for file in stranger.ask("GET", "/v1/files").json()["data"]] == [own]
    assert {file["id"] for file in chief.ask("GET", "/v1/files").json()["data"]} >= {own, file_id}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\b.md", "b.md"),
        (".hidden.txt", "hidden.txt"),
        ("..", "file"),
        ("", "file"),
        ("new\nline\x00.txt", "newline.txt"),
        ("x" * 300 + ".pdf", "x" * 146 + ".pdf"),
        ("港" * 100 + ".txt", "港" * 48 + ".txt"),
        ("meta.json", "file-meta.json"),
        ("\ud800.txt", "?.txt"),
    ],
)
def test_names_lead_nowhere(name: str, plain: str) -> None:
    assert plain_name(name) == plain


@pytest.mark.parametrize("file_id", ["", "file-", "file-../x", "../x", "file-a/b", ".file-a"])
def test_ids_lead_nowhere(tmp_path: Path, file_id: str) -> None:
    with pytest.raises(ServerError) as caught:
        Uploads(tmp_path, Limits()).get(NOBODY_ELSE, file_id)
    assert caught.value.status == 404


class Slow:
    """An index that waits before it stores, and says how far it is."""

    def __init__(self) -> None:
        import threading

        self.begun, self.go = threading.Event(), threading.Event()
        self.deleted: list[Path] = []

    def add_files(self, paths: list[Path], *, progress: Callable[..., None], **options: Any) -> Any:
        progress(0, 1, f"{paths[0]}: passage 256 of 700")
        self.begun.set()
        self.go.wait(30)
        progress(0, 1, f"{paths[0]}: passage 512 of 700")
        raise AssertionError("it was not cancelled")

    def delete(self, *, source: Path) -> int:
        self.deleted.append(source)
        return 512


def stored(uploads: Uploads, name: str = "a.txt") -> Any:
    return uploads.add(Caller("ann"), name, io.BytesIO(b"text"), "assistants")


def test_a_job_tells_how_far_it_is_and_ends_when_it_is_cancelled(tmp_path: Path) -> None:
    uploads, jobs, index = Uploads(tmp_path, Limits()), Jobs(Limits(max_jobs=2)), Slow()
    file, other = stored(uploads), stored(uploads)
    [job] = jobs.begin("notes", index, [(file, uploads.path(file))], {})  # type: ignore[arg-type]
    assert index.begun.wait(30)
    assert (job.status, job.passages, job.total) == ("in_progress", 256, 700)
    [again] = jobs.begin("notes", index, [(file, uploads.path(file))], {})  # type: ignore[arg-type]
    assert again is job
    [queued] = jobs.begin("notes", index, [(other, uploads.path(other))], {})  # type: ignore[arg-type]
    third = stored(uploads)
    with pytest.raises(ServerError, match="max_jobs=2") as caught:
        jobs.begin("notes", index, [(third, uploads.path(third))], {})  # type: ignore[arg-type]
    assert caught.value.status == 429
    jobs.cancel(queued)
    jobs.cancel(job)
    index.go.set()
    until(lambda: (job.status, queued.status) == ("cancelled", "cancelled"))
    assert index.deleted == [uploads.path(file)]  # nothing of it stays; of the other nothing was there
    assert job.passages == 0
    jobs.close()


def test_an_error_nobody_foresaw_fails_one_job_and_says_nothing_of_the_server(tmp_path: Path) -> None:
    class Broken(Slow):
        def add_files(self, paths: list[Path], **options: Any) -> Any:
            raise ZeroDivisionError("a secret")

    class Refusing(Slow):
        def add_files(self, paths: list[Path], **options: Any) -> Any:
            raise NbceError(f"{paths[0]}: no room")

    uploads, jobs = Uploads(tmp_path, Limits()), Jobs(Limits())
    begun: list[Job] = []
    for index in (Broken(), Refusing()):
        file = stored(uploads)
        begun += jobs.begin("notes", index, [(file, uploads.path(file))], {})  # type: ignore[arg-type]
    until(lambda: all(job.status == "failed" for job in begun))
    assert "secret" not in str(begun[0].error)
    assert begun[1].error == "no room"
    jobs.close()
