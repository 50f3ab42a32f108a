"""Passages that matter are read once more, a sentence to a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from engine_reference import (
    BARE,
    QUESTION,
    REFUSING,
    assert_same_answer,
    brute_state,
    engine_of,
    prompt_ids,
    read,
    record_samplers,
    row_prompts,
    slow_decode,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from watched_model import watched

from nbce_rag.decoding.plan import Row, RowPlan
from nbce_rag.decoding.sentences import MOST_ROWS, focal_passages
from nbce_rag.errors import NbceWarning
from nbce_rag.fusion import Experts, Fused, FusionState, Mean, MinEntropy, Posterior
from nbce_rag.noncharacters import PASSAGES as MARK
from nbce_rag.options import Options
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import Suffix
from nbce_rag.prompts.prompt import Prompt

Make = Callable[..., Any]

SENTENCES = {
    "ferry": ["The ferry is run by Ada.", "It leaves at noon from the old harbour.", "Dogs ride for free."],
    "fish": ["Fish is sold in the square."],
    "船": ["船在中午从旧港口出发。", "艾达负责渡轮。"],
}
PASSAGES = [
    Passage("".join(text) if name == "船" else " ".join(text), id=name, title="船" if name == "船" else None)
    for name, text in SENTENCES.items()
]
FAMILIES = ["llama", "mistral", "gemma3", "gpt2"]


def by_sentences(*names: str) -> list[Passage]:
    """The sentences of some passages, each as a passage."""
    titles = {passage.id: passage.title for passage in PASSAGES}
    return [Passage(text, title=titles[name]) for name in names for text in SENTENCES[name]]


class Chosen:
    """A mixture of all rows, read closer where it is told to."""

    def __init__(self, weights: Sequence[float], focus: float) -> None:
        self.weights, self.focus = torch.tensor([weights]), focus

    def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        n = self.weights.shape[1]
        weights = self.weights if rows.shape[1] == n else torch.full((1, rows.shape[1]), 1 / rows.shape[1])
        return Fused((rows.exp() * weights[..., None]).sum(1).log(), weights)


# ---------------------------------------------------------------------------------------------------------
# Which passages


def chosen(weights: Sequence[float], focus: float, **options: Any) -> tuple[int, ...]:
    rows = [Row((), ()), *(Row((), (index,)) for index in range(len(weights)))]
    plan = RowPlan(tuple(rows), Suffix((1,), (0, 1)), len(weights), ())
    asked = Options(fusion=Chosen(weights, focus), **options)
    return focal_passages(plan, asked, torch.zeros(len(rows), 4), FusionState())


@pytest.mark.parametrize(
    ("focus", "passages"),
    [
        (0.0, ()),
        (0.01, (2,)),
        (0.5, (2,)),
        (0.51, (1, 2)),
        (0.8, (1, 2)),
        (0.81, (0, 1, 2)),
        (1.0, (0, 1, 2)),
    ],
)
def test_the_fewest_that_hold_the_share(focus: float, passages: tuple[int, ...]) -> None:
    assert chosen([0.2, 0.3, 0.5, 0.0], focus) == passages


@given(weights=st.lists(st.floats(0.001, 1), min_size=2, max_size=8), focus=st.floats(0.001, 1))
@settings(max_examples=200, deadline=None)
def test_they_hold_the_share_and_no_fewer_would(weights: list[float], focus: float) -> None:
    shares = [weight / sum(weights) for weight in weights]
    taken = chosen(shares, focus)
    held = sorted((shares[index] for index in taken), reverse=True)
    assert sum(held) >= focus - 1e-5
    assert sum(held[:-1]) < focus + 1e-5
    left = [share for index, share in enumerate(shares) if index not in taken]
    assert min(held) >= max(left, default=0) - 1e-6  # the rule's weights are float32


def test_a_single_passage_needs_no_weights_and_shared_rows_are_left_alone() -> None:
    assert chosen([1.0], 0.1) == (0,)
    assert chosen([0.5, 0.5], 1.0, passages_per_row=2) == ()


# ---------------------------------------------------------------------------------------------------------
# What is read


@pytest.mark.parametrize(
    "rule", [Posterior(focus=1.0), MinEntropy(alpha=0.1, focus=1.0), Experts(focus=1.0)], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_sentences_are_fused_like_passages(
    family: str, rule: Any, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain passes over all rows, the sentences' rows behind the passages'."""
    nbce = make_nbce(family, prompt=BARE)
    samplers = record_samplers(monkeypatch)
    passages = [dataclasses.replace(p, score=s) for p, s in zip(PASSAGES, (0.4, 0.2, 0.5), strict=True)]
    answer = nbce.answer(QUESTION, passages, fusion=rule, max_tokens=8)
    read = {"ferry": 3, "fish": 0, "船": 2}
    if not isinstance(rule, Posterior):  # these put all weight on one passage
        [name] = [name for name in ("ferry", "船", "fish") if len(answer.usage.row_tokens) == 4 + read[name]]
        read = {other: count if other == name else 0 for other, count in read.items()}
    parts = by_sentences(*(name for name, count in read.items() if count))
    rows = row_prompts(nbce, QUESTION, [*PASSAGES, *parts])
    assert answer.usage.row_tokens == tuple(map(len, rows))
    score = {"ferry": 0.4, "船": 0.5}
    scores = [0.4, 0.2, 0.5, *(score[name] for name, count in read.items() for _ in range(count))]
    state = brute_state(nbce, rows, QUESTION, scores)
    if not rule.uses_relevance:
        state.relevance = None
    slow = slow_decode(nbce, rows, rule, 8, state)
    assert samplers[-1].ids == slow.tokens
    owner = [0, 1, 2, *(list(SENTENCES).index(name) for name, count in read.items() for _ in range(count))]
    said = [token.id for token in answer.tokens]
    # White space around the text is not shown.
    [first, *_] = [i for i in range(len(slow.tokens)) if slow.tokens[i : i + len(said)] == said]
    steps = zip(slow.log_probs[first:], slow.evidence[first:], strict=True)
    for token, (log_prob, evidence) in zip(answer.tokens, steps, strict=False):
        weights = [sum(e for e, o in zip(evidence, owner, strict=True) if o == k) for k in range(3)]
        assert token.logprob == pytest.approx(log_prob, abs=1e-4)
        assert token.weights == pytest.approx(weights, abs=1e-4)
    if state.relevance is not None:
        best = [
            max(m for m, o in zip(state.relevance[0].tolist(), owner, strict=True) if o == k)
            for k in range(3)
        ]
        assert [p.relevance for p in answer.passages] == pytest.approx(best, abs=1e-3)


