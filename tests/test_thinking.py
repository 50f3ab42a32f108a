"""Thoughts before answers: switches and marks of chat templates, budgets, and whole answers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_tokenizer import PlainTokenizer
from thinking_tools import TEMPLATES, ChatTokenizer, make_thinker
from tokenizer_tools import bos_tokenizer, byte_tokenizer
from tokenizers import AddedToken

from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.decoding.detokenizer import TextBuilder
from nbce_rag.decoding.thought import ThoughtReader
from nbce_rag.decoding.turn import thought_budget, thought_room, turn_sampler
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import ContextLengthError, InputError
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.options import Options
from nbce_rag.prompts.binding import Encoders
from nbce_rag.prompts.prompt import Prompt
from nbce_rag.prompts.template import PromptTemplate
from nbce_rag.prompts.thinking import thinking_of
from nbce_rag.prompts.thought_format import Head, ThoughtFormat
from nbce_rag.prompts.tools import ToolCallReader

THOUGHT, QUESTION = "Who? Ada, or \U0001f600 Bo", "Who runs the ferry?"
PASSAGE_TEXTS = ["Ada runs the ferry.", "Bo bakes bread."]
USER = {"role": "user", "content": QUESTION}

SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "qwen3": ({"enable_thinking": False}, {"enable_thinking": True}, True),
    "deepseek_r1": ({}, {}, False),
    "r1_distill": ({}, {}, False),
    "deepseek_v31": ({"thinking": False}, {"thinking": True}, True),
    "glm": ({"enable_thinking": False}, {"enable_thinking": True}, True),
    "granite": ({"thinking": False}, {"thinking": True}, True),
    "smollm3": ({"enable_thinking": False}, {"enable_thinking": True}, True),
    "gpt_oss": ({"reasoning_effort": "low"}, {}, False),
    "magistral": ({}, {}, False),
    "gemma4": ({"enable_thinking": False}, {"enable_thinking": True}, True),
    "seed": ({"thinking_budget": 0}, {"thinking_budget": -1}, True),
    "cohere": ({"reasoning": False}, {"reasoning": True}, True),
    "kimi_k3": ({"thinking": False}, {"thinking": True}, True),
    "unheard": ({}, {}, False),
    "plain": ({}, {}, False),
}
MARKS = {
    "qwen3": ("<think>\n", "\n</think>\n\n"),
    "deepseek_r1": ("<think>\n", "\n</think>\n\n"),
    "r1_distill": ("<think>\n", "\n</think>\n\n"),
    "deepseek_v31": ("<think>\n", "\n</think>\n\n"),
    "glm": ("<think>", "</think>\n"),
    "granite": ("<think>\n", "\n</think><response>"),
    "smollm3": ("<think>\n", "\n</think>\n\n"),
    "gpt_oss": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    "magistral": ("[THINK]", "[/THINK]"),
    "gemma4": ("<|channel>thought\n", "\n<channel|>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "kimi_k3": ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    "unheard": ("<muse>\n", "\n</muse>\n"),
}
THINKERS = sorted(MARKS)
SILENT = [name for name in THINKERS if SWITCHES[name][2]]


def ask(nbce: NBCE, **options: Any) -> tuple[Answer, list[Piece]]:
    """An answer by its pieces, which have to join to it."""
    pieces = list(nbce.stream(QUESTION, PASSAGE_TEXTS, **options))
    answer = pieces[-1].answer
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert "".join(piece.thought for piece in pieces) == answer.thought
    assert tuple(token for piece in pieces for token in piece.tokens) == answer.tokens
    if answer.finish_reason != "no_evidence":
        assert "".join(token.text for token in answer.tokens) == answer.text
    return answer, pieces


def prompt(template: str, thinking: bool | None = None, **kwargs: Any) -> str:
    """Row 0 of a question, in the words of a template."""
    tokenizer = ChatTokenizer(template)
    encoder = Encoders(PromptTemplate("", "{text}", "{question}", chat=True), tokenizer).of(
        None, kwargs, None, thinking
    )
    return tokenizer.decode([*encoder.prefix, *encoder.suffix("Who?").ids])


# What a template does


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_template_tells_its_switch_and_its_marks(name: str) -> None:
    thinking = thinking_of(ChatTokenizer(name))
    assert (dict(thinking.off), dict(thinking.on), thinking.silences) == SWITCHES[name]
    form = thinking.format
    assert (None if form is None else (form.opening, form.closing)) == MARKS.get(name)
    assert form is None or (form.closer in form.closing and thinking.thinks)


def test_marks_that_are_special_tokens_are_known_without_a_word_in_the_template() -> None:
    specials = ["<|im_end|>", "[THINK]", "[/THINK]"]
    thinking = thinking_of(ChatTokenizer("plain", specials))
    assert thinking.format is not None
    assert thinking.format.opening == "[THINK]"
    assert not thinking.thinks  # so that nothing is kept free for it
    expected = thinking.thought(None, {})
    assert expected is not None
    assert expected.is_off


@pytest.mark.parametrize(
    ("effort", "off", "on", "silences"),
    [
        ("{% if reasoning_effort == 'none' %}x{% endif %}", "none", "high", True),
        ("{% if reasoning_effort == 'low' %}x{% endif %}", "low", "high", False),
        (
            "{% if reasoning_effort is defined and reasoning_effort not in ['none', 'high'] %}"
            "{{ raise_exception('No.') }}{% endif %}{{ reasoning_effort }}",
            "none",
            "high",
            True,
        ),
    ],
)
def test_efforts(effort: str, off: str, on: str, silences: bool) -> None:
    thinking = thinking_of(ChatTokenizer(effort + TEMPLATES["plain"]))
    assert dict(thinking.off) == {"reasoning_effort": off}
    assert dict(thinking.on) == {"reasoning_effort": on}
    assert thinking.silences is silences


def test_a_tokenizer_without_a_template_knows_nothing() -> None:
    thinking = thinking_of(PlainTokenizer(chat=False))
    assert thinking.format is None
    assert thinking.variables(None, None) == thinking.variables(False, {}) == {}


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        ("qwen3", "assistant\n<think>\n\n</think>\n\n", "assistant\n"),
        ("deepseek_v31", "assistant</think>", "assistant<think>"),
        ("glm", "Who?/nothink<|im_start|>assistant\n<think></think>", "Who?<|im_start|>assistant"),
        ("smollm3", "assistant\n<think>\n\n</think>\n", "assistant\n"),
        ("gemma4", "model\n<|channel>thought\n<channel|>", "model\n"),
        ("seed", "assistant\n<seed:think><seed:cot_budget_reflect>", "assistant\n"),
        ("deepseek_r1", "assistant<think>\n", "assistant<think>\n"),
        ("gpt_oss", "<|start|>assistant", "<|start|>assistant"),
    ],
)
def test_thinking_is_off_unless_it_is_asked_for(name: str, off: str, on: str) -> None:
    assert prompt(name).endswith(off)
    assert prompt(name, True).endswith(on)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("deepseek_r1", "assistant<think>\n</think>\n\n"),
        ("gpt_oss", "<|start|>assistant<|channel|>final<|message|>"),
        ("r1_distill", "assistant"),
        ("qwen3", "assistant\n<think>\n\n</think>\n\n"),
    ],
)
def test_false_closes_what_the_template_cannot_switch_off(name: str, end: str) -> None:
    assert prompt(name, False).endswith(end)


def test_gpt_oss_thinks_as_little_as_it_can() -> None:
    assert "Reasoning: low" in prompt("gpt_oss")
    assert "Reasoning: medium" in prompt("gpt_oss", True)
    assert "Reasoning: high" in prompt("gpt_oss", reasoning_effort="high")


def test_variables_of_the_template_win() -> None:
    assert prompt("qwen3", enable_thinking=True).endswith("assistant\n")
    assert prompt("qwen3", True, enable_thinking=False).endswith("</think>\n\n")
    assert prompt("qwen3", day="Monday").endswith("</think>\n\n")  # which say nothing of it
    # Two switches of which the template asks one first.
    both = "{% set thinking = thinking if thinking is defined else enable_thinking | default(false) %}"
    two = TEMPLATES["deepseek_v31"].replace(
        "{%- if thinking is not defined", both + "{%- if thinking is undefined"
    )
    assert prompt(two).endswith("</think>")
    assert prompt(two, enable_thinking=True).endswith("<think>")


def test_what_a_user_says_opens_no_thought() -> None:
    tokenizer = ChatTokenizer("deepseek_v31")
    encoders = Encoders(None, tokenizer)
    for content in ("<think>", f"What is {PASSAGES}<think>"):
        assert not encoders.of(Prompt([{"role": "user", "content": content}])).thought_is_open
    assert encoders.of(Prompt([USER]), None, None, True).thought_is_open
    # A text is gone on from as it stands; one that a program rendered may be a turn.
    assert encoders.of(Prompt(text="<think>")).thought is None
    assert encoders.of(Prompt(text="Hi<|im_start|>assistant<think>\n", trusted=True)).thought_is_open


def test_a_refusal_is_looked_for_where_an_answer_begins() -> None:
    for name, thinking, likely in [
        ("qwen3", None, False),
        ("qwen3", True, True),
        ("qwen3", False, False),
        ("deepseek_r1", None, True),
        ("deepseek_r1", False, False),
        ("gpt_oss", None, True),
        ("plain", None, False),
    ]:
        encoder = Encoders(None, ChatTokenizer(name)).of(None, None, None, thinking)
        assert bool(encoder.refusal) is not likely, (name, thinking)


def test_thoughts_of_earlier_turns_are_the_templates_affair() -> None:
    talk = [
        USER,
        {"role": "assistant", "content": "Ada.", "reasoning_content": "hmm"},
        {"role": "user", "content": "Since when?"},
    ]
    for name, is_kept in (("qwen3", False), ("gpt_oss", False), ("kimi_k3", True), ("unheard", True)):
        tokenizer = ChatTokenizer(name)
        encoder = Encoders(None, tokenizer).of(Prompt(talk), None, None, True)
        text = tokenizer.decode([*encoder.prefix, *encoder.suffix("Since when?").ids])
        assert ("hmm" in text) is is_kept, name
        assert "Ada." in text


# Marks in a stream of tokens


MARKS_OF_PIECES = ("<|end|>", "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "[/THINK]", "<|x|>")


class Pieces:
    """A tokenizer whose tokens are the given bytes."""

    specials = frozenset(MARKS_OF_PIECES)

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = list(pieces)

    def decode(self, ids: Sequence[int], *, skip_specials: bool = False) -> str:
        parts = [self.pieces[i] for i in ids]
        if skip_specials:
            parts = [b"" if part.decode(errors="replace") in self.specials else part for part in parts]
        return b"".join(parts).decode(errors="replace")


def read(pieces: Sequence[bytes], form: ThoughtFormat, *, is_open: bool = False) -> tuple[str, str]:
    """(thought, text) of a turn in these tokens."""
    tokenizer: Any = Pieces(pieces)
    reader = ThoughtReader(tokenizer, form, is_open=is_open, budget=10**6, mark_tokens=200)
    builder, waiting, thoughts = TextBuilder(tokenizer), list[int](), list[str]()
    for token in range(len(pieces)):
        share = reader.push(token)
        waiting.append(token)
        for place, answered in enumerate(waiting[len(waiting) - share.tokens :]):
            builder.push(answered, 0 if place else share.skip)
        waiting = [] if share.tokens else waiting
        thoughts.append(share.thought)
    share = reader.finish()
    for place, answered in enumerate(waiting[len(waiting) - share.tokens :] if share.tokens else []):
        builder.push(answered, 0 if place else share.skip)
    builder.finish()
    thoughts.append(share.thought)
    assert "".join(thoughts) == reader.thought
    return reader.thought, builder.text


def form_of(name: str) -> ThoughtFormat:
    form = thinking_of(ChatTokenizer(name)).format
    assert form is not None
    return form


def cut(text: str, cuts: Sequence[int]) -> list[bytes]:
    """The text's bytes in pieces; a special token stays one."""
    data = text.encode()
    special = [
        range(at + 1, at + len(mark))
        for mark in map(str.encode, MARKS_OF_PIECES)
        for at in range(len(data))
        if data.startswith(mark, at)
    ]
    places = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)} - {i for r in special for i in r})
    # A special token is one by itself.
    for inside in special:
        places = sorted({*places, inside.start - 1, inside.stop})
    return [data[a:b] for a, b in pairwise(places)]


