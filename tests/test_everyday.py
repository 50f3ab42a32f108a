"""A few of the everyday chains of `tests/integration_scripts`, on models of random weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_tools import bag_of_words

FEW = {
    "langchain_chains": [
        "contexts of a call",
        "retrieval chain",
        "cited chain",
        "stream",
        "fallback",
        "graph",
    ],
    "llama_index_engines": ["query", "query streamed", "chat streamed", "router", "ingestion", "workflow"],
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "integration_scripts"))
    return importlib.import_module("everyday")


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in FEW.items() for name in names])
def test_a_chain_goes_through(
    module: str, name: str, scripts: Any, make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    for package in ("langchain_classic", "langgraph", "llama_index.core", "llguidance"):
        pytest.importorskip(package)
    found = importlib.import_module(module).CHAINS
    prefix = "LangChain" if module.startswith("langchain") else "LlamaIndex"
    world = scripts.World(make_nbce("llama", chat=True, max_tokens=4), tmp_path, bag_of_words)
    result = found[f"{prefix} {name}"](world)
    assert result.answer.strip()


def test_the_table_says_what_failed(scripts: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(world: Any) -> Any:
        raise ValueError("no\nluck")

    chains = {"fine": lambda world: scripts.Result("a | b", 2), "mute": lambda world: scripts.Result(" ")}
    rows = [scripts.run(None, name, chain) for name, chain in {**chains, "broken": broken}.items()]
    assert scripts.table(iter(rows)) == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[0] == "| fine | a / b | 2 | ok | 0 |"
    assert lines[1].endswith("| empty | 0 |")
    assert lines[2] == "| broken | ValueError: no luck |  | failed | 0 |"
