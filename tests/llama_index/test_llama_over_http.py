"""LlamaIndex's LLM over a server: the same responses as over an engine in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("llama_index.core")
pytest.importorskip("fastapi")

from http_tools import serving
from llama_index.core.base.llms.types import ChatMessage, CitableBlock, TextBlock
from llama_index.core.base.response.schema import Response
from llama_index.core.schema import NodeWithScore, TextNode

from llama_index_nbce import NBCELLM, NBCESynthesizer, RelevanceReranker, ResponseAttribution
from nbce_rag import NBCE, ContextLengthError, InputError, RemoteError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

QUESTION = "Who runs the ferry?"
TEXTS = ["The ferry is run by Ada.", "The mill is run by Bo."]
NODES = [
    NodeWithScore(node=TextNode(text=text, id_=str(place), metadata={"file_name": "a"}), score=score)
    for place, (text, score) in enumerate(zip(TEXTS, (0.8, 0.4), strict=True))
]


@pytest.fixture(scope="module")
def engine(tiny_loaded: Callable[..., Any]) -> NBCE:
    return NBCE(tiny_loaded("llama", chat=True), max_tokens=8)


@pytest.fixture(scope="module")
def url(engine: NBCE) -> Iterator[str]:
    from nbce_rag.server import Served, create_app

    with serving(create_app(served=Served(engine))) as address:
        yield address


def plain(response: Any) -> Any:
    """A response without what differs from call to call."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            left_out = ("timings", "cached_tokens", "id_")
            return {name: without(one) for name, one in value.items() if name not in left_out}
        return [without(one) for one in value] if isinstance(value, list) else value

    return without(json.loads(response.model_dump_json()))


def messages() -> list[ChatMessage]:
    blocks: list[Any] = [
        CitableBlock(source=str(place), title="t", content=[TextBlock(text=text)])
        for place, text in enumerate(TEXTS)
    ]
    return [ChatMessage(role="user", blocks=[*blocks, TextBlock(text=QUESTION)])]


@pytest.mark.parametrize(
    "options", [{}, {"logprobs": True, "top_logprobs": 2}, {"temperature": 0.9, "seed": 3}]
)
def test_responses_are_the_same(engine: NBCE, url: str, options: dict[str, Any]) -> None:
    local, remote = NBCELLM(engine=engine), NBCELLM(base_url=url)
    for one, other in (
        (remote.chat(messages(), **options), local.chat(messages(), **options)),
        (
            remote.complete(QUESTION, contexts=NODES, **options),
            local.complete(QUESTION, contexts=NODES, **options),
        ),
    ):
        assert plain(one) == plain(other)
    steps = [[plain(step) for step in llm.stream_chat(messages(), **options)] for llm in (remote, local)]
    assert steps[0] == steps[1]
    steps = [[plain(step) for step in llm.stream_complete(QUESTION, **options)] for llm in (remote, local)]
    assert steps[0] == steps[1]


async def test_async_is_the_same(engine: NBCE, url: str) -> None:
    local, remote = NBCELLM(engine=engine), NBCELLM(base_url=url)
    assert plain(await remote.achat(messages())) == plain(local.chat(messages()))
    assert plain(await remote.acomplete(QUESTION)) == plain(local.complete(QUESTION))
    steps = [plain(step) async for step in await remote.astream_chat(messages())]
    assert steps == [plain(step) for step in local.stream_chat(messages())]


def test_what_stands_upon_it_is_the_same(engine: NBCE, url: str) -> None:
    local, remote = NBCELLM(engine=engine), NBCELLM(base_url=url)
    known = [llm.metadata.model_copy(update={"model_name": ""}) for llm in (remote, local)]
    assert known[0] == known[1]  # the server's path is not told
    assert remote.max_tokens == local.max_tokens == 8
    best = [
        RelevanceReranker(llm, top_n=1).postprocess_nodes(NODES, query_str=QUESTION)
        for llm in (remote, local)
    ]
    assert best[0] == best[1]
    responses = [NBCESynthesizer(llm).synthesize(QUESTION, NODES) for llm in (remote, local)]
    for response in responses:
        response.metadata["nbce"]["usage"].pop("cached_tokens")
        response.metadata["nbce"].pop("timings")
    assert responses[0] == responses[1]
    response = Response("Ada.", source_nodes=NODES)
    reports = [
        ResponseAttribution(llm, ablate=True).attribute(QUESTION, response).metadata["nbce"]
        for llm in (remote, local, remote.engine)
    ]
    assert reports[0]["ablation"] == reports[1]["ablation"] == reports[2]["ablation"] is not None


def test_errors_are_the_same(engine: NBCE, url: str) -> None:
    said = []
    for llm in (NBCELLM(engine=engine), NBCELLM(base_url=url)):
        with pytest.raises(ContextLengthError) as error:
            llm.complete("word " * 4000)
        said.append(str(error.value))
    assert said[0] == said[1]
    with pytest.raises(RemoteError, match="cannot be reached"):
        NBCELLM(base_url="http://127.0.0.1:9", max_retries=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "some/model"},
        {"dtype": "float32"},
        {"kv_store": False, "device": "cpu"},
        {"load": {"dtype": "auto"}},
    ],
)
def test_what_belongs_to_loading_is_refused(url: str, arguments: dict[str, Any]) -> None:
    name = next(iter(arguments.get("load", arguments)))
    with pytest.raises(InputError, match=rf"{name}.* beside base_url='{url}'.*leave out {name}"):
        NBCELLM(base_url=url, **arguments)


def test_the_window_is_the_servers(url: str, engine: NBCE) -> None:
    with pytest.raises(InputError, match=r"engine beside base_url"):
        NBCELLM(base_url=url, engine=engine)
    with pytest.raises(UnsupportedError, match="window of 64 beside base_url"):
        NBCELLM(base_url=url, context_window=64)
    with pytest.raises(InputError, match="base_url cannot be set"):
        NBCELLM(base_url=url).base_url = "http://other"
    assert "secret" not in repr(NBCELLM(base_url=url, api_key="secret").to_dict())


def test_no_torch_is_loaded(url: str) -> None:
    code = f"""
import json, sys
from llama_index_nbce import NBCELLM, NBCESynthesizer, RelevanceReranker, ResponseAttribution
response = NBCELLM(base_url={url!r}, max_tokens=4).complete("Who?", contexts=["Ada runs the ferry."])
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps([response.raw["nbce"]["contexts"][0]["text"], heavy]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout) == ["Ada runs the ferry.", []]