words = st.text(st.sampled_from("ab <>/\n.\U0001f600éthink[]|"), max_size=24)


@settings(max_examples=300)
@given(
    st.sampled_from(["qwen3", "gpt_oss", "magistral", "granite", "glm", "kimi_k3"]),
    words,
    words,
    st.sampled_from(["", "\n", "  "]),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=60),
)
def test_any_split_into_tokens_gives_the_same_thought_and_text(
    name: str, thought: str, answer: str, blanks: str, is_open: bool, cuts: list[int]
) -> None:
    form = form_of(name)
    answer = f"A{answer}"
    is_open = is_open and not form.has_channels
    opening = "" if is_open else blanks + form.opening
    turn = f"{opening}{thought}{form.closing}{answer}"
    # What stands in the turn, found by searching alone.
    said, _, rest = turn.removeprefix(opening).partition(form.closer)
    whole = (
        read([turn.encode()], form, is_open=is_open)
        if not any(special in turn for special in Pieces.specials)
        else None
    )
    found = read(cut(turn, cuts), form, is_open=is_open)
    one_by_one = read(cut(turn, range(len(turn.encode()))), form, is_open=is_open)
    assert found == one_by_one
    assert whole is None or whole == found
    if rest == form.lead + answer:
        assert found == (said.strip(), answer.strip())


