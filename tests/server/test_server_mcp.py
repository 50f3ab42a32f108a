"""The tools as agents call them, by the SDK's own client: over HTTP, and over stdio in another process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError

from nbce_rag import Passage, PassageIndex

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

ZETA = "What is the code of Zeta?"
CHILD = Path(__file__).parent / "mcp_child.py"


@asynccontextmanager
async def over_http(server: Any, **options: Any) -> AsyncIterator[Any]:
    async with Client(f"{server.url}/mcp", **options) as client:
        yield client


@asynccontextmanager
async def over_stdio(command: list[str], **options: Any) -> AsyncIterator[Any]:
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with Client(parameters, **options) as client:
        yield client


async def call(client: Any, name: str, **arguments: Any) -> Any:
    """A tool's result, checked against the tool's schema."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content
    jsonschema.validate(result.structured_content, tools[name].output_schema)
    return result


async def test_what_there_is(server: Any) -> None:
    async with over_http(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert list(tools) == ["search", "fetch", "ask", "compare", "list_indexes"]
        for tool in tools.values():
            assert tool.output_schema is not None
            assert tool.description
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint
            assert "context" not in tool.input_schema["properties"]
        assert tools["search"].input_schema["required"] == ["query"]
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["nbce://{index}/{passage_id}"]
        assert [prompt.name for prompt in (await client.list_prompts()).prompts] == ["answer-with-sources"]
        result = await call(client, "list_indexes")
        assert [(one["name"], one["passages"]) for one in result.structured_content["indexes"]] == [
            ("codes", 3),
            ("laws", 1),
        ]
        assert result.content[0].text == "codes: 3 passages of 3 sources\nlaws: 1 passages of 1 sources"


def test_there_is_nothing_to_listen_to(server: Any) -> None:
    reply = server.get("/mcp", headers={"accept": "text/event-stream"})
    assert reply.status_code == 405
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_an_answer_and_its_sources(server: Any, mode: Any) -> None:
    progress: list[tuple[float, float | None, str | None]] = []

    async def told(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total, message))

    async with over_http(server, mode=mode) as client:
        result = await client.call_tool("ask", {"question": ZETA, "index": "codes"}, progress_callback=told)
        told_of = result.structured_content
        assert told_of["answer"] == "seven blue apples"
        assert not told_of["abstained"]
        [citation] = told_of["citations"]
        source = citation["sources"][0]
        assert (source["id"], source["number"], source["verbatim"]) == ("codes/zeta", 1, True)
        assert source["quote"] == "seven blue apples"
        read = {one["id"]: one for one in told_of["passages"]}
        assert read["codes/zeta"]["number"] == 1
        assert read["codes/zeta"]["url"] == f"{server.url}/source/codes/zeta"
        assert read["codes/omega"]["url"] == "https://example.org/omega"
        text, link = result.content
        assert "seven blue apples[1]" in text.text
        assert "codes/zeta.md" in text.text
        assert (link.type, link.uri, link.title) == ("resource_link", "nbce://codes/zeta", "Zeta")
        [contents] = (await client.read_resource(link.uri)).contents
        assert contents.text == "The code of Zeta is seven blue apples."
    done = [one for one, _, _ in progress]
    assert done == sorted(done)
    assert progress[0][2] == "Reading 3 passages"
    assert progress[-1][2] == "Done"


async def test_search_and_fetch_are_what_chatgpt_reads(server: Any) -> None:
    async with over_http(server) as client:
        result = await call(client, "search", query=ZETA)
        [content] = result.content
        assert json.loads(content.text) == result.structured_content
        first = result.structured_content["results"][0]
        assert {"id", "title", "url"} <= set(first)
        assert (first["id"], first["title"]) == ("codes/zeta", "Zeta")
        result = await call(client, "fetch", id=first["id"])
        [content] = result.content
        assert json.loads(content.text) == result.structured_content
        document = result.structured_content
        assert set(document) == {"id", "title", "text", "url", "metadata"}
        assert document["text"] == "The code of Zeta is seven blue apples."
        assert document["metadata"]["year"] == 1990
        some = await call(client, "search", query=ZETA, index="codes", k=1, where={"year": {"$lt": 1990}})
        assert [one["id"] for one in some.structured_content["results"]] == ["codes/ferry"]


