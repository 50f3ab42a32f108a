"""The example texts and their questions agree with each other and with examples/README.md."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CORPUS = EXAMPLES / "corpus"
FIELDS = {"id", "question", "answers", "gold", "kind", "language"}
# kind -> (least number of questions, allowed numbers of gold files, least number of answers)
KINDS: dict[str, tuple[int, range, int]] = {
    "single": (80, range(1, 2), 1),
    "multi": (10, range(2, 10), 1),
    "two-passage": (15, range(2, 3), 1),
    "conflict": (5, range(2, 3), 2),
    "unanswerable": (15, range(1), 0),
}

QUESTIONS: list[dict[str, Any]] = [
    json.loads(line) for line in (EXAMPLES / "corpus-questions.jsonl").read_text("utf-8").splitlines()
]
ORDERED: list[dict[str, Any]] = [
    json.loads(line) for line in (EXAMPLES / "ordered-questions.jsonl").read_text("utf-8").splitlines()
]
TEXTS: dict[str, str] = {path.name: path.read_text("utf-8") for path in sorted(CORPUS.iterdir())}
each_question = pytest.mark.parametrize("row", QUESTIONS, ids=[row["id"] for row in QUESTIONS])


def _is_chinese(text: str) -> bool:
    return re.search(r"[\u4e00-\u9fff]", text) is not None


def _normalised(question: str) -> str:
    folded = unicodedata.normalize("NFKC", question).casefold()
    return "".join(char for char in folded if char.isalnum())


@each_question
def test_question_is_well_formed(row: dict[str, Any]) -> None:
    assert set(row) == FIELDS
    assert row["question"] == row["question"].strip()
    assert row["question"].endswith(("?", "\uff1f"))
    assert re.fullmatch(rf"{row['language']}-\d{{3}}", row["id"])
    _, gold_sizes, least_answers = KINDS[row["kind"]]
    assert len(row["gold"]) in gold_sizes
    assert len(row["answers"]) >= least_answers
    assert bool(row["answers"]) == bool(row["gold"])
    assert len(set(row["gold"])) == len(row["gold"])
    assert len(set(row["answers"])) == len(row["answers"])
    assert all(answer and answer == answer.strip() for answer in row["answers"])
    assert _is_chinese(row["question"]) == (row["language"] == "zh")


@each_question
def test_answer_stands_in_its_gold_files(row: dict[str, Any]) -> None:
    missing = [name for name in row["gold"] if name not in TEXTS]
    assert not missing
    texts = [TEXTS[name] for name in row["gold"]]
    if row["kind"] in {"single", "multi"}:
        assert all(row["answers"][0] in text for text in texts)
    elif row["kind"] == "two-passage":
        assert any(row["answers"][0] in text for text in texts)
    elif row["kind"] == "conflict":
        assert len(row["answers"]) == len(texts)
        for index, answer in enumerate(row["answers"]):
            # Each side states its own version and nothing of the other's.
            assert [answer in text for text in texts] == [other == index for other in range(len(texts))]
    else:
        assert row["kind"] == "unanswerable"
        assert not texts


@each_question
def test_verbatim_answer_is_short(row: dict[str, Any]) -> None:
    for answer in row["answers"]:
        assert len(answer) <= 12 if _is_chinese(answer) else len(answer.split()) <= 6


@pytest.mark.parametrize("row", ORDERED, ids=[row["id"] for row in ORDERED])
def test_ordered_question_is_answered_by_one_passage_in_its_place(row: dict[str, Any]) -> None:
    names = [passage["id"] for passage in row["ctxs"]]
    text = names[0].removesuffix("-1")
    assert names == [f"{text}-{place}" for place in range(1, len(names) + 1)]
    assert 6 <= len(names) <= 7  # all of them within the default k
    (answer,) = row["answers"]
    assert [passage["id"] for passage in row["ctxs"] if answer in passage["text"]] == row["gold_ids"]
    assert answer not in row["question"]


def test_ordered_questions_are_four_to_a_text() -> None:
    assert set(Counter(row["ctxs"][0]["id"] for row in ORDERED).values()) == {4}
    assert len({row["id"] for row in ORDERED}) == len({row["question"] for row in ORDERED}) == 24


def test_counts_reach_the_numbers_of_the_readme() -> None:
    kinds = Counter(row["kind"] for row in QUESTIONS)
    assert set(kinds) == set(KINDS)
    for kind, (least, _, _) in KINDS.items():
        assert kinds[kind] >= least, kind
    languages = Counter(row["language"] for row in QUESTIONS)
    assert len(QUESTIONS) >= 120
    assert 0.2 <= languages["zh"] / len(QUESTIONS) <= 0.35
    documents = Counter("zh" if name.startswith("zh-") else "en" for name in TEXTS)
    assert documents == {"en": 40, "zh": 15}
    assert Counter(Path(name).suffix for name in TEXTS).keys() == {".md", ".txt", ".html"}


def test_ids_and_questions_are_unique() -> None:
    assert len({row["id"] for row in QUESTIONS}) == len(QUESTIONS)
    assert len({_normalised(row["question"]) for row in QUESTIONS}) == len(QUESTIONS)


def test_every_document_is_gold_for_some_question() -> None:
    assert set(TEXTS) == {name for row in QUESTIONS for name in row["gold"]}


@pytest.mark.parametrize("name", TEXTS)
def test_document_is_short_and_in_its_language(name: str) -> None:
    text = re.sub(r"<[^>]+>", " ", TEXTS[name])
    if name.startswith("zh-"):
        assert 100 <= len(re.findall(r"[\u4e00-\u9fff]", text)) <= 400
    else:
        assert 60 <= len(text.split()) <= 250
        assert not _is_chinese(text)
