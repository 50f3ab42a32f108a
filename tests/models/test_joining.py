"""Questions that come, go and fail while others are decoded: all get the tokens that they get alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE, engine_of
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import TableModel
from torch import Tensor
from unusual_models import build_unusual

from nbce_rag import NBCE, Max, Mean, MinEntropy, Options, Posterior
from nbce_rag.decoding import sleepers
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.decoding.drafting import PromptLookup
from nbce_rag.decoding.group import Group
from nbce_rag.decoding.reader import read_prompts
from nbce_rag.decoding.sampling import Sampler
from nbce_rag.errors import InputError, NumericalError
from nbce_rag.fusion import Fused, FusionState, Rule
from nbce_rag.models.model import RowPrompt, Step
from nbce_rag.models.transformers.loading import wrap_model
from nbce_rag.request import Request

WORDS = 12
HYBRIDS = ("qwen3_5", "granitemoehybrid")


@pytest.fixture
def make_any(make_nbce: Callable[..., NBCE], tiny_tokenizer: Any) -> Callable[..., NBCE]:
    """`make_nbce`, also for models with recurrent layers."""

    def make(family: str, **options: Any) -> NBCE:
        if family not in HYBRIDS:
            return make_nbce(family, **options)
        return NBCE(wrap_model(build_unusual(family), tiny_tokenizer, name=family), **options)

    return make


class Failing:
    """A rule of a user's own that cannot go on after so many tokens of evidence."""

    def __init__(self, tokens: int) -> None:
        self._tokens, self._calls = tokens, 0

    def fuse(self, log_probs: Tensor, state: FusionState) -> Fused:
        self._calls += 1
        if self._calls > self._tokens:
            raise InputError("no more")
        return MinEntropy().fuse(log_probs, state)


@dataclass(frozen=True)
class Question:
    """What is asked, when it comes, and when it goes."""

    number: int
    comes: int
    tokens: int
    passages: int = 3
    rule: Rule = Posterior(epsilon=0.001)  # noqa: RUF009
    sampling: tuple[tuple[str, Any], ...] = ()
    sleep: bool = False
    drafts: int = 0
    drop_after: int = 0
    goes: int | None = None  # cancelled after so many steps of all
    breaks: int | None = None  # the model gives NaN behind so many of its tokens
    suffix: int = 1

    @property
    def prompt(self) -> RowPrompt:
        first = 100 * self.number + 20
        contexts = tuple((first + row, *range(row)) for row in range(self.passages + 1))
        return RowPrompt(contexts, (3,) * self.suffix)

    def group(self) -> Group:
        rng = random.Random(self.number)
        scores = torch.tensor([[rng.choice((0.9, 0.1, -0.9)) for _ in range(self.passages)]])
        lookup = [[rng.randrange(WORDS) for _ in range(30)] for _ in range(self.passages)]
        options = Options(seed=self.number, **dict(self.sampling))
        return Group(
            tuple(range(self.passages + 1)),
            self.rule,
            Sampler(options, None, frozenset()),  # type: ignore[arg-type]
            FusionState(scores=scores),
            lookup=PromptLookup(lookup, self.drafts) if self.drafts else None,
            drop_after=self.drop_after,
            sleep=self.sleep,
        )


def model_of(questions: Sequence[Question]) -> TableModel:
    broken = {q.number: q.breaks for q in questions if q.breaks is not None}

    def table(ids: tuple[int, ...]) -> Tensor:
        question, row = divmod(ids[0] - 20, 100)
        suffix = next((q.suffix for q in questions if q.number == question), 1)
        written = len(ids) - 1 - row - suffix
        if question in broken and written >= broken[question]:
            return torch.full((WORDS,), float("nan"))
        place = random.Random(f"{question} {written}")
        if place.random() < 0.6:  # all rows agree
            logits = torch.zeros(WORDS)
            logits[place.randrange(WORDS)] = 6.0
            return logits.log_softmax(-1)
        own = random.Random(f"{ids[0]} {written} {ids[-1]}")
        return torch.tensor([own.gauss(0, 2) for _ in range(WORDS)]).log_softmax(-1)

    return TableModel(table, vocab_size=WORDS)


@dataclass
class Outcome:
    steps: list[Step]
    error: Exception | None = None
    row_steps: tuple[int, int] = (0, 0)


