from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_tools import TOPICS, write_jsonl
from typer.testing import CliRunner, Result

from nbce_rag.cli.main import app


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Questions that bring their passages, so that no embedder is needed."""
    ctxs = [{"id": id_, "text": text, "hasanswer": id_ == "water"} for id_, (text, _, _) in TOPICS.items()]
    record = {"question": "When does water boil?", "answers": ["100 degrees"], "ctxs": ctxs}
    asked = [record, record | {"question": "At what heat does water boil?"}]
    return write_jsonl(tmp_path / "boil-questions.jsonl", asked)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)], catch_exceptions=False)


def test_from_files_to_report_and_again_from_the_log(
    questions: Path, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    out = tmp_path / "reports" / "out.json"
    command: tuple[object, ...] = (
        "--questions",
        questions,
        "-k",
        2,
        "--max-tokens",
        3,
        "--model",
        tiny_folder("llama"),
    )
    command += ("--device", "cpu", "--methods", "concat,posterior(beta=0,tau=0.5)", "--json", out)
    result = invoke(*command)
    assert result.exit_code == 0, result.stderr
    report = json.loads(out.read_text())
    assert list(report["methods"]) == ["concat", "posterior(beta=0,tau=0.5)"]
    assert (report["dataset"], report["questions"], report["k"]) == ("boil", 2, 2)
    assert "boil: 2 questions, k = 2" in result.stdout
    assert "posterior(beta=0,tau=0.5)" in result.stdout
    assert "4/4 answers. Found: concat 0.00" in result.stderr
    log = out.with_suffix(".log.jsonl")
    before = log.read_bytes()
    assert invoke(*command).exit_code == 0
    assert log.read_bytes() == before
    again = tmp_path / "again.json"
    result = invoke("--rescore", log, "--json", again)
    assert result.exit_code == 0, result.stderr
    assert again.read_bytes() == out.read_bytes()
    assert not list(out.parent.glob(".*"))
    result = invoke(*command, "-k", 1)
    assert result.exit_code == 2
    assert "k is 2 there and 1 here" in result.stderr


def test_what_users_read_of_silence_hops_and_rows(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    ctxs = [
        {"id": id_, "text": text, "hasanswer": id_ in ("water", "ferry")}
        for id_, (text, _, _) in TOPICS.items()
    ]
    record = {"question": "When does water boil?", "answers": ["100 degrees"], "ctxs": ctxs}
    records: list[dict[str, Any]] = [record, {"question": "Who sails?", "answerable": False, "ctxs": ctxs}]
    out = tmp_path / "out.json"
    command = ("--questions", write_jsonl(tmp_path / "two-questions.jsonl", records), "--json", out)
    command += ("-k", 5, "--max-tokens", 3, "--model", tiny_folder("llama"), "--device", "cpu")  # type: ignore[assignment]
    result = invoke(*command, "--methods", "posterior(focus=0),concat")
    assert result.exit_code == 0, result.stderr
    scores = json.loads(out.read_text())["methods"]
    assert [figures["rows"] for figures in scores.values()] == [6, 2]
    assert scores["posterior(focus=0)"]["unanswerable"]["questions"] == 1
    for head in ("cited @k", "rows", "silent, no answer", "false answers", "silent, answerable"):
        assert head in result.stdout
    assert "necessity" not in result.stdout
    assert ("by gold passages" in result.stdout) == (
        scores["posterior(focus=0)"]["citations_at_k"] is not None
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to ask with --questions"),
        (("--questions", "none.jsonl"), "none.jsonl cannot be read"),
        (("--rescore", "none.jsonl"), "none.jsonl cannot be read"),
        (("--questions", "none.jsonl", "--methods", "best"), "Unknown method 'best'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = invoke(*arguments, "--json", out)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not out.exists()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, nbce_rag.cli.main, nbce_rag.evaluation\n"
        "print({'torch', 'numpy', 'faiss'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
