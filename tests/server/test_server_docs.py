"""Every line with curl on the server's page works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from index_tools import bag_of_words

from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage
from nbce_rag.server import Served, create_app

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

PAGE = Path(__file__).parents[2] / "examples" / "docs" / "server.md"
HOME = "http://127.0.0.1:8000"


def commands() -> list[list[str]]:
    """The commands of the page, as arguments."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [
        shlex.split(one)
        for block in blocks
        for one in re.split(r"^(?=curl )", block, flags=re.MULTILINE)
        if one
    ]


@pytest.fixture(scope="module")
def shown(reading_nbce: Any, run_app: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server with the index that the page names."""
    index = PassageIndex.create(tmp_path_factory.mktemp("docs") / "my-index", bag_of_words)
    index.add([Passage("Ada runs the ferry.", id="ferry", metadata={"language": "en"})])
    return run_app(create_app(served=Served(reading_nbce.updated(max_tokens=8), {"my-index": index})))


def test_every_command_works(shown: Any) -> None:
    every = commands()
    assert len(every) > 15
    for command in every:
        assert command[0] == "curl"
        arguments = [one.replace(HOME, shown.url) for one in command[1:]]
        done = subprocess.run(["curl", "-sS", "--fail-with-body", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        if "-N" in command:
            assert "data: " in done.stdout
            assert "error" not in done.stdout.rpartition("event: ")[2]
        else:
            json.loads(done.stdout)


def test_code_of_the_readme_asks_it(shown: Any, capsys: pytest.CaptureFixture[str]) -> None:
    text = (PAGE.parents[2] / "README.md").read_text(encoding="utf-8")
    [code] = [
        code for code in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE) if HOME in code
    ]
    names: dict[str, Any] = {}
    exec(compile(code.replace(HOME, shown.url), "README.md", "exec"), names)
    assert names["message"].content
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(names["message"].annotations)


def test_every_endpoint_is_on_the_page(shown: Any) -> None:
    """Of those that are described; what else there is has pages of its own."""
    text = PAGE.read_text(encoding="utf-8").replace("my-index", "{vector_store_id}")
    for path, methods in shown.get("/openapi.json").json()["paths"].items():
        if methods.keys() == {"post"}:
            assert f"{HOME}{path} " in text