@given(words, st.lists(st.integers(0, 100), max_size=30))
def test_a_turn_without_a_thought_is_all_answer(answer: str, cuts: list[int]) -> None:
    answer = f"<b>{answer}"
    thought, text = read(cut(answer, cuts), form_of("qwen3"))
    assert (thought, text) == ("", answer.strip())


@pytest.mark.parametrize(
    ("turn", "thought", "text"),
    [
        ("", "", ""),
        ("\n\n", "", ""),
        ("<thi", "", "<thi"),
        ("<think", "", "<think"),
        ("<thinking>hm", "", "<thinking>hm"),
        ("<think>", "", ""),
        ("<think>\nhm", "hm", ""),
        ("<think>\nhm </thin", "hm </thin", ""),
        ("<think>\n\n</think>\n\nAda", "", "Ada"),
        ("<think></think>Ada", "", "Ada"),
        ("<think>a</think>\n<think>b</think> Ada", "a\n\nb", "Ada"),
        ("Ada <think>hm</think>", "", "Ada <think>hm</think>"),
        ("<think>a<think>b</think>Ada", "a<think>b", "Ada"),
        ("<think>a<|x|>b</think>Ada", "ab", "Ada"),
    ],
)
def test_turns_with_tags(turn: str, thought: str, text: str) -> None:
    for cuts in (range(0), range(len(turn.encode()))):
        assert read(cut(turn, cuts), form_of("qwen3")) == (thought, text)


