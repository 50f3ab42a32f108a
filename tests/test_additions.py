"""What joins the package is named in one place, and is then seen wherever such things are named.

Each test adds something to a copy of the package, as one who contributes it would, and asks in a process of
its own what has become of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

RULE = '''
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import Tensor
from .base import Fused, FusionRule, FusionState
from .numbers import SHARE, number

@dataclass(frozen=True)
class Toy(FusionRule):
    """The rows' mixture, the first one counted more.

    Args:
        bonus: share of the weight that goes to the first row alone, in [0, 1].
    """

    bonus: float = number(0.5, SHARE, grid=(0.0, 0.5, 1.0))

    name = "toy"

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        weights = torch.full_like(rows[..., 0], (1 - self.bonus) / rows.shape[1])
        weights[:, 0] += self.bonus
        return Fused((rows + weights.log()[..., None]).logsumexp(1), weights)
'''

REFERENCE = """

class ReferenceToy(Reference, rule="toy"):
    def __init__(self, known: Known, bonus: float) -> None:
        super().__init__(known)
        self.bonus = bonus

    def step(self, passages: Sequence[Row], baseline: Row) -> tuple[list[float], list[float]]:
        n = len(passages)
        weights = [(1 - self.bonus) / n + (self.bonus if k == 0 else 0.0) for k in range(n)]
        pairs = list(zip(weights, passages))
        p = [math.fsum(w * math.exp(row[v]) for w, row in pairs) for v in range(len(baseline))]
        return [math.log(x) if x > 0 else NEG_INF for x in p], weights
"""

PEER = """
from __future__ import annotations
from dataclasses import dataclass
from torch import Tensor
from ....fusion import Fused, FusionState
from ....fusion.numbers import SHARE, number
from ..peer import Peer

@dataclass(frozen=True)
class Other(Peer):
    lead: float = number(0.5, SHARE)
    name = "toypeer"
    layout = "together"

    def options(self) -> dict[str, float]:
        return {"refusal_threshold": 1 - self.lead}

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        return Fused(log_probs[:, 1].clone(), log_probs[:, 1:, 0].softmax(-1))

RULE = Other
"""

FORMAT = """
from __future__ import annotations
from pathlib import Path
from ..document import Document, decode_text

def _read(path: Path, data: bytes, limits: object) -> Document:
    return Document(decode_text(path, data).upper(), title="Toy")

