"""Questions with several parts: each is answered from its own passages, and the answers are one list."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.passages import Passage
from nbce_rag.prompts.parts import parts_of
from nbce_rag.prompts.prompt import Prompt
from nbce_rag.prompts.template import PromptTemplate

Make = Callable[..., NBCE]
TEXTS = ["The ferry is run by Ada.", "The market opens at eight."]
TEMPLATE = PromptTemplate(prefix="", passage="{text}\n", suffix="{question}")
QUESTION = "Who runs the ferry?\nWhen does the market open?"


def texts(question: str) -> list[str]:
    return [part.text for part in parts_of(question)]


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Who runs the ferry? Where is the museum?", ["Who runs the ferry?", "Where is the museum?"]),
        ("1. Who?\n2. Where is 3.5?", ["Who?", "Where is 3.5?"]),
        (
            "1. Who runs the ferry\n2. Where is Brill?\n3. When is noon?",
            ["Who runs the ferry", "Where is Brill?", "When is noon?"],
        ),
        ("1. Who is the mayor?\n2. Ada\n3. Bo", []),
        ("On Brill:\n- Who is mayor?\n\n- Where?!", ["On Brill:\nWho is mayor?", "On Brill:\nWhere?!"]),
        ("Name:\n a) the captain\n b) the year", ["Name:\nthe captain", "Name:\nthe year"]),
        ("谁经营渡轮？博物馆在哪里？", ["谁经营渡轮？", "博物馆在哪里？"]),
        ("请回答：1、谁经营渡轮？2、何时开？", ["请回答：\n谁经营渡轮？", "请回答：\n何时开？"]),
        ("من يدير العبارة؟ أين المتحف؟", ["من يدير العبارة؟", "أين المتحف؟"]),
        ("Who? What did Tesla do in his lab?", ["Who?", "What did Tesla do in his lab?"]),
        ("Wo? Können Sie Brill zeigen?", ["Wo?", "Können Sie Brill zeigen?"]),
        ("Where is http://a.b/?q=1 from? Who ran?", ["Where is http://a.b/?q=1 from?", "Who ran?"]),
        ("Где музей? Кто мэр?", ["Где музей?", "Кто мэр?"]),
        ('Who wrote "Why? Oh!" here? Where is Brill?', ['Who wrote "Why? Oh!" here?', "Where is Brill?"]),
        ("Was it Dr. A. Brill? Or Ada? Where is Tarn?", []),
        ("Who met Dr. A. Brill? Where is Tarn?", ["Who met Dr. A. Brill?", "Where is Tarn?"]),
        (
            "I live in Brill. I own a dog. Who is mayor? And where is the hall?",
            [
                "I live in Brill. I own a dog. Who is mayor?",
                "I live in Brill. I own a dog. And where is the hall?",
            ],
        ),
        (
            "Answer the query from the passages.\n\nQuery: Who runs the ferry? Where is the museum?",
            [
                "Answer the query from the passages.\n\nQuery: Who runs the ferry?",
                "Answer the query from the passages.\n\nQuery: Where is the museum?",
            ],
        ),
        ("问题：谁经营渡轮？博物馆在哪里？", ["问题：谁经营渡轮？", "问题：博物馆在哪里？"]),
        ("去过布里尔。市长是谁？大厅在哪里？", ["去过布里尔。市长是谁？", "去过布里尔。大厅在哪里？"]),
    ],
)
def test_parts_are_told_by_their_marks(question: str, parts: list[str]) -> None:
    assert texts(question) == parts


@pytest.mark.parametrize(
    "question",
    [
        "Who runs the ferry?",
        "I saw Ada. Who is Ada?",
        "Who runs the ferry? When does it leave?",  # not understood alone
        "谁经营渡轮？它何时离开？",
        "Who is it? Please be brief.",
        "Which is right?\n1. Ada\n2. Bob",
        "1. Ada\n2. Bob",
        "1. Who?\nand then\n2. When?",
        'Who said "Why me?" in 1908?',
        "Who wrote Who's Afraid of Virginia Woolf? and when?",
        "Is this right?\n```\nx ? y\n```\nWhy?",
        'He asked: "Who are you? Where do you go?" What did Ada say?',
        "What does “Who? When?” mean?",
        "What does `a ? B : c` do?",
        "Who? Why?",
        "Who founded Brill? And when exactly?",
        "1. Who founded Brill?\n2. When?",
        "Who founded Brill? ¿En qué año?",
        "Кто основал Брилль? В каком году?",
        "Wer gründete Brill? Seit wann?",
        "谁创办了布里尔？是哪年？",
        "誰が布里尔を創設しましたか？いつですか？",
        "Is the hall in Brill? If so, who built the hall?",
        "Who wrote Faust? What about Hamlet?",
        "Who runs the ferry? A) Ada Tarn? B) Bob Brill?",
        "Question: Who runs the ferry?\nIs the document relevant to the question?",
        "Is Ada right? Question: Who runs the ferry?",
        "Can you help me? Where is the museum?",
        "What if the pump fails? Who is called?",
        "Where is the museum? Is there another?",
        "",
        "?",
    ],
)
def test_what_is_doubtful_is_one_question(question: str) -> None:
    assert texts(question) == []


def test_markers_are_those_of_the_question() -> None:
    assert [part.marker for part in parts_of("a) Who?\nb) Who ran?")] == ["a)", "b)"]
    assert [part.marker for part in parts_of("Who? Who ran? Who sat?")] == ["1.", "2.", "3."]


def test_there_are_no_more_parts_than_can_be_searched_for() -> None:
    questions = [f"Who is Ada {number}?" for number in range(33)]
    assert len(parts_of(" ".join(questions[:32]))) == 32
    assert parts_of(" ".join(questions)) == ()
    assert parts_of("\n".join(f"- {question}" for question in questions)) == ()


@pytest.mark.parametrize(
    "text", ["!", "?", '"', "“", '"?', "x", "a. ", "1. ", "- x\n", "and ", "A b c? ", "谁是的", "or? "]
)
def test_long_texts_are_told_apart_in_no_time(text: str) -> None:
    started = time.process_time()
    parts_of(text * 20_000 + "? B c?")
    parts_of("Who runs? " + text * 20_000 + "?")
    assert time.process_time() - started < 2


def check(answer: Answer) -> None:
    """Evidence and citations stand where they say."""
    assert "".join(token.text for token in answer.tokens) == answer.text
    assert all(len(token.weights) == len(answer.passages) for token in answer.tokens)
    assert all(len(token.row_log_probs) in (0, 1 + len(answer.passages)) for token in answer.tokens)
    for token in answer.tokens:
        assert not token.text or answer.text[token.start : token.end] == token.text
    for citation in answer.citations:
        assert answer.text[citation.start : citation.end] == citation.text
        assert answer.passages[citation.passage].id == citation.passage_id


def test_each_part_is_answered_as_if_it_were_alone(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=5)
    answer = nbce.answer(QUESTION, TEXTS)
    alone = nbce.batch([(question, TEXTS) for question in QUESTION.split("\n")])
    assert answer.question == QUESTION
    assert answer.text == f"1. {alone[0].text}\n2. {alone[1].text}"
    assert [part.text for part in answer.parts] == [one.text for one in alone]
    assert [part.question for part in answer.parts] == QUESTION.split("\n")
    assert [part.tokens for part in answer.parts] == [one.tokens for one in alone]
    assert [c.text for c in answer.citations] == [c.text for one in alone for c in one.citations]
    check(answer)
    ablated = nbce.ablate(answer)
    assert ablated.parts == tuple(map(nbce.ablate, answer.parts))
    some = [part.ablation for part in ablated.parts if part.ablation is not None]
    assert ablated.ablation is not None
    assert len(some) == 2
    assert ablated.ablation.log_prob == pytest.approx(sum(one.log_prob for one in some))
    by_part = zip(*(one.necessity for one in some), strict=True)
    assert ablated.ablation.necessity == pytest.approx([sum(values) for values in by_part])
    assert len(ablated.ablation.citation_necessity) == len(answer.citations)
    json.dumps(ablated.to_dict(), allow_nan=False)
    usage = answer.usage
    assert usage.generated_tokens == sum(one.usage.generated_tokens for one in alone)
    assert usage.prompt_tokens == sum(usage.row_tokens) == sum(one.usage.prompt_tokens for one in alone)
    assert usage.row_passages[:4] == ((), (), (0,), (1,))
    assert len(usage.row_passages) == len(usage.row_tokens)
    assert answer.timings.total >= max(part.timings.prefill for part in answer.parts)
    assert [p.relevance for p in answer.passages] == [
        max(a.relevance or 0, b.relevance or 0)
        for a, b in zip(alone[0].passages, alone[1].passages, strict=True)
    ]


def test_parts_can_be_switched_off(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=3, parts=False)
    assert nbce.answer(QUESTION, TEXTS).parts == ()
    assert len(nbce.answer(QUESTION, TEXTS, parts=True).parts) == 2
    with pytest.raises(InputError, match="parts='no' must be True or False"):
        nbce.answer(QUESTION, TEXTS, parts="no")


def test_a_stream_has_one_part_after_the_other(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=6)
    pieces = list(nbce.stream(QUESTION, TEXTS))
    answer = pieces[-1].answer
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert tuple(token for piece in pieces for token in piece.tokens) == answer.tokens
    assert [piece.answer for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[0].text.startswith("1. ")
    assert replace(answer, timings=answer.timings, parts=()).text == nbce.answer(QUESTION, TEXTS).text


def test_single_questions_in_the_same_batch_stay_as_they_are(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=4)
    requests = [("Who runs the ferry?", TEXTS), (QUESTION, TEXTS), ("When?", TEXTS[1:])]
    answers = nbce.batch(requests)
    assert [len(answer.parts) for answer in answers] == [0, 2, 0]
    assert [answer.text for answer in answers] == [nbce.answer(*request).text for request in requests]


def test_a_part_that_abstains_says_so_in_its_place(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=4, abstention="None.")
    gains = [part.grounding for part in nbce.answer(QUESTION, TEXTS).parts]
    assert None not in gains
    limit = sum(gains) / 2  # type: ignore[arg-type]
    pieces = list(nbce.stream(QUESTION, TEXTS, abstain_below=limit))
    answer = pieces[-1].answer
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert answer.text.count("None.") == 1
    assert sorted(part.finish_reason == "no_evidence" for part in answer.parts) == [False, True]
    assert answer.finish_reason != "no_evidence"
    assert answer.text.startswith("".join(token.text for token in answer.tokens))
    assert str(answer)
    assert answer.to_html()
    silent = nbce.answer(QUESTION, TEXTS, abstain_below=1e9)
    assert silent.text == "1. None.\n2. None."
    assert sum(part.ablation is not None for part in nbce.ablate(answer).parts) == 1
    with pytest.raises(InputError, match="no part of the answer has tokens"):
        nbce.ablate(silent)
    assert silent.finish_reason == "no_evidence"
    assert silent.tokens == ()
    assert silent.citations == ()


def test_as_many_parts_as_there_may_be(make_nbce: Make) -> None:
    question = " ".join(f"Who is Ada {number}?" for number in range(32))
    pieces = list(make_nbce(max_tokens=2).stream(question, TEXTS))
    answer = pieces[-1].answer
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert len(answer.parts) == 32
    assert answer.usage.generated_tokens <= 64
    assert "32. " in answer.text
    check(answer)
    assert answer.to_html()
    json.dumps(answer.to_dict(), allow_nan=False)


def test_parts_may_have_passages_of_their_own(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=4)
    ferry, market, both = (Passage(text) for text in (*TEXTS, "The ferry and the market."))
    request = nbce.in_parts(nbce.request(QUESTION, [ferry]))
    parts = [
        replace(request.parts[0], passages=(ferry, both)),
        replace(request.parts[1], passages=(replace(market, score=0.5), replace(both, score=0.25))),
    ]
    answer = nbce.batch([replace(request, parts=parts)])[0]
    assert [p.text for p in answer.passages] == [ferry.text, both.text, market.text]
    assert [p.score for p in answer.passages] == [None, 0.25, 0.5]
    check(answer)
    second = len(answer.parts[0].tokens)
    assert all(token.weights[2] == 0 for token in answer.tokens[:second])
    assert all(token.weights[0] == 0 for token in answer.tokens[second:])
    assert (2,) in answer.usage.row_passages
    ablated = nbce.ablate(answer)
    assert ablated.ablation is not None
    own = [part.ablation.necessity for part in ablated.parts if part.ablation is not None]
    assert ablated.ablation.necessity == pytest.approx((own[0][0], own[0][1] + own[1][1], own[1][0]))


@pytest.mark.parametrize("options", [{"regex": "[a-z]+"}, {"json_schema": {"type": "string"}}])
def test_a_grammar_asks_at_once(make_nbce: Make, options: dict[str, Any]) -> None:
    nbce = make_nbce()
    assert nbce.in_parts(nbce.request(QUESTION, TEXTS, **options)).parts == ()


def test_wordings_that_ask_at_once(make_nbce: Make) -> None:
    nbce = make_nbce()
    own = make_nbce(prompt=TEMPLATE)
    assert own.in_parts(own.request(QUESTION, TEXTS)).parts == ()
    asked = {"role": "user", "content": f"{PASSAGES}\n{QUESTION}"}
    for prompt in (
        Prompt(template=TEMPLATE),
        Prompt([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, asked]),
        Prompt([asked], tools=[{"type": "function", "function": {"name": "f"}}]),
        Prompt([{"role": "user", "content": f"{PASSAGES} Something else?"}]),
        Prompt(text=f"{PASSAGES}{QUESTION}\n{QUESTION}"),
    ):
        assert nbce.in_parts(nbce.request(QUESTION, TEXTS, prompt=prompt)).parts == ()


def test_a_part_stands_where_the_question_stood(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=3)
    system = {"role": "system", "content": "Be brief."}
    asked = {"role": "user", "content": f"{PASSAGES}\nQuestion: {QUESTION}"}
    request = nbce.in_parts(nbce.request(QUESTION, TEXTS, prompt=Prompt([system, asked])))
    assert [part.prompt.messages for part in request.parts if part.prompt] == [
        (system, {"role": "user", "content": f"{PASSAGES}\nQuestion: {part}"})
        for part in QUESTION.split("\n")
    ]
    plain = nbce.in_parts(nbce.request(QUESTION, TEXTS, prompt=Prompt(text=f"{PASSAGES}{QUESTION}\nA:")))
    assert [part.prompt.text for part in plain.parts if part.prompt] == [
        f"{PASSAGES}{part}\nA:" for part in QUESTION.split("\n")
    ]
    assert nbce.batch([plain])[0].text.startswith("1. ")


def test_without_passages_everything_is_asked_at_once(make_nbce: Make) -> None:
    with pytest.warns(match="No passages were given"):
        assert make_nbce(max_tokens=2).answer(QUESTION).parts == ()


async def test_async_and_closing(make_nbce: Make) -> None:
    nbce = make_nbce(max_tokens=6)
    pieces: list[Piece] = [piece async for piece in nbce.astream(QUESTION, TEXTS)]
    answer = pieces[-1].answer
    assert answer is not None
    assert answer.text == nbce.answer(QUESTION, TEXTS).text
    stream = nbce.stream(QUESTION, TEXTS)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
