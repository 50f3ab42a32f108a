"""What vLLM's servers cannot do is refused by name, and so are servers that cannot be used."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from test_cli import run
from vllm_tools import FakeVllm

from nbce_rag import NBCE, PassageKVStore, Rag, load_model
from nbce_rag.errors import InputError, MissingDependencyError, ModelError, NbceWarning, RemoteError
from nbce_rag.fusion import RULES, Fused, MinEntropy
from nbce_rag.models.loading import is_served
from nbce_rag.models.vllm import transport
from nbce_rag.models.vllm.loading import server_urls
from nbce_rag.models.vllm.wire import Hello

HELLO = Hello("0", "0.32.0", tuple(RULES))


@pytest.fixture
def fake(tiny_loaded: Callable[..., Any], tiny_folder: Callable[..., Path]) -> Iterator[FakeVllm]:
    with FakeVllm(tiny_loaded("llama"), str(tiny_folder("llama"))) as server:
        yield server


@pytest.fixture
def nbce(fake: FakeVllm) -> NBCE:
    return NBCE.from_pretrained(fake.url, prompt=TEMPLATE, max_tokens=4)


class Vote:
    """A rule of the user's own."""

    def fuse(self, log_probs: Any, state: Any) -> Fused:
        return Fused(log_probs[:, 0], log_probs[:, 1:, 0].softmax(-1))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.score(QUESTION, PASSAGES, ["a"]), r"'tiny/model' cannot score choices.*'transformers'"),
        (lambda e: e.attribute(QUESTION, PASSAGES, "Ada."), r"'tiny/model' cannot attribute a text"),
        (lambda e: e.ablate(e.answer(QUESTION, PASSAGES)), r"'tiny/model' cannot ablate an answer"),
        (lambda e: e.prefill(PASSAGES), r"'tiny/model' keeps keys and values of passages by itself"),
        (lambda e: e.answer(QUESTION, PASSAGES, regex="a+"), r"'tiny/model' cannot do what regex asks for"),
        (lambda e: e.answer(QUESTION, PASSAGES, json_schema={}), r"cannot do what json_schema asks for"),
        (lambda e: e.answer(QUESTION, PASSAGES, fusion=Vote()), r"cannot do what fusion=.*rule of your own"),
        (lambda e: e.answer(QUESTION, PASSAGES, fusion=MinEntropy(focus=0.5)), r"cannot do what focus"),
        (lambda e: e.answer(QUESTION, PASSAGES, drop_rows_after=3), r"cannot do what drop_rows_after"),
        (lambda e: NBCE(e.model, kv_store=PassageKVStore()), r"kv_store=.*'tiny/model' keeps keys"),
        (lambda e: NBCE(e.model, kv_store=True), r"kv_store=True.*leave it out, or give False"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(ask: Callable[[NBCE], Any], message: str, nbce: NBCE) -> None:
    with pytest.raises(InputError, match=message):
        ask(nbce)


def test_a_calibration_is_neither_made_nor_used(nbce: NBCE) -> None:
    from nbce_rag.engine import calibration as calibrating
    from nbce_rag.evidence.calibration import Calibration

    index: Any = None
    with pytest.raises(InputError, match="cannot be calibrated"):
        calibrating.calibrate(
            nbce._engine, index, ["q?"], lambda q, p: nbce.request(q, p), false_alarms=0.05, k=8, search={},
            progress=None,
        )  # fmt: skip
    calibration: Any = object.__new__(Calibration)
    request = replace(nbce.request(QUESTION, PASSAGES, abstain_below=0.05), calibration=calibration)
    with pytest.raises(InputError, match="abstain_below with a calibration"):
        nbce.batch([request])
    # By what the passages add to the answer's tokens it is known whether to abstain.
    assert nbce.answer(QUESTION, PASSAGES, abstain_below=1000.0).finish_reason == "no_evidence"


def test_a_thought_is_refused_and_barred(
    tiny_loaded: Callable[..., Any], tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    from test_models_command import _THINKER
    from tiny_models import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.chat_template = _THINKER
    tokenizer.save_pretrained(tmp_path)
    with FakeVllm(tiny_loaded("llama"), str(tmp_path)) as server:
        nbce = NBCE.from_pretrained(server.url, max_tokens=4)
        assert nbce.answer(QUESTION, PASSAGES).tokens
        with pytest.raises(InputError, match=r"a thought \(thinking=False bars it\)"):
            nbce.answer(QUESTION, PASSAGES, thinking=True)
        assert nbce.answer(QUESTION, PASSAGES, thinking=False).tokens


def test_grammars_are_asked_of_a_plugin_that_knows_them(fake: FakeVllm) -> None:
    fake.hello = replace(HELLO, grammar=True)
    assert load_model(fake.url).can.grammar


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        (None, r"runs without the plugin of nbce-rag.*vllm serve MODEL --scheduler-cls"),
        (replace(HELLO, version=99), r"speaks version 99 of the wire, and this nbce-rag 1"),
    ],
)
def test_servers_that_cannot_be_used(hello: Hello | None, message: str, fake: FakeVllm) -> None:
    fake.hello = hello
    with pytest.raises(ModelError, match=message):
        load_model(fake.url)
    done = run("models", fake.url)
    assert done.exit_code == (2 if hello is None else 0)


def test_servers_of_different_models(
    fake: FakeVllm, tiny_loaded: Callable[..., Any], tiny_folder: Callable[..., Path]
) -> None:
    model, root = tiny_loaded("llama"), str(tiny_folder("llama"))
    different = pytest.raises(ModelError, match=r"different models, 'tiny/model' .* and 'another'")
    with FakeVllm(model, root, name="another") as other, different:
        load_model([fake.url, other.url])
    different = pytest.raises(ModelError, match="the same version in all of them")
    with FakeVllm(model, root, hello=replace(HELLO, rules=("max",))) as other, different:
        load_model(f"{fake.url}, {other.url}/v1/")