DOCUMENTS = {".toy": _read}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package to add to."""
    shutil.copytree(ROOT / "nbce_rag", tmp_path / "nbce_rag", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def add_line(file: Path, before: str, line: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, f"{line}\n{before}"), encoding="utf-8")


def run(copy: Path, *arguments: str, width: int = 400) -> str:
    """What Python says, with the copy in place of the package."""
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "COLUMNS": str(width),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fusion_rule_is_a_file_a_line_of_the_registry_and_its_reference(copy: Path) -> None:
    (copy / "nbce_rag" / "fusion" / "toy.py").write_text(RULE, encoding="utf-8")
    registry = copy / "nbce_rag" / "fusion" / "registry.py"
    add_line(registry, '        "posterior": "posterior.Posterior",', '        "toy": "toy.Toy",')
    run(
        copy,
        "-c",
        "import nbce_rag, nbce_rag.fusion\n"
        "assert 'Toy' in nbce_rag.__all__ and 'Toy' in dir(nbce_rag.fusion)\n"
        "from nbce_rag import Toy\n"
        "from nbce_rag.fusion import RULES\n"
        "from nbce_rag.options import Options\n"
        "assert 'toy' in RULES and Options(fusion='toy').rule == Toy(0.5) == RULES.make('toy')\n"
        "from nbce_rag.evaluation import parse_methods\n"
        "names = [m.name for m in parse_methods('rules,rules+joint,all,toy(bonus=1)+order')]\n"
        "assert {'toy', 'toy+joint', 'toy(bonus=1)+order'} <= set(names)\n"
        "from nbce_rag.fusion.numbers import grid_of\n"
        "assert grid_of(RULES['toy']) == {'bonus': (0.0, 0.5, 1.0)}\n"
        "try: Toy(bonus=2)\n"
        "except nbce_rag.NbceError as error: assert 'Toy: bonus=2 is out of range' in str(error)\n"
        "else: raise AssertionError\n"
        "try: Options(fusion='tox')\n"
        "except nbce_rag.NbceError as error: assert 'toy' in str(error)\n"
        "else: raise AssertionError\n",
    )
    for command in ("ask", "bench", "eval"):
        assert "toy" in run(copy, "-m", "nbce_rag", command, "--help")
    tests = copy / "tests"
    tests.mkdir()
    for name in ("test_fusion.py", "fusion_reference.py"):
        shutil.copy(ROOT / "tests" / name, tests)
    with (tests / "fusion_reference.py").open("a", encoding="utf-8") as file:
        file.write(REFERENCE)
    told = run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_fusion.py", "-k", "toy or Toy"
    )
    # Against its reference twice, and what holds for every rule.
    assert int(told.split(" passed")[0].split()[-1]) >= 10


def test_a_peer_is_a_file(copy: Path) -> None:
    folder = copy / "nbce_rag" / "evaluation" / "methods" / "peers"
    (folder / "toypeer.py").write_text(PEER, encoding="utf-8")
    run(
        copy,
        "-c",
        "from nbce_rag.evaluation import parse_methods\n"
        "from nbce_rag.errors import InputError\n"
        "(method,) = parse_methods('toypeer(lead=0.25)')\n"
        "assert (method.layout, method.options) == ('together', {'refusal_threshold': 0.75})\n"
        "assert method.parameters == {'fusion': 'toypeer', 'lead': 0.25, 'joint_row': False}\n"
        "for group in ('peers', 'all'):\n"
        "    assert 'toypeer' in {method.name for method in parse_methods(group)}\n"
        "for name in ('toypeer+joint', 'toypeer(lead=2)', 'toypeer(x=1)', 'nothing'):\n"
        "    try: parse_methods(name)\n"
        "    except InputError as error: assert 'toypeer' in str(error) or 'Other: lead' in str(error)\n"
        "    else: raise AssertionError(name)\n",
    )
    assert "toypeer" in run(copy, "-m", "nbce_rag", "eval", "--help")


def test_a_plain_method_is_a_line(copy: Path) -> None:
    file = copy / "nbce_rag" / "evaluation" / "methods" / "plain.py"
    line = '    "last": Plain(lambda passages, gold: passages[-1:], *_ALONE),'
    add_line(file, '    "concat": Plain(all_passages, *_ONE_ROW, "together"),', line)
    run(
        copy,
        "-c",
        "from nbce_rag.evaluation import parse_methods\n"
        "(method,) = parse_methods('last')\n"
        "assert method.choose([1, 2], []) == [2]\n"
        "assert 'last' in {m.name for m in parse_methods('all')}\n"
        "try: parse_methods('lost')\n"
        "except ValueError as error: assert 'last' in str(error)\n",
    )
    assert "last" in run(copy, "-m", "nbce_rag", "eval", "--help")


def test_a_file_format_is_a_file(copy: Path) -> None:
    (copy / "nbce_rag" / "documents" / "formats" / "toy.py").write_text(FORMAT, encoding="utf-8")
    documents = copy / "docs"
    documents.mkdir()
    (documents / "one.toy").write_text("Cats purr.")
    run(
        copy,
        "-c",
        "from nbce_rag.documents.folders import read_files\n"
        "from nbce_rag.documents.readers import SUFFIXES, read_document\n"
        "from nbce_rag.errors import ReadError\n"
        "assert '.toy' in SUFFIXES and read_document('docs/one.toy').title == 'Toy'\n"
        "[(path, [passage])] = read_files(['docs'])\n"
        "assert (passage.text, passage.source) == ('CATS PURR.', 'docs/one.toy')\n"
        "open('docs/two.xyz', 'w').close()\n"
        "try: read_document('docs/two.xyz')\n"
        "except ReadError as error: assert '.xyz' in str(error)\n"
        "else: raise AssertionError\n",
    )
    assert ".toy" in run(copy, "-m", "nbce_rag", "index", "--help")
