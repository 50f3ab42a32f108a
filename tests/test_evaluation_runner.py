from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engine_reference import read
from evaluation_tools import TOPICS, write_dataset, write_jsonl
from index_tools import bag_of_words

from nbce_rag.answers.answer import Answer
from nbce_rag.errors import InputError, ReadError
from nbce_rag.evaluation import evaluate, load_dataset, parse_methods, rescore
from nbce_rag.evaluation.log import RunLog
from nbce_rag.evaluation.methods.method import REFINE, mean_log_prob
from nbce_rag.evaluation.methods.names import GROUPS
from nbce_rag.evaluation.methods.peers.cad import Cad
from nbce_rag.evaluation.methods.peers.replug import Replug
from nbce_rag.evaluation.methods.peers.robustrag import RobustRag
from nbce_rag.evidence.claims import normalise
from nbce_rag.fusion import MinEntropy, Posterior
from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

NAMES = [
    "closed-book",
    "gold",
    "top-1",
    "concat",
    "concat-reversed",
    "map-rerank",
    "posterior(beta=0,alpha=0.5)",
    "mean+joint",
    "experts+order",
    "cad",
    "replug",
]
METHODS = ",".join(NAMES)
TIMES = ("ttft_s", "seconds_per_question")


def _cited_ids(answer: Answer) -> list[str]:
    return [support.passage_id for citation in answer.citations for support in citation.supports]


def texts_of(log: Path) -> dict[tuple[str, str], str]:
    return {key: row["answer"] for key, row in answers_of(log).items()}


