"""The engine as people use it: stopping, streaming, sampling, constraints, long inputs and errors."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import json
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_reference import (
    BARE,
    PASSAGES,
    QUESTION,
    TEMPLATE,
    assert_same_answer,
    brute_state,
    engine_of,
    full_log_probs,
    prompt_ids,
    record_samplers,
    row_prompts,
    slow_decode,
)
from transformers import T5Config
from watched_model import watched

from nbce_rag.decoding.sampling import Sampler
from nbce_rag.engine.loading_arguments import LOADING_ARGUMENTS
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import ContextLengthError, InputError, ModelError, NbceWarning, NumericalError
from nbce_rag.fusion import Fused, FusionState, MinEntropy, Posterior
from nbce_rag.models.transformers.loading import load_model, wrap_model
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.options import Options
from nbce_rag.passages import Passage
from nbce_rag.prompts.template import PromptTemplate
from nbce_rag.request import Request

Make = Callable[..., Any]


class Fixed:
    """A rule that always says the same: these tokens with these probabilities, the others almost never."""

    name = "fixed"

    def __init__(self, tokens: dict[int, float]) -> None:
        self.tokens = tokens

    def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
        fused = torch.full_like(log_probs[:, 0], -1000.0)
        for token, p in self.tokens.items():
            fused[:, token] = torch.tensor(p).log()
        return Fused(fused, torch.full_like(log_probs[:, 1:, 0], 1 / (log_probs.shape[1] - 1)))


def ids_of(nbce: Any, text: str) -> list[int]:
    return list(nbce.model.tokenizer.encode(text))


def with_changes(nbce: Any, **changes: Any) -> Any:
    """The same model with another window, other end tokens, ..."""
    return NBCE(dataclasses.replace(nbce.model, **changes), prompt=nbce.prompt)


def test_from_pretrained_reads_a_folder(tiny_folder: Callable[..., Path], make_nbce: Make) -> None:
    nbce = NBCE.from_pretrained(
        tiny_folder("llama"), device="cpu", dtype="float32", prompt=TEMPLATE, fusion="mean", max_tokens=5
    )
    assert nbce.model.window == 512
    assert nbce.model.vocab_size == 480
    assert nbce.model.eos_ids == {1}
    assert_same_answer(
        nbce.answer(QUESTION, PASSAGES),
        make_nbce(prompt=TEMPLATE).answer(QUESTION, PASSAGES, fusion="mean", max_tokens=5),
    )


def test_a_loaded_model_needs_its_tokenizer(make_nbce: Make) -> None:
    loaded = make_nbce().model
    nbce = NBCE.from_pretrained(loaded.model, tokenizer=loaded.tokenizer, max_tokens=3)
    assert nbce.answer(QUESTION, PASSAGES).usage.generated_tokens <= 3
    with pytest.raises(ModelError, match="tokenizer="):
        NBCE.from_pretrained(loaded.model)


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        NBCE.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="nowhere"):
        NBCE.from_pretrained(tmp_path / "nowhere", local_files_only=True)
    T5Config(vocab_size=10, d_model=8, num_layers=1, num_heads=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="encoder-decoder"):
        NBCE.from_pretrained(tmp_path)


def test_token_texts_join_to_the_answer(make_nbce: Make) -> None:
    for family in ("llama", "gpt2", "gemma3"):  # half characters, blanks and control characters abound
        answer = make_nbce(family, prompt=TEMPLATE, max_tokens=60).answer(QUESTION, PASSAGES)
        assert "".join(t.text for t in answer.tokens) == answer.text
        assert answer.text == answer.text.strip()
        for token in answer.tokens:
            assert token.text in ("", answer.text[token.start : token.end])
        assert all(abs(sum(t.weights) - 1) < 1e-5 for t in answer.tokens)
        for citation in answer.citations:
            assert 0 <= citation.start < citation.end <= len(answer.text)


def test_length_and_usage(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE))
    passes = model.steps
    for length in (1, 2, 7):
        passes.clear()
        answer = nbce.answer(QUESTION, PASSAGES, max_tokens=length)
        assert answer.finish_reason == "length"
        assert answer.usage.generated_tokens == length
        assert len(passes) == length - 1  # the prompt gives the first token, the last one is not read
        rows = row_prompts(nbce, QUESTION, PASSAGES)
        assert answer.usage.row_tokens == tuple(map(len, rows))
        assert answer.usage.prompt_tokens == sum(map(len, rows))
        assert answer.fusion == "posterior"
        assert answer.timings.first_token is not None
        assert answer.timings.prefill <= answer.timings.first_token <= answer.timings.total
        assert answer.timings.prefill + answer.timings.decode == pytest.approx(answer.timings.total)


def test_end_token(make_nbce: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=12)
    samplers = record_samplers(monkeypatch)
    whole = nbce.answer(QUESTION, PASSAGES)
    ids = samplers[-1].ids
    assert whole.finish_reason == "length"
    end = next(i for i in range(4, 12) if ids[i] not in ids[:i])
    ending = with_changes(nbce, eos_ids=frozenset({1, ids[end]}))
    answer = ending.answer(QUESTION, PASSAGES, max_tokens=12)
    assert answer.finish_reason == "stop"
    assert samplers[-1].ids == ids[: end + 1]
    assert whole.text.startswith(answer.text.rstrip("\ufffd"))
    assert ids[end] not in {t.id for t in answer.tokens}
    assert answer.usage.generated_tokens == end + 1  # the end token is generated, too
    # An end token at once is an empty answer.
    silent = with_changes(nbce, eos_ids=frozenset({ids[0]})).answer(QUESTION, PASSAGES)
    assert (silent.text, silent.tokens, silent.finish_reason) == ("", (), "stop")
    assert silent.grounding is None


def test_stop_strings(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce("llama", prompt=TEMPLATE, max_tokens=40))
    passes = model.steps
    # "ferry" and " bread", again and again, by a rule of its own.
    said = ids_of(nbce, "The ferry sells bread and apples, and bread.")

    class Recite:
        def __init__(self) -> None:
            self.next = iter(said + [1] * 99)

        def fuse(self, log_probs: torch.Tensor, state: FusionState) -> Fused:
            return Fixed({next(self.next): 1.0}).fuse(log_probs, state)

    for stop, text in (
        ((), "The ferry sells bread and apples, and bread."),
        (("rry sel",), "The fe"),
        (("bread",), "The ferry sells"),
        (("bread.",), "The ferry sells bread and apples, and"),
        (("never", ", and"), "The ferry sells bread and apples"),
        (("apples", "d and a"), "The ferry sells brea"),
        (("The",), ""),
        (("bread..",), "The ferry sells bread and apples, and bread."),
    ):
        passes.clear()
        answer = nbce.answer(QUESTION, PASSAGES, fusion=Recite(), stop=stop)
        assert answer.text == text
        assert answer.finish_reason == "stop"
        assert "".join(t.text for t in answer.tokens) == text
        assert len(passes) == answer.usage.generated_tokens - 1
        assert len(passes) < len(said) or not stop or stop == ("bread..",)
        pieces = list(nbce.stream(QUESTION, PASSAGES, fusion=Recite(), stop=stop))
        assert "".join(p.text for p in pieces) == text
    template = dataclasses.replace(TEMPLATE, stop=("bread",))
    stopping = NBCE(nbce.model, prompt=template)
    assert stopping.answer(QUESTION, PASSAGES, fusion=Recite()).text == "The ferry sells"
    characters = NBCE(nbce.model, prompt=TEMPLATE, max_tokens=60)
    said = ids_of(nbce, "🚢 负责 é 🚢")
    pieces = list(characters.stream(QUESTION, PASSAGES, fusion=Recite()))
    assert "".join(p.text for p in pieces) == "🚢 负责 é 🚢"
    assert not any("\ufffd" in p.text for p in pieces)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_stream_is_the_answer_in_pieces(family: str, make_nbce: Make) -> None:
    nbce = make_nbce(family, prompt=TEMPLATE, max_tokens=30)
    answer = nbce.answer(QUESTION, PASSAGES)
    pieces = list(nbce.stream(QUESTION, PASSAGES))
    assert len(pieces) > 5
    assert [p.answer is None for p in pieces] == [True] * (len(pieces) - 1) + [False]
    last = pieces[-1].answer
    assert last is not None
    assert "".join(p.text for p in pieces) == last.text
    assert tuple(t for p in pieces for t in p.tokens) == last.tokens
    assert_same_answer(last, answer)
    assert all(p.text for p in pieces[:-1])


def test_a_stream_that_is_closed_stops_computing(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, max_tokens=100))
    passes = model.steps
    stream = nbce.stream(QUESTION, PASSAGES)
    assert passes == []  # nothing before the first piece is asked for
    next(stream)
    next(stream)
    seen = len(passes)
    assert 0 < seen < 20
    stream.close()
    assert list(stream) == []
    assert len(passes) == seen
    assert nbce.answer(QUESTION, PASSAGES, max_tokens=4).usage.generated_tokens == 4


def test_stream_checks_its_arguments_at_once(make_nbce: Make) -> None:
    with pytest.raises(InputError, match="empty"):
        make_nbce().stream(" ")


def test_same_seed_same_answer(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, temperature=1.5, max_tokens=12)
    answers = {seed: nbce.answer(QUESTION, PASSAGES, seed=seed) for seed in range(4)}
    assert len({a.text for a in answers.values()}) == 4
    torch.manual_seed(5)  # a generator of its own: the global one has no say
    for seed, answer in answers.items():
        assert_same_answer(nbce.answer(QUESTION, PASSAGES, seed=seed), answer)
    state = torch.get_rng_state()
    texts = {nbce.answer(QUESTION, PASSAGES).text for _ in range(4)}
    assert len(texts) > 1  # no seed
    assert torch.equal(torch.get_rng_state(), state)
    requests = [nbce.request(QUESTION, PASSAGES, seed=seed) for seed in (2, 0, 2, 3)]
    for seed, one in zip((2, 0, 2, 3), nbce.batch(requests), strict=True):
        assert_same_answer(one, answers[seed])


def test_sampling_follows_the_fused_distribution(tiny_tokenizer: Any) -> None:
    log_probs = torch.full((480,), -torch.inf)
    log_probs[40:43] = torch.tensor([0.6, 0.3, 0.1]).log()

    def shares(**options: Any) -> dict[int, float]:
        sampler = Sampler(Options(seed=3, **options), TransformersTokenizer(tiny_tokenizer), frozenset({1}))
        counts = Counter(sampler.choose(sampler.process(log_probs)) for _ in range(500))
        return {token: count / 500 for token, count in sorted(counts.items())}

    def near(wanted: dict[int, float]) -> Any:
        return pytest.approx(wanted, abs=0.08)

    assert shares() == {40: 1}
    assert shares(temperature=1) == near({40: 0.6, 41: 0.3, 42: 0.1})
    total = 0.6**0.5 + 0.3**0.5 + 0.1**0.5
    assert shares(temperature=2) == near({40: 0.6**0.5 / total, 41: 0.3**0.5 / total, 42: 0.1**0.5 / total})
    assert shares(temperature=1, top_k=2) == near({40: 2 / 3, 41: 1 / 3})
    assert shares(temperature=1, top_k=1) == {40: 1}
    assert shares(temperature=1, top_p=0.5) == {40: 1}
    assert shares(temperature=1, top_p=0.85) == near({40: 2 / 3, 41: 1 / 3})
    assert shares(temperature=1, min_p=0.25) == near({40: 2 / 3, 41: 1 / 3})
    assert shares(temperature=1, min_p=1) == {40: 1}


def test_log_probs_are_those_before_temperature(make_nbce: Make) -> None:
    rule = Fixed({40: 0.6, 41: 0.3, 42: 0.1})
    nbce = make_nbce(
        prompt=TEMPLATE, fusion=rule, temperature=5, seed=1, max_tokens=30, repetition_penalty=1.5
    )
    for token in nbce.answer(QUESTION, PASSAGES).tokens:
        assert token.logprob == pytest.approx(float(torch.tensor(rule.tokens[token.id]).log()), abs=1e-4)


def test_repetition_penalty(make_nbce: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nbce = make_nbce(prompt=TEMPLATE, fusion=Fixed({40: 0.5, 41: 0.3, 42: 0.2}), max_tokens=8)
    samplers = record_samplers(monkeypatch)
    nbce.answer(QUESTION, PASSAGES, repetition_penalty=2.0)
    # log-probs -0.69, -1.20, -1.61 are doubled once a token was used: -1.39, -2.41, -3.22
    assert samplers[-1].ids == [40, 41] + [40] * 6
    nbce.answer(QUESTION, PASSAGES, repetition_penalty=4.0)
    assert samplers[-1].ids[:4] == [40, 41, 42, 40]


def test_no_repeated_ngrams(make_nbce: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Fixed({40 + i: 0.5 ** (i + 1) for i in range(10)})
    nbce = make_nbce(prompt=TEMPLATE, fusion=rule, max_tokens=8)
    samplers = record_samplers(monkeypatch)
    nbce.answer(QUESTION, PASSAGES, no_repeat_ngram_size=2)
    assert samplers[-1].ids == [40, 40, 41, 40, 42, 40, 43, 40]
    nbce.answer(QUESTION, PASSAGES, no_repeat_ngram_size=1)
    assert samplers[-1].ids == list(range(40, 48))
    for name in ("posterior", "min-entropy"):
        nbce.answer(QUESTION, PASSAGES, fusion=name, no_repeat_ngram_size=1, max_tokens=60)
        assert len(set(samplers[-1].ids)) == len(samplers[-1].ids)


def test_bad_words(make_nbce: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=8)
    ferry, bread = ids_of(nbce, " ferry"), ids_of(nbce, " market")
    assert len(ferry) == len(bread) == 1
    samplers = record_samplers(monkeypatch)
    rule = Fixed({ferry[0]: 0.6, bread[0]: 0.4})
    nbce.answer(QUESTION, PASSAGES, fusion=rule, bad_words=["ferry"])
    assert set(samplers[-1].ids) == {bread[0]}
    long = ids_of(nbce, " ferry market")
    nbce.answer(QUESTION, PASSAGES, fusion=rule, bad_words=["ferry market"], no_repeat_ngram_size=3)
    pairs = list(itertools.pairwise(samplers[-1].ids))
    assert tuple(long) not in pairs
    assert ferry[0] in samplers[-1].ids


@pytest.mark.parametrize("rule", [MinEntropy(top_p=1e-6), Posterior(cutoff=1.0), Posterior()], ids=str)
def test_where_all_that_fusion_left_is_banned_another_token_is_chosen(
    rule: Any, make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbce = make_nbce(prompt=TEMPLATE, fusion=rule, max_tokens=20)
    samplers = record_samplers(monkeypatch)
    free = nbce.answer(QUESTION, PASSAGES)
    banned = free.tokens[0]
    answer = nbce.answer(QUESTION, PASSAGES, no_repeat_ngram_size=1)
    ids = samplers[-1].ids
    assert len(set(ids)) == len(ids) == 20
    assert banned.id in ids  # once
    assert all(-40 < t.logprob <= 0 and sum(t.weights) == pytest.approx(1) for t in answer.tokens)

    # The first two tokens by the slow way: what is banned leaves every row, and the rest is fused.
    rows = row_prompts(nbce, QUESTION, PASSAGES)
    state = brute_state(nbce, rows, QUESTION)
    first = slow_decode(nbce, rows, rule, 1, state)
    assert first.tokens == ids[:1]
    grown = torch.stack([full_log_probs(nbce.model.model, [*row, ids[0]])[-1] for row in rows])
    fused = rule.fuse(grown[None], state).log_probs[0]
    fused[ids[0]] = -torch.inf
    if bool((fused == -torch.inf).all()):
        grown[:, ids[0]] = -torch.inf
        fused = rule.fuse(grown.log_softmax(-1)[None], state).log_probs[0]
    assert int(fused.argmax()) == ids[1]


def test_the_next_best_token_where_only_one_was_left(
    make_nbce: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = Posterior(cutoff=1.0)
    nbce = make_nbce(prompt=TEMPLATE, fusion=rule, max_tokens=1)
    samplers = record_samplers(monkeypatch)
    for number in range(100):  # until the best token is one that a word can spell
        question = f"What is {number}?"
        nbce.answer(question, PASSAGES)
        best = samplers[-1].ids[0]
        word = nbce.model.tokenizer.decode([best])
        if ids_of(nbce, word) == [best] and len(ids_of(nbce, " " + word)) > 1:
            break
    answer = nbce.answer(question, PASSAGES, bad_words=[word])
    prompts = row_prompts(nbce, question, PASSAGES)
    rows = torch.stack([full_log_probs(nbce.model.model, prompt)[-1] for prompt in prompts])
    rows[:, best] = -torch.inf
    fused = rule.fuse(rows.log_softmax(-1)[None], brute_state(nbce, prompts, question)).log_probs[0]
    assert samplers[-1].ids == [int(fused.argmax())] != [best]
    assert all(t.logprob == 0 for t in answer.tokens)  # again only one was left


def test_bans_that_leave_nothing(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=5, regex="yes", bad_words=["yes", "y", "ye", "e", "es", "s"])
    with pytest.raises(InputError, match="bad_words"):
        nbce.answer(QUESTION, PASSAGES)


@pytest.mark.parametrize("rule", ["posterior", "min-entropy", "mean", "experts"])
def test_regex(rule: str, make_nbce: Make) -> None:
    pytest.importorskip("llguidance")
    nbce = make_nbce(prompt=TEMPLATE, fusion=rule, max_tokens=40)
    answer = nbce.answer(QUESTION, PASSAGES, regex=r"(yes|no), [0-9]{3}")
    assert re.fullmatch(r"(yes|no), [0-9]{3}", answer.text)
    assert answer.finish_reason == "stop"
    assert "".join(t.text for t in answer.tokens) == answer.text
    if rule != "posterior":
        return
    sampled = {
        nbce.answer(QUESTION, PASSAGES, regex="yes|no|maybe", temperature=9.0, seed=seed).text
        for seed in range(12)
    }
    assert len(sampled) > 1
    assert sampled <= {"yes", "no", "maybe"}
    with pytest.warns(NbceWarning, match="question alone"):
        assert nbce.answer(QUESTION, regex="yes|no").text in ("yes", "no")


def test_json_schema_in_a_batch_with_free_text(make_nbce: Make) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "object",
        "properties": {
            "name": {"enum": ["Ada", "Bob"]},
            "age": {"type": "integer", "minimum": 1, "maximum": 99},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=80)
    requests = [
        nbce.request(QUESTION, PASSAGES, json_schema=schema),
        nbce.request(QUESTION, PASSAGES, max_tokens=9),
        nbce.request(QUESTION, PASSAGES, json_schema=json.dumps(schema), temperature=3.0, seed=1),
    ]
    alone = [nbce.batch([request])[0] for request in requests]
    for one, other in zip(nbce.batch(requests), alone, strict=True):
        assert_same_answer(one, other)
    for answer in (alone[0], alone[2]):
        value = json.loads(answer.text)
        assert value["name"] in ("Ada", "Bob")
        assert 1 <= value["age"] <= 99
        assert answer.finish_reason == "stop"


def test_a_document_is_read_in_windows_in_order(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=4)
    document = "\n\n".join(f"Part {n}. The market sells fish, bread and apples at {n}." for n in range(40))
    answer = nbce.answer(QUESTION, document=document)
    passages = answer.passages
    assert len(passages) > 3
    assert [p.start for p in passages] == sorted(p.start for p in passages)
    for passage in passages:
        assert document[passage.start : passage.end] == passage.text
        assert len(nbce.model.tokenizer.encode(passage.text)) <= 128
    assert passages[0].start == 0
    assert passages[-1].end == len(document)
    for one, following in itertools.pairwise(passages):
        assert following.start <= one.end + 2
    assert_same_answer(answer, nbce.answer(QUESTION, passages, order_labels=True))
    assert_same_answer(
        nbce.answer(QUESTION, document=document, order_labels=False), nbce.answer(QUESTION, passages)
    )
    with pytest.raises(InputError, match="not both"):
        nbce.answer(QUESTION, PASSAGES, document=document)
    with pytest.raises(InputError, match="document is empty"):
        nbce.answer(QUESTION, document=" \n")


def test_a_passage_that_is_too_long_is_split_and_named(make_nbce: Make) -> None:
    nbce = with_changes(make_nbce(prompt=TEMPLATE), window=100)
    long = Passage(
        " ".join(f"The ferry number {n} leaves at noon." for n in range(40)), id="timetable", score=0.5
    )
    fitting = Passage("Fish.", id="fish", score=0.1)
    with pytest.warns(NbceWarning, match="'timetable' has .* windows"):
        answer = nbce.answer(QUESTION, [long, fitting], max_tokens=6)
    assert len(answer.warnings) == 1
    assert "timetable" in answer.warnings[0]
    assert len(answer.usage.row_tokens) > 5
    assert max(answer.usage.row_tokens) + 6 <= 100
    # No part is lost: the rows hold at least as many tokens as the passage.
    fixed = answer.usage.row_tokens[0]
    assert sum(n - fixed for n in answer.usage.row_tokens[1:-1]) >= len(ids_of(nbce, long.text))
    assert len(answer.passages) == 2
    for token in answer.tokens:
        assert len(token.weights) == 2
        assert sum(token.weights) == pytest.approx(1, abs=1e-5)
    assert all(p.relevance is not None for p in answer.passages)
    with pytest.warns(NbceWarning, match="windows"), pytest.warns(NbceWarning, match="No joint row"):
        assert len(nbce.answer(QUESTION, [long, fitting], max_tokens=6, joint_row=True).warnings) == 2


def test_what_does_not_fit(make_nbce: Make) -> None:
    nbce = with_changes(make_nbce(prompt=TEMPLATE), window=60)
    with pytest.raises(ContextLengthError, match="Shorten the question"):
        nbce.answer("Who runs the ferry? " * 20, PASSAGES[1:2], max_tokens=4)
    with pytest.raises(ContextLengthError, match="lower max_tokens"):
        nbce.answer(QUESTION, PASSAGES[1:2], max_tokens=60)
    with pytest.raises(ContextLengthError, match="'fish' leaves room"):
        nbce.answer(
            QUESTION, [Passage("Fish and bread. " * 20, id="fish", title="Market " * 12)], max_tokens=4
        )
    with pytest.raises(ContextLengthError, match="passages_per_row=1"):
        nbce.answer(QUESTION, [Passage("Fish and bread, apples. " * 3)] * 4, max_tokens=4, passages_per_row=4)
    with pytest.raises(ContextLengthError):
        nbce.score(QUESTION, PASSAGES[1:2], ["bread " * 60])
    taken = max(nbce.answer(QUESTION, PASSAGES[1:2], max_tokens=1).usage.row_tokens)
    fits = nbce.answer(QUESTION, PASSAGES[1:2], max_tokens=60 - taken)
    assert fits.usage.row_tokens[1] + fits.usage.generated_tokens <= 60


def test_wrong_input(make_nbce: Make) -> None:
    nbce = make_nbce()
    for question in ("", "  \n"):
        with pytest.raises(InputError, match="empty"):
            nbce.answer(question, PASSAGES)
    with pytest.raises(InputError, match="put it into a list"):
        nbce.answer(QUESTION, "The ferry")
    with pytest.raises(InputError, match=r"passages\[1\]"):
        nbce.answer(QUESTION, ["The ferry", 3])
    with pytest.raises(InputError, match="number 2"):
        nbce.answer(QUESTION, ["The ferry", " "])
    with pytest.raises(InputError, match="Unknown option"):
        nbce.answer(QUESTION, PASSAGES, temprature=1)
    with pytest.raises(InputError, match="temperature"):
        nbce.answer(QUESTION, PASSAGES, temperature=-1)
    with pytest.raises(InputError, match="fusion rule"):
        nbce.answer(QUESTION, PASSAGES, fusion="best")
    with pytest.raises(InputError, match="no request"):
        nbce.batch([3])
    with pytest.raises(InputError, match="max_batch_tokens"):
        make_nbce(max_batch_tokens=0)
    assert nbce.batch([]) == []


def test_nan_is_an_error_not_an_answer(make_nbce: Make, tiny_folder: Callable[..., Path]) -> None:
    loaded = load_model(tiny_folder("llama"), device="cpu", dtype="float32", optimize=False)
    broken = copy.deepcopy(loaded.model)
    with torch.no_grad():
        broken.lm_head.weight[77, 3] = torch.nan
    with pytest.raises(NumericalError, match="float32"):
        NBCE(wrap_model(broken, loaded.tokenizer)).answer(QUESTION, PASSAGES)
    # NaN that only a passage brings in.
    broken = copy.deepcopy(loaded.model)
    nbce = NBCE(wrap_model(broken, loaded.tokenizer), prompt=TEMPLATE, max_tokens=4)
    with torch.no_grad():
        broken.model.embed_tokens.weight[ids_of(nbce, "Z")[0]] = torch.nan
    sound = make_nbce(prompt=TEMPLATE, max_tokens=4)
    assert nbce.answer(QUESTION, PASSAGES).text == sound.answer(QUESTION, PASSAGES).text
    with pytest.raises(NumericalError):
        nbce.answer(QUESTION, [*PASSAGES, Passage("Z")])
    with pytest.raises(NumericalError):
        list(nbce.stream(QUESTION, [Passage("Z")]))


def test_batches_are_as_large_as_memory_allows(make_nbce: Make) -> None:
    nbce, model = watched(make_nbce(prompt=TEMPLATE, kv_store=False, max_tokens=5))
    requests = [nbce.request(f"Question {n}?", PASSAGES[: 1 + n % 4]) for n in range(6)]
    engine = engine_of(nbce)
    needed = [engine.size(r, engine.plan(r)).cost(nbce.model) for r in requests]
    together = nbce.batch(requests)
    assert model.batches == [6]
    model.free_bytes = int(3.3 * max(needed))
    model.opened.clear()
    apart = nbce.batch(requests)
    assert len(model.batches) > 2
    assert sum(model.batches) == 6
    for one, other in zip(together, apart, strict=True):
        assert_same_answer(one, other)
    model.free_bytes = max(needed)
    with pytest.raises(InputError, match="GiB"):
        nbce.batch(requests)


@pytest.mark.parametrize("pads", [True, False])
def test_a_long_prompt_is_not_batched_with_many_short_ones(pads: bool, make_nbce: Make) -> None:
    """Where all rows are as wide as the longest; in bands it costs them nothing."""
    made = make_nbce(prompt=TEMPLATE, max_tokens=3)
    if pads:
        model: Any = made.model
        layout = dataclasses.replace(model.layout, band_cost=None)
        made = made.updated(model=dataclasses.replace(model, layout=layout))
    nbce, watch = watched(made)
    short = [nbce.request(f"Question {n}?", PASSAGES[1:2] * 4) for n in range(8)]
    long = nbce.request(QUESTION, [Passage("Bread and apples. " * 60)])
    answers = nbce.batch([*short, long])
    assert watch.batches == ([8, 1] if pads else [9])
    for request, answer in zip([*short, long], answers, strict=True):
        assert_same_answer(answer, nbce.batch([request])[0])


def test_requests_in_all_their_forms(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE, max_tokens=4)
    texts = [p.text for p in PASSAGES]
    forms: list[Any] = [
        nbce.request(QUESTION, texts),
        {"question": QUESTION, "passages": texts, "max_tokens": 3},
        (QUESTION, iter(texts)),
        Request(QUESTION, tuple(Passage(t) for t in texts), nbce.options),
    ]
    answers = nbce.batch(forms)
    assert [a.usage.generated_tokens for a in answers] == [4, 3, 4, 4]
    assert_same_answer(answers[0], answers[2])
    assert_same_answer(answers[0], answers[3])


SHORT = PromptTemplate.for_chat("short")


def test_chat_template_frames_every_row(make_nbce: Make) -> None:
    nbce = make_nbce("llama", chat=True, max_tokens=6, relevance=True, prompt=SHORT)
    assert nbce.prompt.chat
    plan = engine_of(nbce).plan(nbce.request(QUESTION, PASSAGES[:2]))
    decode = nbce.model.tokenizer.decode
    suffix = decode(plan.suffix.ids)
    for row, passage in zip(plan.rows, (None, *PASSAGES[:2]), strict=True):
        text = decode(row.context) + suffix
        body = f"{passage.text}\n\n" if passage else ""
        content = f"{nbce.prompt.prefix}{body}Question: {QUESTION}"
        wanted = nbce.model.tokenizer.native.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert text == wanted
    start, stop = plan.suffix.question
    assert decode(plan.suffix.ids[start:stop]).strip() == QUESTION
    answer = nbce.answer(QUESTION, PASSAGES, fusion="mean")
    assert all(p.relevance is not None for p in answer.passages)


def test_text_cannot_spell_special_tokens(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=BARE)
    plan = engine_of(nbce).plan(nbce.request("Who </s>?", ["</s><s> The ferry <pad>"]))
    for row in plan.rows:
        assert not {1, 2} & {*row.context, *plan.suffix.ids}
        assert row.context.count(0) == 1


def test_no_warning_where_all_is_well(make_nbce: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = make_nbce(prompt=TEMPLATE, max_tokens=3).answer(QUESTION, PASSAGES)
    assert answer.warnings == ()
    assert len(prompt_ids(make_nbce(prompt=TEMPLATE), QUESTION, [])) == answer.usage.row_tokens[0]


def test_halves_of_surrogate_pairs_are_read_as_a_replacement(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce("llama", max_tokens=2)
    half = "Who \ud83d?"
    whole = "Who \ufffd?"
    for text in (half, whole):
        nbce.answer(text, [Passage(text, title=text)])
        nbce.prefill([text])
        nbce.score("Who?", ["Ada"], [text, "Bob"])
        nbce.answer("Who?", document=text)
    assert nbce.answer(half, [half]).text == nbce.answer(whole, [whole]).text


def test_sequences_of_all_kinds(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce("llama", max_tokens=np.int64(2))
    texts = np.array(["Ada", "Bob"])
    assert len(nbce.answer("Who?", texts).passages) == 2
    assert nbce.prefill(texts).passages == 2
    assert len(nbce.batch((question, ["Ada"]) for question in ("Who?", "Where?"))) == 2
    with pytest.warns(NbceWarning, match="No passages"):
        assert len(nbce.batch("Who?")) == 1
    with pytest.raises(InputError, match="requests must be several"):
        nbce.batch(5)  # type: ignore[arg-type]
    far = [Passage("Ada", score=1e308), Passage("Bob", score=-1e308), Passage("Eve", score=math.nan)]
    weights = [weight for token in nbce.answer("Who?", far).tokens for weight in token.weights]
    assert all(map(math.isfinite, weights))


def test_the_names_of_loading_arguments_are_those_that_it_takes() -> None:
    parameters = inspect.signature(NBCE.from_pretrained).parameters.values()
    keywords = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    options = {field.name for field in dataclasses.fields(Options)}
    assert tuple(name for name in keywords if name not in options) == LOADING_ARGUMENTS
