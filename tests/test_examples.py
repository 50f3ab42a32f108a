"""Notebooks and scripts of `examples/` run as they stand, and notebooks are saved with what they show."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
from packaged_tools import share_packaged_model
from pdf_maker import make_pdf
from view_tools import Page

EXAMPLES = Path(__file__).parents[1] / "examples"
# The notebooks of the adapters have tests of their own, beside the adapters'.
NOTEBOOKS = {
    "quick_start": ["Wen Tarsey[1]", "pilot-notes-skarrowmouth.md", "邬铁梅", "no_evidence"],
    "own_fusion_rule": ["posterior", "Tom Harrow"],
    "long_document": ["Lubin Strake", "prompt tokens reused"],
    "evaluation": ["posterior", "answer found", "recall@1"],
}
pytestmark = [pytest.mark.packaged, pytest.mark.timeout(900)]


def cells_of(name: str) -> list[dict[str, Any]]:
    found = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> str:
    """What a notebook shows of a cell, as text: what it prints and the value of its last line."""
    printed = io.StringIO()
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
            if png := getattr(value, "_repr_png_", None):
                assert png().startswith(b"\x89PNG")
            elif html := getattr(value, "_repr_html_", None):
                print(Page(html()).text)
            elif value is not None:
                print(value)
    return printed.getvalue()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    share_packaged_model(monkeypatch)
    monkeypatch.chdir(EXAMPLES)
    names: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # no Chinese font for the picture
        shown = [run_cell("".join(cell["source"]), names) for cell in cells_of(name)]
    for text in NOTEBOOKS[name]:
        assert text in "".join(shown), text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_saved_with_what_it_shows(name: str) -> None:
    raw = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(raw) < 150_000
    assert not re.search(r"/(tmp|home|root|work|Users)/", raw)
    cells = cells_of(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps(outputs, ensure_ascii=False)
    assert all(wanted in text for wanted in NOTEBOOKS[name] if "[" not in wanted), (
        "run the notebook and save it"
    )


def test_the_smallest_script_is_ten_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    share_packaged_model(monkeypatch)
    script = EXAMPLES / "smallest.py"
    assert len([line for line in script.read_text(encoding="utf-8").splitlines() if line]) <= 10
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out.startswith("Ada Fenwick[1]")


def test_a_rule_of_ones_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    share_packaged_model(monkeypatch)
    runpy.run_path(str(EXAMPLES / "own_rule.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.startswith("vote: ")
    assert "posterior: Ada Fenwick" in out


def test_a_folder_of_pdfs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    share_packaged_model(monkeypatch)
    main = runpy.run_path(str(EXAMPLES / "pdf_folder.py"))["main"]
    folder = tmp_path / "papers"
    (folder / "deep").mkdir(parents=True)
    assert main([str(folder), "Who?"]) == 1
    (folder / "deep" / "ferry.pdf").write_bytes(
        make_pdf("Bread is baked in Orme.", "The ferry across the Lune is run by Ada Fenwick.")
    )
    (folder / "scan.pdf").write_bytes(make_pdf(""))
    page = tmp_path / "answer.html"
    assert main([str(folder), "Who runs the ferry?", "-k", "2", "--html", str(page)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Ada Fenwick")
    assert "ferry.pdf, page " in out
    assert "scan.pdf" in err
    assert "Ada Fenwick" in Page(page.read_text(encoding="utf-8")).text
    assert (tmp_path / "papers.index").is_dir()


def test_beside_the_concatenated_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    share_packaged_model(monkeypatch)
    main = runpy.run_path(str(EXAMPLES / "compare_with_concat.py"))["main"]
    for name in ("pilot-notes-skarrowmouth.md", "species-gannel.md"):
        (tmp_path / name).write_bytes((EXAMPLES / "corpus" / name).read_bytes())
    main(["--docs", str(tmp_path), "-k", "3", "--max-tokens", "8"])
    out = capsys.readouterr().out
    table = [re.findall(r"\d[\d.,]*", line) for line in out.splitlines()[1:4]]
    assert all(len(numbers) == 4 for numbers in table), out
    reused = [int(numbers[-1].replace(",", "")) for numbers in table]
    assert reused[2] > reused[1]
    assert "A row for each passage:\nWen Tarsey[1]" in out
    assert "Evidence by token" in out


def test_the_packaged_model_is_not_loaded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the whole file stays quick; and what is shared is what users get."""
    share_packaged_model(monkeypatch)
    from nbce_rag import NBCE

    assert NBCE.from_pretrained().model is NBCE.from_pretrained(max_tokens=3).model
    assert NBCE.from_pretrained().model.name == "gemma3-270m"
