"""Questions with keys and scores of long answers, from the file to the report."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evaluation_tools import write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from index_tools import bag_of_words
from typer.testing import CliRunner

from nbce_rag.cli.main import app
from nbce_rag.embedding.function import CallableEmbedder
from nbce_rag.errors import InputError
from nbce_rag.evaluation import evaluate, load_dataset, paired_differences, rescore
from nbce_rag.evaluation.data.dataset import Dataset
from nbce_rag.evaluation.intervals import bootstrap_ci
from nbce_rag.evaluation.log import RunLog
from nbce_rag.evaluation.long_metrics import (
    groups_found,
    precision,
    repetition,
    word_count,
)
from nbce_rag.evaluation.metrics import score_method, score_row
from nbce_rag.evaluation.studies.study import Study, run_study
from nbce_rag.evidence.identifiers import identifiers, names_in
from nbce_rag.index import PassageIndex
from nbce_rag.prompts.template import PromptTemplate

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KEYS = [["http2=True"], ["Client", "AsyncClient"]]
CODE = (
    "`a b`",
    "httpx.Client(http2=True)",
    "--verbose",
    "the",
    "cat",
    "snake_case",
    "\n```python\n",
    "\n",
    "使用",
)
code_texts = st.lists(st.sampled_from(CODE), max_size=10).map(" ".join)
words = st.lists(st.sampled_from(["one", "two", "three", "丹", "佛", "."]), max_size=12).map(" ".join)


def row(question_id: str = "1", **changes: Any) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "question": "How do I enable HTTP/2?",
        "answers": [],
        "gold_ids": ["g"],
        "keys": KEYS,
        "answer": "Use `Client(http2=True)`.",
        "identifiers": {"Client": True, "http2": True},
        "finish_reason": "stop",
        "leading": "g",
        "cited": ["g"],
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "seconds": 1.0,
        "ttft_s": 0.5,
        "error": None,
    } | changes


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("Make a client(HTTP2=true).", 1.0),
        ("Make an asyncclient.", 0.5),  # within a word too
        ("", 0.0),
    ],
)
def test_keys(answer: str, share: float) -> None:
    assert groups_found(answer, KEYS) == share


def test_keys_may_be_broken_over_lines() -> None:
    assert groups_found("It does\n  not  follow.", [["not follow"]]) == 1
    with pytest.raises(ValueError, match="no keys"):
        groups_found("anything", [])


@given(code_texts, code_texts, st.lists(st.lists(code_texts, min_size=1, max_size=2), min_size=1, max_size=3))
def test_more_text_finds_no_fewer_keys(text: str, more: str, keys: list[list[str]]) -> None:
    assert 0 <= groups_found(text, keys) <= groups_found(f"{text}{more}", keys) <= 1
    assert groups_found(" ".join(group[0] for group in keys), keys) == 1


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("You can use the client.", []),
        ("Use `verify` and `trust env`.", ["verify", "trust", "env"]),
        ("Call raise_for_status() of httpx.Response.", ["raise_for_status", "httpx", "Response"]),
        ("A WSGITransport, a MockTransport, and URLs.", ["WSGITransport", "MockTransport"]),
        ("Set retries=1 or x == 1; give --enable-http2.", ["retries", "--enable-http2"]),
        ("设置base_url参数, 即`timeout`。", ["base_url", "timeout"]),
        (
            "```\n\nIf you want to, see the\n```python\n# A comment\nclient = Client(verify=False)\n",
            ["Client", "verify"],
        ),
        ("_private and NO_PROXY and iterLines", ["_private", "NO_PROXY", "iterLines"]),
    ],
)
def test_what_is_an_identifier(text: str, names: list[str]) -> None:
    assert identifiers(text) == names


@given(code_texts, code_texts)
def test_an_answer_that_quotes_makes_no_name_up(passage: str, other: str) -> None:
    names = names_in([passage, other])
    found = [name in names for name in identifiers(passage)]
    assert precision(found) == (1 if found else None)


def test_precision_by_hand() -> None:
    names = names_in(["Pass `http2=True` to httpx.Client.", "Title"])
    answer = "Call `client.enable_http2()` or httpx.Client(http2=True)."
    assert {name: name in names for name in identifiers(answer)} == {
        "client": False,  # with case
        "enable_http2": False,
        "httpx": True,
        "Client": True,
        "http2": True,
    }
    assert precision([True, False, True, True]) == 0.75


def test_repetition_by_hand() -> None:
    assert repetition("one two three four five") == repetition("one two three") == repetition("") == 0
    assert repetition("One two three four, one two three four") == 1 / 5
    assert repetition("丹佛野马丹佛野马") == 1 / 5
    assert word_count("Use `Client(http2=True)`, 丹佛!") == 6


@given(words)
def test_a_text_twice_repeats_itself(text: str) -> None:
    count = word_count(text)
    assert 0 <= repetition(text) < 1
    assert word_count(f"{text}\n{text}") == 2 * count
    if count >= 4:
        # Of the 2 count - 3 runs, those of the second half stood in the first.
        assert repetition(f"{text}\n{text}") >= (count - 3) / (2 * count - 3)


def test_scores_of_a_line() -> None:
    assert score_row(row()) == {
        "answer_found": 1.0,
        "exact_match": None,
        "f1": None,
        "keys_share": 1.0,
        "identifier_precision": 1.0,
        "repetition": 0.0,
        "words": 4.0,
    }
    half = score_row(row(answer="A Client.", answers=["client"], identifiers={}))
    assert (half["answer_found"], half["keys_share"], half["exact_match"]) == (0, 0.5, 1)
    assert half["identifier_precision"] is None
    failed = score_row(row(answer="", error="does not fit", identifiers={}))
    assert (failed["answer_found"], failed["keys_share"], failed["words"]) == (0, 0, None)


def test_figures_and_differences_leave_out_what_has_no_value() -> None:
    rows = [row("1"), row("2", answer="No.", identifiers={}), row("3", identifiers={"a": True, "b": False})]
    others = [row("1", identifiers={"a": False}), row("2"), row("3", answer="A Client")]
    figures = score_method(rows, others)
    assert figures["answer_found"] == 2 / 3
    assert figures["identifier_precision"] == (1 + 0.5) / 2
    assert figures["ci95"]["identifier_precision"] == bootstrap_ci([1.0, 0.5])
    assert figures["f1"] is None
    differences = paired_differences(rows, others)
    assert differences["answer_found"]["mean"] == (0 - 1 + 1) / 3
    assert differences["identifier_precision"]["mean"] == (1 - 0.5) / 2  # of the first and the third
    assert differences["f1"] == {"mean": None, "ci95": None}


@pytest.fixture
def manual(tmp_path: Path) -> tuple[Path, Path]:
    """(documents, questions)"""
    folder = tmp_path / "manual"
    (folder / "advanced").mkdir(parents=True)
    filler = " ".join(f"Line {i} says nothing of it." for i in range(90))
    (folder / "http2.md").write_text(f"# HTTP/2\n\n{filler}\n\nPass `http2=True` to the Client.\n")
    (folder / "advanced" / "ssl.md").write_text("# SSL\n\nPass `verify=False`.\n")
    records = [
        {"question": "How do I enable HTTP/2?", "keys": KEYS, "gold_sources": ["http2.md"]},
        {"question": "How do I skip SSL?", "keys": [["verify=False"]], "gold_sources": ["advanced/ssl.md"]},
    ]
    return folder, write_jsonl(tmp_path / "how-questions.jsonl", records)


def test_questions_with_keys(manual: tuple[Path, Path]) -> None:
    data = load_dataset(*manual, bag_of_words)
    http, ssl = data.questions
    assert http.keys == (("http2=True",), ("Client", "AsyncClient"))
    assert (http.answers, ssl.keys) == ((), (("verify=False",),))
    (gold,) = http.gold_ids  # the passage with the keys, not all of the file
    assert "http2=True" in data.passages[gold].text
    assert [data.passages[id_].source for id_ in ssl.gold_ids] == ["advanced/ssl.md"]
    other = Dataset(data.name, (http.__class__(**vars(http) | {"keys": ()}), ssl), data.passages)
    assert other.sha256 != data.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": "x"}, "line 1: `keys` must be a list of groups"),
        ({"keys": ["x"]}, "line 1: `keys`"),
        ({"keys": [[]]}, "line 1: `keys`"),
        ({"keys": [["x", ""]]}, "line 1: `keys`"),
        ({"keys": []}, "line 1: `answers`"),
        ({"keys": [["x"]], "gold_sources": "http2.md"}, "line 1: `gold_sources` must be a list of files"),
        ({"keys": [["x"]], "gold_sources": [7]}, "line 1: `gold_sources`"),
        ({"keys": [["x"]], "gold_sources": ["none.md"]}, r"q1: gold passage 'none\.md' is not in"),
    ],
)
def test_what_is_wrong_with_keys_is_said(
    manual: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    folder, questions = manual
    write_jsonl(questions, [{"question": "How?"} | changes])
    with pytest.raises(InputError, match=message):
        load_dataset(folder, questions, bag_of_words)


def test_from_questions_to_report(
    manual: tuple[Path, Path], make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    options: dict[str, Any] = {"methods": "concat,posterior", "k": 2, "embedder": bag_of_words, "log": log}
    report = evaluate(*manual, model=make_nbce(), style="long", max_tokens=8, **options)
    assert (report["style"], report["max_tokens"]) == ("long", 8)
    for scores in report["methods"].values():
        assert scores["answer_found"] == 0
        assert scores["words"] > 0
        assert set(scores["ci95"]) >= {"keys_share", "identifier_precision", "repetition", "words"}
    assert "repetition" in report["differences"]["posterior - concat"]
    assert rescore(log) == report
    keys = {
        question.id: [list(group) for group in question.keys]
        for question in load_dataset(*manual, bag_of_words).questions
    }
    for (_, id_), line in RunLog.read(log).rows.items():
        assert line["keys"] == keys[id_]
        assert set(line["identifiers"]) == set(identifiers(line["answer"]))
    with pytest.raises(InputError, match="style is 'long' there and 'short' here"):
        evaluate(*manual, model=make_nbce(), max_tokens=8, **options)


def test_styles_and_their_lengths(manual: tuple[Path, Path], make_nbce: Callable[..., Any]) -> None:
    def header(model: Any, **options: Any) -> tuple[Any, Any]:
        report = evaluate(
            *manual, methods="closed-book", k=1, limit=1, model=model, embedder=bag_of_words, **options
        )
        return report["style"], report["max_tokens"]

    assert header(make_nbce()) == ("short", 24)
    assert header(make_nbce(style="long")) == ("long", 120)
    assert header(make_nbce(style="long"), style="short", max_tokens=2) == ("short", 2)
    own = make_nbce(prompt=PromptTemplate.plain())
    assert header(own, max_tokens=2) == (None, 2)
    with pytest.raises(InputError, match="leave one"):
        header(own, style="long")
    with pytest.raises(InputError, match="style='tall'"):
        header(make_nbce(), style="tall")


def test_the_study(manual: tuple[Path, Path], make_nbce: Callable[..., Any], tmp_path: Path) -> None:
    data = load_dataset(*manual, bag_of_words)
    given: dict[str, Any] = {"methods": "concat,posterior", "max_tokens": 6, "embedder": bag_of_words}
    study = Study(tmp_path / "out", data, make_nbce(), **given)
    concat, default = run_study("long", study).rows
    assert concat["behind_default"] == default["answer_found"] - concat["answer_found"]
    assert default["behind_default"] is None
    assert concat["questions"] == 2
    written = json.loads((study.out / "long.json").read_text())
    assert (written["settings"]["style"], written["settings"]["max_tokens"]) == ("long", 6)
    assert (study.out / "long.png").exists()
    assert "keys found" in (study.out / "long.md").read_text()
    short = Study(tmp_path / "short", data, make_nbce(style="short"), **given)
    run_study("long", short)
    assert json.loads((short.out / "long.json").read_text())["settings"]["style"] == "short"
    without = Dataset(
        "x", tuple(q.__class__(**vars(q) | {"keys": ()}) for q in data.questions), data.passages
    )
    with pytest.raises(InputError, match="without `keys`"):
        run_study("long", Study(tmp_path / "without", without, make_nbce(), **given))


def test_the_table_of_the_command(tmp_path: Path, tiny_folder: Callable[..., Path]) -> None:
    ctxs = [{"id": "g", "text": "Pass `http2=True` to the Client."}, {"id": "x", "text": "Bread is sold."}]
    record = {"question": "How do I enable HTTP/2?", "keys": KEYS, "gold_ids": ["g"], "ctxs": ctxs}
    questions = write_jsonl(tmp_path / "how-questions.jsonl", [record])
    command = ["eval", "--questions", questions, "-k", 2, "--style", "long", "--max-tokens", 3]
    command += ["--model", tiny_folder("llama"), "--device", "cpu", "--methods", "concat,posterior"]
    out = tmp_path / "out.json"
    result = CliRunner().invoke(app, [*map(str, command), "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    for head in ("keys found", "groups", "identifiers", "repeated", "words"):
        assert head in result.stdout
    assert "EM" not in result.stdout
    assert json.loads(out.read_text())["style"] == "long"
    again = [*map(str, command), "--style", "tall", "--json", str(tmp_path / "no.json")]
    result = CliRunner().invoke(app, again, catch_exceptions=False)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "style='tall'" in result.stderr


class Small(CallableEmbedder):
    """An embedder that reads little, and counts by words."""

    max_tokens = 12

    def __init__(self) -> None:
        super().__init__(bag_of_words)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def test_documents_are_split_as_an_index_splits_them(tmp_path: Path, make_nbce: Callable[..., Any]) -> None:
    text = " ".join(f"client_{number}(http2=True, proxy={number})" for number in range(100))
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "long.txt").write_text(text)
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "How?", "keys": [["client_99"]]}])
    data = load_dataset(folder, questions, Small())
    with PassageIndex.create(tmp_path / "index", Small()) as index:
        index.add_files([folder])
        assert sorted(p.text for p in data.passages.values()) == sorted(p.text for p in index)
    assert max(len(p.text.split()) for p in data.passages.values()) == 12

    log = tmp_path / "log.jsonl"
    options: dict[str, Any] = {"methods": "closed-book", "k": 2, "model": make_nbce(), "log": log}
    evaluate(folder, questions, embedder=Small(), **options)
    header = RunLog.read(log).header
    assert header is not None
    assert header["dataset_sha256"] == data.sha256


def check_howto(documents: Path, questions: Path, least: int) -> None:
    data = load_dataset(documents, questions, bag_of_words)
    assert len(data.questions) >= least
    for question in data.questions:
        texts = [data.passages[id_].text for id_ in question.gold_ids]
        assert max(groups_found(text, question.keys) for text in texts) == 1, question.text


def test_how_to_questions_over_docstrings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "make_howto_corpus.py"))["main"]([str(tmp_path / "howto")])
    assert f"{len(list((tmp_path / 'howto').iterdir()))} pages" in capsys.readouterr().out
    check_howto(tmp_path / "howto", EXAMPLES / "howto-questions.jsonl", 30)


def test_how_to_questions_over_docstrings_of_another_package(tmp_path: Path) -> None:
    folder = tmp_path / "hypothesis"
    main = runpy.run_path(str(EXAMPLES / "make_howto_corpus.py"))["main"]
    main([str(folder), "--package", "hypothesis"])
    check_howto(folder, EXAMPLES / "hypothesis-questions.jsonl", 30)


def test_how_to_questions_over_the_chinese_handbook() -> None:
    check_howto(EXAMPLES / "handbook-zh.md", EXAMPLES / "handbook-zh-questions.jsonl", 8)
