"""The engine against slow references: plain passes without a cache, and transformers' own generate."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_reference import (
    BARE,
    PASSAGES,
    QUESTION,
    REFUSING,
    TEMPLATE,
    assert_same_answer,
    brute_state,
    engine_of,
    full_log_probs,
    greedy_by_transformers,
    prompt_ids,
    read,
    record_samplers,
    row_prompts,
    slow_decode,
)
from tiny_models import FAMILIES
from watched_model import watched

from nbce_rag.decoding.reader import read_prompts
from nbce_rag.errors import NbceWarning
from nbce_rag.fusion import Experts, Fused, FusionState, Max, Mean, MinEntropy, Posterior, Rule
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.transformers import contexts
from nbce_rag.options import Options
from nbce_rag.passages import Passage
from nbce_rag.request import Request

Make = Callable[..., Any]


@pytest.mark.parametrize("rule", [MinEntropy(beta=0, top_p=1), Posterior(beta=0)], ids=lambda r: r.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_passage_without_contrast_is_transformers_generate(
    family: str, rule: Rule, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(family, prompt=TEMPLATE, fusion=rule)
    samplers = record_samplers(monkeypatch)
    different = set()
    for passage in PASSAGES:
        answer = nbce.answer(QUESTION, [passage], max_tokens=16)
        wanted = greedy_by_transformers(nbce, prompt_ids(nbce, QUESTION, [passage]), 16)
        assert samplers[-1].ids == wanted
        text = nbce.model.tokenizer.decode(wanted, skip_specials=True)
        # Half a character at the end is not shown.
        assert answer.text.rstrip("\ufffd") == text.strip().rstrip("\ufffd").rstrip()
        different.add(answer.text)
    assert len(different) == len(PASSAGES)  # the passages are read


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_row(family: str, make_nbce: Make) -> None:
    nbce = make_nbce(family, prompt=BARE)
    engine, model = engine_of(nbce), nbce.model.model
    passages = [*PASSAGES, Passage("Bread and apples, " * 25)]
    requests = [Request(QUESTION, passages), Request("When?", PASSAGES[:1])]
    batch, log_probs, prompted = read_prompts(engine, requests, [engine.plan(r) for r in requests])
    rows = row_prompts(nbce, QUESTION, passages) + row_prompts(nbce, "When?", PASSAGES[:1])
    assert [n for p in prompted for n in p.plan.row_tokens] == [len(row) for row in rows]
    assert max(map(len, rows)) > 6 * min(map(len, rows))
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):  # beyond the sliding windows
        alone = torch.stack([full_log_probs(model, row)[-1] for row in rows])
        torch.testing.assert_close(log_probs, alone, atol=1e-4, rtol=0)
        new = torch.randint(3, 480, (len(rows), 1), generator=generator)
        log_probs = batch.step(new)[:, 0]
        for row, token in zip(rows, new[:, 0].tolist(), strict=True):
            row.append(token)


def test_several_tokens_at_several_places_equal_a_plain_pass(make_nbce: Make) -> None:
    nbce = make_nbce("gemma3", prompt=BARE)
    request = Request(QUESTION, PASSAGES)
    batch, _, _ = read(nbce, request)
    rows = row_prompts(nbce, QUESTION, PASSAGES)
    new = torch.randint(3, 480, (len(rows), 9), generator=torch.Generator().manual_seed(2))
    got = batch.step(new)[:, [0, 4, 8]]
    for row, added, log_probs in zip(rows, new.tolist(), got, strict=True):
        alone = full_log_probs(nbce.model.model, row + added)[len(row) :]
        torch.testing.assert_close(log_probs, alone[[0, 4, 8]], atol=1e-4, rtol=0)


def check_against_slow(
    nbce: Any, passages: list[Passage], rule: Any, monkeypatch: pytest.MonkeyPatch, max_tokens: int = 10
) -> None:
    samplers = record_samplers(monkeypatch)
    answer = nbce.answer(QUESTION, passages, fusion=rule, max_tokens=max_tokens)
    rows = row_prompts(nbce, QUESTION, passages)
    known = [p.score for p in passages if p.score is not None]
    scores = [sum(known) / len(known) if p.score is None else p.score for p in passages] if known else None
    state = brute_state(nbce, rows, QUESTION, scores)
    relevance = state.relevance
    assert relevance is not None
    if not getattr(rule, "uses_relevance", False):
        state.relevance = None
    slow = slow_decode(nbce, rows, rule, max_tokens, state)
    assert samplers[-1].ids == slow.tokens
    said = list(zip(slow.tokens, slow.log_probs, slow.evidence, slow.gains, strict=True))
    shown = {t.id for t in answer.tokens}  # tokens around the text are not shown
    said = [step for step in said if step[0] in shown]
    assert [t.id for t in answer.tokens] == [step[0] for step in said]
    for token, (_, log_prob, evidence, gain) in zip(answer.tokens, said, strict=True):
        assert token.logprob == pytest.approx(log_prob, abs=1e-4)
        assert token.weights == pytest.approx(evidence, abs=1e-4)
        assert sum(token.weights) == pytest.approx(1, abs=1e-5)
        assert token.gain == pytest.approx(gain, abs=1e-3)
    assert answer.grounding == pytest.approx(sum(s[3] for s in said) / len(said), abs=1e-3)
    assert answer.usage.row_tokens == tuple(map(len, rows))
    if getattr(rule, "uses_relevance", False):
        assert [p.relevance for p in answer.passages] == pytest.approx(relevance[0].tolist(), abs=1e-3)
    else:
        assert [p.relevance for p in answer.passages] == [None] * len(passages)


@pytest.mark.parametrize("rule", [Posterior(), MinEntropy()], ids=lambda r: r.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_lock_step_equals_rows_read_whole(
    family: str, rule: Rule, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_against_slow(make_nbce(family, prompt=BARE), PASSAGES, rule, monkeypatch)


class Loudest:
    """A rule of a user's own, without a name."""

    def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
        rows = log_probs[:, 1:]
        weights = rows.amax(-1).softmax(-1)
        return Fused((rows.exp() * weights[..., None]).sum(1).log(), weights)