async def test_who_says_what(server: Any) -> None:
    async with over_http(server) as client:
        result = await call(client, "compare", question=ZETA, index=["codes"])
        groups = result.structured_content["groups"]
        assert groups[0]["answer"] == "seven blue apples"
        assert [one["id"] for one in groups[0]["passages"]] == ["codes/zeta"]
        assert "seven blue apples" in result.content[0].text


async def test_the_prompt_brings_its_passages(server: Any) -> None:
    async with over_http(server) as client:
        prompt = await client.get_prompt("answer-with-sources", {"question": ZETA, "index": "codes"})
        *passages, last = [message.content for message in prompt.messages]
        assert passages[0].resource.uri == "nbce://codes/zeta"
        assert last.text.endswith(f"Question: {ZETA}")
        assert "[1] Zeta" in last.text


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ask", {"question": ZETA, "index": "secrets"}, "There is no index 'secrets'"),
        ("ask", {"question": "  "}, "is empty"),
        ("ask", {"question": ZETA, "k": 0}, "greater than or equal to 1"),
        ("search", {"query": ZETA, "where": {"year": {"$near": 1}}}, "$near"),
        ("search", {"query": ZETA, "index": []}, "There is no index to search"),
        ("fetch", {"id": "codes/nothing"}, "has no passage 'nothing'"),
        ("fetch", {"id": "nowhere/zeta"}, "There is no index 'nowhere'"),
        ("compare", {"question": ZETA, "index": "codes", "where": {"year": 3}}, "No passage was found: "),
    ],
)
async def test_errors_say_what_is_wrong(server: Any, name: str, arguments: Any, message: str) -> None:
    async with over_http(server) as client:
        result = await client.call_tool(name, arguments)
        assert result.is_error
        assert message in result.content[0].text


async def test_nothing_found_is_an_abstention(server: Any) -> None:
    async with over_http(server) as client:
        result = await call(client, "ask", question=ZETA, index="codes", where={"year": 3})
        assert result.structured_content["abstained"]
        assert result.structured_content["citations"] == []


async def test_resources_that_are_not_there(server: Any) -> None:
    async with over_http(server) as client:
        for uri in ("nbce://codes/nothing", "nbce://nowhere/zeta", "nbce://codes/..%2F..%2Fetc%2Fpasswd"):
            with pytest.raises(MCPError, match=r"There is no index|has no passage"):
                await client.read_resource(uri)


async def test_what_stands_around_a_passage(
    reading_nbce: Any, run_app: Callable[..., Any], tmp_path: Path
) -> None:
    from index_tools import bag_of_words

    from nbce_rag.server import Served, create_app

    index = PassageIndex.create(tmp_path / "index", bag_of_words)
    texts = ["It begins here.", "The code of Zeta is nine.", "It ends here."]
    starts = [0, 16, 42]
    index.add(
        Passage(text, id=str(place), source="a.txt", start=start, end=start + len(text))
        for place, (text, start) in enumerate(zip(texts, starts, strict=True))
    )
    running = run_app(create_app(served=Served(reading_nbce, {"one": index})))
    async with over_http(running) as client:
        metadata = (await call(client, "fetch", id="one/1")).structured_content["metadata"]
        assert (metadata["before"].strip(), metadata["after"].strip()) == ("It begins here.", "It ends here.")


async def test_ids_may_be_anything(reading_nbce: Any, run_app: Callable[..., Any], tmp_path: Path) -> None:
    from index_tools import bag_of_words

    from nbce_rag.server import Served, create_app

    odd = "/docs/Über uns.md#3?a=b%20/.."
    index = PassageIndex.create(tmp_path / "index", bag_of_words)
    index.add([Passage("The code of Zeta is nine.", id=odd, metadata={"page": 4}, title="About us")])
    running = run_app(create_app(served=Served(reading_nbce, {"Odd.Ones": index})))
    async with over_http(running) as client:
        result = await call(client, "ask", question=ZETA)
        link = result.content[1]
        assert link.title == "About us, page 4"
        assert (await client.read_resource(link.uri)).contents[0].text == "The code of Zeta is nine."
        [one] = (await call(client, "search", query=ZETA)).structured_content["results"]
        assert (await call(client, "fetch", id=one["id"])).structured_content[
            "text"
        ] == "The code of Zeta is nine."