@pytest.mark.parametrize(
    ("turn", "thought", "text"),
    [
        ("<|channel|>final<|message|>Ada", "", "Ada"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Ada",
            "a",
            "Ada",
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Ada",
            "a\n\nb",
            "Ada",
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
            "<|constrain|>json<|message|>{}",
            "a",
            "assistantcommentary to=functions.f json{}",
        ),
        ("<|channel|>analysis<|message|>a<|end|>", "a", ""),
        ("Ada", "", "Ada"),
        ("assist", "", "assist"),
        ("assistance", "", "assistance"),
    ],
)
def test_turns_in_channels(turn: str, thought: str, text: str) -> None:
    for cuts in (range(0), range(len(turn.encode()))):
        assert read(cut(turn, cuts), form_of("gpt_oss")) == (thought, text)


@pytest.mark.parametrize(
    "turn",
    [
        " to=functions.find<|channel|>commentary json<|message|>",
        "<|channel|>commentary to=functions.find <|constrain|>json<|message|>",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant to=functions.find<|channel|>commentary json"
        "<|message|>",
    ],
)
def test_a_call_in_a_channel_is_a_call(turn: str) -> None:
    text = read(cut(f'{turn}{{"who": "Ada"}}', range(200)), form_of("gpt_oss"))[1]
    reader = ToolCallReader(["find", "fin"])
    shown = "".join(map(reader.push, text))
    rest, calls, unreadable = reader.finish()
    assert (shown, rest, unreadable) == ("", "", [])
    assert [(call.name, call.arguments) for call in calls] == [("find", {"who": "Ada"})]
    nobody = ToolCallReader(["other"])
    nobody.push(text)
    assert nobody.finish()[2]  # a call that names no tool


def test_a_header_without_an_end_is_text() -> None:
    form = form_of("gpt_oss")
    assert form.head("<|channel|>" + "x" * 100) is None
    assert form.head("<|channel|>" + "x" * 300) == Head(False, 0)