def decoded(questions: Sequence[Question]) -> list[Outcome]:
    """All of them in one decoder, each from the step on at which it comes."""
    model = model_of(questions)
    outcomes = [Outcome([]) for _ in questions]
    places: dict[int, int] = {}  # by the number in the decoder
    decoder: LockstepDecoder | None = None
    clock = 0
    while len(places) < len(questions) or (decoder is not None and decoder.active):
        for place, question in enumerate(questions):
            if question.comes != clock:
                continue
            rows, [reading] = model.open([question.prompt], question.tokens + 9)
            if decoder is None:
                decoder = LockstepDecoder(rows, reading.log_probs, [question.group()])
                [number] = decoder.active
            else:
                [number] = decoder.add(rows, reading.log_probs, [question.group()])
            places[number] = place
        for number, place in places.items():
            if questions[place].goes == clock and decoder is not None:
                decoder.finish(number)
        clock += 1
        if decoder is None:
            continue
        for step in decoder.step():
            place = places[step.question]
            outcomes[place].steps.append(step)
            if len(outcomes[place].steps) >= questions[place].tokens:
                decoder.finish(step.question)
        for number, error in decoder.errors.items():
            assert number not in decoder.active
            outcomes[places[number]].error = error
    assert decoder is not None
    for number, place in places.items():
        outcomes[place].row_steps = decoder.row_steps(number)
        decoder.forget(number)
    return outcomes


def check(questions: Sequence[Question]) -> list[Outcome]:
    """Each outcome is what the question gets alone, as far as it was asked."""
    together = decoded(questions)
    for question, mine in zip(questions, together, strict=True):
        rule = Failing(question.rule._tokens) if isinstance(question.rule, Failing) else question.rule
        plain = {**question.__dict__, "comes": 0, "goes": None, "rule": rule, "sleep": False, "drafts": 0}
        [alone] = decoded([Question(**plain)])
        count = len(mine.steps)
        assert [step.token for step in mine.steps] == [step.token for step in alone.steps[:count]]
        for a, b in zip(mine.steps, alone.steps, strict=False):
            assert a.evidence == pytest.approx(b.evidence, abs=1e-4)
            assert a.log_prob == pytest.approx(b.log_prob, abs=2e-3)
        if question.goes is None:
            assert count == len(alone.steps)
            assert type(mine.error) is type(alone.error)
            assert sum(mine.row_steps) == sum(alone.row_steps)
        elif mine.error is not None:
            assert type(mine.error) is type(alone.error)
    return together


