"""What README and the pages of `examples/docs` show: code runs, commands exist, links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from packaged_tools import share_packaged_model

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


@pytest.mark.parametrize("page", [page for page in DOCS if blocks(page, "python")], ids=name_of)
def test_code_of_the_pages_runs(
    page: Path, tiny_loaded: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbce_rag.engine.nbce.load_model", lambda *_, **__: tiny_loaded("llama"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for code in blocks(page, "python"):
            exec(compile(code, name_of(page), "exec"), names)
    assert printed.getvalue()


@pytest.mark.packaged
@pytest.mark.timeout(900)
def test_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    from langchain_core.documents import Document

    from langchain_nbce import ChatNBCE, NBCEEmbeddings

    share_packaged_model(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ferry.txt").write_text(
        "The ferry is run by Ada Fenwick, who bought it in 1931.\n", encoding="utf-8"
    )
    documents = [
        Document("The ferry is run by Ada Fenwick.", id="f"),
        Document("Bread is baked in Orme.", id="b"),
    ]

    class Retriever:
        """The reader's own, in the README's words."""

        def invoke(self, question: str) -> list[Document]:
            return documents

    core, kv, langchain, store, llama_index = blocks(ROOT / "README.md", "python")
    names: dict[str, Any] = {"__name__": "__main__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(core, names)
        exec(kv, names)
        names["nbce"].kv_store.close()
        names["store"].close()
        names["index"].close()
        # A folder that is there already would be opened: the adapter's part begins with its own.
        names = {"llm": ChatNBCE(max_tokens=12), "retriever": Retriever()}
        exec(langchain, names)
        assert names["message"].content_blocks[0]["annotations"]
        (tmp_path / "my-index").rename(tmp_path / "first-index")
        names = {"documents": documents, "ids": ["f", "b"], "NBCEEmbeddings": NBCEEmbeddings}
        exec("from langchain_nbce import PassageRetriever, PassageVectorStore\n" + store, names)
        assert len(names["retriever"].invoke("Who runs the ferry?")) == 2
        names["store"].close()
        names = {}
        exec(llama_index, names)
        assert "Ada Fenwick" in str(names["response"])
    assert "at nine" in printed.getvalue().lower()
    assert "[1]" in printed.getvalue()


def test_what_readme_says_of_display_is_so() -> None:
    """Names that prose mentions without running them."""
    import nbce_rag
    from nbce_rag.answers.answer import Answer

    assert callable(nbce_rag.show)
    assert all(hasattr(Answer, name) for name in ("to_html", "plot", "_repr_html_"))