@pytest.mark.parametrize("make", [byte_tokenizer, bos_tokenizer])
@pytest.mark.parametrize("marks", [(), ("<think>", "</think>")])
def test_tokenizers_of_transformers(make: Any, marks: tuple[str, ...]) -> None:
    """Marks as text, and as added tokens that are not special, as Qwen3 has them."""
    native = make(chat=TEMPLATES["qwen3"])
    native.add_tokens([AddedToken(mark, special=False) for mark in marks])
    tokenizer = TransformersTokenizer(native)
    form = thinking_of(tokenizer).format
    assert form == form_of("qwen3")
    ids = tokenizer.encode("<think>\nWho is it? </b>\n</think>\n\nThe ferry.\n")
    assert not marks or len(ids) < 40
    reader, builder = ThoughtReader(tokenizer, form, budget=99, mark_tokens=40), TextBuilder(tokenizer)
    waiting: list[int] = []
    for token in ids:
        share = reader.push(token)
        waiting.append(token)
        for place, answered in enumerate(waiting[len(waiting) - share.tokens :]):
            builder.push(answered, 0 if place else share.skip)
        waiting = [] if share.tokens else waiting
    builder.finish()
    assert (reader.thought, builder.text) == ("Who is it? </b>", "The ferry.")


# Whole answers


@pytest.mark.parametrize("name", THINKERS)
def test_a_thought_is_kept_apart(name: str) -> None:
    nbce, _ = make_thinker(name, THOUGHT)
    answer, pieces = ask(nbce, thinking=True)
    assert (answer.text, answer.thought, answer.finish_reason) == ("Ada.", THOUGHT, "stop")
    assert answer.warnings == ()
    first = next(place for place, piece in enumerate(pieces) if piece.text)
    assert not any(piece.thought for piece in pieces[first + 1 :])
    assert not any(piece.tokens for piece in pieces[:first])
    usage = answer.usage
    assert usage.thought_tokens > len(THOUGHT.encode())
    assert usage.generated_tokens >= usage.thought_tokens + len("Ada.")


@pytest.mark.parametrize("name", SILENT)
def test_a_thought_that_comes_all_the_same_is_kept_apart_too(name: str) -> None:
    nbce, model = make_thinker(name, "hm?")
    answer, _ = ask(nbce)
    assert answer.text == "Ada."
    # The model that thinks whatever the template says.
    thinker: Any = model.table
    form = thinker.form

    def stubborn(ids: Any) -> Any:
        text = model.tokenizer.decode(ids)
        end = model.tokenizer.decode([*nbce._engine.encoders.of().suffix(QUESTION).ids])
        said = text.partition(end)[2]
        wanted = f"{form.opening}hm?{form.closing}Ada."
        ids = [*model.tokenizer.encode(wanted), model.tokenizer.eos]
        token = ids[min(len(model.tokenizer.encode(said)), len(ids) - 1)]
        p = torch.full((model.vocab_size,), 1e-4)
        p[token] = 1 - 1e-4 * (model.vocab_size - 1)
        return p.log()

    model.table = stubborn
    if not nbce._engine.encoders.of().thought_is_open:
        answer, _ = ask(nbce)
        assert (answer.text, answer.thought) == ("Ada.", "hm?")


@pytest.mark.parametrize("name", THINKERS)
def test_false_is_no_thought(name: str) -> None:
    nbce, _ = make_thinker(name, THOUGHT)
    answer, _ = ask(nbce, thinking=False)
    assert (answer.text, answer.thought) == ("Ada.", "")


@pytest.mark.parametrize("name", THINKERS)
@pytest.mark.parametrize("most", [0, 1, 5])
def test_a_thought_without_end_is_closed_when_its_budget_is_spent(name: str, most: int) -> None:
    nbce, _ = make_thinker(name, "hm. " * 500)
    answer, _ = ask(nbce, thinking=True, max_thought_tokens=most, max_tokens=4)
    assert answer.text == "Ada."
    assert ("hm. " * 500).startswith(answer.thought)
    assert len(answer.thought) <= most <= len(answer.thought) + 2
    assert "max_thought_tokens" in " ".join(answer.warnings)
    # The rows hold the template's own mark, as if the model had closed it.
    assert answer.finish_reason in ("stop", "length")
    assert answer.usage.generated_tokens <= answer.usage.thought_tokens + 6


