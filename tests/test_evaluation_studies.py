from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_tools import TOPICS, write_dataset, write_jsonl
from index_tools import bag_of_words
from typer.testing import CliRunner

from nbce_rag.cli.main import app
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError
from nbce_rag.evaluation import load_dataset
from nbce_rag.evaluation.asker import Asker
from nbce_rag.evaluation.data.questions import Question
from nbce_rag.evaluation.log import RunLog
from nbce_rag.evaluation.studies import STUDIES, kv8
from nbce_rag.evaluation.studies.conflict import contradicts, judge_answer, judge_comparison
from nbce_rag.evaluation.studies.irrelevant import separation, silence
from nbce_rag.evaluation.studies.pictures import Panel, Point, bars, lines
from nbce_rag.evaluation.studies.study import Study, run_study
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.passages import Passage

TIMES = ("ttft_s", "seconds_per_question")
PNG = b"\x89PNG\r\n"


@pytest.fixture
def make_study(make_nbce: Callable[..., Any], tmp_path: Path) -> Callable[..., Study]:
    """`make_study(out="a", ...)`: five questions, a tiny model, few passages."""
    paths = write_dataset(tmp_path)

    def make(out: str = "out", **options: Any) -> Study:
        given: dict[str, Any] = {
            "data": load_dataset(*paths),
            "nbce": make_nbce(),
            "methods": "concat,posterior",
            "points": (1, 3),
            "k": 3,
            "batch_size": 2,
            "max_tokens": 3,
            "embedder": bag_of_words,
        }
        return Study(out=tmp_path / out, **given | options)

    return make


@pytest.fixture
def ramdocs(tmp_path: Path) -> Path:
    cities = [("correct", "Rome"), ("misinfo", "Bern"), ("correct", "Oslo"), ("noise", "unknown")]
    record = {
        "question": "Where was Ada born?",
        "gold_answers": ["Rome", "Oslo"],
        "wrong_answers": ["Bern"],
        "documents": [
            {"id": str(i), "text": f"Ada was born in {city}.", "type": kind, "answer": city}
            for i, (kind, city) in enumerate(cities)
        ],
    }
    other = record | {"question": "Where is it?", "documents": record["documents"][:1]}
    return write_jsonl(tmp_path / "ramdocs.jsonl", [record, other])


def figures(study: Study, name: str) -> dict[str, Any]:
    """What the study wrote, without times."""
    found: dict[str, Any] = json.loads((study.out / f"{name}.json").read_text())
    for row in found["rows"]:
        for time in TIMES:
            row.pop(time, None)
    return found


