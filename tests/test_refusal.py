"""Models that refuse: the default rule does not fall for the surest refusal, and abstains when all refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_reference import read
from scripted_model import REFUSAL, ScriptedModel

from nbce_rag.engine.nbce import NBCE
from nbce_rag.fusion import MinEntropy
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.passages import Passage
from nbce_rag.prompts.template import PromptTemplate

QUESTION = "What is the code of Zeta?"
IRRELEVANT = [
    Passage("The ferry to the island is run by Ada and leaves at noon.", id="ferry"),
    Passage("The code of Omega is 55.", id="omega"),
    Passage("The market opens at eight.", id="market"),
    Passage("市场八点开门,卖鱼。", id="chinese"),
]
FACT = Passage("The code of Zeta is seven blue apples.", id="zeta")


@pytest.fixture(scope="module")
def build(chat_tokenizer: Any) -> Callable[..., NBCE]:
    def make(*, sure: float = 0.8, surer: float = 0.999, **options: Any) -> NBCE:
        model = ScriptedModel(chat_tokenizer, sure=sure, surer=surer)
        return NBCE(wrap_model(model, chat_tokenizer), **{"max_tokens": 24, **options})

    return make


@pytest.fixture(scope="module")
def nbce(build: Callable[..., NBCE]) -> NBCE:
    return build()


def test_the_scripted_model_reads(nbce: NBCE) -> None:
    rule = MinEntropy(beta=0)
    assert nbce.answer(QUESTION, [FACT], fusion=rule).text == "seven blue apples"
    assert nbce.answer(QUESTION, IRRELEVANT[:1], fusion=rule).text == REFUSAL
    assert nbce.answer("What is the code of Omega?", IRRELEVANT, passages_per_row=4, fusion=rule).text == "55"


@pytest.mark.parametrize("place", range(5))
def test_min_entropy_refuses_where_the_default_answers(nbce: NBCE, place: int) -> None:
    passages = [*IRRELEVANT[:place], FACT, *IRRELEVANT[place:]]
    refused = nbce.answer(QUESTION, passages, fusion="min-entropy")
    assert refused.text == REFUSAL
    assert refused.finish_reason == "stop"  # the rule does not know
    answer = nbce.answer(QUESTION, passages)
    assert answer.fusion == "posterior(least=0,opening=0,together=4)"
    assert answer.text == "seven blue apples"
    assert answer.finish_reason == "stop"
    assert [c.passage_id for c in answer.citations] == ["zeta"]
    assert {t.passage for t in answer.tokens} == {place}
    assert answer.grounding is not None
    assert answer.grounding > 1


def test_the_default_answers_among_many_that_refuse(nbce: NBCE) -> None:
    others = [Passage(f"The code of Omega{n} is {n}.", id=f"omega-{n}") for n in range(30)]
    answer = nbce.answer(QUESTION, [*others[:20], FACT, *others[20:]])
    assert answer.text == "seven blue apples"


def test_refusal_probabilities(nbce: NBCE) -> None:
    request = nbce.request(QUESTION, [*IRRELEVANT, FACT])
    _, _, prompted = read(nbce, request)
    tokens = len(nbce.model.tokenizer.encode(REFUSAL))
    refusal = prompted.state.refusal
    assert refusal is not None
    torch.testing.assert_close(refusal[0, :4], torch.full((4,), 0.999**tokens), atol=1e-4, rtol=0)
    assert refusal[0, 4] < 1e-6
    assert not prompted.refused


def test_when_all_rows_refuse_the_answer_is_an_abstention(nbce: NBCE) -> None:
    answer = nbce.answer(QUESTION, IRRELEVANT)
    assert answer.finish_reason == "no_evidence"
    assert answer.text == "The passages do not answer this question."
    assert (answer.tokens, answer.citations) == ((), ())
    assert answer.usage.generated_tokens == 0
    assert answer.grounding is None
    assert len(answer.passages) == 4
    pieces = list(nbce.stream(QUESTION, IRRELEVANT, abstention="没有答案。"))
    assert [p.text for p in pieces] == ["没有答案。"]
    assert pieces[0].answer is not None
    assert pieces[0].answer.finish_reason == "no_evidence"


def test_an_abstention_costs_no_decoding(nbce: NBCE) -> None:
    model: Any = nbce.model
    model = model.model
    nbce.answer(QUESTION, IRRELEVANT)  # contexts are stored now
    before = model.passes
    nbce.answer(QUESTION, IRRELEVANT)
    assert model.passes == before + 1  # the suffix


def test_the_threshold(build: Callable[..., NBCE]) -> None:
    nbce = build(sure=0.95, surer=0.9)
    tokens = len(nbce.model.tokenizer.encode(REFUSAL))
    p = 0.9**tokens
    assert 0.05 < p < 0.95
    assert nbce.answer(QUESTION, IRRELEVANT, refusal_threshold=p - 0.01).finish_reason == "no_evidence"
    answer = nbce.answer(QUESTION, IRRELEVANT, refusal_threshold=p + 0.01)
    assert answer.finish_reason == "stop"
    assert answer.text == REFUSAL


def test_refusing_and_answering_in_one_batch(nbce: NBCE) -> None:
    requests: list[Any] = [
        (QUESTION, IRRELEVANT),
        (QUESTION, [*IRRELEVANT, FACT]),
        ("What is the code of Omega?", IRRELEVANT),
        ("Who is there?", [FACT]),
    ]
    answers = nbce.batch(requests)
    assert [a.finish_reason for a in answers] == ["no_evidence", "stop", "stop", "no_evidence"]
    assert [a.text for a in answers[1:3]] == ["seven blue apples", "55"]
    assert [c.passage_id for c in answers[2].citations] == ["omega"]


def test_a_prompt_without_a_refusal_cannot_tell(nbce: NBCE) -> None:
    template = PromptTemplate(
        prefix="Text:\n", passage="{text}\n\n", suffix="Question: {question}", chat=True, refusal=None
    )
    plain = NBCE(nbce.model, prompt=template, max_tokens=24)
    answer = plain.answer(QUESTION, IRRELEVANT)
    assert answer.text == REFUSAL
    assert answer.finish_reason == "stop"


def test_abstain_below(nbce: NBCE) -> None:
    passages = [*IRRELEVANT, FACT]
    free = nbce.answer(QUESTION, passages)
    assert free.grounding is not None
    assert math.isfinite(free.grounding)
    kept = nbce.answer(QUESTION, passages, abstain_below=free.grounding - 0.1)
    assert (kept.text, kept.finish_reason) == (free.text, "stop")
    gone = nbce.answer(QUESTION, passages, abstain_below=free.grounding + 0.1, abstention="No idea.")
    assert (gone.text, gone.finish_reason) == ("No idea.", "no_evidence")
    assert (gone.tokens, gone.citations) == ((), ())
    assert gone.grounding == pytest.approx(free.grounding, abs=1e-4)
    for limit, text in ((free.grounding - 0.1, free.text), (free.grounding + 0.1, "No idea.")):
        pieces = list(nbce.stream(QUESTION, passages, abstain_below=limit, abstention="No idea."))
        assert [p.text for p in pieces] == [text]  # nothing is shown that may be taken back
        assert pieces[-1].answer is not None
        assert tuple(t for p in pieces for t in p.tokens) == pieces[-1].answer.tokens


def test_passages_that_say_what_the_model_says_anyway_ground_nothing(nbce: NBCE) -> None:
    rule = MinEntropy(beta=0)
    answer = nbce.answer(QUESTION, IRRELEVANT, fusion=rule)  # row 0 refuses just the same
    assert answer.text == REFUSAL
    assert answer.grounding == pytest.approx(0, abs=1e-4)
    assert nbce.answer(QUESTION, IRRELEVANT, fusion=rule, abstain_below=0.5).finish_reason == "no_evidence"


def test_better_retrieval_scores_do_not_lift_refusals_over_the_answer(nbce: NBCE) -> None:
    passages = [Passage(p.text, id=p.id, score=0.6) for p in IRRELEVANT]
    assert nbce.answer(QUESTION, [*passages, Passage(FACT.text, score=0.5)]).text == "seven blue apples"