def test_max_tokens_counts_the_answer_alone() -> None:
    nbce, _ = make_thinker("qwen3", THOUGHT * 5, "Ada runs it.")
    answer, _ = ask(nbce, thinking=True, max_tokens=3)
    assert (answer.text, answer.finish_reason) == ("Ada", "length")
    assert answer.thought == (THOUGHT * 5)
    assert answer.usage.generated_tokens == answer.usage.thought_tokens + 3


def test_an_end_in_the_middle_of_a_thought_ends_the_thought() -> None:
    nbce, model = make_thinker("gpt_oss", "hm")
    thinker: Any = model.table
    closer = thinker.form.closer
    token = thinker._token

    def ending(said: str, wanted: str, lead: str = "") -> int:
        chosen: int = token(said, wanted, lead)
        is_end = chosen == model.tokenizer.encode(closer)[0]
        return int(model.tokenizer.eos) if is_end else chosen

    thinker._token = ending
    answer, _ = ask(nbce)
    assert (answer.text, answer.thought, answer.finish_reason) == ("Ada.", "hm", "stop")
    assert answer.warnings == ()


def test_what_ends_or_bars_an_answer_does_not_meet_the_thought() -> None:
    nbce, _ = make_thinker("deepseek_r1", "Ada. stop aa aa aa Bo", "Ada stop Bo")
    answer, _ = ask(nbce, stop=["stop"])
    assert (answer.text, answer.thought) == ("Ada", "Ada. stop aa aa aa Bo")
    answer, _ = ask(nbce, bad_words=["Ada"])
    assert answer.thought == "Ada. stop aa aa aa Bo"
    assert "Ada" not in answer.text


def test_nothing_is_cited_for_a_thought() -> None:
    nbce, _ = make_thinker("qwen3", "Ada runs the ferry.", "Ada.")
    answer, _ = ask(nbce, thinking=True)
    assert all(citation.end <= len("Ada.") for citation in answer.citations)
    assert len(answer.tokens) == len("Ada.")
    assert "".join(token.text for token in answer.tokens) == "Ada."


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1", "gpt_oss", "magistral", "granite"])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_grammar_begins_behind_the_thought(name: str, thinking: bool | None) -> None:
    pytest.importorskip("llguidance")
    nbce, _ = make_thinker(name, THOUGHT, '{"name":"Ada"}')
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    answer, _ = ask(nbce, thinking=thinking, json_schema=schema)
    assert json.loads(answer.text) == {"name": "Ada"}
    thinks = thinking is True or (thinking is None and name in ("deepseek_r1", "gpt_oss", "magistral"))
    assert answer.thought == (THOUGHT if thinks else "")
    cut_off, _ = ask(nbce, thinking=True, max_thought_tokens=3, regex="Ada|Bo")
    assert cut_off.text in ("Ada", "Bo")
    assert cut_off.thought in ("Wh", "Who")


def test_several_questions_think_apart() -> None:
    nbce, _ = make_thinker("qwen3", THOUGHT)
    requests = [
        nbce.request(QUESTION, PASSAGE_TEXTS, thinking=thinking, max_thought_tokens=most)
        for thinking, most in ((True, None), (None, None), (True, 3), (False, None))
    ]
    answers = nbce.batch(requests)
    assert [answer.text for answer in answers] == ["Ada."] * 4
    assert [answer.thought for answer in answers] == [THOUGHT, "", "Wh", ""]


def test_a_thought_stays_when_the_answer_is_withheld() -> None:
    nbce, _ = make_thinker("qwen3", "hm")
    answer, pieces = ask(nbce, thinking=True, abstain_below=100.0)
    assert answer.finish_reason == "no_evidence"
    assert answer.thought == "hm"
    assert len(pieces) == 1


def test_choices_are_scored_without_a_thought() -> None:
    for name in ("deepseek_r1", "qwen3", "gpt_oss"):
        nbce, _ = make_thinker(name, THOUGHT)
        scores = nbce.score(QUESTION, PASSAGE_TEXTS, ["Ada.", "Bob."])
        assert scores.best == "Ada."
        assert scores.per_token[0] > -0.5, name


def test_passages_are_read_ahead_in_the_words_of_the_questions() -> None:
    nbce, _ = make_thinker("smollm3", THOUGHT)
    for thinking in (None, True):
        assert nbce.prefill(PASSAGE_TEXTS, thinking=thinking).read > 0
        assert nbce.answer(QUESTION, PASSAGE_TEXTS, thinking=thinking).usage.cached_tokens > 0