def test_servers_that_are_away(fake: FakeVllm) -> None:
    away = f"http://127.0.0.1:{_free_port()}"
    with pytest.raises(
        RemoteError, match=r"No vLLM server can be asked: .*cannot be reached.*vllm serve MODEL"
    ):
        load_model(away)
    with pytest.warns(NbceWarning, match="It is asked once it is there"):
        model = load_model([away, fake.url])
    nbce = NBCE(model, prompt=TEMPLATE, max_tokens=3)
    assert nbce.answer(QUESTION, PASSAGES).tokens
    assert "VllmModel('tiny/model' at http://" in repr(model)


def test_a_server_that_is_none() -> None:
    from http_tools import serving
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    app = Starlette(routes=[Route("/v1/models", lambda request: PlainTextResponse("hello"))])
    with serving(app) as url, pytest.raises(RemoteError, match="answers something that is no JSON"):
        load_model(url)
    app = Starlette(routes=[Route("/v1/models", lambda request: JSONResponse({"data": [{"id": "x"}]}))])
    with serving(app) as url, pytest.raises(RemoteError, match="does not list its models as vLLM does"):
        load_model(url)


def test_a_key(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.api_key = "secret"
    with pytest.raises(RemoteError, match=r"\(401\): Unauthorized; give the right api_key"):
        load_model(fake.url)
    assert load_model(fake.url, api_key="secret").name == "tiny/model"
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert NBCE.from_pretrained(fake.url, backend="vllm").model.name == "tiny/model"


def test_tokenizers(fake: FakeVllm, tiny_folder: Callable[..., Path], tiny_tokenizer: Any) -> None:
    fake.root = "/nowhere/at/all"
    with pytest.raises(ModelError, match=r"There is no tokenizer in '/nowhere/at/all'.*with tokenizer="):
        load_model(fake.url)
    for tokenizer in (str(tiny_folder("llama")), tiny_folder("llama"), tiny_tokenizer):
        model = load_model(fake.url, tokenizer=tokenizer)
        assert model.eos_ids == frozenset({1})
        assert model.vocab_size == len(tiny_tokenizer)
    assert model.window == fake.model.window - 1


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("http:///x", {}, "'http:///x' is no URL"),
        ("http://a,b", {"backend": "vllm"}, "'b' is no URL"),
        (["http://a", "http://a/v1"], {}, "none twice"),
        ("some/model", {"backend": "vllm"}, "'some/model' is no URL"),
        (None, {"backend": "vllm"}, "at least one URL"),
        (object(), {"backend": "vllm"}, "is no URL"),
        (Path("some/model"), {"backend": "vllm"}, "Path.*is no URL"),
        (["http://a", 3], {"backend": "vllm"}, "3 is no URL"),
        ("http://a", {"max_retries": -1}, "max_retries=-1"),
        ("http://a", {"data_parallel": 0}, "data_parallel=0"),
        ("http://a", {"server_timeout": 0}, "server_timeout=0"),
        ("http://a", {"dtype": "float32"}, "Unknown option dtype"),
        ("http://a", {"backend": "transformers", "api_key": "x"}, "Unknown option api_key.*backend='vllm'"),
    ],
)
def test_arguments_that_are_wrong(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(model, **options)


def test_what_is_served() -> None:
    assert server_urls("http://a:1/v1/, https://b") == ["http://a:1", "https://b"]
    assert is_served("http://a")
    assert is_served(["https://a", "http://b"])
    assert is_served("x", "vllm")
    assert not is_served("http://a", "transformers")
    assert not is_served("some/model")
    assert not is_served(None)
    assert not is_served([])


def test_without_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(MissingDependencyError, match=r"nbce-rag\[vllm\]"):
        load_model("http://a")
    assert transport.SILENCE > 0


def test_servers_at_the_command_line(fake: FakeVllm) -> None:
    done = run("models", fake.url)
    assert done.exit_code == 0, done.output
    assert "tiny/model" in done.stdout
    assert "posterior" in done.stdout
    [told] = json.loads(run("models", fake.url, "--json").stdout)
    assert (told["name"], told["problem"], told["plugin"]["version"]) == ("tiny/model", "", 1)
    away = f"http://127.0.0.1:{_free_port()}"
    done = run("models", away)
    assert done.exit_code == 2
    assert "cannot be reached" in done.stdout


def test_an_index_with_keys_and_values_of_another_backend(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of no use to vLLM, and in nobody's way."""
    from index_tools import bag_of_words

    from nbce_rag import PassageIndex
    from nbce_rag.index.folder import IndexFolder

    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(PASSAGES)
    IndexFolder(tmp_path / "index").kv.mkdir()
    with Rag.open(tmp_path / "index", fake.url, embedder=bag_of_words, prompt=TEMPLATE, max_tokens=3) as rag:
        assert rag.ask(QUESTION).tokens
        assert rag.nbce.kv_store is None
    with pytest.raises(InputError, match="kv_store="):
        Rag.open(tmp_path / "index", fake.url, embedder=bag_of_words, kv_store=True)


def test_adapters_take_the_url_as_the_model(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydantic import SecretStr

    from langchain_nbce import ChatNBCE
    from llama_index_nbce import NBCELLM

    fake.api_key = "secret"
    chat = ChatNBCE(model=fake.url, max_tokens=3, api_key=SecretStr("secret"))
    assert chat.invoke("Who runs the ferry?").response_metadata
    llm = NBCELLM(fake.url, max_tokens=3, api_key="secret")
    assert llm.complete("Who runs the ferry?").text is not None
    assert llm.metadata.is_function_calling_model is False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
