"""The description of the interface: every example in it runs, and what it says holds for all that is sent."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from index_tools import bag_of_words
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage
from nbce_rag.server import Served, create_app

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

_FEW = 6
EXAMPLES = int(os.environ.get("NBCE_FUZZ_EXAMPLES", _FEW))  # of each operation
CHECKS: Any = (
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


@pytest.fixture(scope="module")
def described(
    reading_nbce: Any, run_app: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A server with the index that examples name."""
    index = PassageIndex.create(tmp_path_factory.mktemp("openapi") / "my-index", bag_of_words)
    index.add([Passage("Ada runs the ferry.", id="ferry", source="ferry.txt")])
    return run_app(create_app(served=Served(reading_nbce.updated(max_tokens=8), {"my-index": index})))


def examples(api: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, body) of every example."""
    for path, methods in api["paths"].items():
        if "requestBody" not in methods.get("post", {}):
            continue
        schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = schema["$ref"].rpartition("/")[2]
        for body in api["components"]["schemas"][name]["examples"]:
            yield path.replace("{vector_store_id}", "my-index"), body


def test_every_example_runs(described: Any) -> None:
    api = described.get("/openapi.json").json()
    paths = set()
    for path, body in examples(api):
        reply = described.post(path, body)
        assert reply.status_code == 200, (path, reply.text)
        paths.add(path)
    posts = {path for path, methods in api["paths"].items() if "post" in methods}
    assert {path.replace("my-index", "{vector_store_id}") for path in paths} == posts
    assert all(methods[verb].get("description") for methods in api["paths"].values() for verb in methods)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_the_description_holds_for_whatever_is_sent(described: Any, mode: GenerationMode) -> None:
    api = schemathesis.openapi.from_url(f"{described.url}/openapi.json", timeout=60)
    for result in api.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        if mode == GenerationMode.NEGATIVE and operation.method != "post":
            continue  # there is nothing to be wrong in

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=EXAMPLES == _FEW,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                case.body["model"] = "nbce"
            case.call_and_validate(checks=CHECKS, timeout=60)

        holds()


def test_the_reply_of_a_stream_is_described(described: Any) -> None:
    api = described.get("/openapi.json").json()
    content = api["paths"]["/v1/ask"]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert "Report" in api["components"]["schemas"]


def test_the_page_of_the_interface_stands_alone(described: Any) -> None:
    reply = httpx.get(described.url + "/docs")
    assert reply.status_code == 200
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    for path in described.get("/openapi.json").json()["paths"]:
        assert path in reply.text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
    assert {one for one in addresses if not one.startswith("#")} == {"openapi.json"}
    line = html.unescape(re.findall(r"<pre>(curl \S+/v1/score .*?)</pre>", reply.text, re.DOTALL)[0])
    done = subprocess.run(["curl", "-sS", *shlex.split(line)[1:]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["best"] in ("Ada", "Bob")