# Room


def test_budgets() -> None:
    def budget(name: str, window: int = 100_000, **options: Any) -> int:
        chosen = Options(**options)
        encoder = Encoders(None, ChatTokenizer(name)).of(
            None, chosen.chat_template_kwargs, None, chosen.thinking
        )
        return thought_budget(encoder, chosen, window)

    assert budget("qwen3") == 32
    assert budget("qwen3", thinking=True) == 1024
    assert budget("qwen3", chat_template_kwargs={"enable_thinking": True}) == 1024
    assert budget("qwen3", thinking=True, chat_template_kwargs={"enable_thinking": False}) == 32
    assert budget("qwen3", thinking=True, window=400) == 100
    assert budget("qwen3", thinking=True, max_thought_tokens=7) == 7
    assert budget("qwen3", thinking=False, max_thought_tokens=7) == 0
    assert budget("deepseek_r1") == budget("gpt_oss") == 1024
    talk = Prompt(text="Hi<|im_start|>assistant\n<think>\n", trusted=True)
    assert thought_budget(Encoders(None, ChatTokenizer("qwen3")).of(talk), Options(), 10**5) == 1024
    assert budget("plain") == budget("plain", max_thought_tokens=7) == 0


def test_a_thought_takes_room_beside_the_answer() -> None:
    nbce, _ = make_thinker("deepseek_r1", THOUGHT)
    with pytest.raises(ContextLengthError, match=r"with its thought .* max_thought_tokens"):
        nbce.answer(QUESTION, PASSAGE_TEXTS, max_thought_tokens=5000)
    request = nbce.request(QUESTION, PASSAGE_TEXTS, max_thought_tokens=100, max_tokens=10)
    more = nbce.request(QUESTION, PASSAGE_TEXTS, max_thought_tokens=200, max_tokens=10)
    assert nbce.window_needed(more) == nbce.window_needed(request) + 100
    plain, _ = make_thinker("plain")
    with pytest.raises(ContextLengthError) as error:
        plain.answer(QUESTION, PASSAGE_TEXTS, max_tokens=5000)
    assert "thought" not in str(error.value)


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1", "gpt_oss", "magistral", "granite"])
@pytest.mark.parametrize("thinking", [None, True, False])
def test_whatever_a_model_says_it_fits_into_its_rows(name: str, thinking: bool | None) -> None:
    """Marks at random, in all orders, until the turn ends or the answer is full."""
    tokenizer = ChatTokenizer(name)
    form = form_of(name)
    words = [form.opening, form.closer, form.closing, form.opening.strip(), "\n", " ", "a", "<", "<|start|>"]
    eos = frozenset({tokenizer.eos})
    for seed in range(60):
        chance = random.Random(seed)
        options = Options(max_tokens=5, thinking=thinking, max_thought_tokens=chance.choice([None, 0, 3, 20]))
        encoder = Encoders(None, tokenizer).of(None, None, None, thinking)
        sampler = turn_sampler(encoder, options, 200, tokenizer, eos)
        spoken: list[int] = []
        answered = 0
        while answered < options.max_tokens:
            spoken = spoken or list(tokenizer.encode(chance.choice(words)))
            scores = torch.zeros(tokenizer.size)
            scores[spoken.pop(0) if chance.random() < 0.98 else tokenizer.eos] = 1.0
            if sampler.choose(scores) in eos:
                break
            answered += sampler.shares.popleft().tokens
        room = thought_room(encoder, options, 200)
        assert len(sampler.ids) <= room + options.max_tokens + 1, (seed, len(sampler.ids), room)


def test_what_a_model_cannot_do_is_said() -> None:
    nbce, model = make_thinker("plain")
    with pytest.raises(InputError, match="no switch and no marks"):
        nbce.answer(QUESTION, PASSAGE_TEXTS, thinking=True)
    with pytest.raises(InputError, match="no switch and no marks"):
        NBCE(model, thinking=True)
    assert nbce.answer(QUESTION, PASSAGE_TEXTS, thinking=False).text == "Ada."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("thinking", value) for value in (1, 0, "on", [True])],
        *[("max_thought_tokens", value) for value in (-1, 1.5, True, "many", float("nan"))],
    ],
)
def test_wrong_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name}="):
        Options(**{name: value})
