"""Leaving a passage out is leaving its rows out: against reading again without it, and a slow reference."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import pytest
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_tokenizer import PlainTokenizer
from table_model import TableModel, random_table
from watched_model import watched

from nbce_rag.answers.report import report_schema
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError, NbceWarning
from nbce_rag.fusion import Experts, Fused, FusionState, Max, Mean, MinEntropy, Posterior
from nbce_rag.passages import Passage
from nbce_rag.request import Request

Make = Callable[..., Any]

TEXT = "Ada runs it at noon"
SENTENCES = [
    Passage("The ferry is run by Ada. It leaves at noon.", id="ferry"),
    Passage("Bread is baked here. Fish is sold.", id="bread"),
    Passage("The museum is old. It was built in 1891.", id="museum"),
]


@pytest.mark.parametrize(
    "rule", [Posterior(focus=0.0), MinEntropy(alpha=0.1), Mean(), Max(), Experts()], ids=lambda r: r.name
)
def test_it_is_scoring_again_without_the_passage(rule: Any, make_nbce: Make) -> None:
    scores = [0.4, None, 0.1, 0.2]  # what is not known is filled in from the others
    passages = [
        dataclasses.replace(p, score=s, rank=i + 1)
        for i, (p, s) in enumerate(zip(PASSAGES, scores, strict=True))
    ]
    nbce = make_nbce(prompt=TEMPLATE, fusion=rule)
    ablation = nbce.ablate(nbce.attribute(QUESTION, passages, TEXT)).ablation
    whole = nbce.score(QUESTION, passages, [TEXT]).log_probs[0]
    assert ablation.log_prob == pytest.approx(whole, abs=1e-3)
    for place, necessity in enumerate(ablation.necessity):
        rest = [passage for other, passage in enumerate(passages) if other != place]
        again = nbce.score(QUESTION, rest, [TEXT]).log_probs[0]
        assert whole - again == pytest.approx(necessity, abs=2e-3)
    with pytest.warns(NbceWarning, match="question alone"):
        alone = nbce.score(QUESTION, [], [TEXT]).log_probs[0]
    assert ablation.log_prob_without_passages == pytest.approx(alone, abs=1e-3)


def test_rows_of_sentences_go_with_their_passage(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, fusion=Posterior(focus=1.0, epsilon=0.3))
    answer = nbce.attribute(QUESTION, SENTENCES, TEXT)
    assert answer.usage.sentence_rows == 6
    ablation = nbce.ablate(answer).ablation
    for place, necessity in enumerate(ablation.necessity):
        rest = [passage for other, passage in enumerate(SENTENCES) if other != place]
        again = nbce.ablate(nbce.attribute(QUESTION, rest, TEXT))
        assert again.usage.sentence_rows == 4
        assert ablation.log_prob - again.ablation.log_prob == pytest.approx(necessity, abs=1e-3)


def test_decoded_answers_citations_and_what_is_cited_alone(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, fusion=Posterior(focus=0.0), max_tokens=6)
    answers = [nbce.answer(f"What is {number}?", PASSAGES) for number in range(8)]
    cited = [answer for answer in answers if 0 < len(answer.cited_passages) < len(PASSAGES)]
    assert cited
    for answer in cited:
        ablated = nbce.ablate(answer)
        ablation = ablated.ablation
        assert dataclasses.replace(ablated, ablation=None) == answer
        assert len(ablation.citation_necessity) == len(answer.citations)
        assert all(len(one) == len(PASSAGES) for one in ablation.citation_necessity)
        covered = {
            place
            for citation in answer.citations
            for place, token in enumerate(answer.tokens)
            if token.start < citation.end and token.end > citation.start
        }
        if len(covered) == len(answer.tokens) and len(answer.citations) == 1:
            assert ablation.citation_necessity[0] == pytest.approx(ablation.necessity, abs=1e-6)
        only = [
            passage
            for passage in PASSAGES
            if passage in answer.cited_passages or passage.id in {one.id for one in answer.cited_passages}
        ]
        again = nbce.ablate(
            dataclasses.replace(
                nbce.answer(answer.question, only),
                text=answer.text,
                spelling=answer.spelling,
                citations=(),
                tokens=tuple(
                    dataclasses.replace(token, weights=token.weights[: len(only)]) for token in answer.tokens
                ),
            )
        )
        assert ablation.sufficiency == pytest.approx(again.ablation.log_prob - ablation.log_prob, abs=1e-3)
        assert again.ablation.sufficiency is None


def slow_log_prob(
    rule: Posterior,
    rows: Sequence[Sequence[float]],
    relevance: Sequence[float],
    tokens: Sequence[int],
    table: Any,
) -> float:
    """log p(tokens) over rows of token ids, row 0 first, in plain floats."""
    grown = [tuple(row) for row in rows]
    logits = [rule.alpha * value for value in relevance]
    prior = [math.exp(v - max(logits)) for v in logits] if logits else []
    prior = [p / sum(prior) for p in prior]
    weights, total = list(prior), 0.0
    for token in tokens:
        p = [[math.exp(v) for v in table(row).tolist()] for row in grown]
        if weights:
            mixture = [
                sum(w * row[v] for w, row in zip(weights, p[1:], strict=True)) for v in range(len(p[0]))
            ]
            scores = [
                (1 + rule.beta) * math.log(m) - rule.beta * math.log(b)
                for m, b in zip(mixture, p[0], strict=True)
            ]
        else:
            scores = [math.log(b) for b in p[0]]
        top = max(scores)
        total += scores[token] - top - math.log(sum(math.exp(s - top) for s in scores))
        joint = [w * row[token] for w, row in zip(weights, p[1:], strict=True)]
        weights = [
            (1 - rule.epsilon) * j / sum(joint) + rule.epsilon * q for j, q in zip(joint, prior, strict=True)
        ]
        grown = [(*row, token) for row in grown]
    return total


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 4),
    text=st.text("ab ", min_size=1, max_size=4).filter(str.strip),
    beta=st.sampled_from([0.0, 0.25]),
    epsilon=st.sampled_from([0.0, 0.05, 1.0]),
    focus=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=30)
def test_against_a_slow_reference(
    seed: int, count: int, text: str, beta: float, epsilon: float, focus: float
) -> None:
    table = random_table(259, seed=seed)
    model: Any = TableModel(table, vocab_size=259, tokenizer=PlainTokenizer(chat=False))
    rule = Posterior(beta=beta, epsilon=epsilon, focus=focus, least=0.0)
    nbce = NBCE(model, prompt=TEMPLATE, fusion=rule, kv_store=False)
    passages = [Passage(f"Text {n} is here. Two.", id=str(n)) for n in range(count)]
    answer = nbce.attribute("Why?", passages, text)
    model.opened.clear()
    ablation = nbce.ablate(answer).ablation
    assert ablation is not None
    prompts = [model.opened[0][0], *([model.opened[1][0]] if focus else [])]
    contexts = [*prompts[0].contexts, *(c for prompt in prompts[1:] for c in prompt.contexts[1:])]
    members = [-1, *range(count), *(n for n in range(count) for _ in range(2) if focus)]
    assert len(contexts) == len(members)
    suffix, question = prompts[0].suffix, prompts[0].question
    rows = [(*context, *suffix) for context in contexts]
    likelihood = [sum(float(table((*c, *suffix[:at]))[suffix[at]]) for at in question) for c in contexts]
    ids = PlainTokenizer(chat=False).encode(" " + text.strip())

    def over(some: set[int]) -> float:
        places = [place for place in range(1, len(rows)) if members[place] in some]
        relevance = [likelihood[place] - likelihood[0] for place in places]
        return slow_log_prob(rule, [rows[0], *(rows[place] for place in places)], relevance, ids, table)

    everything = set(range(count))
    assert ablation.log_prob == pytest.approx(over(everything), abs=1e-3)
    assert ablation.log_prob_without_passages == pytest.approx(over(set()), abs=1e-3)
    assert ablation.necessity == pytest.approx(
        [over(everything) - over(everything - {place}) for place in range(count)], abs=2e-3
    )
    cited = {one.passage for citation in answer.citations for one in citation.supports}
    expected = over(cited) - over(everything) if cited else None
    assert ablation.sufficiency == (None if expected is None else pytest.approx(expected, abs=2e-3))


def test_tokens_without_text_are_read_again_too() -> None:
    table = random_table(259, seed=3)
    model: Any = TableModel(table, vocab_size=259, tokenizer=PlainTokenizer(chat=False))
    rule = Posterior(focus=0.0)
    nbce = NBCE(model, prompt=TEMPLATE, fusion=rule, kv_store=False)
    answer = nbce.answer("Why?", [Passage("Text here."), Passage("Two.")], regex="\n \nAda (runs|swims)")
    assert answer.text in ("Ada runs", "Ada swims")
    assert answer.spelling is not None
    ids = answer.spelling.ids
    assert ids == PlainTokenizer(chat=False).encode("\n \n" + answer.text)
    assert [token.id for token in answer.tokens] == list(ids[3:])
    model.opened.clear()
    ablation = nbce.ablate(answer).ablation
    assert ablation is not None
    [prompt] = model.opened[0]
    rows = [(*context, *prompt.suffix) for context in prompt.contexts]
    likelihood = [
        sum(float(table((*c, *prompt.suffix[:at]))[prompt.suffix[at]]) for at in prompt.question)
        for c in prompt.contexts
    ]
    relevance = [value - likelihood[0] for value in likelihood[1:]]
    expected = slow_log_prob(rule.untruncated(), rows, relevance, ids, table)
    assert ablation.log_prob == pytest.approx(expected, abs=1e-3)
    for place in (0, 1):
        rest = slow_log_prob(
            rule.untruncated(), [rows[0], rows[2 - place]], [relevance[1 - place]], ids, table
        )
        assert ablation.necessity[place] == pytest.approx(expected - rest, abs=2e-3)


def test_passages_of_a_request_that_was_changed_since(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=4)
    passages = list(PASSAGES)
    [answer] = nbce.batch([Request(QUESTION, passages, nbce.options)])
    expected = nbce.ablate(answer).ablation
    passages.pop()
    assert nbce.ablate(answer).ablation == expected


# ---------------------------------------------------------------------------------------------------------
# What it takes, and how it is shown


def test_it_takes_one_prompt_and_one_pass(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    answer = nbce.attribute(QUESTION, PASSAGES, TEXT)
    nbce, model = watched(nbce)
    nbce.ablate(answer)
    assert model.steps == [
        (len(answer.usage.row_tokens), answer.usage.row_steps // len(answer.usage.row_tokens))
    ]


def test_it_shows_itself_and_fits_the_schema(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=6)
    plain = nbce.answer(QUESTION, PASSAGES)
    assert plain.to_dict()["ablation"] is None
    answer = nbce.ablate(plain)
    report = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    jsonschema.validate(report, report_schema())
    assert report["ablation"]["necessity"] == pytest.approx(list(answer.ablation.necessity))
    assert "Left out, " in str(answer)
    assert "Left out, " in answer.to_html()
    assert "Left out, " not in str(plain) + plain.to_html()


def test_numbers_that_there_are_none_of_are_not_shown(make_nbce: Make) -> None:
    class Certain:
        """A rule that gives all tokens but one no probability."""

        def fuse(self, log_probs: Any, state: FusionState) -> Fused:
            never = log_probs.new_full(log_probs[:, 0].shape, -math.inf)
            n = log_probs.shape[1] - 1
            return Fused(never.index_fill_(1, log_probs[0, 0].argmax(), 0.0), never.new_full((1, n), 1 / n))

    nbce = make_nbce(prompt=TEMPLATE, fusion=Certain())
    answer = nbce.ablate(nbce.attribute(QUESTION, PASSAGES, TEXT))
    assert all(math.isnan(value) for value in answer.ablation.necessity)
    report = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert report["ablation"]["necessity"] == [None] * len(PASSAGES)
    assert "nan" not in str(answer) + answer.to_html()
    some = dataclasses.replace(answer.ablation, necessity=(1.0, math.nan, math.inf, -1.0), sufficiency=0.0)
    shown = str(dataclasses.replace(answer, ablation=some))
    assert re.search(r"\(nats\): \[\d\] \+inf, \[\d\] \+1\.0, \[\d\] \u22121\.0; over", shown)


def test_what_cannot_be_ablated(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=3)
    answer = nbce.answer(QUESTION, PASSAGES)
    with pytest.raises(InputError, match=r"NBCE\.attribute"):
        nbce.ablate(copy.copy(answer))
    for options in ({"passages_per_row": 2}, {"joint_row": True}):
        with pytest.raises(InputError, match="several passages in a row"):
            nbce.ablate(nbce.answer(QUESTION, PASSAGES, **options))
    with pytest.raises(InputError, match="nothing to ablate"):
        nbce.ablate(nbce.answer(QUESTION, PASSAGES, abstain_below=99.0))
    usage = dataclasses.replace(answer.usage, thought_tokens=4)  # the marks of an empty one
    for thoughtful in ({"thought": "Hm."}, {"usage": usage}):
        with pytest.raises(InputError, match="thought"):
            nbce.ablate(dataclasses.replace(answer, **thoughtful))
    with pytest.raises(InputError, match="takes an Answer, got str"):
        nbce.ablate(answer.text)


def test_an_answer_of_a_model_with_other_tokens(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=6)
    model: Any = TableModel(random_table(259), vocab_size=259, tokenizer=PlainTokenizer(chat=False))
    other = NBCE(model, prompt=TEMPLATE)
    answer = nbce.answer(QUESTION, PASSAGES)
    with pytest.raises(InputError, match=r"another model gave it.*NBCE\.attribute"):
        other.ablate(answer)
    with pytest.raises(InputError, match="spell another text"):
        nbce.ablate(dataclasses.replace(answer, text="Something else."))
    given_text = nbce.attribute(QUESTION, PASSAGES, TEXT)  # which the other spells anew
    one: Any = other.ablate(given_text).ablation
    two: Any = other.ablate(other.attribute(QUESTION, PASSAGES, TEXT)).ablation
    assert one.necessity == pytest.approx(two.necessity, abs=1e-4)