def test_likelihoods_over_a_shortlist_compare(make_nbce: Make) -> None:
    """A sentence's likelihood is measured against the same tokens as the passages' are."""
    nbce, model = watched(make_nbce(prompt=BARE))
    nbce.answer(QUESTION, PASSAGES, max_tokens=2)
    [[passages], [sentences]] = model.opened
    assert passages.vocabulary == sentences.vocabulary
    assert passages.vocabulary == {token for ids in passages.contexts for token in ids}
    assert passages.contexts != sentences.contexts


def test_refusal_of_a_sentence_counts_in_its_row(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=REFUSING)
    request = nbce.request(QUESTION, PASSAGES, fusion=Posterior(focus=1.0, least=0.0))
    _, log_probs, prompted = read(nbce, request)
    rows = row_prompts(nbce, QUESTION, [*PASSAGES, *by_sentences("ferry", "船")])
    wanted = brute_state(nbce, rows, QUESTION)
    assert len(log_probs) == len(rows) == 9
    assert prompted.state.refusal is not None
    assert wanted.refusal is not None
    assert prompted.state.refusal[0].tolist() == pytest.approx(wanted.refusal[0].tolist(), rel=1e-3)


@pytest.mark.parametrize("rule", [Posterior(focus=0.0), MinEntropy(), Experts(), Mean()], ids=str)
def test_published_rules_read_passages_alone(rule: Any, make_nbce: Make) -> None:
    answer = make_nbce().answer(QUESTION, PASSAGES, fusion=rule, max_tokens=2)
    assert len(answer.usage.row_tokens) == 4


