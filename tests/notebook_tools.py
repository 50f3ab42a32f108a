"""Running the notebooks of the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

__all__ = ["run_notebook"]


def run_notebook(path: Path) -> tuple[list[str], list[str]]:
    """What each code cell had printed when the notebook was saved, and what it prints now."""
    notebook = nbformat.read(path, as_version=4)
    saved = _printed(notebook)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": path.parent}}).execute()
    return saved, _printed(notebook)


def _printed(notebook: Any) -> list[str]:
    """Standard output of each code cell."""
    return [
        "".join(o["text"] for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