QUESTIONS = st.builds(
    lambda **fields: fields,
    comes=st.integers(0, 25),
    tokens=st.integers(1, 25),
    passages=st.integers(0, 6),
    suffix=st.integers(1, 9),
    rule=st.sampled_from([Posterior(epsilon=0.001), Posterior(), MinEntropy(), Mean(), Max()]),
    sampling=st.sampled_from([(), (("temperature", 0.9),), (("no_repeat_ngram_size", 2),)]),
    sleep=st.booleans(),
    drafts=st.sampled_from([0, 0, 5]),
    drop_after=st.sampled_from([0, 0, 0, 4]),
    goes=st.one_of(st.none(), st.none(), st.integers(0, 40)),
    breaks=st.one_of(st.none(), st.none(), st.none(), st.integers(1, 12)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(QUESTIONS, min_size=1, max_size=6), st.sampled_from([1, 4, 24]))
def test_whoever_comes_and_goes(fields: list[dict[str, Any]], night: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sleepers, "_NIGHT", night)
        check([Question(number=number, **one) for number, one in enumerate(fields)])


def test_a_draft_under_way_is_taken_back() -> None:
    taken: list[int] = []
    rewind = TableModel().open([RowPrompt(((3,),), (3,))], 1)[0].__class__.rewind

    def counted(rows: Any, tokens: int, *args: Any) -> None:
        taken.append(tokens)
        rewind(rows, tokens, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("table_model.TableRows.rewind", counted)
        for comes in range(1, 25):
            check([Question(0, 0, 40, drafts=8), Question(1, comes, 5)])
    assert taken


def test_an_error_of_one_is_that_of_one() -> None:
    first, broken, failing, last = check(
        [
            Question(0, 0, 20),
            Question(1, 2, 20, breaks=5),
            Question(2, 3, 20, rule=Failing(6)),
            Question(3, 9, 20, sleep=True),
        ]
    )
    assert len(first.steps) == len(last.steps) == 20
    assert isinstance(broken.error, NumericalError)
    assert len(broken.steps) == 5
    assert isinstance(failing.error, InputError)
    assert len(failing.steps) == 6


@pytest.mark.parametrize("others", [1, 2])
def test_rows_of_finished_questions_cannot_end_others(others: int) -> None:
    """They run along until they are dropped, and the model may break behind them."""
    finished = Question(0, 0, 2, passages=0, breaks=2)
    outcomes = check([finished, *(Question(number, 0, 9) for number in range(1, 1 + others))])
    assert [len(outcome.steps) for outcome in outcomes] == [2, *[9] * others]
    assert not any(outcome.error for outcome in outcomes)


def test_an_error_among_questions_that_are_fused_together() -> None:
    rule = Failing(10**6)
    broken = Question(1, 0, 9, rule=rule, breaks=3)
    outcomes = decoded([Question(0, 0, 9, rule=rule), broken, Question(2, 0, 9, rule=rule)])
    assert [len(outcome.steps) for outcome in outcomes] == [9, 3, 9]


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2", *HYBRIDS])
def test_real_rows_join_and_leave(family: str, make_any: Callable[..., NBCE]) -> None:
    nbce = make_any(family, prompt=TEMPLATE, kv_store=False)
    engine = engine_of(nbce)
    requests = [
        nbce.request(QUESTION, PASSAGES, fusion=Posterior(epsilon=1e-12, tau=0.01), max_tokens=24),
        nbce.request("Why?", PASSAGES[:1], fusion="mean", max_tokens=9),
        nbce.request("When does the market open, and what is sold there?", PASSAGES[1:], max_tokens=12),
        nbce.request("How?", max_tokens=7, prompt=None),
    ]

    def opened(request: Request) -> tuple[Any, Tensor, Group]:
        rows, log_probs, [prompted] = read_prompts(engine, [request], [engine.plan(request)])
        sampler = Sampler(request.options, engine.model.tokenizer, engine.model.eos_ids)
        contexts = [row.context for row in prompted.plan.rows[1:]]
        group = Group(
            prompted.rows,
            request.options.rule,
            sampler,
            prompted.state,
            lookup=PromptLookup(contexts, 6) if contexts else None,
            sleep=True,
        )
        return rows, log_probs, group

    def tokens(count: int, *asked: int) -> list[list[int]]:
        """Of questions that come two steps after each other; the second one goes before its end."""
        rows, log_probs, group = opened(requests[asked[0]])
        decoder = LockstepDecoder(rows, log_probs, [group])
        out: list[list[int]] = [[] for _ in asked]
        clock, came = 0, 1
        while decoder.active and clock < 60:
            if clock % 2 == 0 and clock and came < len(asked):
                rows, log_probs, group = opened(requests[asked[came]])
                decoder.add(rows, log_probs, [group])
                came += 1
            for step in decoder.step():
                out[step.question].append(step.token)
                limit = requests[asked[step.question]].options.max_tokens
                if len(out[step.question]) >= (count if step.question == 1 else limit):
                    decoder.finish(step.question)
            assert not decoder.errors
            clock += 1
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sleepers, "_NIGHT", 4)
        together = tokens(4, 0, 1, 2, 3)
        alone = [tokens(0, place)[0] for place in range(4)]
    alone[1] = alone[1][:4]
    assert together == alone


def test_memory_of_a_batch_that_never_ends_stays_flat(make_any: Callable[..., NBCE]) -> None:
    for family in ("llama", "qwen3_5"):
        nbce = make_any(family, prompt=TEMPLATE)
        engine = engine_of(nbce)
        request = nbce.request("Why?", PASSAGES[:1], max_tokens=8)
        decoder: Any = None
        capacities = []
        for clock in range(60):
            if clock % 3 == 0:
                rows, log_probs, [prompted] = read_prompts(engine, [request], [engine.plan(request)])
                sampler = Sampler(request.options, engine.model.tokenizer, engine.model.eos_ids)
                group = Group(prompted.rows, request.options.rule, sampler, prompted.state)
                if decoder is None:
                    decoder = LockstepDecoder(rows, log_probs, [group])
                else:
                    decoder.add(rows, log_probs, [group])
            for step in decoder.step():
                if len(decoder._groups[step.question].answer) >= 8:
                    decoder.forget(step.question)
            capacities.append(decoder._rows.memory.capacity)
            assert len(decoder._groups) <= 5
        assert max(capacities[30:]) <= max(capacities[:30])
