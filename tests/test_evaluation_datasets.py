from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_tools import TOPICS, write_dataset, write_jsonl
from index_tools import bag_of_words

from nbce_rag.errors import InputError, ReadError
from nbce_rag.evaluation import load_dataset
from nbce_rag.passages import Passage

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Ferries",
            "paragraphs": [
                {
                    "context": "The ferry is run by Ada.",
                    "qas": [
                        {
                            "id": "s1",
                            "question": "Who runs it?",
                            "answers": [
                                {"text": "Ada", "answer_start": 20},
                                {"text": "Ada", "answer_start": 20},
                            ],
                        },
                        {"id": "s2", "question": "Who sank it?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def ctxs_record(**changes: Any) -> dict[str, Any]:
    return {
        "question": "Who runs it?",
        "answers": ["Ada"],
        "ctxs": [
            {"id": "0", "title": "Bread", "text": "Bread is sold.", "score": "81.5", "hasanswer": False},
            {"id": "1", "title": "Ferry", "text": "Ada runs the ferry.", "score": "80", "hasanswer": True},
        ],
    } | changes


def test_jsonl(tmp_path: Path) -> None:
    data = load_dataset(*write_dataset(tmp_path))
    assert data.name == "tiny"
    assert [q.gold_ids for q in data.questions] == [(id_,) for id_ in TOPICS]
    assert [q.id for q in data.questions] == ["q1", "q2", "q3", "q4", "q5"]
    assert data.passages["water"] == Passage(TOPICS["water"][0], id="water", title="Water")
    assert not data.own_contexts


def test_squad_paragraphs_are_the_corpus(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(SQUAD))
    data = load_dataset(None, path)
    (passage,) = data.passages.values()
    assert (passage.title, passage.text) == ("Ferries", "The ferry is run by Ada.")
    assert [(q.id, q.answers, q.gold_ids) for q in data.questions] == [
        ("s1", ("Ada",), (passage.id,)),
        ("s2", (), ()),
    ]


def test_gold_paragraphs_are_found_in_another_corpus_by_their_text(tmp_path: Path) -> None:
    questions = tmp_path / "dev.json"
    questions.write_text(json.dumps(SQUAD))
    passages = write_jsonl(
        tmp_path / "p.jsonl",
        [{"id": "p0", "text": "Bread."}, {"id": "p1", "text": "The ferry is run by Ada."}],
    )
    assert load_dataset(passages, questions).questions[0].gold_ids == ("p1",)
    other = write_jsonl(tmp_path / "o.jsonl", [{"id": "p0", "text": "Bread."}])
    with pytest.raises(InputError, match=r"s1: gold passage .* is not in .*o\.jsonl"):
        load_dataset(other, questions)


def test_own_contexts_keep_their_order_and_no_score_that_is_no_cosine(tmp_path: Path) -> None:
    data = load_dataset(None, write_jsonl(tmp_path / "nq.jsonl", [ctxs_record()]))
    assert data.own_contexts
    (question,) = data.questions
    assert [(p.id, p.score) for p in question.contexts] == [("0", None), ("1", None)]
    assert question.gold_ids == ("1",)


def test_isgold_goes_before_hasanswer_and_cosines_are_kept(tmp_path: Path) -> None:
    ctxs = [
        {"id": "0", "text": "x", "score": 0.9, "hasanswer": True, "isgold": False},
        {"id": "1", "text": "y", "score": 0.5, "hasanswer": True, "isgold": True},
    ]
    (question,) = load_dataset(None, write_jsonl(tmp_path / "nq.jsonl", [ctxs_record(ctxs=ctxs)])).questions
    assert question.gold_ids == ("1",)
    assert [p.score for p in question.contexts] == [0.9, 0.5]


def test_ids_that_count_the_passages_of_each_question_do_not_mix_them_up(tmp_path: Path) -> None:
    second = ctxs_record(ctxs=[{"id": "1", "text": "Bob runs it.", "hasanswer": True}], answers=["Bob"])
    path = write_jsonl(tmp_path / "nq.jsonl", [ctxs_record(), second])
    one, two = (data := load_dataset(None, path)).questions
    assert data.passages[one.gold_ids[0]].text == "Ada runs the ferry."
    assert data.passages[two.gold_ids[0]].text == "Bob runs it."
    corpus = write_jsonl(
        tmp_path / "p.jsonl",
        [{"id": "1", "text": "Bob runs it."}, {"id": "7", "text": "Ada runs the ferry."}],
    )
    assert [q.gold_ids for q in load_dataset(corpus, path).questions] == [("7",), ("1",)]


def test_line_separators_inside_a_record_do_not_end_it(tmp_path: Path) -> None:
    record = {"question": "Who\u2028runs it?", "answers": "Ada", "gold_ids": []}
    passages, _ = write_dataset(tmp_path)
    (question,) = load_dataset(passages, write_jsonl(tmp_path / "q.jsonl", [record])).questions
    assert (question.text, question.answers) == ("Who\u2028runs it?", ("Ada",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no questions"),
        ("{", "line 1 is not JSON"),
        ('{"question": "a", "answers": []}\n7\n', "line 2 is not a JSON object"),
        ('{"question": " ", "answers": []}', "line 1: `question`"),
        ('{"question": "a", "answers": 7}', "line 1: `answers`"),
        ('{"question": "a"}', "line 1: `answers`"),
        (
            '{"question": "a", "answers": [], "answerable": "no"}',
            "line 1: `answerable` must be true or false",
        ),
        ('{"question": "a", "answerable": true}', "line 1: `answers`"),
        ('{"data": [{"paragraphs": [{"qas": []}]}]}', "SQuAD-format"),
        ("7", "neither records nor SQuAD"),
        (
            '{"id": 1, "question": "a", "answers": []}\n{"id": 1, "question": "b", "answers": []}',
            "'1' comes twice",
        ),
        ('{"question": "a", "answers": []}', "holds no passages"),
        (
            '{"question": "a", "answers": [], "gold_ids": ["z"], "ctxs": [{"id": "y", "text": "t"}]}',
            "'z' is not among",
        ),
        ('{"question": "a", "answers": [], "ctxs": [{"id": "y", "text": ""}]}', r"ctxs\[0\]: `text`"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset(None, path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"none\.jsonl cannot be read"):
        load_dataset(None, tmp_path / "none.jsonl")
    cut = tmp_path / "cut.jsonl.gz"
    passages, _ = write_dataset(tmp_path)
    cut.write_bytes(passages.read_bytes()[:-9])
    with pytest.raises(ReadError, match="cannot be read"):
        load_dataset(cut, cut)


def test_beside_answerable_false_answers_do_not_count(tmp_path: Path) -> None:
    passages, _ = write_dataset(tmp_path)
    record = {"question": "Who?", "answerable": False, "gold_ids": ["ferry"]}
    records = [
        record,
        record | {"answers": ["Ada"], "keys": [["Ada"]]},
        record | {"answerable": True, "answers": ["Ada"]},
    ]
    questions = load_dataset(passages, write_jsonl(tmp_path / "q.jsonl", records)).questions
    assert [(q.answers, q.keys) for q in questions] == [((), ()), ((), ()), (("Ada",), ())]
    assert all(q.gold_ids == ("ferry",) for q in questions)


def test_samples(tmp_path: Path) -> None:
    records = [{"question": f"Question {i}?", "answers": ["x"], "gold_ids": []} for i in range(40)]
    passages, _ = write_dataset(tmp_path)
    data = load_dataset(passages, write_jsonl(tmp_path / "q.jsonl", records))

    def ids(**options: Any) -> list[str]:
        return [q.id for q in data.sample(**options).questions]

    assert ids(limit=10, seed=3) == ids(limit=10, seed=3) == ids(limit=20, seed=3)[:10]
    assert ids(limit=10, seed=3) != ids(limit=10, seed=4)
    assert sorted(ids()) == sorted(q.id for q in data.questions)
    one, two = ids(limit=11, half=1), ids(limit=11, half=2)
    assert sorted(one + two) == sorted(ids(limit=11))
    assert (len(one), len(two)) == (6, 5)
    with pytest.raises(InputError, match="No question is left"):
        data.sample(1, half=2)
    with pytest.raises(InputError, match="half=3"):
        data.sample(half=3)
    with pytest.raises(InputError, match="limit=0"):
        data.sample(0)


def test_the_hash_changes_with_the_data(tmp_path: Path) -> None:
    data = load_dataset(*write_dataset(tmp_path))
    again = load_dataset(*write_dataset(tmp_path))
    assert data.sha256 == again.sha256
    assert data.sample(3).sha256 != data.sha256


def test_a_folder_of_documents_is_split_and_files_are_gold(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    long = " ".join(f"Line {i} of the log says nothing." for i in range(80))
    (folder / "log.txt").write_text(f"{long} The ferry is run by Ada. {long}")
    (folder / "deep" / "bread.md").write_text("# Bread\n\nBread is sold at eight.\n")
    records = [
        {"question": "Who runs the ferry?", "answers": ["Ada"], "gold": ["log.txt"]},
        {"question": "When is bread sold?", "answers": ["at eight"], "gold_ids": ["deep/bread.md"]},
        {"question": "What is in the log?", "answers": ["nobody knows"], "gold": ["log.txt"]},
    ]
    questions = write_jsonl(tmp_path / "q.jsonl", records)
    data = load_dataset(folder, questions, bag_of_words)
    ferry, bread, log = data.questions
    held = [id_ for id_, passage in data.passages.items() if "Ada" in passage.text]
    assert ferry.gold_ids == tuple(held)
    assert [data.passages[id_].title for id_ in bread.gold_ids] == ["Bread"]
    assert set(log.gold_ids) == {p.id for p in data.passages.values() if p.source == "log.txt"}
    assert len(log.gold_ids) > len(ferry.gold_ids) >= 1
    moved = folder.rename(tmp_path / "elsewhere")
    assert load_dataset(moved, questions, bag_of_words).sha256 == data.sha256
    (one,) = load_dataset(
        moved / "deep" / "bread.md",
        write_jsonl(questions, [records[1] | {"gold_ids": ["bread.md"]}]),
        bag_of_words,
    ).questions
    assert one.gold_ids
    with pytest.raises(InputError, match=r"q1: gold passage 'none\.txt' is not in"):
        load_dataset(moved, write_jsonl(questions, [records[0] | {"gold": ["none.txt"]}]), bag_of_words)


def test_the_example_corpus() -> None:
    examples = Path(__file__).resolve().parent.parent / "examples"
    data = load_dataset(examples / "corpus", examples / "corpus-questions.jsonl", bag_of_words)
    assert len(data.questions) >= 120
    for question in data.questions:
        assert bool(question.gold_ids) == bool(question.answers)


def test_ramdocs(tmp_path: Path) -> None:
    documents = [
        {"id": f"d{i}", "text": f"Ada was born in {city}.", "type": kind, "answer": city}
        for i, (kind, city) in enumerate(
            [("correct", "Rome"), ("correct", "Oslo"), ("misinfo", "Bern"), ("noise", "unknown")]
        )
    ]
    record = {
        "question": "Where was Ada born?",
        "gold_answers": ["Rome", "Oslo"],
        "wrong_answers": ["Bern", "oslo"],
        "documents": documents,
    }
    path = write_jsonl(tmp_path / "ramdocs.jsonl.gz", [record, record | {"question": "And Bob?"}])
    data = load_dataset(None, path)
    question, _ = data.questions
    assert (question.answers, question.wrong_answers) == (("Rome", "Oslo"), ("Bern",))
    assert set(question.gold_ids) == {"d0", "d1"}
    assert sorted(p.id for p in question.contexts) == ["d0", "d1", "d2", "d3"]
    assert {p.metadata["answer"]: p.metadata["type"] for p in question.contexts}["Bern"] == "misinfo"
    assert [p.id for p in question.contexts] != [d["id"] for d in documents]  # the right ones not first
    assert load_dataset(None, path) == data
