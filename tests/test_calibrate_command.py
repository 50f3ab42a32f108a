"""`nbce-rag calibrate`, and `ask --abstain-below` over what it has learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_tools import write_jsonl
from test_calibration import THINGS, one_hot_things
from test_cli import replace_model, run


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An index of files; the embedder needs no weights, and nothing touches the user's cache."""
    replace_model(monkeypatch, one_hot_things)
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    docs = tmp_path / "docs"
    docs.mkdir()
    for thing in THINGS:
        (docs / f"{thing}.txt").write_text(f"The {thing} is made of {thing} wood.", encoding="utf-8")
    done = run("index", str(docs), "--index", str(tmp_path / "index"))
    assert done.exit_code == 0, done.output
    return str(tmp_path / "index")


def test_from_a_file_of_questions_to_silence(
    index: str, tmp_path: Path, tiny_folder: Callable[..., Path]
) -> None:
    records: list[dict[str, Any]] = [
        {
            "question": f"What is {thing} made of?",
            "answers": [f"{thing} wood"],
            "gold_sources": [f"{thing}.txt"],
        }
        for thing in THINGS
    ]
    records.append({"question": "Who is the mayor of all these many things?", "answerable": False})
    questions = str(write_jsonl(tmp_path / "questions.jsonl", records))
    model = ["--model", str(tiny_folder("llama")), "--device", "cpu"]
    done = run(
        "calibrate", "--index", index, "--questions", questions, "-k", "2", "--false-alarms", "0.25", *model
    )
    assert done.exit_code == 0, done.output
    assert "Calibrated on 12 answerable questions by logistic" in done.stdout
    assert "--abstain-below 0.25" in done.stdout
    assert "With their passages left out " in done.stdout
    assert "They differ in style" in done.stdout  # the one without an answer is the longest
    assert "it cannot tell" in done.stdout
    asking = ["ask", f"What is {THINGS[3]} made of?", "--index", index, "--max-tokens", "2", "--json", *model]
    told = json.loads(run(*asking, "-k", "2").stdout)
    assert 0 < told["support"] <= 1
    silent = json.loads(run(*asking, "-k", "2", "--abstain-below", "1").stdout)
    assert (silent["finish_reason"], silent["usage"]["generated_tokens"]) == ("no_evidence", 0)
    refused = run(*asking, "-k", "3", "--abstain-below", "0.25")
    assert refused.exit_code == 2
    assert "k was 2 and is 3" in refused.stderr
    other = run(*asking, "-k", "3")
    assert json.loads(other.stdout)["support"] is None
    assert "warning: The index was calibrated with other settings (k was 2 and is 3)" in other.stderr
    (Path(index) / "calibration.json").write_text("{}")
    assert "calibrate again" in run(*asking).stderr
    again = run("calibrate", "--index", index, "--questions", questions, "--limit", "25", "-k", "2", *model)
    assert again.exit_code == 0, again.output  # and mends what was damaged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what is asked with --questions"),
        (["--questions", "none.jsonl"], "none.jsonl cannot be read"),
        (["--questions", "FEW"], "1 answerable questions; with false_alarms=0.05 at least 19 are needed"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    index: str, tmp_path: Path, tiny_folder: Callable[..., Path], options: list[str], message: str
) -> None:
    few = write_jsonl(tmp_path / "few.jsonl", [{"question": "What is thing1 made of?", "answers": ["wood"]}])
    options = [str(few) if option == "FEW" else option for option in options]
    done = run("calibrate", "--index", index, "--model", str(tiny_folder("llama")), *options)
    assert done.exit_code == 2
    assert message in done.stderr