def test_given_answers_are_scored_over_whole_passages(make_nbce: Make) -> None:
    nbce = make_nbce()
    scores = [
        nbce.score(QUESTION, PASSAGES, ["Ada", "Bo"], fusion=Posterior(focus=focus)) for focus in (0.0, 1.0)
    ]
    assert scores[0] == scores[1]


def test_one_sentence_is_its_passage(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=8)
    assert_same_answer(
        nbce.answer(QUESTION, PASSAGES[1:2]),
        nbce.answer(QUESTION, PASSAGES[1:2], fusion=Posterior(focus=0.0)),
    )


def test_questions_of_a_batch_choose_for_themselves(make_nbce: Make) -> None:
    """Some with the same rows, which are read once; some that want different sentences."""
    nbce = make_nbce("gemma3", prompt=BARE, max_tokens=6)
    scored = [dataclasses.replace(p, score=s) for p, s in zip(PASSAGES, (0.9, 0.1, 0.1), strict=True)]
    requests = [
        nbce.request(QUESTION, scored),
        nbce.request(QUESTION, scored, fusion=Posterior(focus=0.0)),
        nbce.request("When?", PASSAGES[2:], fusion=Posterior(focus=1.0)),
        nbce.request(QUESTION, scored, fusion="experts"),
        nbce.request(QUESTION, scored, fusion=Posterior(focus=1.0, least=0.0)),
        nbce.request(QUESTION, scored, fusion=Posterior(beta=0.5)),
        nbce.request(QUESTION, []),
    ]
    with pytest.warns(NbceWarning, match="No passages"):
        together = nbce.batch(requests)
    assert [len(answer.usage.row_tokens) for answer in together] == [7, 4, 4, 4, 9, 7, 1]
    for request, answer in zip(requests[:-1], together, strict=False):
        [alone] = nbce.batch([request])
        assert_same_answer(answer, alone)


def test_a_long_passage_has_several_sentences_to_a_row(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=BARE)
    texts = [f"Ship {number} sank." for number in range(40)]
    answer = nbce.answer(QUESTION, [Passage(" ".join(texts))], max_tokens=1)
    parts = [" ".join(texts[i : i + 3]) for i in range(0, 40, 3)]
    assert answer.usage.sentence_rows == len(parts) <= MOST_ROWS
    rows = row_prompts(nbce, QUESTION, [Passage(" ".join(texts)), *map(Passage, parts)])
    assert answer.usage.row_tokens == tuple(map(len, rows))


@pytest.mark.parametrize("count", [2, 3, 9, 20])
def test_many_passages_share_the_rows(count: int, make_nbce: Make) -> None:
    nbce = make_nbce(prompt=BARE, max_tokens=1, fusion=Chosen([1 / count] * count, 1.0))
    long = [Passage(" ".join(f"Ship {n} of {i} sank." for n in range(30)), id=str(i)) for i in range(count)]
    usage = nbce.answer(QUESTION, long).usage
    assert len(usage.row_tokens) == 1 + count + usage.sentence_rows
    assert MOST_ROWS - min(count, 8) < usage.sentence_rows <= MOST_ROWS
    parts = usage.row_passages[1 + count :]
    assert len(set(parts)) == min(count, 8)
    assert min(parts.count(part) for part in parts) >= 2


def test_a_passage_in_windows_is_read_by_sentences_too(make_nbce: Make) -> None:
    nbce = make_nbce("gpt2", prompt=BARE)
    long = Passage("The market opens at eight. " * 120, id="long")
    with pytest.warns(NbceWarning, match="overlapping windows"):
        whole, closer = nbce.batch(
            [
                nbce.request(QUESTION, [long], max_tokens=4, fusion=rule)
                for rule in (Posterior(focus=0.0), "posterior")
            ]
        )
    windows = len(whole.usage.row_tokens)
    assert closer.usage.row_tokens[:windows] == whole.usage.row_tokens
    assert windows < len(closer.usage.row_tokens) <= windows + MOST_ROWS
    assert all(sum(token.weights) == pytest.approx(1, abs=1e-5) for token in closer.tokens)