@pytest.mark.parametrize(
    "rule",
    [Mean(), Max(), Experts(), MinEntropy(alpha=0.5, eta=0.5), Posterior(epsilon=0, cutoff=0), Loudest()],
    ids=["mean", "max", "experts", "relevance", "marginal", "own"],
)
def test_every_rule_in_lock_step(rule: Rule, make_nbce: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = (0.9, None, 0.2, 0.5)
    passages = [dataclasses.replace(p, score=s) for p, s in zip(PASSAGES, scores, strict=True)]
    check_against_slow(make_nbce(prompt=TEMPLATE), passages, rule, monkeypatch)


def test_refusal_is_scored_behind_the_prompt_and_leaves_no_trace(
    make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce("gemma3", prompt=REFUSING)
    request = nbce.request(QUESTION, PASSAGES)
    batch, log_probs, prompted = read(nbce, request)
    rows = row_prompts(nbce, QUESTION, PASSAGES)
    state = brute_state(nbce, rows, QUESTION)
    assert state.refusal is not None
    assert prompted.state.refusal is not None
    # Probabilities of a random model are tiny, so they are compared as logs.
    torch.testing.assert_close(prompted.state.refusal.log(), state.refusal.log(), atol=1e-3, rtol=0)
    torch.testing.assert_close(prompted.state.relevance, state.relevance, atol=1e-3, rtol=0)
    alone = torch.stack([full_log_probs(nbce.model.model, row)[-1] for row in rows])
    torch.testing.assert_close(log_probs, alone, atol=1e-4, rtol=0)
    assert batch.room == nbce.options.max_tokens
    check_against_slow(nbce, PASSAGES, Posterior(), monkeypatch)


def test_the_model_without_logits_to_keep(make_nbce: Make) -> None:
    class Old(torch.nn.Module):
        """Its forward has the arguments that all models know, and gives all logits."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner, self.config, self.base_model = inner, inner.config, inner.base_model
            self.device, self.dtype = inner.device, inner.dtype

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, **rest: Any) -> Any:
            assert set(rest) == {"past_key_values", "use_cache"}
            return self.inner(input_ids, attention_mask=attention_mask, position_ids=position_ids, **rest)

    nbce = make_nbce(prompt=REFUSING)
    old = type(nbce)(dataclasses.replace(nbce.model, model=Old(nbce.model.model)), prompt=REFUSING)
    answer = nbce.answer(QUESTION, PASSAGES, max_tokens=8)
    assert_same_answer(old.answer(QUESTION, PASSAGES, max_tokens=8), answer)


@pytest.mark.parametrize("rule", ["posterior", "min-entropy", "mean", "experts"])
def test_another_order_of_passages_permutes_the_evidence(rule: str, make_nbce: Make) -> None:
    nbce = make_nbce("qwen3", prompt=TEMPLATE, fusion=rule, max_tokens=8)
    straight = nbce.answer(QUESTION, PASSAGES)
    assert len({round(w, 3) for t in straight.tokens for w in t.weights}) > 1
    for order in list(itertools.permutations(range(len(PASSAGES))))[5::6]:
        other = nbce.answer(QUESTION, [PASSAGES[i] for i in order])
        assert other.text == straight.text
        for a, b in zip(straight.tokens, other.tokens, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
            assert [a.weights[i] for i in order] == pytest.approx(list(b.weights), abs=1e-4)
        if rule in ("posterior", "mean"):  # one-hot evidence ties within a word, then the first one is named
            assert [c.passage_id for c in other.citations] == [c.passage_id for c in straight.citations]


@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_reading_changes_nothing(
    family: str, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks: list[int] = []
    original: Any = contexts._prefill

    def counted(loaded: Any, chunk: Any) -> Any:
        chunks.append(len(chunk))
        return original(loaded, chunk)

    monkeypatch.setattr(contexts, "_prefill", counted)
    passages = [*PASSAGES, PASSAGES[0]]  # the same text twice is read once
    large = make_nbce(family, prompt=TEMPLATE, max_batch_tokens=100_000)
    whole = large.answer(QUESTION, passages, max_tokens=6)
    assert chunks == [5]
    for budget, wanted in ((1, [1] * 5), (40, None)):
        chunks.clear()
        nbce = make_nbce(family, prompt=TEMPLATE, max_batch_tokens=budget)
        assert_same_answer(nbce.answer(QUESTION, passages, max_tokens=6), whole)
        assert chunks == wanted if wanted else 1 < len(chunks) < 5


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_keys_and_values_change_nothing(family: str, make_nbce: Make) -> None:
    options: dict[str, Any] = {"prompt": TEMPLATE, "max_tokens": 6}
    nbce = make_nbce(family, **options)
    without = make_nbce(family, kv_store=False, **options)
    assert without.kv_store is None
    row_tokens = without.answer(QUESTION, PASSAGES).usage.row_tokens
    suffix = len(engine_of(nbce).plan(nbce.request(QUESTION)).suffix.ids)
    for attempt in range(3):
        answer, plain = nbce.answer(QUESTION, PASSAGES), without.answer(QUESTION, PASSAGES)
        assert_same_answer(answer, plain)
        assert plain.usage.cached_tokens == 0
        assert answer.usage.cached_tokens == (sum(row_tokens) - suffix * len(row_tokens) if attempt else 0)
        assert answer.usage.prompt_tokens == sum(row_tokens)
    assert len(nbce.kv_store) == 5
    # Another question, one old passage, one new one.
    mixed = [PASSAGES[2], Passage("Bread.")]
    answer, plain = nbce.answer("When?", mixed), without.answer("When?", mixed)
    assert_same_answer(answer, plain)
    suffix = len(engine_of(nbce).plan(nbce.request("When?")).suffix.ids)
    assert answer.usage.cached_tokens == answer.usage.row_tokens[0] + answer.usage.row_tokens[1] - 2 * suffix


def test_a_small_store_forgets_and_still_answers_right(make_nbce: Make) -> None:
    small = PassageKVStore(max_bytes=20_000)
    nbce = make_nbce(prompt=TEMPLATE, kv_store=small, max_tokens=6)
    plain = make_nbce(prompt=TEMPLATE, kv_store=False, max_tokens=6)
    for passages in (PASSAGES, PASSAGES[::-1], PASSAGES[:2], PASSAGES):
        assert_same_answer(nbce.answer(QUESTION, passages), plain.answer(QUESTION, passages))
        assert 0 < small.nbytes <= 20_000
    assert 0 < len(small) < 5


def test_models_do_not_share_stored_keys(make_nbce: Make) -> None:
    store = PassageKVStore()
    for family in ("llama", "mistral"):  # same shapes, other weights and window
        nbce = make_nbce(family, prompt=TEMPLATE, kv_store=store, max_tokens=6)
        plain = make_nbce(family, prompt=TEMPLATE, kv_store=False, max_tokens=6)
        answer = nbce.answer(QUESTION, PASSAGES)
        assert answer.usage.cached_tokens == 0
        assert_same_answer(answer, plain.answer(QUESTION, PASSAGES))


def mixed_requests() -> list[dict[str, Any]]:
    scored = [dataclasses.replace(p, score=0.1 * i) for i, p in enumerate(PASSAGES)]
    return [
        {"question": QUESTION, "passages": PASSAGES[:3], "max_tokens": 3},
        {"question": "When does the market open?", "passages": PASSAGES, "max_tokens": 9},
        {"question": "为什么?", "passages": PASSAGES[1:], "max_tokens": 14},
        {"question": "Why?", "passages": PASSAGES[:1], "fusion": "mean", "max_tokens": 5},
        {"question": "How?", "passages": scored[:3], "fusion": "posterior", "max_tokens": 7},
        {"question": "How much?", "passages": PASSAGES[:3], "fusion": "experts", "max_tokens": 1},
        {"question": "And then?", "passages": PASSAGES[:3], "temperature": 1.5, "seed": 7, "max_tokens": 12},
        {"question": "And now?", "passages": PASSAGES[:2], "joint_row": True, "max_tokens": 6},
        {"question": "All?", "passages": PASSAGES, "passages_per_row": 2, "max_tokens": 4},
        {"question": "What if?", "passages": PASSAGES, "fusion": Loudest(), "max_tokens": 11},
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_batch_equals_one_by_one(family: str, make_nbce: Make) -> None:
    # Passages that answer by themselves would join the batch while it shrinks.
    nbce, model = watched(make_nbce(family, prompt=TEMPLATE, kv_store=False, conflicts=False))
    alone = [nbce.answer(**request) for request in mixed_requests()]
    assert len({a.text for a in alone}) >= len(alone) - 1
    assert len({a.usage.generated_tokens for a in alone}) > 6
    model.kept.clear()
    together = nbce.batch(mixed_requests())
    kept = model.kept
    assert len(kept) >= 3  # rows were dropped as questions finished
    assert kept == sorted(kept, reverse=True)
    for one, other in zip(together, alone, strict=True):
        assert one.question == other.question
        assert_same_answer(one, other)


def test_rows_of_finished_questions_never_run_past_the_window(make_nbce: Make) -> None:
    # gpt2 has no embedding for a position past its window.
    nbce, model = watched(make_nbce("gpt2", prompt=BARE))
    long = Passage("Bread and apples, " * 60)
    requests = [
        {"question": QUESTION, "passages": [long], "max_tokens": 2},
        {"question": "Why?", "passages": [Passage("Bread, " * 60)] * 8, "max_tokens": 120},
    ]
    alone = [nbce.answer(**request) for request in requests]
    assert 450 < alone[0].usage.row_tokens[1] < 512
    model.opened.clear()
    for one, other in zip(nbce.batch(requests), alone, strict=True):
        assert_same_answer(one, other)
    assert model.batches == [2]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_prompt_that_several_questions_share_is_read_once(family: str, make_nbce: Make) -> None:
    # As when rules are compared. One wants relevance and refusal, another must not see them.
    nbce, model = watched(make_nbce(family, prompt=REFUSING, kv_store=False, max_tokens=6))
    scored = [dataclasses.replace(p, score=0.3 * i) for i, p in enumerate(PASSAGES)]
    requests: list[dict[str, Any]] = [
        {"question": QUESTION, "passages": PASSAGES, "fusion": "min-entropy"},
        {"question": QUESTION, "passages": PASSAGES, "fusion": "posterior", "max_tokens": 3},
        {"question": "Why?", "passages": PASSAGES, "fusion": "mean"},
        {"question": QUESTION, "passages": scored, "fusion": "posterior"},
        {"question": QUESTION, "passages": PASSAGES[:2], "fusion": "experts"},
        {"question": QUESTION, "passages": PASSAGES, "fusion": "mean", "relevance": True},
    ]
    alone = [nbce.answer(**request) for request in requests]
    model.opened.clear()
    together = nbce.batch(requests)
    opened = [prompt for prompts in model.opened for prompt in prompts]
    assert sorted(len(prompt.contexts) for prompt in opened) == [3, 5, 5]
    for one, other in zip(together, alone, strict=True):
        assert_same_answer(one, other)
        assert [p.relevance for p in one.passages] == [
            None if p.relevance is None else pytest.approx(p.relevance, abs=1e-3) for p in other.passages
        ]
    assert together[0].passages[0].relevance is None
    assert together[5].passages[0].relevance is not None


def test_batch_with_a_question_without_passages(make_nbce: Make) -> None:
    nbce = make_nbce("gpt2", prompt=BARE, max_tokens=6)
    requests = [("Who?", PASSAGES[:2]), "What?", ("Where?", PASSAGES[3:])]
    with pytest.warns(NbceWarning, match="question alone"):
        alone = [nbce.answer(*r) if isinstance(r, tuple) else nbce.answer(r) for r in requests]
    with pytest.warns(NbceWarning, match="question alone"):
        together = nbce.batch(requests)
    for one, other in zip(together, alone, strict=True):
        assert_same_answer(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_passages_is_the_model_alone(
    family: str, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An empty prefix: without BOS the row has nothing but the question.
    nbce = make_nbce(family, prompt=BARE, max_tokens=10)
    samplers = record_samplers(monkeypatch)
    with pytest.warns(NbceWarning, match="question alone"):
        answer = nbce.answer(QUESTION)
    assert samplers[-1].ids == greedy_by_transformers(nbce, prompt_ids(nbce, QUESTION, []), 10)
    assert answer.warnings == ("No passages were given; the answer comes from the question alone.",)
    assert answer.grounding is None
    assert (answer.citations, answer.passages) == ((), ())
    assert {t.weights for t in answer.tokens} == {()}
    assert answer.usage.row_tokens == (len(prompt_ids(nbce, QUESTION, [])),)


@pytest.mark.parametrize(("family", "per_row"), [("llama", 9), *((family, 4) for family in FAMILIES)])
def test_all_passages_in_a_row_are_the_concatenated_prompt(
    family: str, per_row: int, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(family, prompt=TEMPLATE, fusion=MinEntropy(beta=0, top_p=1), max_tokens=10)
    samplers = record_samplers(monkeypatch)
    answer = nbce.answer(QUESTION, PASSAGES, passages_per_row=per_row)
    prompt = prompt_ids(nbce, QUESTION, PASSAGES)
    assert samplers[-1].ids == greedy_by_transformers(nbce, prompt, 10)
    assert answer.usage.row_tokens == (len(prompt_ids(nbce, QUESTION, [])), len(prompt))
    for token in answer.tokens:  # evidence of the row is that of the passages with the words, in equal parts
        shares = {round(weight, 6) for weight in token.weights if weight}
        assert len(shares) == 1
        assert sum(token.weights) == pytest.approx(1)


@pytest.mark.parametrize("per_row", [1, 2, 3])
def test_rows_of_several_passages_and_the_joint_row(
    per_row: int, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(prompt=TEMPLATE, fusion="posterior", max_tokens=8)
    samplers = record_samplers(monkeypatch)
    answer = nbce.answer(QUESTION, PASSAGES, passages_per_row=per_row, joint_row=True)
    members = [list(range(i, min(i + per_row, 4))) for i in range(0, 4, per_row)] + [[0, 1, 2, 3]]
    rows = [prompt_ids(nbce, QUESTION, [PASSAGES[i] for i in m]) for m in ([], *members)]
    assert answer.usage.row_tokens == tuple(map(len, rows))
    slow = slow_decode(nbce, rows, Posterior(), 8, brute_state(nbce, rows, QUESTION))
    assert samplers[-1].ids == slow.tokens
    for token in answer.tokens:
        evidence = slow.evidence[slow.tokens.index(token.id)]
        assert sum(token.weights) == pytest.approx(1)
        # A passage gets at least what its own row has, and never more than the rows that hold it.
        for i, weight in enumerate(token.weights):
            assert weight <= sum(e for e, m in zip(evidence, members, strict=True) if i in m) + 1e-5
            assert weight >= sum(e for e, m in zip(evidence, members, strict=True) if m == [i]) - 1e-5


def test_a_joint_row_needs_more_than_one_row(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=4)
    assert len(nbce.answer(QUESTION, PASSAGES[:1], joint_row=True).usage.row_tokens) == 2
    assert len(nbce.answer(QUESTION, PASSAGES, joint_row=True, passages_per_row=4).usage.row_tokens) == 2
    assert len(nbce.answer(QUESTION, PASSAGES, joint_row=True).usage.row_tokens) == 6


def test_order_labels_are_titles(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=8, fusion="mean")
    titles = ["Part 1 of 4", "Part 2 of 4", "市场 (Part 3 of 4)", "Part 4 of 4"]
    by_hand = [dataclasses.replace(p, title=t) for p, t in zip(PASSAGES, titles, strict=True)]
    labelled = nbce.answer(QUESTION, PASSAGES, order_labels=True)
    assert_same_answer(labelled, nbce.answer(QUESTION, by_hand))
    assert labelled.text != nbce.answer(QUESTION, PASSAGES).text
    assert [p.title for p in labelled.passages] == [None, None, "市场", None]


def test_a_question_of_one_token_in_an_empty_row_has_no_likelihood(make_nbce: Make) -> None:
    # Without BOS, and with the question in front, its first token is the first of row 0.
    template = dataclasses.replace(BARE, suffix="{question} =")
    nbce = make_nbce("gpt2", prompt=template, max_tokens=3)
    request = Request("A", PASSAGES, Options(fusion="posterior"))
    _, _, prompted = read(nbce, request)
    assert prompted.state.relevance is not None
    assert prompted.state.relevance.tolist() == [[0.0] * 4]
    assert len(nbce.answer("A", PASSAGES).tokens) > 0