def asked(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((study.out / "logs").iterdir()):
        for line in path.read_text().splitlines():
            yield path.stem, json.loads(line)


@pytest.mark.parametrize("name", ["passages", "position", "irrelevant", "sweep", "conflict"])
def test_a_study_can_be_interrupted_and_repeated(
    make_study: Callable[..., Study], name: str, ramdocs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"methods": "min-entropy"} if name == "sweep" else {}
    if name == "conflict":
        options["data"] = load_dataset(None, ramdocs)
    whole = make_study("whole", **options)
    finding = run_study(name, whole)
    assert finding.rows
    assert (whole.out / f"{name}.png").read_bytes().startswith(PNG)
    table = (whole.out / f"{name}.md").read_text()
    assert table.count("\n| ") == len(finding.rows) + 2
    assert f"![{finding.title}]({name}.png)" in table

    killed = make_study("killed", **options)
    ask, calls = Asker.ask, 0

    def dies(self: Asker, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return ask(self, batch)

    monkeypatch.setattr(Asker, "ask", dies)
    with pytest.raises(KeyboardInterrupt):
        run_study(name, killed)
    assert not (killed.out / f"{name}.json").exists()
    monkeypatch.setattr(Asker, "ask", ask)
    run_study(name, make_study("killed", **options))
    assert figures(killed, name) == figures(whole, name)

    monkeypatch.setattr(Asker, "ask", lambda *_: pytest.fail("asked again"))
    before = {path: path.read_bytes() for path in whole.out.glob(f"{name}.*")}
    run_study(name, make_study("whole", **options))
    assert {path: path.read_bytes() for path in whole.out.glob(f"{name}.*")} == before


def test_more_passages_up_to_what_there_is(make_study: Callable[..., Study]) -> None:
    study = make_study(points=(2, 5, 64), methods="gold,concat")
    rows = run_study("passages", study).rows
    assert [(row["passages"], row["method"]) for row in rows] == [
        (k, name) for k in (2, 5) for name in ("gold", "concat")
    ]
    assert [row["gold_read"] for row in rows][-1] == 1
    tokens = {(row["passages"], row["method"]): row["prompt_tokens"] for row in rows}
    assert tokens[5, "concat"] > tokens[2, "concat"]
    assert tokens[5, "gold"] == tokens[2, "gold"]
    with pytest.raises(InputError, match="has 5 passages to choose from"):
        run_study("passages", make_study(points=(6,)))
    with pytest.raises(InputError, match="points=0"):
        run_study("passages", make_study(points=(0, 1)))


def test_the_gold_passage_stands_at_its_rank_with_the_score_of_the_rank(
    make_study: Callable[..., Study],
) -> None:
    study = make_study(points=(1, 2, 3), methods="posterior")
    run_study("position", study)
    found = [(name, row) for name, row in asked(study) if row["type"] == "retrieval"]
    best = {row["question_id"]: row["scores"][:3] for name, row in found if name.startswith("search")}
    placed = [(name, row) for name, row in found if name.startswith("position")]
    assert len(placed) == 15
    for name, row in placed:
        assert row["gold_ranks"] == [int(name.rsplit("-", 1)[1])]
        assert row["scores"] == best[row["question_id"]]
        assert len(set(row["ids"])) == 3


def test_irrelevant_passages_hold_no_answer(make_study: Callable[..., Study]) -> None:
    study = make_study()
    rows = run_study("irrelevant", study).rows
    assert [(row["passages"], row["questions"]) for row in rows] == [(1, 5), (1, 5), (3, 5), (3, 5)]
    golds = {f"q{i}": id_ for i, id_ in enumerate(TOPICS, 1)}
    answers = {f"q{i}": topic[2] for i, topic in enumerate(TOPICS.values(), 1)}
    seen = 0
    for name, row in asked(study):
        if row["type"] != "retrieval" or not name.startswith("irrelevant"):
            continue
        seen += 1
        texts = [TOPICS[id_][0] for id_ in row["ids"]]
        holding = [answers[row["question_id"]] in text for text in texts]
        assert sum(holding) == (1 if "-with-" in name else 0)
        assert (golds[row["question_id"]] in row["ids"]) == ("-with-" in name)
    assert seen == 20


def test_thresholds_by_hand() -> None:
    low, high = [0.1, 0.2, 0.9], [0.3, 0.5, 0.7, 1.0]
    assert separation(low, high) == 9 / 12
    assert separation([1.0], [1.0]) == 0.5
    assert silence(low, high, 0.0) == (0.3, [1.0, 1.0, 0.0])
    assert silence(low, high, 0.5) == (0.7, [1.0, 1.0, 0.0])
    assert silence([0.0, float("-inf")], [float("-inf"), 1.0], 0.1) == (None, [0.0, 0.0])


def test_what_does_not_fit_does_not_count_as_abstaining(make_study: Callable[..., Study]) -> None:
    data = make_study().data
    long = {id_: replace(p, text=p.text + " The square was quiet." * 30) for id_, p in data.passages.items()}
    study = make_study(points=(3,), data=replace(data, passages=long))  # three are too much for one row
    concat, posterior = run_study("irrelevant", study).rows
    assert (concat["questions"], concat["abstained"], concat["separation"]) == (0, None, None)
    assert posterior["questions"] == 5


def test_contradictions_by_hand() -> None:
    def document(kind: str, answer: str) -> Passage:
        return Passage(f"{kind} {answer}", metadata={"type": kind, "answer": answer})

    contexts = (document("correct", "Rome"), document("correct", "rome."), document("noise", "unknown"))
    question = Question("q", "Where?", ("Rome", "Oslo"), contexts=contexts, wrong_answers=("Bern",))
    assert not contradicts(question)
    assert contradicts(Question("q", "Where?", (), contexts=(*contexts, document("misinfo", "Bern"))))
    verdicts = {
        "In Rome.": (True, False, True, False),
        "Oslo and Rome": (True, True, True, True),
        "Oslo, Rome or Bern": (True, True, False, False),
        "Romeo": (False, False, True, False),
    }
    for said, verdict in verdicts.items():
        assert tuple(judge_answer(question, said).values()) == verdict
    groups = [{"text": "Rome"}, {"text": "Oslo"}]
    judged = judge_comparison(question, {"groups": groups})
    assert (judged["clean"], judged["seen"], judged["there"]) == (True, True, False)
    assert not judge_comparison(question, {"groups": groups[:1]})["seen"]


def test_conflicts_need_documents_of_a_type(make_study: Callable[..., Study], ramdocs: Path) -> None:
    with pytest.raises(InputError, match="does not say which documents are right"):
        run_study("conflict", make_study())
    study = make_study("other", data=load_dataset(None, ramdocs), methods="top-1")
    finding = run_study("conflict", study)
    assert [row["method"] for row in finding.rows] == ["top-1", "compare"]
    compared = RunLog.read(study.log("conflict-compare")).rows
    for row in compared.values():
        ids = [id_ for group in row["groups"] for id_ in group["passages"]] + row["silent"]
        assert sorted(ids) == ["0", "1", "2", "3"][: len(ids)]
    top = finding.rows[0]
    shares = [top[f"cites_{kind}"] or 0 for kind in ("correct", "misinfo", "noise")]
    assert sum(shares) == pytest.approx(1 if top["answers_cited"] else 0)


def test_sweeps_vary_one_number_and_mark_the_default(make_study: Callable[..., Study]) -> None:
    rows = run_study("sweep", make_study(methods="experts")).rows
    assert {(row["rule"], row["number"]) for row in rows} == {("experts", "gamma")}
    assert [row["value"] for row in rows if row["default"]] == [2.5]
    with pytest.raises(InputError, match="nothing to sweep for 'concat'"):
        run_study("sweep", make_study(methods="concat"))


class CodecStore(PassageKVStore):
    """A store that takes a codec and keeps half of what it is given where the codec rounds."""

    def __init__(self, max_bytes: int = 1 << 30, codec: str | None = None) -> None:
        super().__init__(max_bytes)
        self.halves = codec == "int8"

    def put(self, key: str, context: Any, *arguments: Any, **options: Any) -> Any:
        if self.halves:
            context = {name: tensor * 0.5 for name, tensor in context.items()}
        return super().put(key, context, *arguments, **options)


def test_8_bit_keys_and_values(make_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv8, "PassageKVStore", CodecStore)
    study = make_study(methods="posterior")
    (row,) = run_study("kv8", study).rows
    assert row["same"] < 1  # this codec is a bad one
    assert row["exact_bytes"] == row["8 bits_bytes"] > 0
    for name, line in asked(study):
        if line["type"] == "answer":
            assert line["cached_tokens"] > 0, name
    (again,) = run_study("kv8", make_study(methods="posterior")).rows
    assert (again["same"], again["difference_ci95"]) == (row["same"], row["difference_ci95"])


def test_8_bit_needs_a_codec(make_study: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        def __init__(self, max_bytes: int = 0) -> None:
            raise AssertionError

    monkeypatch.setattr(kv8, "PassageKVStore", Plain)
    with pytest.raises(InputError, match="has no codec"):
        run_study("kv8", make_study())


def test_pictures_draw_what_there_is() -> None:
    points = [Point(1, 0.5, 0.4, 0.7), Point(2, None), Point(4, 0.2)]
    panel = Panel("one", "x", "y", {"gold": points, "mine": points[:1], "nothing": []}, log=True, mark=2.0)
    assert lines([panel] * 4, "four").startswith(PNG)
    ticks = {float(i): str(i) for i in range(3)}
    groups = Panel("", "share", "", {"a": [Point(0, 0.1, 0.0, 0.3)], "b": [Point(2, 1.0)]}, ticks=ticks)
    assert bars([groups, groups], "two").startswith(PNG)


def test_on_the_command_line(
    tmp_path: Path, tiny_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[NBCE] = []
    load = NBCE.from_pretrained

    def loaded(*args: Any, **options: Any) -> NBCE:
        engines.append(load(*args, **options))
        return engines[-1]

    monkeypatch.setattr(NBCE, "from_pretrained", loaded)
    ctxs = [{"id": id_, "text": text, "hasanswer": id_ == "water"} for id_, (text, _, _) in TOPICS.items()]
    record = {"question": "When does water boil?", "answers": ["100 degrees"], "ctxs": ctxs}
    questions = write_jsonl(tmp_path / "q.jsonl", [record])

    def invoke(*arguments: object) -> Any:
        given = ["study", *map(str, arguments), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, given, catch_exceptions=False)

    usual = ("--model", tiny_folder("llama"), "--device", "cpu", "--max-tokens", 2, "--methods", "concat")
    result = invoke("passages", "--questions", questions, "--points", "1,2", *usual)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("# Answers against the number of passages (q)")
    # What a store kept would be rounded otherwise in a study that goes on after an end.
    assert [nbce.kv_store for nbce in engines] == [None]
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "logs",
        "passages.json",
        "passages.md",
        "passages.png",
    }
    for arguments, message in (
        (("none",), f"choose one of {', '.join(STUDIES)}"),
        (("passages",), "--questions FILE"),
        (("passages", "--questions", questions, "--points", "1,x"), "'1,x' must be whole numbers"),
        (("passages", "--questions", questions, "--methods", "best"), "Unknown method 'best'"),
    ):
        result = invoke(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert message in result.stderr