async def test_only_what_a_key_may_read(
    reading_nbce: Any, server_indexes: Any, run_app: Callable[..., Any], tmp_path: Path
) -> None:
    from nbce_rag.server import Served, ServerSettings, create_app
    from nbce_rag.server.access import Caller
    from nbce_rag.server.key_file import key_text

    keys = tmp_path / "keys.toml"
    keys.write_text(key_text(Caller("lawyer", frozenset({"laws"})), "secret"))
    keys.chmod(0o600)
    running = run_app(create_app(ServerSettings(keys=keys), Served(reading_nbce, server_indexes)))

    def transport(key: str) -> Any:
        client = create_mcp_http_client(headers={"Authorization": f"Bearer {key}"})
        return streamable_http_client(f"{running.url}/mcp", http_client=client)

    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert running.post("/mcp", INITIALIZE, headers=headers).status_code == 401
    async with Client(transport("secret")) as client:
        result = await call(client, "list_indexes")
        assert [one["name"] for one in result.structured_content["indexes"]] == ["laws"]
        results = (await call(client, "search", query=ZETA)).structured_content["results"]
        assert {one["index"] for one in results} == {"laws"}
        assert "sig=" in results[0]["url"]
        for name, arguments in (
            ("ask", {"question": ZETA, "index": "codes"}),
            ("fetch", {"id": "codes/zeta"}),
        ):
            refused: Any = await client.call_tool(name, arguments)
            assert refused.is_error
            assert "There is no index 'codes'" in refused.content[0].text
        with pytest.raises(MCPError, match="There is no index 'codes'"):
            await client.read_resource("nbce://codes/zeta")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_leaving_frees_the_rows(
    reading_nbce: Any,
    server_indexes: Any,
    run_app: Callable[..., Any],
    mode: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nbce_rag.engine.batch import Batch
    from nbce_rag.server import Served, create_app
    from nbce_rag.server.served import load_of

    step = Batch.step

    def slow(batch: Batch) -> None:  # so that 900 tokens outlast whatever else the machine has to do
        time.sleep(0.02)
        step(batch)

    monkeypatch.setattr(Batch, "step", slow)
    # So hot that it never comes to an end.
    served = Served(reading_nbce.updated(temperature=50.0, seed=1), server_indexes)
    begun = asyncio.Event()

    async def told(done: float, total: float | None, message: str | None) -> None:
        if message == "Answering":
            begun.set()

    async with over_http(run_app(create_app(served=served)), mode=mode) as client:
        arguments = {"question": ZETA, "index": "codes", "max_tokens": 900}
        asking = asyncio.ensure_future(client.call_tool("ask", arguments, progress_callback=told))
        waiting = asyncio.ensure_future(begun.wait())
        await asyncio.wait({asking, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert not asking.done()
        assert load_of(served).running == 1
        asking.cancel()
        await asyncio.wait([asking])
        until = time.monotonic() + 20
        while load_of(served).running and time.monotonic() < until:
            await asyncio.sleep(0.02)
    assert load_of(served).running == 0


@pytest.fixture(scope="module")
def stdio_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index for the process of its own."""
    from index_tools import bag_of_words

    path = tmp_path_factory.mktemp("stdio") / "codes"
    with PassageIndex.create(path, bag_of_words) as index:
        index.add([Passage("The code of Zeta is seven blue apples.", id="zeta", title="Zeta")])
    return path


def child(index: Path, seconds: float = 0.0) -> list[str]:
    return [sys.executable, str(CHILD), str(index), str(seconds)]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_over_stdio(stdio_index: Path, mode: Any) -> None:
    async with over_stdio(child(stdio_index), mode=mode) as client:
        assert len((await client.list_tools()).tools) == 5
        result = await call(client, "ask", question=ZETA)
        assert result.structured_content["answer"] == "seven blue apples"
        assert result.structured_content["passages"][0]["url"] == "nbce://codes/zeta"
        assert (await client.read_resource(result.content[1].uri)).contents[0].text.startswith("The code")
        refused = await client.call_tool("ask", {"question": ZETA, "index": "secrets"})
        assert "There is no index 'secrets'" in refused.content[0].text


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "a test", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def asking(number: int, question: str, **arguments: Any) -> dict[str, Any]:
    parameters = {"name": "ask", "arguments": {"question": question, **arguments}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": parameters}


class Child:
    """The process, and what it says line by line."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def send(self, *messages: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        for message in messages:
            self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        message: dict[str, Any] = json.loads(self.process.stdout.readline())
        return message

    def end(self) -> tuple[str, str]:
        return self.process.communicate(timeout=60)


def test_initialize_is_answered_while_nothing_is_loaded(stdio_index: Path) -> None:
    process = Child(child(stdio_index, 600))
    process.send(INITIALIZE)
    assert process.read()["result"]["serverInfo"]["name"] == "nbce-rag"
    process.send(INITIALIZED, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
    assert len(process.read()["result"]["tools"]) == 5
    process.send(asking(3, ZETA))
    out, _ = process.end()  # the end of stdin ends it, though the call still waits
    assert process.process.returncode == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in out.splitlines())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_end_it_and_what_is_open_is_closed(stdio_index: Path, name: str) -> None:
    process = Child(child(stdio_index))
    process.send(INITIALIZE, INITIALIZED, asking(2, ZETA))
    process.read()
    assert process.read()["result"]["structuredContent"]["answer"] == "seven blue apples"
    process.process.send_signal(getattr(signal, name))
    assert process.process.wait(timeout=60) == 0
    out, err = process.end()
    assert out == ""
    assert "a library prints something" in err
    assert "and so does one that is written in C" in err
    assert err.rstrip().endswith("closed")


def test_the_end_of_stdin_closes_what_is_open(stdio_index: Path) -> None:
    process = Child(child(stdio_index))
    process.send(INITIALIZE, INITIALIZED, asking(2, ZETA))
    process.read()
    process.read()
    _, err = process.end()
    assert process.process.returncode == 0
    assert err.rstrip().endswith("closed")


def test_a_cancelled_call_is_not_answered(stdio_index: Path) -> None:
    process = Child(child(stdio_index))
    process.send(INITIALIZE, INITIALIZED, asking(2, "Tell me a story", max_tokens=400))
    process.read()
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": 2}}
    process.send({"jsonrpc": "2.0", **cancelled}, asking(3, ZETA))
    while (message := process.read())["id"] != 3:
        assert message["id"] == 2
    assert message["result"]["structuredContent"]["answer"] == "seven blue apples"
    process.end()


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nbce_rag", "mcp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, input="")


def test_an_index_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    done = run_command("--index", str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "There is no index at" in done.stderr


def test_names_of_indexes(stdio_index: Path) -> None:
    from nbce_rag.cli.named_indexes import named_indexes
    from nbce_rag.errors import InputError

    place = str(stdio_index)
    assert named_indexes([place]) == {"codes": place}
    assert named_indexes([f"mine={place}", place]) == {"mine": place, "codes": place}
    with pytest.raises(InputError, match="name one: --index OTHER="):
        named_indexes([place, place])


@pytest.mark.packaged
async def test_the_packaged_model_over_stdio(tmp_path: Path) -> None:
    (tmp_path / "ferry.txt").write_text("The ferry to the island is run by Ada and leaves at noon.")
    index = tmp_path / "my-index"
    subprocess.run(
        [sys.executable, "-m", "nbce_rag", "index", str(tmp_path), "--index", str(index)], check=True
    )
    arguments = ["-m", "nbce_rag", "mcp", "--index", f"harbour={index}", "--max-tokens", "12"]
    async with over_stdio([sys.executable, *arguments], read_timeout_seconds=280) as client:
        result = await call(client, "ask", question="Who runs the ferry?")
        assert "Ada" in result.structured_content["answer"]
        assert result.structured_content["citations"][0]["sources"][0]["id"].startswith("harbour/")
