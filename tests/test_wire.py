"""Requests and answers as JSON and back: nothing is lost, and what comes in is checked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag import (
    Ablation,
    Answer,
    ChoiceScores,
    Citation,
    Claim,
    Comparison,
    Conflict,
    InputError,
    MinEntropy,
    Options,
    Passage,
    Piece,
    Posterior,
    Prompt,
    PromptTemplate,
    Request,
    Support,
    Timings,
    TokenEvidence,
    UnsupportedError,
    Usage,
    WordLikelihood,
)
from nbce_rag.answers.comparison import AnswerGroup
from nbce_rag.answers.wire import from_wire, to_wire
from nbce_rag.evidence.calibration import Calibration, SupportNumbers
from nbce_rag.evidence.spelling import Spelling

texts = st.text(max_size=12)
words = st.text(min_size=1, max_size=8)
numbers = st.floats()
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 1 << 60)
maybe = st.none() | finite
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(texts, json_values, max_size=3)


def tuples(inner: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(inner, max_size=most).map(tuple)


passages = st.builds(
    Passage,
    text=texts,
    id=texts,
    title=st.none() | texts,
    source=st.none() | texts,
    start=st.none() | counts,
    end=st.none() | counts,
    metadata=objects,
    score=maybe,
    relevance=st.none() | numbers,
    rank=st.none() | counts,
)
rules = (
    st.sampled_from(["posterior", "experts", "mean", "max", "dvd"])
    | st.builds(MinEntropy, beta=st.floats(0, 2), eta=st.floats(0, 1))
    | st.builds(Posterior, epsilon=st.floats(0, 1), tau=st.floats(0.01, 2))
)
options = st.builds(
    Options,
    fusion=rules,
    style=st.none() | st.sampled_from(["short", "long"]),
    max_tokens=st.integers(1, 1 << 20),
    max_seconds=st.none() | st.floats(0.001, 1e6),
    stop=tuples(words),
    temperature=st.floats(0, 10),
    top_p=st.floats(0.01, 1),
    seed=st.none() | st.integers(-(2**63), 2**64 - 1),
    json_schema=st.none() | objects | texts,
    chat_template_kwargs=st.none() | st.dictionaries(words.filter(str.isidentifier), json_values, max_size=2),
    thinking=st.none() | st.booleans(),
    abstain_below=maybe,
    abstention=texts,
    top_logprobs=st.integers(0, 20),
)
templates = st.builds(
    PromptTemplate,
    prefix=st.just("Read:\n"),
    passage=st.just("{text}\n"),
    suffix=st.just("{question}"),
    stop=tuples(words),
    refusal=st.none() | texts,
)
messages = st.fixed_dictionaries({"role": words, "content": texts | st.lists(objects, max_size=2)})
prompts = st.one_of(
    st.builds(Prompt, text=texts, refusal=st.none() | texts, trusted=st.booleans()),
    st.builds(
        Prompt, messages=tuples(messages).filter(bool), tools=tuples(objects), template=st.none() | templates
    ),
    st.builds(Prompt, template=templates),
)
calibrations = st.builds(
    Calibration,
    settings=objects,
    weights=st.dictionaries(words, finite, max_size=3),
    scores=tuples(finite),
    false_alarms=st.floats(0.01, 0.5),
    figures=objects,
)
plain_requests = st.builds(
    Request,
    question=texts,
    passages=tuples(passages),
    options=options,
    prompt=st.none() | prompts,
    is_retrieved=st.booleans(),
    calibration=st.none() | calibrations,
)
requests = (
    st.builds(Request, question=texts, options=options, parts=tuples(plain_requests, 2)) | plain_requests
)
tokens = st.builds(
    TokenEvidence,
    id=counts,
    text=texts,
    start=counts,
    end=counts,
    logprob=numbers,
    weights=tuples(st.floats(0, 1)),
    gain=numbers,
    entropies=tuples(numbers),
    row_log_probs=tuples(numbers),
    top=tuples(st.tuples(texts, numbers)),
)
supports = st.builds(Support, passage=st.just(0), passage_id=texts, share=finite, verbatim=st.booleans())
citations = st.builds(
    Citation,
    start=st.just(0),
    end=st.just(1),
    text=texts,
    passage=st.just(0),
    passage_id=texts,
    share=finite,
    verbatim=st.booleans(),
    others=tuples(supports, 2),
    quote_start=st.none() | counts,
)
usages = st.builds(
    Usage,
    prompt_tokens=counts,
    cached_tokens=counts,
    generated_tokens=counts,
    row_tokens=tuples(counts),
    row_passages=tuples(tuples(counts)),
    sentence_rows=counts,
)
conflicts = st.builds(
    Conflict,
    question=texts,
    claims=tuples(
        st.builds(Claim, text=texts, passages=tuples(counts), passage_ids=tuples(texts), weight=finite)
    ),
)


@st.composite
def answers(draw: st.DrawFn, nested: bool = True) -> Answer:
    return Answer(
        question=draw(texts),
        text=draw(texts),
        tokens=(),
        citations=(draw(citations),) if nested else (),
        passages=(draw(passages), *draw(tuples(passages))),
        usage=draw(usages),
        timings=draw(
            st.builds(Timings, retrieve=maybe, prefill=finite, first_token=maybe, decode=finite, total=finite)
        ),
        finish_reason=draw(st.sampled_from(["stop", "length", "no_evidence", "given"])),
        grounding=draw(maybe),
        fusion=draw(texts),
        warnings=draw(tuples(texts)),
        thought=draw(texts),
        words=draw(
            tuples(
                st.builds(WordLikelihood, start=counts, end=counts, text=texts, log_prob=numbers, rank=counts)
            )
        ),
        ablation=draw(
            st.none()
            | st.builds(
                Ablation,
                log_prob=numbers,
                log_prob_without_passages=numbers,
                necessity=tuples(numbers),
                citation_necessity=tuples(tuples(numbers)),
                sufficiency=maybe,
            )
        ),
        parts=draw(tuples(answers(nested=False), 2)) if nested else (),
        conflicts=draw(tuples(conflicts)),
        request=draw(st.none() | plain_requests),
        support=draw(maybe),
        support_numbers=draw(st.none() | st.builds(SupportNumbers, question_gain=maybe, sureness=maybe)),
        spelling=draw(
            st.none() | st.builds(Spelling, ids=tuples(counts), spans=tuples(st.tuples(counts, counts)))
        ),
    )


def over_the_wire(value: Any) -> Any:
    """The value as the other side makes it, of JSON that any reader takes."""
    return from_wire(type(value), json.loads(json.dumps(to_wire(value), allow_nan=False)))


@settings(max_examples=30)
@given(requests)
def test_requests_come_back_whole(request: Request) -> None:
    assert repr(over_the_wire(request)) == repr(request)


@settings(max_examples=30)
@given(answers())
def test_answers_come_back_whole(answer: Answer) -> None:
    back = over_the_wire(answer)
    assert repr(back) == repr(answer)
    assert (repr(back.request), back.spelling) == (repr(answer.request), answer.spelling)


@settings(max_examples=30)
@given(
    st.builds(
        Piece, text=texts, tokens=tuples(tokens), answer=st.none() | answers(nested=False), thought=texts
    )
)
def test_pieces_come_back_whole(piece: Piece) -> None:
    back = over_the_wire(piece)
    assert repr(back) == repr(piece)
    assert [repr(one.row_log_probs) for one in back.tokens] == [
        repr(one.row_log_probs) for one in piece.tokens
    ]


def test_comparisons_and_scores_come_back_whole() -> None:
    one, other = Passage("a"), Passage("b", score=0.5)
    compared = Comparison("Who?", (AnswerGroup("Ada", (one,), 0.7, ()),), (other,), 0.3)
    scores = ChoiceScores(("a", "b"), (-1.0, float("-inf")), (1, 2))
    assert over_the_wire(compared) == compared
    assert over_the_wire(scores) == scores


def test_options_are_written_with_their_defaults() -> None:
    """Which may be others on the other side."""
    assert to_wire(Options())["max_tokens"] == 256


def test_a_rule_of_the_users_own_is_not_sent() -> None:
    class Vote:
        def fuse(self, log_probs: Any, state: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(UnsupportedError, match="rule of your own"):
        to_wire(Request("Who?", options=Options(fusion=Vote())))


def test_metadata_that_json_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be sent"):
        to_wire(Passage("a", metadata={"object": object()}))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "Request is None; it must be an object"),
        ([], "Request is"),
        ({}, "Request lacks question"),
        ({"question": 1}, "Request.question is 1; it must be a text"),
        ({"question": "a", "anwser": 1}, "Request has no anwser; it has question,"),
        ({"question": "a", "passages": "b"}, "Request.passages is 'b'; it must be a list"),
        ({"question": "a", "passages": ["b"]}, r"Request.passages\[0\] is 'b'; it must be an object"),
        ({"question": "a", "passages": [{"text": "b", "score": "high"}]}, r"passages\[0\].score is 'high'"),
        ({"question": "a", "is_retrieved": 1}, "is_retrieved is 1; it must be true or false"),
        ({"question": "a", "options": {"max_tokens": True}}, "max_tokens is True; it must be a whole number"),
        ({"question": "a", "options": {"max_tokens": 0}}, "max_tokens"),
        (
            {"question": "a", "options": {"style": "loud"}},
            "style is 'loud'; it must be one of 'short', 'long'",
        ),
        ({"question": "a", "options": {"fusion": 3}}, "fusion is 3; it must be the name of a rule"),
        ({"question": "a", "options": {"fusion": {"rule": "os.system"}}}, "Unknown fusion rule 'os.system'"),
        ({"question": "a", "options": {"fusion": {"rule": "mean", "gamma": 1}}}, "has no gamma"),
        (
            {"question": "a", "prompt": {"messages": [{"role": "user"}]}},
            "must be a mapping with role and content",
        ),
    ],
)
def test_what_is_no_request_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_wire(Request, value)


def test_nesting_has_an_end() -> None:
    value: dict[str, Any] = {"question": "a"}
    for _ in range(200):
        value = {"question": "a", "parts": [value]}
    with pytest.raises(InputError, match="nested deeper"):
        from_wire(Request, value)
