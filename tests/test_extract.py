"""The sentences nearest a question are read together where it takes two passages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_reference import (
    BARE,
    assert_shared_evidence,
    brute_state,
    prompt_ids,
    row_prompts,
    slow_decode,
)

from nbce_rag.decoding.extract import nearest_sentences, takes_two
from nbce_rag.decoding.holders import Holders
from nbce_rag.fusion import Posterior
from nbce_rag.passages import Passage
from nbce_rag.prompts.relations import is_nested

Make = Callable[..., Any]

QUESTION = "Who is the mayor of the town where the ferry was built?"
SCORES = (0.3, 0.6, 0.1, 0.5)
PASSAGES = [
    Passage(text, id=str(number), score=score)
    for number, (text, score) in enumerate(
        zip(
            (
                "The mayor of Brill is Ada. Brill has a market. Its mayor is new.",
                "The ferry was built in Brill. It leaves at nine. Bo runs the ferry.",
                "Fish is sold at noon. Nobody knows why.",
                "The pier is old. The town has two piers.",
            ),
            SCORES,
            strict=True,
        )
    )
]


@pytest.mark.parametrize(
    "question",
    [
        QUESTION,
        "What is the capital of the country whose king built the ferry?",
        "Who is Ada's mother's employer?",
        "By whom was the bridge that stands in the capital of Brill built?",
        "Which is older, the ferry or the pier?",
        "Do the ferry and the pier both belong to Ada or to Bo, the same as ever?",
        "设计了渡轮的人的母亲的出生地是哪里？",
        "WHO IS THE MAYOR OF THE TOWN THAT BUILT IT?",
    ],
)
def test_nested_questions(question: str) -> None:
    assert is_nested(question)


@pytest.mark.parametrize(
    "question",
    [
        "Who is the mayor of Brill?",
        "Where is the ferry?",
        "In which town was the ferry built?",
        "By whom was it built?",
        "When does the ferry leave?",
        "布里尔的市长是谁？",
        "渡轮几点开？",
        "",
        "of",
    ],
)
def test_plain_questions(question: str) -> None:
    assert not is_nested(question)


def test_the_nearest_sentences() -> None:
    def texts(question: str, passages: list[Passage]) -> dict[int, list[str]]:
        found = nearest_sentences(question, passages)
        return {i: [passages[i].text[a:b] for a, b in spans] for i, spans in found.items()}

    assert texts(QUESTION, PASSAGES) == {
        0: ["The mayor of Brill is Ada.", "Its mayor is new."],
        1: ["The ferry was built in Brill.", "Bo runs the ferry."],
        3: ["The pier is old.", "The town has two piers."],
    }
    assert texts("zebra?", PASSAGES) == {}
    assert texts("Who?", []) == {}
    many = [Passage(f"The ferry {word} sails. The ferry {word} stops.", id=word) for word in "abcdefgh"]
    found = texts("ferry", many)
    assert sum(map(len, found.values())) == 6
    assert max(map(len, found.values())) == 2


def test_sentences_of_other_scripts_and_of_prose_only() -> None:
    chinese = [Passage("渡轮在布里尔建造。它九点开。"), Passage("鱼在中午出售。布里尔的市长是艾达。")]
    assert nearest_sentences("布里尔的市长是谁？", chinese)[1] == [(7, 17)]
    code = Passage("Pass it on:\n\n```python\nferry = Ferry()\n```")
    assert 0 not in nearest_sentences("Who runs the ferry?", [code, PASSAGES[1]])


def test_titles_are_part_of_sentences() -> None:
    titled = [Passage("It is old.", title="Pier"), Passage("It is new.", title="Ferry")]
    assert list(nearest_sentences("How old is the ferry?", titled)) == [0, 1]
    assert list(nearest_sentences("The ferry?", titled)) == [1]


def test_two_passages_are_taken_where_another_has_what_the_best_lacks() -> None:
    assert takes_two(QUESTION, PASSAGES, 1)  # the mayor
    assert takes_two(QUESTION, PASSAGES, 2)
    assert not takes_two(QUESTION, PASSAGES[1:2], 0)
    assert not takes_two(QUESTION, [PASSAGES[1], PASSAGES[2]], 0)
    assert not takes_two("When does the ferry leave?", PASSAGES, 2)
    whole = Passage("The mayor of the town where the ferry was built is Ada.")
    assert not takes_two(QUESTION, [*PASSAGES, whole], 4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_the_row_is_fused_with_its_share_of_the_prior(family: str, make_nbce: Make) -> None:
    """Against plain passes over all rows."""
    nbce = make_nbce(family, prompt=BARE)
    rule = Posterior(focus=0.0, extract=0.5, alpha=0.0)
    answer = nbce.answer(QUESTION, PASSAGES, fusion=rule, max_tokens=8)
    assert answer.usage.row_passages == ((), (0,), (1,), (2,), (3,), (0, 1, 3))
    extracts = [
        Passage("The mayor of Brill is Ada. Its mayor is new."),
        Passage("The ferry was built in Brill. Bo runs the ferry."),
        Passage("The pier is old. The town has two piers."),
    ]
    rows = [*row_prompts(nbce, QUESTION, PASSAGES), prompt_ids(nbce, QUESTION, extracts)]
    assert answer.usage.row_tokens == tuple(map(len, rows))
    state = brute_state(nbce, rows, QUESTION, [*SCORES, 0.6])
    state.relevance = None
    state.extract = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    slow = slow_decode(nbce, rows, rule, 8, state)
    assert_shared_evidence(nbce, answer, slow, QUESTION, PASSAGES, (0, 1, 3))


def test_plain_questions_and_other_layouts_do_without(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=3, fusion=Posterior(focus=0.0, extract=0.5))

    def rows(question: str = QUESTION, **options: Any) -> int:
        return len(nbce.answer(question, PASSAGES, **options).usage.row_tokens)

    assert rows() == 6
    assert rows("Who runs the ferry?") == 5
    assert rows(fusion=Posterior(focus=0.0)) == 5
    assert rows(joint_row=True) == 6  # that of all passages
    assert rows(passages_per_row=2) == 3
    assert nbce.answer(QUESTION, PASSAGES, style="long").usage.row_passages[5] == (0, 1, 2, 3)
    assert len(nbce.answer(QUESTION, PASSAGES[:1]).usage.row_tokens) == 2


def test_a_row_that_does_not_fit_is_left_out(make_nbce: Make) -> None:
    rule = Posterior(focus=0.0, extract=0.5)
    longest = max(len(row) for row in row_prompts(make_nbce(prompt=BARE), QUESTION, PASSAGES))
    nbce = make_nbce(prompt=BARE, max_tokens=2, fusion=rule, window=longest + 4)
    assert len(nbce.answer(QUESTION, PASSAGES).usage.row_tokens) == 5


def test_evidence_goes_to_the_passages_that_hold_the_words(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=3)
    plan = nbce._engine.plan(nbce.request(QUESTION, PASSAGES, joint_row=True))
    evidence = [0.1, 0.2, 0.0, 0.1, 0.6]
    assert plan.share(evidence) == pytest.approx((0.25, 0.5, 0.0, 0.25))
    assert plan.share(evidence, (0, 3)) == pytest.approx((0.4, 0.2, 0.0, 0.4))
    assert plan.share(evidence, (2,)) == pytest.approx((0.1, 0.2, 0.6, 0.1))
    alone = nbce._engine.plan(nbce.request(QUESTION, PASSAGES))
    assert alone.share(evidence[:4], (2,)) == pytest.approx(evidence[:4])


def test_holders_are_told_by_the_longest_run() -> None:
    holders = Holders([(1, 2, 3, 4), (9, 2, 3, 5, 2), ()])
    assert [holders.push(token) for token in (2, 3, 5, 7, 2, 3, 4)] == [
        (0, 1),
        (0, 1),
        (1,),
        (),
        (0, 1),
        (0, 1),
        (0,),
    ]
    assert Holders([]).push(1) == ()
