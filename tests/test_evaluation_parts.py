"""Questions joined to one with several parts: each part has a line of its own in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_tools import write_dataset
from index_tools import bag_of_words

from nbce_rag.errors import InputError
from nbce_rag.evaluation import evaluate, load_dataset, parse_methods
from nbce_rag.evaluation.data.questions import Question
from nbce_rag.evaluation.joined import answer_to, joined_passages, joined_question
from nbce_rag.evaluation.log import RunLog
from nbce_rag.passages import Passage

Make = Callable[..., Any]


def question(name: str, gold: str) -> Question:
    return Question(id=name, text=f"Who\n is {name}?", answers=("x",), gold_ids=(gold,))


def test_gold_passages_are_among_those_given() -> None:
    corpus = {name: Passage(name, id=name) for name in "abcdefg"}
    questions = [question("one", "g"), question("two", "b")]
    found = {
        "one": [replace(corpus[name], score=score) for name, score in (("a", 0.9), ("b", 0.2))],
        "two": [replace(corpus[name], score=score) for name, score in (("b", 0.8), ("c", 0.7))],
    }
    passages = joined_passages(questions, found, corpus, 3)
    assert [(p.id, p.score) for p in passages] == [("a", 0.9), ("b", 0.8), ("g", None)]
    assert [p.id for p in joined_passages(questions, found, corpus, 1)] == ["b", "g"]
    assert joined_question(questions) == "1. Who is one?\n2. Who is two?"


def test_what_is_said_to_each_part(make_nbce: Make) -> None:
    answer = make_nbce(max_tokens=3).answer("Who?\nWho ran?", ["Ada runs it.", "It opens at eight."])
    assert [answer_to(answer, part, 2) for part in (0, 1)] == list(answer.parts)
    lines = replace(answer, parts=(), text="1. Ada\n\n2) at eight", tokens=(), citations=())
    assert [answer_to(lines, part, 2).text for part in (0, 1)] == ["Ada", "at eight"]
    assert answer_to(lines, 1, 3).text == lines.text  # not a line for each: all of it
    assert answer_to(answer, 1, 3) == answer  # asked in other parts


def test_a_run_over_joined_questions(make_nbce: Make, tmp_path: Path) -> None:
    passages, questions = write_dataset(tmp_path)
    methods = "posterior+parts=2,posterior+whole=2,concat+parts=2,gold"
    options: dict[str, Any] = {"k": 3, "max_tokens": 4, "embedder": bag_of_words, "seed": 1}
    log = tmp_path / "run.jsonl"
    report = evaluate(
        passages, questions, methods=methods, model=make_nbce(), log=log, batch_size=3, **options
    )
    assert all(scores["questions"] == 5 for scores in report["methods"].values())
    rows = RunLog.read(log).rows
    data = load_dataset(passages, questions).sample(seed=1)
    nbce = make_nbce(max_tokens=4, style="short")
    pair = data.questions[:2]
    given = joined_passages(pair, _found(log, data.passages), data.passages, 3)
    answer = nbce.answer(joined_question(pair), given)
    assert [rows["posterior+parts=2", one.id]["answer"] for one in pair] == [p.text for p in answer.parts]
    assert [rows["posterior+parts=2", one.id]["question"] for one in pair] == [one.text for one in pair]
    whole = nbce.answer(joined_question(pair), given, parts=False, max_tokens=8)
    assert rows["posterior+whole=2", pair[0].id]["answer"] == answer_to(whole, 0, 2).text
    last = data.questions[4]  # has nobody to be joined with
    assert rows["concat+parts=2", last.id]["answer"]


def _found(log: Path, corpus: Any) -> dict[str, list[Passage]]:
    retrieval = RunLog.read(log).retrieval
    return {
        name: [replace(corpus[id_], score=s) for id_, s in zip(row["ids"], row["scores"], strict=True)]
        for name, row in retrieval.items()
    }


def test_names() -> None:
    rule, whole, concat = parse_methods("posterior(beta=0)+joint+parts=4,mean+whole=2,concat+parts=4")
    assert (rule.joined, rule.asks_at_once, rule.joint_row) == (4, False, True)
    assert (whole.joined, whole.asks_at_once) == (2, True)
    assert (concat.joined, concat.asks_at_once) == (4, True)
    assert concat.parameters["joined"] == 4
    for name in ("posterior+parts=1", "concat+parts=33", "mean+whole=0"):
        with pytest.raises(InputError, match="cannot be joined; give a number from 2 to 32"):
            parse_methods(name)
    with pytest.raises(InputError, match="Unknown method"):
        parse_methods("posterior+parts=")
