"""A second look: what the best passage names is looked for, and the better half of the first search stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_tools import bag_of_words, ids

from nbce_rag.errors import InputError
from nbce_rag.index import PassageIndex
from nbce_rag.index.look import look_terms, with_look
from nbce_rag.index.sqlite.database import ChangedError
from nbce_rag.passages import Passage

QUESTION = "Where was the designer of the Tide Engine born?"
DESIGN = Passage("The Tide Engine was designed by Runa Tolliver in 1908.", id="design")
BIRTH = Passage(
    "Tolliver, Runa: a boatwright from Brennick; born there in 1871.", id="birth", metadata={"n": 1}
)
NOISE = [
    Passage(f"The engine of tide number {n} was the designer of where.", id=f"noise-{n}", metadata={"n": 2})
    for n in range(6)
]


def only_design(texts: list[str]) -> np.ndarray:
    """The design is the nearest to the question, the birth the farthest."""
    places = {"Where": 0, "The T": 0.1, "Tolli": 1.5}
    angles = [places.get(text[:5], 0.2 + 0.01 * len(text) / 60) for text in texts]
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture
def index(place: Path | str) -> Iterator[PassageIndex]:
    with PassageIndex.create(place, only_design) as made:
        made.add([DESIGN, BIRTH, *NOISE])
        yield made


def test_the_look_finds_what_the_best_passage_names(index: PassageIndex) -> None:
    assert "birth" not in ids(index.search(QUESTION, 4))
    found = index.search(QUESTION, 4, look=True)
    assert ids(found)[:2] == ids(index.search(QUESTION, 2))
    assert "birth" in ids(found)
    assert len(found) == 4


@pytest.mark.parametrize("mode", ["vector", "words", "hybrid"])
def test_scores_of_a_look_are_cosines_to_the_question(index: PassageIndex, mode: str) -> None:
    cosines = {passage.id: passage.score for passage in index.search(QUESTION, 8)}
    found = index.search(QUESTION, 4, mode=mode, look=True)  # type: ignore[arg-type]
    assert "birth" in ids(found)
    assert all(p.score == pytest.approx(cosines[p.id], abs=1e-6) for p in found)
    if mode == "vector":
        assert found == sorted(found, key=lambda p: -(p.score or 0))


def test_one_passage_leaves_no_place_for_a_look(index: PassageIndex) -> None:
    assert index.search(QUESTION, 1, look=True) == index.search(QUESTION, 1)


def test_filters_and_least_scores_hold_for_the_look(index: PassageIndex) -> None:
    assert "birth" not in ids(index.search(QUESTION, 4, look=True, ids=["design", *(p.id for p in NOISE)]))
    assert "birth" not in ids(index.search(QUESTION, 4, {"n": {"$exists": False}}, look=True))
    assert "birth" not in ids(index.search(QUESTION, 4, look=True, min_score=0.9))
    index.upsert([Passage(BIRTH.text, id="birth", metadata={"origin": "generated"})])
    assert "birth" not in ids(index.search(QUESTION, 4, look=True))
    assert "birth" in ids(index.search(QUESTION, 4, look=True, generated=True))


def test_nothing_found_is_no_place_to_look_from(index: PassageIndex) -> None:
    assert index.search(QUESTION, 4, {"n": 7}, look=True) == []
    assert index.search("unheard", 4, mode="words", look=True) == []


def test_a_look_is_repeated_when_the_file_was_changed(
    index: PassageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, failures = index.search(QUESTION, 4, look=True), [1, 1]

    def changed(*arguments: Any) -> list[str]:
        if failures:
            failures.pop()
            raise ChangedError("another process")
        return look_terms(*arguments)

    monkeypatch.setattr("nbce_rag.index.search.look_terms", changed)
    assert index.search(QUESTION, 4, look=True) == expected
    failures += [1, 1, 1]
    with pytest.raises(ChangedError):
        index.search(QUESTION, 4, look=True)


def test_a_reranker_scores_what_the_look_finds(index: PassageIndex) -> None:
    def rerank(query: str, texts: Sequence[str]) -> list[float]:
        return [0.9 if "designed" in text else 0.8 if "Brennick" in text else 0.1 for text in texts]

    found = index.search(QUESTION, 4, rerank=rerank, look=True)
    assert [(p.id, p.score) for p in found[:2]] == [("design", 0.9), ("birth", 0.8)]
    assert len(found) == 4


def test_a_look_needs_words(index: PassageIndex) -> None:
    vector = only_design([QUESTION])[0]
    assert "birth" in ids(index.search(vector, 4, text=QUESTION, look=True))
    with pytest.raises(InputError, match=r"a second look.*give text="):
        index.search(vector, 4, look=True)
    with pytest.raises(InputError, match="look must be True, False or None, got 'yes'"):
        index.search(QUESTION, look="yes")  # type: ignore[arg-type]


def test_a_batch_looks_for_each_question(index: PassageIndex) -> None:
    questions = [QUESTION, "Tolliver, Runa?"]
    assert index.search_batch(questions, 4, look=True) == [index.search(q, 4, look=True) for q in questions]


def test_half_stays_and_the_rest_fills_up() -> None:
    first = [Passage("t", id=name) for name in "abcdef"]
    look = [Passage("t", id=name) for name in "bxe"]
    assert ids(with_look(first, look, 6)) == list("abcxed")
    assert ids(with_look(first, [], 5)) == list("abcde")
    assert ids(with_look(first[:1], look, 6)) == list("abxe")


def expression(question: str, text: str, counts: dict[str, int] | None = None) -> list[str]:
    """The terms of a look in an index of 9,000 passages, of which 3 have any word that is not counted."""
    return look_terms(
        question, Passage(text), 9_000, lambda term, limit: min((counts or {}).get(term, 3), limit)
    )


def test_names_and_open_words() -> None:
    text = "The Tide Engine was built by J. R. Vane, Anna-Lise Ohm, Pim, Quill, Rook and Sten. Tove left."
    terms = expression("Who paid for the Tide Engine?", text, {"the": 9_000, "for": 9_000})
    # The common words are no names, nor what the question has; a word it lacks stays open.
    assert " ".join(terms) == "j r vane anna lise ohm pim quill rook sten who paid"


def test_rare_words_stand_in_for_names() -> None:
    counts = {"by": 64, "ohm": 2, "vane": 1}
    assert expression("who?", "built by ohm for vane", counts)[0] == "ohm"
    assert "by" not in expression("who?", "built by ohm for vane", counts)
    assert "vane" not in expression("who?", "built by ohm for vane", counts)  # of no other passage
    assert expression("who?", "vane", counts) == []


def test_scripts_without_capitals() -> None:
    counts = {"小说": 100, "作者": 100}
    terms = expression("《潮汐》的作者生于哪里？", "小说《潮汐》是林远之写的，他还写过《灯塔之歌》。", counts)
    assert terms[:3] == ["灯塔", "塔之", "之歌"]
    assert "林远" in terms
    assert "小说" not in terms
    assert "潮汐" not in terms
    assert "哪里" in terms  # still open


def test_chinese_is_looked_for(place: Path | str) -> None:
    texts = [
        "潮汐发动机是由林远之设计的。",
        "林远之，造船师，生于一八七一年的布伦镇。",
        *(f"发动机的设计第{n}号在哪里" for n in range(6)),
    ]
    with PassageIndex.create(place, bag_of_words) as made:
        made.add([Passage(text, id=str(n)) for n, text in enumerate(texts)])
        question = "潮汐发动机的设计者生于哪里？"
        assert "1" in ids(made.search(question, 4, mode="words", look=True))


def test_a_look_is_usual_where_half_of_the_passages_are_enough(index: PassageIndex) -> None:
    index.add(Passage(f"The gulls cry {number}.", id=f"gulls-{number}") for number in range(9))
    looked, plain = (ids(index.search(QUESTION, 8, look=look)) for look in (True, False))
    assert looked != plain == ids(index.search(QUESTION, 8))
    assert ids(index.search(QUESTION, 8, look=None)) == looked
    assert ids(index.search(QUESTION, 7, look=None)) == plain[:7]
    assert ids(index.search(QUESTION, 8, look=None, mmr=1.0)) == plain
    hybrid = [ids(index.search(QUESTION, 8, mode="hybrid", look=look)) for look in (None, False)]
    assert hybrid[0] == hybrid[1]

    def rerank(_: str, texts: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in texts]

    reranked = [ids(index.search(QUESTION, 8, look=look, rerank=rerank)) for look in (None, False)]
    assert reranked[0] == reranked[1]
    vector = index.embedder.embed([QUESTION])[0]
    assert ids(index.search(vector, 8, look=None)) == ids(index.search(vector, 8))
