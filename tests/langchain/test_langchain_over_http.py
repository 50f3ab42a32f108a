"""LangChain's models over a server: messages as over an engine in this process, and LangChain's suites."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_tests")
pytest.importorskip("fastapi")

from http_tools import serving
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps, loads
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_nbce import NBCELLM, ChatNBCE, PassageAttribution, RelevanceReranker
from nbce_rag import NBCE, AnswerTimeoutError, ContextLengthError, InputError, RemoteError, RemoteNBCE

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")


@pytest.fixture(scope="session")
def taught_url(taught_folder: Path) -> Iterator[str]:
    """A server over the model that was taught what the suites ask."""
    from nbce_rag.server import Served, create_app

    nbce = NBCE.from_pretrained(taught_folder, device="cpu", dtype="float32", max_tokens=160)
    with serving(create_app(served=Served(nbce))) as url:
        yield url


@pytest.fixture(scope="module")
def engine(tiny_loaded: Callable[..., Any]) -> NBCE:
    return NBCE(tiny_loaded("llama", chat=True), max_tokens=8)


@pytest.fixture(scope="module")
def url(engine: NBCE) -> Iterator[str]:
    from nbce_rag.server import Served, create_app

    with serving(create_app(served=Served(engine))) as address:
        yield address


class _Flags:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatNBCE

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False  # that test sends an image too

    @property
    def enable_vcr_tests(self) -> bool:
        return False  # off: it plays HTTP back from a recording, and this server is real


class TestChatNBCEOverHTTPUnit(_Flags, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": "http://127.0.0.1:9", "api_key": "never-sent"}


class TestChatNBCEOverHTTPIntegration(_Flags, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _server(self, taught_url: str) -> None:
        self.url = taught_url

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_url": self.url}


DOCUMENTS = [
    Document("The ferry is run by Ada.", id="a", metadata={"title": "Ferry", "year": 1931, "node": object()}),
    Document("The mill is run by Bo.", id="b", metadata={"relevance_score": 0.2}),
]
QUESTION = "Who runs the ferry?"


def plain(message: Any) -> dict[str, Any]:
    """A message without what differs from call to call."""
    made = json.loads(message.model_dump_json())
    made.pop("id", None)
    metadata = made.get("response_metadata", {})
    for report in (metadata.get("nbce"), metadata):
        if report:
            report.pop("timings", None)
            report.pop("model_name", None)
            if "usage" in report:
                report["usage"].pop("cached_tokens")
    if made.get("usage_metadata"):
        made["usage_metadata"].pop("input_token_details")
    return made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"temperature": 0.8, "seed": 5},
        {"output_version": "v1"},
        {"fusion": "experts", "stop": ["x"]},
    ],
)
def test_messages_are_the_same(engine: NBCE, url: str, options: dict[str, Any]) -> None:
    local, remote = ChatNBCE(engine=engine, **options), ChatNBCE(base_url=url, **options)
    for contexts in (DOCUMENTS, None):
        assert plain(remote.invoke(QUESTION, contexts=contexts)) == plain(
            local.invoke(QUESTION, contexts=contexts)
        )
    chunks = [list(one.stream(QUESTION, contexts=DOCUMENTS)) for one in (remote, local)]
    assert [plain(chunk) for chunk in chunks[0]] == [plain(chunk) for chunk in chunks[1]]


async def test_async_and_batches_are_the_same(engine: NBCE, url: str) -> None:
    local, remote = ChatNBCE(engine=engine), ChatNBCE(base_url=url)
    questions: list[Any] = [QUESTION, "Who runs the mill?", QUESTION]
    expected = [plain(one) for one in local.batch(questions, contexts=DOCUMENTS)]
    assert [
        plain(one) for one in await asyncio.to_thread(remote.batch, questions, contexts=DOCUMENTS)
    ] == expected
    assert [plain(one) for one in await remote.abatch(questions, contexts=DOCUMENTS)] == expected
    assert plain(await remote.ainvoke(QUESTION, contexts=DOCUMENTS)) == expected[0]
    text = "".join([chunk.text async for chunk in remote.astream(QUESTION, contexts=DOCUMENTS)])
    assert text == expected[0]["content"]


def test_structured_output_and_tools_are_the_same(engine: NBCE, url: str) -> None:
    schema = {"title": "Name", "type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    for one in (ChatNBCE(engine=engine), ChatNBCE(base_url=url)):
        assert one.with_structured_output(schema).invoke(QUESTION) in ({"n": 1}, {"n": 2})
    tool = {"name": "go", "description": "Go.", "parameters": {"type": "object", "properties": {}}}
    made = [
        one.bind_tools([tool], tool_choice="any", max_tokens=64).invoke(QUESTION)
        for one in (ChatNBCE(engine=engine), ChatNBCE(base_url=url))
    ]
    calls = [[(call["name"], call["args"]) for call in message.tool_calls] for message in made]
    assert calls[0] == calls[1] == [("go", {})]


def test_completions_are_the_same(engine: NBCE, url: str) -> None:
    local, remote = NBCELLM(engine=engine, logprobs=True), NBCELLM(base_url=url, logprobs=True)
    results = [one.generate([QUESTION, "Say"], contexts=DOCUMENTS).generations for one in (remote, local)]
    for mine, other in zip(*results, strict=True):
        assert mine[0].text == other[0].text
        assert mine[0].generation_info["logprobs"] == other[0].generation_info["logprobs"]  # type: ignore[index]
    assert list(remote.stream(QUESTION)) == list(local.stream(QUESTION))
    assert remote.get_token_ids(QUESTION) == local.get_token_ids(QUESTION)
    assert remote.get_num_tokens(QUESTION) == len(local.get_token_ids(QUESTION))


def test_reranker_and_attribution_are_the_same(engine: NBCE, url: str) -> None:
    local, remote = ChatNBCE(engine=engine), ChatNBCE(base_url=url)
    best = [
        RelevanceReranker(llm=one, top_n=1).compress_documents(DOCUMENTS, QUESTION) for one in (remote, local)
    ]
    assert best[0] == best[1]
    inputs = {"input": QUESTION, "context": DOCUMENTS, "answer": "Ada."}
    messages = [
        PassageAttribution(llm=one, ablate=True).invoke(inputs) for one in (remote, local, RemoteNBCE(url))
    ]
    assert plain(messages[0]) == plain(messages[1]) == plain(messages[2])
    assert messages[0].response_metadata["nbce"]["ablation"] is not None


def test_profiles_and_names(engine: NBCE, url: str) -> None:
    remote = ChatNBCE(base_url=url)
    assert remote.name_of() == "nbce"
    assert remote.invoke("Hi").response_metadata["model_name"] == remote.nbce().model.name == remote.name_of()
    local = ChatNBCE(engine=engine)
    local.invoke("Hi")
    assert remote.profile == local.profile


def test_errors_are_the_same(engine: NBCE, url: str) -> None:
    said = []
    for one in (ChatNBCE(engine=engine), ChatNBCE(base_url=url)):
        with pytest.raises(ContextLengthError) as error:
            one.invoke("word " * 4000)
        said.append(str(error.value))
        with pytest.raises(AnswerTimeoutError):
            one.invoke(QUESTION, max_seconds=1e-9)
        with pytest.raises(InputError, match="max_tokens=0"):
            one.invoke(QUESTION, max_tokens=0)
    assert said[0] == said[1]
    with pytest.raises(RemoteError, match="cannot be reached"):
        ChatNBCE(base_url="http://127.0.0.1:9", max_retries=0).invoke(QUESTION)


@pytest.mark.parametrize(
    "field",
    [
        {"dtype": "float32"},
        {"model": "some/model"},
        {"load": {"kv_store": False}},
        {"device": "cpu", "backend": "llama.cpp"},
    ],
)
@pytest.mark.parametrize("kind", [ChatNBCE, NBCELLM])
def test_what_belongs_to_loading_is_refused(kind: Any, field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{', '.join(field)} beside base_url='http://host'.*leave out"):
        kind(base_url="http://host", **field)


def test_another_model_than_the_servers(url: str) -> None:
    with pytest.raises(InputError, match=r"model='other' beside base_url=.*the server has one model"):
        ChatNBCE(base_url=url).invoke(QUESTION, model="other")
    assert ChatNBCE(base_url=url).invoke(QUESTION, model="nbce").content


def test_it_is_written_and_sent_without_its_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = ChatNBCE(base_url=url, api_key="secret", max_tokens=4)
    llm.invoke(QUESTION)
    text = dumps(llm)
    assert "secret" not in text
    back = loads(text, allowed_objects=[ChatNBCE], valid_namespaces=["langchain_nbce"])
    assert (back.base_url, back.max_tokens) == (url, 4)
    assert pickle.loads(pickle.dumps(llm)).invoke(QUESTION).content == llm.invoke(QUESTION).content
    assert "secret" not in repr(llm)
    assert ChatNBCE(base_url=url)._get_llm_string() != ChatNBCE(base_url=f"{url}/other")._get_llm_string()


def test_no_torch_is_loaded(url: str) -> None:
    # What LangChain loads by itself is not ours: older versions load transformers, and numpy with it.
    code = f"""
import json, sys
import langchain_core.language_models.chat_models
theirs = set(sys.modules)
from langchain_nbce import ChatNBCE, NBCELLM, PassageAttribution, RelevanceReranker
message = ChatNBCE(base_url={url!r}).invoke("Who runs the ferry?", contexts=["Ada runs the ferry."])
list(NBCELLM(base_url={url!r}).stream("Who?"))
names = ("torch", "faiss", "transformers", "numpy")
heavy = [name for name in names if name in sys.modules and (name not in theirs or name in ("torch", "faiss"))]
print(json.dumps([message.response_metadata["nbce"]["contexts"][0]["text"], heavy]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == ["Ada runs the ferry.", []]
