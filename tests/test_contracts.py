"""How the house is built: what stands at its top, and who imports what; see `make contracts` too."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbce_rag

grimp = pytest.importorskip("grimp")
pytest.importorskip("importlinter")

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
GROUND = {
    "checks",
    "deadline",
    "errors",
    "files",
    "folding",
    "noncharacters",
    "openmp",
    "options",
    "passages",
    "request",
    "values",
}
STRANGERS = sorted(path for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".ipynb", ".md"))
STRANGERS += [ROOT / "README.md", *(ROOT / "integrations" / "llama_index").rglob("*.py")]
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_of(path: Path) -> Iterator[str]:
    """The Python in a script, a notebook or a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        yield from _FENCE.findall(text)
    elif path.suffix == ".ipynb":
        for cell in json.loads(text)["cells"]:
            if cell["cell_type"] == "code":
                yield "".join(cell["source"])
    else:
        yield text


def imports_below(code: str) -> list[str]:
    """Modules below `nbce_rag` that a piece of code imports."""
    modules = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(node.module or "")
    return [module for module in modules if module.startswith("nbce_rag.")]


def lint(folder: Path, contracts: list[dict[str, Any]], packages: list[str]) -> str:
    """What import-linter says of packages in a folder."""
    lines = ["[importlinter]", "root_packages =", *(f"    {name}" for name in packages)]
    for number, contract in enumerate(contracts):
        lines.append(f"[importlinter:contract:{number}]")
        for key, value in contract.items():
            items = "".join(f"\n    {item}" for item in value) if isinstance(value, list) else str(value)
            lines.append(f"{key} = {items}")
    (folder / ".importlinter").write_text("\n".join(lines), encoding="utf-8")
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr


def test_at_the_top_stand_rooms_and_the_ground_floor_only() -> None:
    top = ROOT / "nbce_rag"
    files = {path.name for path in top.iterdir() if path.is_file()}
    assert files <= {"__init__.py", "__main__.py", "py.typed", *(f"{name}.py" for name in GROUND)}
    rooms = {path.name for path in top.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert all((top / room / "__init__.py").is_file() for room in rooms)
    (stair,) = [contract for contract in CONFIGURATION["contracts"] if contract["type"] == "layers"]
    floors = {name.strip(" ()") for layer in stair["layers"] for name in re.split("[|:]", layer)}
    assert rooms | {Path(name).stem for name in files} - {"__init__", "py"} <= floors
    assert stair["exhaustive"]


def test_no_contract_has_exceptions() -> None:
    for contract in CONFIGURATION["contracts"]:
        assert not {key for key in contract if "ignore" in key or "skip" in key}, contract["name"]


def test_contracts_are_broken_by_what_they_forbid(tmp_path: Path) -> None:
    """So that `make contracts` cannot pass by looking in the wrong place; with our contracts themselves."""
    rooms = [re.sub(r"[() ]", "", layer) for layer in _contract("layers")["layers"]]
    names = [name for layer in rooms for name in re.split("[|:]", layer)]
    for package in ("nbce_rag", "langchain_nbce", "llama_index_nbce"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("", encoding="utf-8")
    for name in names:
        (tmp_path / "nbce_rag" / f"{name}.py").write_text("", encoding="utf-8")
    (tmp_path / "nbce_rag" / "models.py").unlink()
    for backend in ("transformers", "llama_cpp", "vllm"):
        (tmp_path / "nbce_rag" / "models" / backend).mkdir(parents=True)
    for package in ("models", "models/transformers", "models/llama_cpp", "models/vllm"):
        (tmp_path / "nbce_rag" / package / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "nbce_rag" / "cli.py").write_text("from . import engine\nfrom .passages import Passage\n")
    (tmp_path / "langchain_nbce" / "chat.py").write_text("from nbce_rag import NBCE, show\n")
    contracts = CONFIGURATION["contracts"]
    packages = CONFIGURATION["root_packages"]
    said = lint(tmp_path, contracts, packages)
    assert f"{len(contracts)} kept, 0 broken" in said, said

    (tmp_path / "nbce_rag" / "kv.py").write_text("def f():\n    from . import engine\n")
    (tmp_path / "nbce_rag" / "engine.py").write_text("from .passages import x\n")
    (tmp_path / "nbce_rag" / "decoding.py").write_text("from .models import transformers\n")
    (tmp_path / "nbce_rag" / "passages.py").write_text("from .errors import x\n")
    (tmp_path / "nbce_rag" / "errors.py").write_text("from . import passages\n")
    (tmp_path / "nbce_rag" / "cupboard.py").write_text("")
    (tmp_path / "langchain_nbce" / "chat.py").write_text("from nbce_rag.engine import NBCE\n")
    (tmp_path / "llama_index_nbce" / "llm.py").write_text(
        "from nbce_rag import errors\nimport langchain_nbce\n"
    )
    said = lint(tmp_path, contracts, packages)
    assert f"0 kept, {len(contracts)} broken" in said
    for part in (
        "nbce_rag.kv -> nbce_rag.engine",
        "nbce_rag.errors -> nbce_rag.passages",
        "nbce_rag.cupboard",
        "nbce_rag.decoding -> nbce_rag.models.transformers",
        "No cycles are allowed in nbce_rag",
        "langchain_nbce.chat -> nbce_rag.engine",
        "llama_index_nbce.llm -> nbce_rag.errors",
        "llama_index_nbce is not allowed to import langchain_nbce",
    ):
        assert part in said, part


def _contract(kind: str) -> dict[str, Any]:
    (contract,) = [contract for contract in CONFIGURATION["contracts"] if contract["type"] == kind]
    return dict(contract)


def test_public_names_are_not_modules() -> None:
    """`from nbce_rag import x` must mean one thing, to Python and to the contract."""
    graph = grimp.build_graph("nbce_rag", cache_dir=None)
    assert not {f"nbce_rag.{name}" for name in nbce_rag.__all__} & graph.modules
    assert "nbce_rag.engine.rag" in graph.modules


@pytest.mark.parametrize("path", STRANGERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_import_public_names_only(path: Path) -> None:
    for code in code_of(path):
        assert imports_below(code) == []


def test_imports_of_modules_are_seen() -> None:
    """So that the test above cannot pass by looking in the wrong place."""
    assert sum(1 for path in STRANGERS for code in code_of(path) if "import" in code) > 10
    assert imports_below("from nbce_rag import NBCE\nimport nbce_rag\nfrom . import x") == []
    code = "def f():\n    from nbce_rag.errors import InputError\n    import nbce_rag.kv.store as store"
    assert imports_below(code) == ["nbce_rag.errors", "nbce_rag.kv.store"]


def test_public_names_are_declared_once_for_all() -> None:
    """For Python (the table), for `import *` and type checkers (`__all__`), and for editors (the imports)."""
    tree = ast.parse((ROOT / "nbce_rag" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported.items() <= nbce_rag._HOME.items()
    # Fusion rules come from their registry; those that nobody has declared here are of any type.
    assert {nbce_rag._HOME[name] for name in nbce_rag._HOME.keys() - imported} <= {"fusion"}
    assert {*nbce_rag.__all__} == {*nbce_rag._HOME, "__version__"}
