"""What ships, and what must not: the wheel next to other integrations of LlamaIndex."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import llama_index
import llama_index_nbce
from llama_index.llms.nbce import NBCELLM

ROOT = Path(__file__).parents[2]


PLACES = {
    "embeddings": "PassageEmbedding",
    "llms": "NBCELLM",
    "postprocessor": "RelevanceReranker",
    "question_gen": "NBCEQuestionGenerator",
    "response_synthesizers": "NBCESynthesizer",
    "retrievers": "PassageRetriever",
    "vector_stores": "PassageVectorStore",
}


@pytest.mark.parametrize(("place", "name"), PLACES.items())
def test_the_names_of_llama_hub_are_the_same_classes(place: str, name: str) -> None:
    module = import_module(f"llama_index.{place}.nbce")
    assert getattr(module, name) is getattr(llama_index_nbce, name)
    assert module.__all__ == [name]
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llamahub"]
    assert set(described["class_authors"]) == set(PLACES.values())
    assert import_module(described["import_path"]).NBCELLM is NBCELLM


def test_the_name_of_llama_hub_is_the_same_class() -> None:
    assert NBCELLM is llama_index_nbce.NBCELLM
    assert set(llama_index_nbce.__all__) <= set(dir(llama_index_nbce))


def test_no_init_file_in_the_shared_namespace() -> None:
    shared = ROOT / "integrations" / "llama_index"
    assert sorted(p.relative_to(shared).as_posix() for p in shared.rglob("*.py")) == [
        f"{place}/nbce/__init__.py" for place in PLACES
    ]
    assert getattr(llama_index, "__file__", None) is None
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    assert {"integrations/llama_index", "integrations/llama_index_nbce"} <= set(packages["packages"])


def test_it_imports_beside_other_integrations(tmp_path: Path) -> None:
    """In a fresh interpreter, with another integration in another folder, in both orders."""
    other = tmp_path / "llama_index" / "llms" / "other"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("NAME = 'other'\n")
    code = (
        "import sys\nsys.path[:0] = {paths!r}\n"
        "from llama_index.llms.other import NAME\nfrom llama_index.llms.nbce import NBCELLM\n"
        "import llama_index.core\nprint(NAME, NBCELLM.class_name())"
    )
    paths = [str(tmp_path), str(ROOT / "integrations"), str(ROOT)]
    for order in (paths, paths[::-1]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(paths=order)], capture_output=True, text=True, check=False
        )
        assert done.stdout.split() == ["other", "NBCELLM"], done.stderr