@pytest.fixture
def run(make_nbce: Callable[..., Any], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`run(log=..., methods=...)`: an evaluation of the five questions by a tiny model."""
    passages, questions = write_dataset(tmp_path)

    def run(**options: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "methods": METHODS,
            "k": 3,
            "batch_size": 2,
            "max_tokens": 4,
            "model": make_nbce(),
        } | options
        report: dict[str, Any] = evaluate(passages, questions, embedder=bag_of_words, **given)
        return report

    return run


def figures(report: dict[str, Any]) -> dict[str, Any]:
    """All but times, which no two runs share, and what is cached, which depends on who came before."""
    kept: dict[str, Any] = json.loads(json.dumps(report))
    for scores in kept["methods"].values():
        for name in (*TIMES, "cached_tokens"):
            del scores[name]
    return kept


def rows_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def answers_of(log: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["method"], row["question_id"]): row for row in rows_of(log) if row["type"] == "answer"}


def test_a_whole_run(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    told: list[tuple[int, int, dict[str, float]]] = []
    report = run(log=log, progress=lambda *how_far: told.append(how_far))
    assert (report["dataset"], report["k"], report["questions"]) == ("tiny", 3, 5)
    assert list(report["methods"]) == NAMES
    assert all(scores["questions"] == 5 for scores in report["methods"].values())
    assert set(report["retrieval"]) == {"recall@1", "recall@3", "recall@5", "recall@10", "mrr"}
    assert report["retrieval"]["recall@5"] == 1  # there are no more than five
    assert told[0] == (0, 55, {})
    assert [done for done, _, _ in told[1:]] == [*range(2, 45, 2), *range(45, 56)]
    assert set(told[-1][2]) == set(NAMES)
    assert told[-1][2]["concat"] == report["methods"]["concat"]["answer_found"]
    kinds = [row["type"] for row in rows_of(log)]
    assert kinds == ["header", *["retrieval"] * 5, *["method"] * 11, *["answer"] * 55]
    assert rescore(log) == report


def test_methods_are_the_engine_and_nothing_else(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    run(log=log)
    data = load_dataset(tmp_path / "tiny-passages.jsonl.gz", tmp_path / "tiny-questions.jsonl.gz")
    nbce = make_nbce(max_tokens=4)
    rows = answers_of(log)
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(data.passages.values())
        for question in data.questions:
            found = index.search(question.text, 3)
            gold = [data.passages[question.gold_ids[0]]]
            plain = {"fusion": MinEntropy(beta=0.0, eta=0.0, top_p=1.0)}
            apart = [
                nbce.answer(question.text, [passage], fusion=Posterior(beta=0.0, cutoff=0.0))
                for passage in found
            ]
            expected = {
                "gold": nbce.answer(question.text, gold, **plain),
                "top-1": nbce.answer(question.text, found[:1], fusion=Posterior(beta=0.0)),
                "concat": nbce.answer(question.text, found, passages_per_row=3, **plain),
                "concat-reversed": nbce.answer(question.text, found[::-1], passages_per_row=3, **plain),
                "map-rerank": max(apart, key=mean_log_prob),
                NAMES[6]: nbce.answer(question.text, found, fusion=Posterior(beta=0.0, alpha=0.5)),
                "mean+joint": nbce.answer(question.text, found, fusion="mean", joint_row=True),
                "experts+order": nbce.answer(question.text, found, fusion="experts", order_labels=True),
                "cad": nbce.answer(question.text, found, fusion=Cad(), passages_per_row=3),
                "replug": nbce.answer(question.text, found, fusion=Replug()),
            }
            for name, answer in expected.items():
                row = rows[name, question.id]
                assert (row["answer"], row["finish_reason"]) == (answer.text, answer.finish_reason)
                assert row["cited"] == list(dict.fromkeys(_cited_ids(answer)))
            assert rows["concat", question.id]["prompt_tokens"] == expected["concat"].usage.prompt_tokens
            assert rows["map-rerank", question.id]["prompt_tokens"] == sum(
                a.usage.prompt_tokens for a in apart
            )
            labelled = rows["experts+order", question.id]["prompt_tokens"]
            assert labelled == expected["experts+order"].usage.prompt_tokens
            assert labelled > rows[NAMES[6], question.id]["prompt_tokens"]
            assert rows["closed-book", question.id]["cited"] == []


def test_the_leading_citation_has_the_most_evidence(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    run(log=log, methods="top-1,gold")
    for row in answers_of(log).values():
        if row["answer"]:
            assert row["cited"] == [row["leading"]]
            assert row["method"] == "top-1" or row["leading"] == row["gold_ids"][0]


def test_two_runs_give_the_same_figures(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    one = run(log=tmp_path / "1.jsonl", limit=4, seed=7)
    two = run(log=tmp_path / "2.jsonl", limit=4, seed=7, model=make_nbce())
    assert figures(one) == figures(two)
    texts = texts_of(tmp_path / "1.jsonl")
    assert texts == texts_of(tmp_path / "2.jsonl")
    assert len(set(texts.values())) > 4  # so that equal ones say something
    asked = [row["question_id"] for row in rows_of(tmp_path / "1.jsonl") if row["type"] == "retrieval"]
    other = tmp_path / "3.jsonl"
    run(log=other, limit=4, seed=7, methods="gold")
    assert [row["question_id"] for row in rows_of(other) if row["type"] == "retrieval"] == asked


def test_killed_anywhere_and_resumed_the_figures_are_the_same(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    options = {"methods": "gold,concat,mean"}
    whole = run(log=log, **options)
    texts = texts_of(log)
    data, lines = log.read_bytes(), log.read_bytes().splitlines(keepends=True)
    starts = [sum(map(len, lines[:count])) for count in range(len(lines))]
    for cut in (5, starts[1], starts[3] + 11, starts[6], starts[9] + 40, starts[-1], len(data) - 1):
        log.write_bytes(data[:cut])
        assert figures(run(log=log, **options)) == figures(whole)
        assert texts_of(log) == texts
        kept = data[: data[:cut].rfind(b"\n") + 1]
        assert log.read_bytes().startswith(kept)
        assert len(log.read_bytes().splitlines()) == len(lines)


def test_a_resumed_run_rounds_as_a_whole_one(
    run: Callable[..., dict[str, Any]], tiny_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """In bfloat16, where it shows which rows were read together."""
    log = tmp_path / "run.jsonl"
    options = {"methods": "gold,posterior,experts", "model": tiny_folder("gemma3"), "dtype": "bfloat16"}
    run(log=log, together=True, **options)
    whole, lines = answers_of(log), log.read_bytes().splitlines(keepends=True)
    # Nothing of one question is left to the next, which would have been read among others.
    assert {row["cached_tokens"] for row in whole.values()} == {0}
    kinds = [row["type"] for row in rows_of(log)]
    for answered in (2, 6, 8):  # two questions by one method, then by the other two, then by the first again
        log.write_bytes(b"".join(lines[: kinds.index("answer") + answered]))
        run(log=log, together=True, **options)
        again = answers_of(log)
        assert again.keys() == whole.keys()
        for key, row in again.items():
            assert [row[name] for name in ("answer", "grounding", "leading")] == [
                whole[key][name] for name in ("answer", "grounding", "leading")
            ]


def test_together_are_methods_that_read_the_same_rows(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    methods = "max,max+joint,mean,max+order,concat,mean+order,experts"
    run(log=log, methods=methods, together=True, batch_size=1)
    shared = {name: row["batch"] for (name, _), row in answers_of(log).items()}
    assert shared == {
        **dict.fromkeys(("max", "mean", "experts"), 3),
        **dict.fromkeys(("max+order", "mean+order"), 2),
        **dict.fromkeys(("max+joint", "concat"), 1),
    }


def test_what_is_in_the_log_is_not_computed_again(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    log = tmp_path / "run.jsonl"
    run(log=log, methods="gold,mean")
    before = log.read_bytes()
    nbce = make_nbce()
    asked: list[int] = []
    batch = nbce.batch

    def counting(requests: list[Any]) -> Any:
        asked.append(len(requests))
        return batch(requests)

    monkeypatch.setattr(nbce, "batch", counting)
    monkeypatch.setattr(PassageIndex, "create", lambda *_, **__: pytest.fail("searched again"))
    report = run(log=log, methods="gold,mean", model=nbce)
    assert (asked, log.read_bytes()) == ([], before)
    assert figures(run(log=log, methods="mean,top-1", model=nbce))["methods"].keys() == {
        "gold",
        "mean",
        "top-1",
    }
    assert sum(asked) == 5  # only the new method
    monkeypatch.undo()
    assert figures(report) == figures(run(methods="gold,mean"))


def test_a_log_of_something_else_is_left_alone(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    run(log=log, methods="top-1")
    before = log.read_bytes()
    for change, message in (
        ({"k": 2}, "k is 3 there and 2 here"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"limit": 2}, "limit"),
    ):
        with pytest.raises(InputError, match=message):
            run(log=log, methods="top-1", **change)
    assert log.read_bytes() == before
    for text in ("my notes", "my notes\n", '{"type": "answer"}\n', before.decode() + "x\ny\n"):
        log.write_text(text)
        with pytest.raises(InputError, match="is not of an evaluation's log"):
            run(log=log, methods="top-1")
        assert log.read_text() == text
    with pytest.raises(ReadError, match="none"):
        rescore(tmp_path / "none.jsonl")
    log.write_text("")
    with pytest.raises(InputError, match="first line is no header"):
        rescore(log)


def test_a_log_is_on_disk_before_the_next_batch(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    log = RunLog.resume(path, {"k": 1})
    row = {"type": "answer", "method": "m", "question_id": "q\ud800", "answer": "\u2028"}
    log.append([row])
    assert RunLog.read(path).rows["m", "q?"]["answer"] == "\u2028"
    log.close()
    log.close()


def test_passages_that_do_not_fit_are_said_and_not_cut(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    long = " ".join(["The ferry and the market and the museum."] * 30)
    passages = write_jsonl(
        tmp_path / "long.jsonl",
        [
            {"id": "short", "text": "Ada runs the ferry."},
            *({"id": str(i), "text": f"{i} {long}"} for i in (1, 2)),
        ],
    )
    questions = write_jsonl(
        tmp_path / "long-questions.jsonl",
        [
            {"question": q, "answers": ["Ada"], "gold_ids": ["short"]}
            for q in ("Who runs it?", "Who runs the ferry?")
        ],
    )
    report = evaluate(
        passages,
        questions,
        methods="gold,concat,posterior",
        k=3,
        max_tokens=4,
        model=make_nbce(),
        embedder=bag_of_words,
        log=tmp_path / "log.jsonl",
    )
    assert [scores["did_not_fit"] for scores in report["methods"].values()] == [0, 2, 0]
    assert report["methods"]["concat"]["answer_found"] == 0
    assert report["methods"]["concat"]["seconds_per_question"] is None
    rows = answers_of(tmp_path / "log.jsonl")
    assert "3 passages take" in rows["concat", "q1"]["error"]


def test_one_that_does_not_fit_does_not_spoil_the_batch(
    make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    long = " ".join(["The ferry and the market and the museum."] * 25)
    records = [
        {
            "question": "Who?",
            "answers": ["x"],
            "ctxs": [{"id": f"{i}{j}", "text": text} for j, text in enumerate(texts)],
        }
        for i, texts in enumerate([["Ada.", "Bob."], [long, f"{long} more"], ["Cid.", "Dan."], ["Eva."]])
    ]
    questions = write_jsonl(tmp_path / "q.jsonl", records)
    log = tmp_path / "log.jsonl"
    report = evaluate(None, questions, methods="concat", k=2, max_tokens=3, model=make_nbce(), log=log)
    assert {id_: bool(row["error"]) for (_, id_), row in answers_of(log).items()} == {
        "q1": False,
        "q2": True,
        "q3": False,
        "q4": False,
    }
    assert report["retrieval"]["mrr"] is None  # no gold passages are known


def test_own_contexts_are_asked_in_their_order_and_not_searched(
    make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    ctxs = [
        {"id": i, "text": TOPICS[i][0], "isgold": i == "water"} for i in ("bread", "museum", "water", "ferry")
    ]
    record = {"question": "When does water boil?", "answers": ["100 degrees"], "ctxs": ctxs}
    log = tmp_path / "log.jsonl"
    report = evaluate(
        None,
        write_jsonl(tmp_path / "q.jsonl", [record]),
        methods="top-1",
        k=2,
        max_tokens=2,
        model=make_nbce(),
        log=log,
    )
    assert [row["ids"] for row in rows_of(log) if row["type"] == "retrieval"] == [["bread", "museum"]]
    assert report["retrieval"] == {"recall@1": 0, "recall@3": 1, "recall@5": 1, "recall@10": 1, "mrr": 1 / 3}


def test_more_passages_than_the_report_looks_at(make_nbce: Callable[..., Any], tmp_path: Path) -> None:
    passages = write_jsonl(
        tmp_path / "p.jsonl", [{"id": str(i), "text": f"Number {i} of many."} for i in range(130)]
    )
    questions = write_jsonl(tmp_path / "q.jsonl", [{"question": "Which?", "answers": ["x"], "gold_ids": []}])
    log = tmp_path / "log.jsonl"
    options: dict[str, Any] = {"methods": "closed-book", "k": 120, "max_tokens": 1, "log": log}
    evaluate(passages, questions, model=make_nbce(), embedder=bag_of_words, **options)
    assert [len(row["ids"]) for row in rows_of(log) if row["type"] == "retrieval"] == [120]


def test_an_index_can_be_kept_but_must_hold_nothing_else(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    one = run(index=folder, methods="top-1")
    assert figures(run(index=folder, methods="top-1")) == figures(one)
    with PassageIndex.open(folder, bag_of_words) as index:
        assert len(index) == 5
        index.add([Passage("Something else.")])
    with pytest.raises(InputError, match="1 passages that are not of this evaluation"):
        run(index=folder, methods="top-1")


@pytest.mark.parametrize(
    "change", [{"k": 0}, {"batch_size": 0}, {"max_tokens": 0}, {"methods": ""}, {"half": 3}]
)
def test_impossible_arguments(run: Callable[..., dict[str, Any]], change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        run(**change)


def test_method_names() -> None:
    def names(text: str) -> list[str]:
        return [method.name for method in parse_methods(text)]

    assert names(METHODS) == NAMES
    assert names(" concat, posterior( beta=0, alpha=0.5 ) ,gold,concat") == [
        "concat",
        "posterior(beta=0,alpha=0.5)",
        "gold",
    ]
    (method,) = parse_methods("posterior(beta=0,alpha=0.5)+joint")
    assert (method.fusion, method.joint_row) == (Posterior(beta=0.0, alpha=0.5), True)
    assert method.parameters["alpha"] == 0.5
    assert method.parameters["joint_row"] is True
    assert "order_labels" not in {*method.parameters, *method.options}
    (method,) = parse_methods("posterior(beta=0)+joint+order")
    assert (method.joint_row, method.options) == (True, {"order_labels": True})
    assert method.parameters["order_labels"] is True
    plain = {m.name: m for m in parse_methods("concat,map-rerank,min-entropy,concat-yarn(factor=4),cad")}
    assert (plain["concat"].layout, plain["map-rerank"].layout) == ("together", "apart")
    assert plain["min-entropy"].fusion == MinEntropy()
    stretched = plain["concat-yarn(factor=4)"]
    assert (stretched.rope, stretched.factor, stretched.layout) == ("yarn", 4.0, "together")
    assert plain["cad"].layout == "together"
    (one,) = parse_methods("ck-plug(alpha=0.5)+one-row+order")
    assert (one.layout, one.joint_row, one.options) == ("together", False, {"order_labels": True})
    assert one.parameters["layout"] == "together"
    (robust,) = parse_methods("robustrag(gamma=0.8)")
    assert (robust.fusion, robust.options) == (RobustRag(gamma=0.8), {"refusal_threshold": 0.8})


def test_names_that_stand_for_several() -> None:
    rules = ["min-entropy", "mean", "max", "experts", "posterior"]
    assert [m.name for m in parse_methods("rules")][:5] == rules
    joint = [m.name for m in parse_methods("rules+joint,concat")]
    assert (joint[:5], joint[-1]) == ([f"{r}+joint" for r in rules], "concat")
    assert {"replug", "leens", "cad", "robustrag"} <= {m.name for m in parse_methods("peers")}
    peers = {m.name: (m.layout, m.joint_row) for m in parse_methods("peers")}
    assert peers["berag"] == ("rows", False)
    assert peers["dvd+joint"] == ("rows", True)
    for name in ("adacad", "acd", "ck-plug"):
        assert peers[f"{name}+one-row"] == peers["cad"] == ("together", False)
    everything = [m.name for m in parse_methods("all")]
    assert {"closed-book", "refine", "concat-ntk", "mean+joint", "cad", "posterior"} <= set(everything)
    assert len(everything) == len(set(everything)) == len(GROUPS["all"]) >= 23


def test_every_peer_runs_and_the_row_of_all_passages_is_told(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any]
) -> None:
    report = run(methods="peers")
    assert list(report["methods"]) == list(GROUPS["peers"])
    assert all(scores["did_not_fit"] == 0 for scores in report["methods"].values())
    passages = [Passage("The ferry is red."), Passage("The ferry is run by Ada.")]
    nbce = make_nbce(max_tokens=2)
    for options, expected in (
        ({}, None),
        ({"joint_row": True}, [[0.0, 0.0, 1.0]]),
        ({"passages_per_row": 2}, None),
    ):
        _, _, prompted = read(nbce, nbce.request("Who runs it?", passages, fusion="dvd", **options))
        joint = prompted.state.joint
        assert (joint if joint is None else joint.tolist()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "No methods"),
        ("best", "Unknown method 'best'"),
        ("concat+joint", "only a fusion rule can have +joint or +order"),
        ("concat+order", "only a fusion rule can have +joint or +order"),
        ("cad+joint", "one row already"),
        ("cad+order", "one row already"),
        ("cad+one-row", "one row already"),
        ("top-1+one-row", "only a fusion rule can have +joint or +order or +one-row"),
        ("mean+joint+one-row", "Unknown method 'mean+joint+one-row'"),
        ("mean+order+joint", "Unknown method 'mean+order+joint'"),
        ("posterior(beta=x)", "'beta=x' is no number"),
        ("posterior(beta)", "'beta' is no number"),
        ("posterior()", "'' is no number"),
        ("posterior(beta=0,beta=1)", "beta is given twice"),
        ("posterior(beta=0", "Unknown method"),
        ("posterior(beta=0)x", "Unknown method"),
        ("posterior(eta=1)", "has no eta"),
        ("posterior(beta=-2)", "out of range"),
        ("leens(tau=0)", "tau=0.0 is out of range"),
        ("robustrag(gamma=0)", "gamma=0.0 is out of range"),
        ("replug(beta=1)", "has no beta"),
        ("concat(beta=1)", "has no beta; it has no numbers"),
        ("concat-ntk(beta=1)", "has no beta; it has factor"),
        ("concat-yarn(factor=0.5)", "factor=0.5 is out of range"),
        ("mean,beta=0", "Unknown method 'beta=0'"),
    ],
)
def test_impossible_methods(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse_methods(text)


def test_refine_asks_each_passage_with_the_answer_so_far(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    nbce = make_nbce()
    asked: list[list[Any]] = []
    batch = nbce.batch

    def watching(requests: list[Any]) -> Any:
        asked.append(requests)
        return batch(requests)

    nbce.batch = watching
    run(log=log, methods="refine", model=nbce, batch_size=5)
    assert [len(requests) for requests in asked] == [5, 5, 5]  # all questions at once, passage by passage
    plain = make_nbce(max_tokens=4)
    for row in answers_of(log).values():
        mine = [request for requests in asked for request in requests if row["question"] in request.question]
        kept, cited, tokens = "", [], 0
        for request in mine:
            spoken = normalise(kept)
            want = REFINE.format(question=row["question"], answer=kept) if spoken else row["question"]
            assert request.question == want
            answer = plain.answer(want, request.passages, fusion=Posterior(beta=0.0))
            tokens += answer.usage.prompt_tokens
            if not spoken or normalise(answer.text) not in ("", spoken):
                kept, cited = answer.text, _cited_ids(answer)
        assert (row["answer"], row["prompt_tokens"]) == (kept, tokens)
        assert row["cited"] == list(dict.fromkeys(cited))
        assert 0 < row["ttft_s"] <= row["seconds"] * row["batch"]


def test_the_log_says_what_a_method_is(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    log = tmp_path / "run.jsonl"
    report = run(log=log, methods="posterior(beta=0),concat,replug")
    parameters = {name: scores["parameters"] for name, scores in report["methods"].items()}
    assert parameters["posterior(beta=0)"] == {
        "fusion": "posterior",
        **vars(Posterior(beta=0.0)),
        "joint_row": False,
    }
    assert parameters["concat"] == {"layout": "together"}
    text = log.read_text().replace('"tau": 1.0', '"tau": 2.0')
    log.write_text(text)
    with pytest.raises(InputError, match="has answers by 'replug' with other numbers"):
        run(log=log, methods="replug")
    assert log.read_text() == text


def test_differences_are_the_default_rule_minus_the_others(run: Callable[..., dict[str, Any]]) -> None:
    report = run(methods="posterior,concat,closed-book")
    assert set(report["differences"]) == {"posterior - concat", "posterior - closed-book"}
    for name in ("concat", "closed-book"):
        of = report["differences"][f"posterior - {name}"]
        for score in ("answer_found", "exact_match", "f1"):
            gap = report["methods"]["posterior"][score] - report["methods"][name][score]
            assert of[score]["mean"] == pytest.approx(gap)
            assert of[score]["ci95"][0] <= of[score]["mean"] <= of[score]["ci95"][1]
    assert run(methods="concat,mean")["differences"] == {}


def test_the_engines_own_rule_is_no_part_of_a_log(
    run: Callable[..., dict[str, Any]], make_nbce: Callable[..., Any], tmp_path: Path
) -> None:
    log = tmp_path / "run.jsonl"
    first = run(log=log, methods="concat", model=make_nbce(fusion="mean"))
    lines = log.read_bytes()
    assert run(log=log, methods="concat", model=make_nbce(fusion="max")) == first
    assert log.read_bytes() == lines


def test_lines_say_how_far_answers_rest_on_gold_passages(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    plain, log = tmp_path / "plain.jsonl", tmp_path / "run.jsonl"
    methods = "closed-book,gold,concat,map-rerank,posterior,mean+joint"
    run(methods=methods, log=plain)
    assert not any("necessity" in row for row in answers_of(plain).values())
    run(methods=methods, log=log, ablate=True)
    hits = {row["question_id"]: row["ids"] for row in rows_of(log) if row["type"] == "retrieval"}
    ablated = 0
    for (method, question), row in answers_of(log).items():
        if method not in ("gold", "posterior"):  # without passages, several in a row, several answers
            assert "necessity" not in row
            continue
        if "necessity" not in row:
            assert not row["answer"]
            continue
        ablated += 1
        [gold] = row["gold_ids"]
        assert (row["necessity"] is None) == (method == "posterior" and gold not in hits[question])
        assert (row["sufficiency"] is None) == (not row["cited"])
        if method == "gold" and row["cited"]:
            assert row["sufficiency"] == pytest.approx(0, abs=1e-4)
    assert ablated
    assert texts_of(log) == texts_of(plain)
