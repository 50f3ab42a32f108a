"""Which passages stand in which row, that every row fits, and what a row's evidence says about passages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from nbce_rag.decoding.plan import Row, RowPlan, plan_rows
from nbce_rag.errors import ContextLengthError, InputError
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.options import Options
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import PromptEncoder, Suffix
from nbce_rag.prompts.template import PromptTemplate

QUESTION = "Who runs the ferry?"
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve"]
LONG = " ".join(f"Sentence {i} says that {NAMES[i % 5]} sold {i * 7} fish." for i in range(40))


@pytest.fixture(scope="module")
def encoder(tiny_tokenizer: Any) -> PromptEncoder:
    return PromptEncoder(PromptTemplate.plain(), TransformersTokenizer(tiny_tokenizer))


def passages(count: int = 5, scores: bool = True) -> list[Passage]:
    return [
        Passage(f"{name} runs the ferry.", id=name, title=f"About {name}", score=0.1 * i if scores else None)
        for i, name in enumerate(NAMES[:count])
    ]


def lay_out(
    encoder: PromptEncoder, given: list[Passage], question: str = QUESTION, window: int = 512, **options: Any
) -> RowPlan:
    return plan_rows(encoder, question, given, Options(**({"max_tokens": 16} | options)), window)


def context(encoder: PromptEncoder, *given: Passage, labels: list[str] | None = None) -> tuple[int, ...]:
    parts = list(encoder.prefix)
    for i, passage in enumerate(given):
        title = passage.title if labels is None else labels[i]
        parts += encoder.passage_ids(title, passage.text, passage.source, passage.id)
    return tuple(parts)


# ---------------------------------------------------------------------------------------------------------
# Layout


def test_one_row_for_each_passage_and_one_without(encoder: PromptEncoder) -> None:
    given = passages()
    plan = lay_out(encoder, given)
    assert plan.rows[0] == Row(encoder.prefix, ())
    assert [row.members for row in plan.rows[1:]] == [(i,) for i in range(5)]
    assert [row.context for row in plan.rows[1:]] == [context(encoder, p) for p in given]
    assert [row.score for row in plan.rows[1:]] == [p.score for p in given]
    assert plan.suffix == encoder.suffix(QUESTION)
    assert plan.passages == 5
    assert plan.warnings == ()


def test_no_passages(encoder: PromptEncoder) -> None:
    for options in ({}, {"joint_row": True}, {"passages_per_row": 3}):
        plan = lay_out(encoder, [], **options)
        assert plan.rows == (Row(encoder.prefix, ()),)
        assert plan.scores() is None
        assert plan.share([]) == ()
        assert plan.best([]) == []


@pytest.mark.parametrize(
    ("per_row", "members"),
    [(2, [(0, 1), (2, 3), (4,)]), (4, [(0, 1, 2, 3), (4,)]), (5, [(0, 1, 2, 3, 4)]), (9, [(0, 1, 2, 3, 4)])],
)
def test_passages_that_share_rows(
    encoder: PromptEncoder, per_row: int, members: list[tuple[int, ...]]
) -> None:
    given = passages()
    plan = lay_out(encoder, given, passages_per_row=per_row)
    assert [row.members for row in plan.rows] == [(), *members]
    for row in plan.rows[1:]:
        assert row.context == context(encoder, *(given[m] for m in row.members))
        assert row.score == max(given[m].score or 0.0 for m in row.members)


def test_the_score_of_a_shared_row_is_unknown_if_one_of_its_scores_is(encoder: PromptEncoder) -> None:
    given = [*passages(3), Passage("No score.", id="none")]
    plan = lay_out(encoder, given, passages_per_row=2)
    assert [row.score for row in plan.rows] == [None, pytest.approx(0.1), None]


def test_a_joint_row_comes_last_and_reads_all(encoder: PromptEncoder) -> None:
    given = passages()
    plan = lay_out(encoder, given, joint_row=True)
    assert [row.members for row in plan.rows] == [(), (0,), (1,), (2,), (3,), (4,), (0, 1, 2, 3, 4)]
    assert plan.rows[-1].context == context(encoder, *given)
    assert plan.rows[-1].score == pytest.approx(0.4)
    pairs = lay_out(encoder, given, joint_row=True, passages_per_row=2)
    assert [row.members for row in pairs.rows] == [(), (0, 1), (2, 3), (4,), (0, 1, 2, 3, 4)]


@pytest.mark.parametrize(("count", "per_row"), [(1, 1), (5, 5), (5, 6)])
def test_no_joint_row_where_a_row_has_all_passages_already(
    encoder: PromptEncoder, count: int, per_row: int
) -> None:
    plan = lay_out(encoder, passages(count), joint_row=True, passages_per_row=per_row)
    assert [row.members for row in plan.rows] == [(), tuple(range(count))]
    assert plan.warnings == ()


def test_a_joint_row_that_does_not_fit_is_left_out_with_a_warning(encoder: PromptEncoder) -> None:
    given = passages()
    joint = len(context(encoder, *given)) + len(encoder.suffix(QUESTION).ids) + 16
    assert len(lay_out(encoder, given, joint_row=True, window=joint).rows) == 7
    plan = lay_out(encoder, given, joint_row=True, window=joint - 1)
    assert [row.members for row in plan.rows] == [(), (0,), (1,), (2,), (3,), (4,)]
    assert len(plan.warnings) == 1
    assert plan.warnings[0].startswith("No joint row: 5 passages take")


def test_order_labels(encoder: PromptEncoder) -> None:
    given = [*passages(2), Passage("No title.", id="none")]
    plan = lay_out(encoder, given, order_labels=True)
    labels = ["About Ada (Part 1 of 3)", "About Ben (Part 2 of 3)", "Part 3 of 3"]
    want = [context(encoder, p, labels=[label]) for p, label in zip(given, labels, strict=True)]
    assert [row.context for row in plan.rows[1:]] == want
    shared = lay_out(encoder, given, order_labels=True, passages_per_row=3)
    assert shared.rows[1].context == context(encoder, *given, labels=labels)


def test_rows_read_what_the_template_asks_for(tiny_tokenizer: Any) -> None:
    template = PromptTemplate(prefix="", passage="[{id}] {source}: {text}\n", suffix="{question}")
    encoder = PromptEncoder(template, TransformersTokenizer(tiny_tokenizer))
    plan = lay_out(encoder, [Passage("Ada.", id="p1", source="a.txt")])
    assert tiny_tokenizer.decode(list(plan.rows[1].context[1:])) == "[p1] a.txt: Ada.\n"


# ---------------------------------------------------------------------------------------------------------
# The window


def read(tokenizer: Any, plan: RowPlan, row: Row) -> str:
    text: str = tokenizer.decode(list(row.context[len(plan.rows[0].context) :]))
    return text


@pytest.mark.parametrize("window", [70, 100, 200])
@pytest.mark.parametrize("options", [{}, {"order_labels": True}, {"max_tokens": 30}])
def test_a_long_passage_is_read_in_windows_that_fit(
    encoder: PromptEncoder, tiny_tokenizer: Any, window: int, options: dict[str, Any]
) -> None:
    long = Passage(LONG, id="the-long-one", title="Fish", score=0.5)
    plan = lay_out(encoder, [*passages(1), long], window=window, **options)
    answer = options.get("max_tokens", 16)
    assert all(len(row.context) + len(plan.suffix.ids) + answer <= window for row in plan.rows)
    parts = [row for row in plan.rows if row.members == (1,)]
    assert len(parts) > 1
    assert {row.score for row in parts} == {0.5}
    heading = "Fish (Part 2 of 2)\n" if options.get("order_labels") else "Fish\n"
    texts = [read(tiny_tokenizer, plan, row) for row in parts]
    assert all(text.startswith(heading) and text.endswith("\n\n") for text in texts)
    texts = [text.removeprefix(heading).removesuffix("\n\n") for text in texts]
    at = 0
    for text in texts:  # in order, and nothing but white space between one and the next
        start = LONG.find(text)
        assert start >= 0
        assert not LONG[at:start].strip()
        at = start + len(text)
    assert at == len(LONG)
    (warning,) = plan.warnings
    assert "'the-long-one'" in warning
    assert f"{len(parts)} overlapping windows" in warning
    assert [row.members for row in plan.rows[:2]] == [(), (0,)]


def test_a_passage_that_just_fits_is_not_split(encoder: PromptEncoder) -> None:
    (passage,) = passages(1)
    exact = len(context(encoder, passage)) + len(encoder.suffix(QUESTION).ids) + 16
    plan = lay_out(encoder, [passage], window=exact)
    assert plan.warnings == ()
    assert len(plan.rows) == 2


def test_the_question_must_fit(encoder: PromptEncoder) -> None:
    exact = len(encoder.prefix) + len(encoder.suffix(QUESTION).ids) + 16
    assert len(lay_out(encoder, [], window=exact).rows) == 1
    with pytest.raises(ContextLengthError, match=f"window of {exact - 1}") as caught:
        lay_out(encoder, [], window=exact - 1)
    assert f"takes {len(encoder.suffix(QUESTION).ids)} tokens" in str(caught.value)
    assert "max_tokens" in str(caught.value)


def test_room_is_kept_for_the_refusal(tiny_tokenizer: Any) -> None:
    template = PromptTemplate(prefix="", passage="{text}", suffix="{question}", refusal="No. " * 20)
    encoder = PromptEncoder(template, TransformersTokenizer(tiny_tokenizer))
    exact = len(encoder.prefix) + len(encoder.suffix(QUESTION).ids) + len(encoder.refusal)
    assert len(encoder.refusal) > 16
    assert len(lay_out(encoder, [], window=exact).rows) == 1
    with pytest.raises(ContextLengthError):
        lay_out(encoder, [], window=exact - 1)


def test_no_room_for_a_passage(encoder: PromptEncoder) -> None:
    exact = len(encoder.prefix) + len(encoder.suffix(QUESTION).ids) + 16
    with pytest.raises(ContextLengthError, match="'Ada' leaves room for 0 tokens"):
        lay_out(encoder, passages(1), window=exact)


def test_passages_that_share_a_row_are_never_cut(encoder: PromptEncoder) -> None:
    given = passages()
    exact = len(context(encoder, *given[:3])) + len(encoder.suffix(QUESTION).ids) + 16
    assert len(lay_out(encoder, given, passages_per_row=3, window=exact).rows) == 3
    with pytest.raises(ContextLengthError, match=r"3 passages take .* passages_per_row=1"):
        lay_out(encoder, given, passages_per_row=3, window=exact - 3)


def test_a_character_that_alone_is_too_long(tiny_tokenizer: Any) -> None:
    """Some tokenizers write ligatures out: one character, eighteen tokens, however finely the text is cut."""
    vocab = {chr(c): i for i, c in enumerate(range(0x20, 0x7F))} | {"\n": 95, "<unk>": 96}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Replace("\ufdfa", "a" * 18)
    wrapped = TransformersTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))
    encoder = PromptEncoder(PromptTemplate(prefix="", passage="{text}", suffix="{question}"), wrapped)
    fits = lay_out(encoder, [Passage("\ufdfa " * 5, id="p")], question="?", window=17 + 19)
    assert len(fits.rows) > 2
    assert max(len(row.context) for row in fits.rows) in (18, 19)
    with pytest.raises(ContextLengthError, match="'p' has a character"):
        lay_out(encoder, [Passage("\ufdfa " * 5, id="p")], question="?", window=17 + 17)


@pytest.mark.parametrize("question", ["", " \n"])
def test_empty_questions(encoder: PromptEncoder, question: str) -> None:
    with pytest.raises(InputError, match="question is empty"):
        lay_out(encoder, passages(), question=question)


@pytest.mark.parametrize("options", [{}, {"passages_per_row": 2}])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_passages_are_named(encoder: PromptEncoder, text: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"'blank' \(number 3\)"):
        lay_out(encoder, [*passages(2), Passage(text, id="blank")], **options)


# ---------------------------------------------------------------------------------------------------------
# Scores, evidence and values by passage


def plan_of(*members: tuple[int, ...], scores: list[float | None] | None = None) -> RowPlan:
    """A plan with these passage rows."""
    known = scores or [None] * len(members)
    rows = [Row((), ()), *(Row((), row, score) for row, score in zip(members, known, strict=True))]
    count = max((m for row in members for m in row), default=-1) + 1
    return RowPlan(tuple(rows), Suffix((), (0, 0)), count, ())


def test_scores() -> None:
    known = plan_of((0,), (1,), (0, 1), scores=[0.25, 0.5, 0.5]).scores()
    assert known is not None
    assert torch.equal(known, torch.tensor([[0.25, 0.5, 0.5]]))
    some = plan_of((0,), (1,), (2,), scores=[0.25, None, 0.75]).scores()
    assert some is not None
    assert torch.equal(some, torch.tensor([[0.25, 0.5, 0.75]]))
    assert plan_of((0,), (1,)).scores() is None


@st.composite
def plans(draw: st.DrawFn) -> RowPlan:
    """Every passage is in some row, as in every plan."""
    count = draw(st.integers(1, 6))
    lists = st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True).map(tuple)
    rows = draw(st.lists(lists, max_size=6))
    rows += [(m,) for m in range(count) if not any(m in row for row in rows)]
    return plan_of(*draw(st.permutations(rows)))


def evidence_for(plan: RowPlan, data: Any) -> list[float]:
    raw = [data.draw(st.floats(0, 1)) for _ in plan.rows[1:]]
    total = sum(raw)
    return [value / total for value in raw] if total > 1e-6 else [1 / len(raw)] * len(raw)


@settings(max_examples=150, deadline=None)
@given(plans(), st.data())
def test_shares_are_weights_with_the_same_sum(plan: RowPlan, data: Any) -> None:
    evidence = evidence_for(plan, data)
    shares = plan.share(evidence)
    assert len(shares) == plan.passages
    assert all(share >= 0 for share in shares)
    assert math.isclose(sum(shares), sum(evidence), rel_tol=1e-9)
    for member in range(plan.passages):  # no passage gets more than the rows that it is in
        held = sum(w for row, w in zip(plan.rows[1:], evidence, strict=True) if member in row.members)
        assert shares[member] <= held + 1e-9


def test_shares_of_rows_with_one_passage_are_their_evidence() -> None:
    assert plan_of((0,), (1,), (2,)).share([0.5, 0.3, 0.2]) == (0.5, 0.3, 0.2)


def test_the_windows_of_a_passage_add_up() -> None:
    assert plan_of((0,), (1,), (1,)).share([0.5, 0.25, 0.25]) == (0.5, 0.5)


def test_a_shared_row_is_split_equally() -> None:
    assert plan_of((0, 1), (2, 3)).share([0.5, 0.5]) == (0.25, 0.25, 0.25, 0.25)


def test_a_joint_row_is_split_by_what_the_passages_have_alone() -> None:
    assert plan_of((0,), (1,), (0, 1)).share([0.375, 0.125, 0.5]) == (0.75, 0.25)
    assert plan_of((0,), (1,), (0, 1)).share([0.0, 0.0, 1.0]) == (0.5, 0.5)


def test_the_order_of_rows_does_not_matter() -> None:
    assert plan_of((0, 1), (1,), (0,)).share([0.5, 0.125, 0.375]) == (0.75, 0.25)


def test_share_wants_one_number_for_each_row() -> None:
    with pytest.raises(ValueError, match="zip"):
        plan_of((0,), (1,)).share([1.0])


@settings(max_examples=100, deadline=None)
@given(plans(), st.data())
def test_best_is_the_best_of_the_rows_alone(plan: RowPlan, data: Any) -> None:
    values = [data.draw(st.floats(-20, 20)) for _ in plan.rows[1:]]
    for member, best in enumerate(plan.best(values)):
        rows = [(row, v) for row, v in zip(plan.rows[1:], values, strict=True) if member in row.members]
        alone = [v for row, v in rows if row.members == (member,)]
        assert best == max(alone or [v for _, v in rows])


def test_best_by_example() -> None:
    assert plan_of((0,), (0,), (1,), (0, 1)).best([-3.0, -1.0, -2.0, 5.0]) == [-1.0, -2.0]
    assert plan_of((0, 1), (2,)).best([-1.0, -2.0]) == [-1.0, -1.0, -2.0]
