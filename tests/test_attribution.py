"""Texts that somebody else wrote: the evidence that decoding them would have given, to the character."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import jsonschema
import pytest
from engine_reference import PASSAGES, QUESTION, TEMPLATE, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_tokenizer import PlainTokenizer
from table_model import TableModel, random_table
from watched_model import watched

from nbce_rag.answers.report import report_schema
from nbce_rag.decoding.spelling import spell
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import ContextLengthError, InputError
from nbce_rag.evidence.word_likelihood import word_likelihoods
from nbce_rag.fusion import Experts, Max, Mean, MinEntropy, Posterior
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import PromptTemplate
from nbce_rag.request import Request

Make = Callable[..., Any]

SENTENCES = [
    Passage(
        "The ferry is run by Ada. It leaves at noon from the old harbour. Dogs ride for free.", id="ferry"
    ),
    Passage("船在中午从旧港口出发。艾达负责渡轮。", id="boat"),
]
TEXT = "Ada runs it, 渡轮 for short; ask at noon."


def decoded(nbce: NBCE, passages: Any, count: int = 40) -> list[Any]:
    """Answers whose text is spelled by the tokens that were decoded, and nothing else."""
    answers = nbce.batch([(f"What is {number}?", passages) for number in range(count)])
    return [
        answer
        for answer in answers
        if answer.text
        and encode(nbce, answer.text) == [token.id for token in answer.tokens]
        and answer.usage.generated_tokens - len(answer.tokens) == (answer.finish_reason == "stop")
    ]


@pytest.mark.parametrize("rule", [Posterior(), MinEntropy(), Mean(), Max(), Experts()], ids=lambda r: r.name)
@pytest.mark.parametrize("passages", [PASSAGES, SENTENCES], ids=["passages", "sentences"])
def test_what_was_decoded_has_the_same_evidence(passages: Any, rule: Any, make_nbce: Make) -> None:
    nbce = make_nbce(chat=True, fusion=rule, max_tokens=2, style="short")
    answers = decoded(nbce, passages)
    assert answers
    if passages is SENTENCES and isinstance(rule, Posterior):
        assert any(answer.usage.sentence_rows for answer in answers)
    for answer in answers:
        again = nbce.attribute(answer.question, passages, answer.text)
        assert again.text == answer.text
        assert again.finish_reason == "given"
        assert again.usage.row_tokens == answer.usage.row_tokens
        assert [(t.id, t.start, t.end, t.text) for t in again.tokens] == [
            (t.id, t.start, t.end, t.text) for t in answer.tokens
        ]
        for mine, other in zip(again.tokens, answer.tokens, strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert mine.weights == pytest.approx(other.weights, abs=1e-4)
            assert mine.gain == pytest.approx(other.gain, abs=1e-3)
        assert again.grounding == pytest.approx(answer.grounding, abs=1e-3)
        assert [(c.text, c.passage_id) for c in again.citations] == [
            (c.text, c.passage_id) for c in answer.citations
        ]
        assert [p.relevance for p in again.passages] == pytest.approx(
            [p.relevance for p in answer.passages], abs=1e-4
        )


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_one_pass_over_all_rows_and_pieces_change_nothing(family: str, make_nbce: Make) -> None:
    nbce = make_nbce(family, prompt=TEMPLATE)
    nbce, model = watched(nbce)
    whole = nbce.attribute(QUESTION, PASSAGES, TEXT, entropies=True)
    rows = len(whole.usage.row_tokens)
    tokens = whole.usage.row_steps // rows
    assert model.steps == [(rows, tokens)]
    assert whole.usage.generated_tokens == 0
    assert all(len(token.entropies) == rows for token in whole.tokens)
    small = nbce.updated(max_batch_tokens=3 * rows)
    before = len(model.steps)
    parts = small.attribute(QUESTION, PASSAGES, TEXT)
    assert [count for _, count in model.steps[before:]] == [3] * (tokens // 3) + [tokens % 3] * (
        tokens % 3 > 0
    )
    for mine, other in zip(parts.tokens, whole.tokens, strict=True):
        assert mine.weights == pytest.approx(other.weights, abs=1e-4)
        assert mine.gain == pytest.approx(other.gain, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    ["Ada", "  Ada runs\n\nthe ferry. \n", "渡轮🚢艾达", "a <s> b </s> c", "<s>", "e\u0301 \ufdd3 x", "1908"],
)
@pytest.mark.parametrize("chat", [False, True])
def test_the_text_stays_as_it_is(text: str, chat: bool, make_nbce: Make) -> None:
    answer = make_nbce(chat=chat).attribute(QUESTION, PASSAGES, text)
    assert answer.text == text
    assert "".join(token.text for token in answer.tokens) == text
    for token in answer.tokens:
        assert token.text in ("", text[token.start : token.end])
    for citation in answer.citations:
        assert text[citation.start : citation.end] == citation.text


@given(text=st.text(min_size=1, max_size=24), offsets=st.booleans(), chat=st.booleans())
@settings(max_examples=300)
def test_spans_cover_any_text(text: str, offsets: bool, chat: bool) -> None:
    tokenizer = PlainTokenizer(chat=chat, offsets=offsets)
    encoder = PromptEncoder(PromptTemplate.for_tokenizer(tokenizer), tokenizer)
    try:
        spelling = spell(encoder, tokenizer, text)
    except InputError:
        assert not encoder.answer_text(text).strip()
        return
    assert spelling.ids == encoder.encode_answer(text)
    spans = list(dict.fromkeys(span for span in spelling.spans if span[1]))
    assert "".join(text[start:end] for start, end in spans) == text
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]


def test_a_token_stands_for_its_own_characters() -> None:
    tokenizer = PlainTokenizer(chat=False)
    encoder = PromptEncoder(PromptTemplate.plain(), tokenizer)
    for offsets in (True, False):
        spelled = spell(encoder, PlainTokenizer(chat=False, offsets=offsets), "a </s>é")
        assert spelled.ids[:3] == tuple(b" a ")
        # The mark of an end is broken up, so that it is none; the letter has two bytes.
        assert spelled.spans[1:3] == ((0, 1), (1, 2))
        assert spelled.spans[-1] == (6, 7)
        assert spelled.spans[0] == (0, 0)


@given(text=st.text(st.sampled_from("ab \u00e9\u6e21\U0001f6a2\u0301\n<s>"), min_size=1, max_size=12))
@settings(max_examples=200)
def test_tokenizers_without_offsets_spell_alike(text: str) -> None:
    tokenizers = [PlainTokenizer(chat=False, offsets=offsets) for offsets in (True, False)]
    encoder = PromptEncoder(PromptTemplate.plain(), tokenizers[0])
    if text.strip():
        one, other = (spell(encoder, tokenizer, text) for tokenizer in tokenizers)
        assert one == other


@pytest.mark.parametrize("offsets", [True, False])
def test_line_ends_of_windows_are_read_as_others(offsets: bool) -> None:
    tokenizer = PlainTokenizer(chat=False, offsets=offsets)
    encoder = PromptEncoder(PromptTemplate.plain(), tokenizer)
    text = "Ada\r\n\r\nruns.\r\n"
    spelled = spell(encoder, tokenizer, text)
    assert spelled.ids == spell(encoder, tokenizer, "Ada\n\nruns.\n").ids
    pieces = [text[start:end] for start, end in spelled.spans]
    assert "".join(pieces) == text
    assert [piece.strip() for piece in pieces] == ["", "A", "d", "a", "", "", "r", "u", "n", "s", "."]


def test_a_tokenizer_without_offsets_decodes_each_token_a_few_times() -> None:
    class Counting(PlainTokenizer):
        decoded = 0

        def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
            self.decoded += len(ids)
            return super().decode(ids, skip_specials=skip_specials)

    tokenizer = Counting(chat=False, offsets=False)
    encoder = PromptEncoder(PromptTemplate.plain(), tokenizer)
    tokenizer.decoded = 0
    spelled = spell(encoder, tokenizer, "Ada \u6e21 \ufffd" * 200)
    assert tokenizer.decoded < 20 * len(spelled.ids)
    assert spell(encoder, tokenizer, "\ufffd").spans[-1] == (0, 1)


# ---------------------------------------------------------------------------------------------------------
# Words


def test_words_by_their_likelihood(make_nbce: Make) -> None:
    answer = make_nbce(prompt=TEMPLATE).attribute(QUESTION, PASSAGES, TEXT)
    assert [word.text for word in answer.words] == [
        "Ada", "runs", "it", "渡", "轮", "for", "short", "ask", "at", "noon",
    ]  # fmt: skip
    assert sorted(word.rank for word in answer.words) == list(range(1, 11))
    by_rank = sorted(answer.words, key=lambda word: word.rank)
    assert [word.log_prob for word in by_rank] == sorted(word.log_prob for word in answer.words)
    for word in answer.words:
        assert TEXT[word.start : word.end] == word.text
    first = answer.tokens[0]
    if first.end == answer.words[0].end:
        assert answer.words[0].log_prob < 0


def test_the_likelihood_of_words_is_that_of_the_mixture(make_nbce: Make) -> None:
    """With a mean rule without contrast the fused distribution is the mixture."""
    nbce = make_nbce(prompt=TEMPLATE, fusion=Posterior(beta=0.0, gamma=0.0, cutoff=0.0))
    answer = nbce.attribute(QUESTION, PASSAGES, "Ada runs it")
    assert sum(word.log_prob for word in answer.words) == pytest.approx(
        sum(token.logprob for token in answer.tokens), abs=1e-3
    )


def test_tokens_over_several_words_count_by_their_characters() -> None:
    # "渡轮" is one token and two words; the comma belongs to none.
    words = word_likelihoods("渡轮, ab", [(0, 2), (2, 3), (3, 8), (3, 8)], [-2.0, -7.0, -1.0, -3.0])
    assert [(word.text, word.log_prob, word.rank) for word in words] == [
        ("渡", -1.0, 2), ("轮", -1.0, 3), ("ab", -4.0, 1),
    ]  # fmt: skip
    assert word_likelihoods("...", [(0, 3)], [-1.0]) == ()
    assert word_likelihoods("a b", [(0, 1), (1, 3)], [-math.inf, -1.0])[0].log_prob == -math.inf


# ---------------------------------------------------------------------------------------------------------
# As an answer


def test_it_shows_itself_and_fits_the_schema(make_nbce: Make) -> None:
    answer = make_nbce(prompt=TEMPLATE).attribute(QUESTION, PASSAGES, TEXT)
    report = answer.to_dict()
    jsonschema.validate(json.loads(json.dumps(report, allow_nan=False)), report_schema())
    assert report["finish_reason"] == "given"
    assert [word["rank"] for word in report["words"]] == [word.rank for word in answer.words]
    least = min(answer.words, key=lambda word: word.rank).text
    assert f"Least likely of 10 words: {least}" in str(answer)
    assert "Least likely of 10 words" in answer.to_html()
    assert "the text was given, not written by the model" in answer.to_html()


def test_options_of_sampling_and_length_have_no_effect(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    plain = nbce.attribute(QUESTION, PASSAGES, TEXT)
    other = nbce.attribute(
        QUESTION, PASSAGES, TEXT, temperature=2.0, max_tokens=1, abstain_below=99.0, regex="a", stop=["runs"]
    )
    assert other.text == TEXT
    assert other.finish_reason == "given"
    assert [token.weights for token in other.tokens] == [token.weights for token in plain.tokens]


def test_in_a_worker_thread_and_through_an_index(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    plain = nbce.attribute(QUESTION, iter(PASSAGES), TEXT)
    assert asyncio.run(nbce.aattribute(QUESTION, iter(PASSAGES), TEXT)).tokens == plain.tokens


def test_wrong_texts(make_nbce: Make) -> None:
    nbce = make_nbce(prompt=TEMPLATE)
    wrong: Any
    for wrong in ("", " \n", "\ufdd3"):
        with pytest.raises(InputError, match="text"):
            nbce.attribute(QUESTION, PASSAGES, wrong)
    for wrong in (None, b"Ada", ["Ada"]):
        with pytest.raises(InputError, match="must be a string"):
            nbce.attribute(QUESTION, PASSAGES, wrong)
    for wrong in (["Ada"], "Ada", {"Ada": 1}, (passage for passage in PASSAGES)):
        with pytest.raises(InputError, match="request"):
            nbce.attribute(Request(QUESTION, wrong), text="Ada")
    with pytest.raises(InputError, match="at least one passage"):
        nbce.attribute(QUESTION, [], "Ada")
    with pytest.raises(ContextLengthError, match=r"The text has \d+ tokens.*part of it"):
        nbce.attribute(QUESTION, PASSAGES, "Ada runs the ferry. " * 200)


def test_a_model_of_any_backend_reads_it(tiny_tokenizer: Any) -> None:
    tokenizer = PlainTokenizer(chat=False, offsets=False)
    model: Any = TableModel(random_table(259), vocab_size=259, tokenizer=tokenizer)
    answer = NBCE(model, prompt=TEMPLATE).attribute(QUESTION, PASSAGES[:2], "Ada é")
    assert "".join(token.text for token in answer.tokens) == "Ada é"
    assert all(sum(token.weights) == pytest.approx(1) for token in answer.tokens)


def test_a_request_is_not_sent_along(make_nbce: Make) -> None:
    answer = make_nbce(prompt=TEMPLATE, max_tokens=2).answer(QUESTION, PASSAGES)
    assert answer.request is not None
    assert answer.request.question == QUESTION
    for other in (pickle.loads(pickle.dumps(answer)), copy.copy(answer)):
        assert other == answer
        assert other.request is None
        assert other.passage_evidence == answer.passage_evidence
