"""What an import costs: nothing heavy before it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import nbce_rag

HEAVY = (
    "torch",
    "faiss",
    "transformers",
    "sentence_transformers",
    "numpy",
    "tokenizers",
    "pypdfium2",
    "selectolax",
    "rich",
)


def heavy_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has imported after running `code`."""
    code = f"{code}\nimport json, sys; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert heavy_after("import nbce_rag") == set()
    assert heavy_after("import nbce_rag; dir(nbce_rag); nbce_rag.__version__") == set()


def test_light_names_load_nothing_heavy() -> None:
    code = (
        "from nbce_rag import Passage, Answer, Citation, Piece, Rag, TokenEvidence, NbceError, NbceWarning\n"
        "import nbce_rag.errors, nbce_rag.passages, nbce_rag.answers.answer, nbce_rag.evidence.citations\n"
        "import nbce_rag.documents.splitting\n"
        "Passage('text').id"
    )
    assert heavy_after(code) == set()


def test_naming_what_is_asked_for_loads_nothing_heavy() -> None:
    """Requests are made where no model is."""
    code = (
        "from nbce_rag import MinEntropy, Model, Options, Prompt, Request, resolve, DEFAULT_MODEL\n"
        "Request('Who?', options=Options(fusion=MinEntropy(beta=0.5)))\n"
        "Request('Who?')"
    )
    assert heavy_after(code) == set()


def test_heavy_packages_are_seen_when_they_are_used() -> None:
    """So that the tests above cannot pass by looking in the wrong place."""
    assert "torch" in heavy_after("from nbce_rag import NBCE")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("ask", "index", "eval", "study", "kv", "bench")),
    ],
)
def test_help_loads_no_model_code(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['nbce-rag', *{arguments!r}]\n"
        "from nbce_rag.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert heavy_after(code) & {"torch", "faiss", "transformers", "sentence_transformers", "numpy"} == set()


def test_an_index_that_is_not_there_is_said_before_torch_is_loaded() -> None:
    code = (
        "from nbce_rag import IndexNotFoundError, Rag\n"
        "try:\n    Rag.open('no such folder')\n    raise SystemExit(1)\nexcept IndexNotFoundError:\n    pass"
    )
    assert heavy_after(code) & {"torch", "transformers", "sentence_transformers"} == set()


def test_all_kinds_of_errors_are_public() -> None:
    from nbce_rag import errors

    kinds = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert kinds <= set(nbce_rag.__all__)


@pytest.mark.parametrize("name", nbce_rag.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(nbce_rag, name) is not None
    assert name in dir(nbce_rag)


def test_names_come_from_where_they_are_defined() -> None:
    from nbce_rag.fusion import Posterior
    from nbce_rag.passages import Passage

    assert nbce_rag.Posterior is Posterior
    assert nbce_rag.Passage is Passage
    assert len(set(nbce_rag.__all__)) == len(nbce_rag.__all__)


@pytest.mark.parametrize("name", ["NoSuchName", "fuse", "__wrapped__", "nbce"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'nbce_rag' has no attribute '{name}'"):
        getattr(nbce_rag, name)
    assert not hasattr(nbce_rag, name)


def test_unknown_names_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="NoSuchName"):
        exec("from nbce_rag import NoSuchName")


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from nbce_rag import *", names)
    assert set(nbce_rag.__all__) <= set(names)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nbce_rag", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == f"nbce-rag {nbce_rag.__version__}"