def test_a_joint_row_and_order_labels(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=BARE)
    answer = nbce.answer(
        QUESTION, PASSAGES, max_tokens=4, fusion=Posterior(focus=1.0), joint_row=True, order_labels=True
    )
    rows = answer.usage.row_tokens
    assert len(rows) == 1 + 3 + 1 + 5
    label = [dataclasses.replace(p, title="Part 1 of 3") for p in by_sentences("ferry")]
    assert rows[5:8] == tuple(len(prompt_ids(nbce, QUESTION, [p])) for p in label)
    assert all(len(token.weights) == 3 for token in answer.tokens)


def test_each_sentence_stands_where_its_passage_does(make_nbce: Make) -> None:
    nbce = make_nbce(chat=True)
    text = f"First {MARK} second {MARK} third {MARK} Who?"
    request = dataclasses.replace(
        nbce.request("Who?", PASSAGES, fusion=Posterior(focus=1.0), max_tokens=2), prompt=Prompt(text=text)
    )
    _, _, prompted = read(nbce, request)
    said = nbce.model.tokenizer.decode(list(prompted.plan.rows[-1].context))
    assert said.index("third") < said.index("艾达负责渡轮。")
    assert "船在中午" not in said


def test_without_memory_it_is_said_and_the_passages_answer(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(max_tokens=6))
    plain = nbce.answer(QUESTION, PASSAGES, fusion=Posterior(focus=0.0))
    left = iter([2**40] * 2)  # for the passages; for their sentences nothing is left
    model.free_bytes = lambda: next(left, 2**10)
    with pytest.warns(NbceWarning, match="No passage was read sentence by sentence"):
        answer = nbce.answer(QUESTION, PASSAGES)
    assert_same_answer(answer, plain)
    assert "No passage was read sentence by sentence" in answer.warnings[0]


def test_they_are_weighed_as_long_as_a_row_of_several_passages(
    make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows become as long as the longest, and that one is there when sentences are read."""
    sizes: list[Any] = []

    def fits(model: Any, size: Any) -> bool:
        sizes.append(size)
        return True

    monkeypatch.setattr("nbce_rag.decoding.reader.fits", fits)
    nbce = make_nbce(max_tokens=6)
    answer = nbce.answer(QUESTION, PASSAGES, fusion=Posterior(focus=1.0, together=len(PASSAGES)))
    assert answer.usage.sentence_rows
    [together, sentences] = sizes
    assert sentences.tokens == together.tokens == max(answer.usage.row_tokens) + 6
    assert sentences.rows >= len(answer.usage.row_tokens)


def test_citations_name_the_passage_of_a_sentence(make_nbce: Make) -> None:
    answer = make_nbce(max_tokens=8).answer(QUESTION, PASSAGES, fusion=Chosen([0.8, 0.1, 0.1], 0.5))
    assert len(answer.usage.row_tokens) == 1 + 3 + 3
    assert all(sum(token.weights) == pytest.approx(1, abs=1e-5) for token in answer.tokens)
    assert {citation.passage_id for citation in answer.citations} <= set(SENTENCES)


def test_a_sentence_that_is_a_passage_too_counts_as_reused(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=BARE, max_tokens=1, fusion=Posterior(focus=1.0))
    passages = ["Ada runs the ferry. Bob is old.", "Ada runs the ferry.", "Cy."]
    first = nbce.answer(QUESTION, passages)
    assert first.usage.cached_tokens == 0
    again = nbce.answer(QUESTION, passages)
    suffix = len(engine_of(nbce).plan(nbce.request(QUESTION)).suffix.ids)
    assert again.usage.cached_tokens == sum(tokens - suffix for tokens in again.usage.row_tokens)
