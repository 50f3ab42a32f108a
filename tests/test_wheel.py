"""The wheel as it is really built: what is in it, what must not be, and that it imports on its own."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "nbce_rag": ROOT / "nbce_rag",
    "langchain_nbce": ROOT / "integrations" / "langchain_nbce",
    "llama_index_nbce": ROOT / "integrations" / "llama_index_nbce",
    "llama_index": ROOT / "integrations" / "llama_index",
}
PLACES = (
    "embeddings",
    "llms",
    "postprocessor",
    "question_gen",
    "response_synthesizers",
    "retrievers",
    "vector_stores",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        listed = archive.namelist()
    assert len(listed) == len(set(listed))
    return set(listed)


def test_every_module_ships_and_nothing_else(names: set[str]) -> None:
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == expected
    for module in ("nbce_rag/engine/nbce", "langchain_nbce/__init__", "llama_index_nbce/llm"):
        assert f"{module}.py" in names
    assert "llama_index/llms/nbce/__init__.py" in names


def test_the_shared_namespace_has_no_init_file(names: set[str]) -> None:
    """One would hide every other distribution that lives in the namespace, LlamaIndex itself included."""
    assert {name for name in names if name.startswith("llama_index/")} == {
        f"llama_index/{place}/nbce/__init__.py" for place in PLACES
    }
    assert not names & {"llama_index/__init__.py", *(f"llama_index/{place}/__init__.py" for place in PLACES)}


def test_types_are_announced(names: set[str]) -> None:
    assert {"nbce_rag/py.typed", "langchain_nbce/py.typed", "llama_index_nbce/py.typed"} <= names


def test_metadata(wheel: Path, names: set[str]) -> None:
    (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    with zipfile.ZipFile(wheel) as archive:
        told = email.message_from_bytes(archive.read(metadata))
        scripts = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert told["Name"] == "nbce-rag"
    assert wheel.name == f"nbce_rag-{told['Version']}-py3-none-any.whl"
    extras = {"local", "grammar", "langchain", "llama-index", "all", "dev"}
    assert extras <= set(told.get_all("Provides-Extra", []))
    assert "nbce-rag = nbce_rag.cli.main:main" in scripts


def test_it_imports_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """In a fresh interpreter, in which what was unpacked comes before whatever else is installed."""
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import nbce_rag, langchain_nbce, llama_index_nbce, llama_index.core\n"
        "from llama_index.llms.nbce import NBCELLM\n"
        "import llama_index.llms.nbce as hub\n"
        "assert NBCELLM is llama_index_nbce.NBCELLM\n"
        "print(*(module.__file__ for module in (nbce_rag, langchain_nbce, llama_index_nbce, hub)), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) == 4
    assert all(file.is_relative_to(tmp_path) for file in files)
