"""Text before, between and after passages: one rule, the same rows through both adapters and without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.base.llms.types import CitableBlock, TextBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import NodeWithScore, TextNode

from langchain_nbce import NBCELLM as LangChainLLM
from langchain_nbce import ChatNBCE
from llama_index_nbce import NBCELLM
from nbce_rag.decoding.plan import plan_rows
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.passages import Passage
from nbce_rag.prompts.binding import bind
from nbce_rag.prompts.conversation import Turn, resolve
from nbce_rag.prompts.marks import format_passage
from nbce_rag.prompts.prompt import Prompt
from nbce_rag.request import Request

CAT = Passage("Cats purr all day long and sleep at night.", id="cat")
DOG = Passage("Dogs bark at whoever comes to the front door.", id="dog", title="On dogs")
EMPTY = Passage(" \n", id="empty")
ASKED = "Who barks?"


@dataclass(frozen=True)
class Case:
    """Turns, passages given beside them, and the text of each row, `Row 0` first, without the frame."""

    turns: Sequence[tuple[str, Sequence[str | Passage]]]
    rows: Sequence[str]
    contexts: Sequence[Passage] | None = None


C, D = f"{CAT.text}\n\n", f"{DOG.title}\n{DOG.text}\n\n"


def user(*parts: str | Passage) -> list[tuple[str, Sequence[str | Passage]]]:
    return [("user", parts)]


def framed(*turns: tuple[str, str]) -> str:
    lines = "".join(f"<|{role}|>\n{text}</s>\n" for role, text in turns)
    return f"<s>{lines}<|assistant|>\n"


CASES = {
    "before the question": Case(user(CAT, DOG, ASKED), [ASKED, C + ASKED, D + ASKED]),
    "text before and after": Case(
        user("Read:\n", CAT, "\n\n", DOG, f"\n\n{ASKED}"),
        [f"Read:\n{ASKED}", f"Read:\n{C}{ASKED}", f"Read:\n{D}{ASKED}"],
    ),
    "marks in a text": Case(
        user(f"Read:\n{format_passage(CAT)}\n\n{format_passage(DOG)}\n\n{ASKED}"),
        [f"Read:\n{ASKED}", f"Read:\n{C}{ASKED}", f"Read:\n{D}{ASKED}"],
    ),
    "only rules between": Case(
        user("Read:\n", CAT, "\n---\n\n", DOG, f"\n\n{ASKED}"),
        [f"Read:\n{ASKED}", f"Read:\n{C}{ASKED}", f"Read:\n{D}{ASKED}"],
    ),
    "a label over each": Case(
        user("Source 1:\n", CAT, "\n\nSource 2, from 1999:\n", DOG, f"\n\n{ASKED}"),
        [
            f"Source 1:\nSource 2, from 1999:\n{ASKED}",
            f"Source 1:\n{C}Source 2, from 1999:\n{ASKED}",
            f"Source 1:\nSource 2, from 1999:\n{D}{ASKED}",
        ],
    ),
    "labels in Chinese": Case(
        user("一:", CAT, "二:", DOG, ASKED),
        [f"一:二:{ASKED}", f"一:{C}二:{ASKED}", f"一:二:{D}{ASKED}"],
    ),
    "labels and marks": Case(
        user(f"[1] {format_passage(CAT)}\n[2] {format_passage(DOG)}\n\n{ASKED}"),
        [f"[1] [2] {ASKED}", f"[1] {C}[2] {ASKED}", f"[1] [2] {D}{ASKED}"],
    ),
    "after the question": Case(
        user(f"{ASKED}\n\n", CAT, "\n\n", DOG), [f"{ASKED}\n\n", f"{ASKED}\n\n{C}", f"{ASKED}\n\n{D}"]
    ),
    "a repetition and an empty one": Case(
        user("Read:\n", CAT, "\n", EMPTY, "\n", CAT, "\n", DOG, f"\n\n{ASKED}"),
        [f"Read:\n{ASKED}", f"Read:\n{C}{ASKED}", f"Read:\n{D}{ASKED}"],
    ),
    "one only": Case(user("Read ", CAT, f" now. {ASKED}"), [f"Read  now. {ASKED}", f"Read {C} now. {ASKED}"]),
    "none": Case(user(ASKED), [ASKED]),
    "given beside, without a place": Case(user(ASKED), [ASKED, C + ASKED, D + ASKED], [CAT, DOG]),
    "given beside, at the mark": Case(
        user(f"Read:\n{PASSAGES}\n\n{ASKED}"),
        [f"Read:\n{ASKED}", f"Read:\n{C}{ASKED}", f"Read:\n{D}{ASKED}"],
        [CAT, DOG],
    ),
    "given beside, pasted": Case(
        user(f"Read:\n{CAT.text}\n\n{DOG.text}\n\n{ASKED}"),
        [f"Read:\n{ASKED}", f"Read:\n{C}{ASKED}", f"Read:\n{D}{ASKED}"],
        [CAT, DOG],
    ),
    "given beside, pasted under labels": Case(
        user(f"A: {CAT.text}\nB: {DOG.text}\n\n{ASKED}"),
        [f"A: B: {ASKED}", f"A: {C}B: {ASKED}", f"A: B: {D}{ASKED}"],
        [CAT, DOG],
    ),
    "given beside, pasted in another order": Case(
        user(f"A: {CAT.text}\nB: {DOG.text}\n\n{ASKED}"),
        [f"A: B: {ASKED}", f"A: {D}B: {ASKED}", f"A: {C}B: {ASKED}"],
        [DOG, CAT],
    ),
    "given beside, others in the text": Case(
        user("Read:\n", CAT, f"\n\n{ASKED}"), [f"Read:\n{ASKED}", f"Read:\n{D}{ASKED}"], [DOG]
    ),
}
CONVERSATIONS = {
    "system and user": Case(
        [("system", ["Read: ", CAT]), ("user", [DOG, "\n", ASKED])],
        [
            framed(("system", "Read: "), ("user", ASKED)),
            framed(("system", f"Read: {C}"), ("user", ASKED)),
            framed(("system", "Read: "), ("user", D + ASKED)),
        ],
    ),
    "the result of a tool": Case(
        [("user", [ASKED]), ("assistant", ["I look."]), ("tool", [CAT, "\n\n", DOG])],
        [
            framed(("user", ASKED), ("assistant", "I look."), ("tool", "")),
            framed(("user", ASKED), ("assistant", "I look."), ("tool", C)),
            framed(("user", ASKED), ("assistant", "I look."), ("tool", D)),
        ],
    ),
    "results of two tools": Case(
        [
            ("user", [ASKED]),
            ("assistant", ["First."]),
            ("tool", [CAT]),
            ("assistant", ["Then."]),
            ("tool", [DOG]),
        ],
        [
            framed(("user", ASKED), ("assistant", "First."), ("tool", t), ("assistant", "Then."), ("tool", u))
            for t, u in (("", ""), (C, ""), ("", D))
        ],
    ),
    "an earlier turn": Case(
        [("user", [CAT, "Old?"]), ("assistant", ["Yes."]), ("user", [DOG, ASKED])],
        [
            framed(("user", "Old?"), ("assistant", "Yes."), ("user", ASKED)),
            framed(("user", "Old?"), ("assistant", "Yes."), ("user", D + ASKED)),
        ],
    ),
}


def rows(nbce: NBCE, request: Request) -> list[str]:
    """The text of each row of a request."""
    assert request.prompt is not None
    encoder = bind(request.prompt, nbce.prompt, nbce.model.tokenizer)
    plan = plan_rows(encoder, request.question, request.passages, request.options, nbce.model.window)
    return [nbce.model.tokenizer.decode([*row.context, *plan.suffix.ids]) for row in plan.rows]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach an engine from now on."""
    requests: list[Request] = []
    stream_batch = NBCE.stream_batch

    def spy(nbce: NBCE, batch: Any) -> Any:
        requests.extend(batch)
        return stream_batch(nbce, batch)

    monkeypatch.setattr(NBCE, "stream_batch", spy)
    return requests


def langchain_messages(case: Case) -> list[Any]:
    """Parts as content blocks, a lone text as a string."""
    kinds: dict[str, Any] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
    messages = []
    for role, parts in case.turns:
        blocks = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "text-plain", "text": part.text, "title": part.title, "extras": {"id": part.id}}
            for part in parts
        ]
        content: Any = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else blocks
        if role == "tool":
            messages.append(ToolMessage(content, tool_call_id="1"))
        else:
            messages.append(kinds[role](content))
    return messages


def llama_messages(case: Case) -> list[ChatMessage]:
    return [
        ChatMessage(
            role=role,
            blocks=[
                TextBlock(text=part)
                if isinstance(part, str)
                else CitableBlock(title=part.title or "", source=part.id, content=[TextBlock(text=part.text)])
                for part in parts
            ],
        )
        for role, parts in case.turns
    ]


def beside(case: Case) -> dict[str, Any]:
    return {} if case.contexts is None else {"contexts": list(case.contexts)}


def nodes(case: Case) -> list[Any] | None:
    if case.contexts is None:
        return None
    made = []
    for passage in case.contexts:
        node = TextNode(id_=passage.id, text=passage.text, metadata={"title": passage.title})
        node.excluded_llm_metadata_keys = ["title"]
        made.append(NodeWithScore(node=node))
    return made


@pytest.mark.parametrize("name", [*CASES, *CONVERSATIONS])
def test_one_rule_for_all(name: str, make_nbce: Callable[..., NBCE], asked: list[Request]) -> None:
    case = CASES.get(name) or CONVERSATIONS[name]
    nbce = make_nbce(chat=True, max_tokens=1)
    expected = [row if name in CONVERSATIONS else framed(("user", row)) for row in case.rows]

    talk = resolve([Turn(role, parts) for role, parts in case.turns], case.contexts)
    roles = [role for role, _ in case.turns]
    messages = [{"role": role, "content": text} for role, text in zip(roles, talk.texts, strict=True)]
    plain = Request(talk.question, talk.passages, nbce.options, Prompt(messages))
    assert rows(nbce, plain) == expected

    ChatNBCE(engine=nbce).invoke(langchain_messages(case), **beside(case))
    NBCELLM(engine=nbce).chat(llama_messages(case), contexts=nodes(case))
    assert len(asked) == 2
    for request in asked:
        assert rows(nbce, request) == expected
        assert [p.id for p in request.passages] == [p.id for p in talk.passages]
        assert request.question == talk.question


@pytest.mark.parametrize("name", CASES)
def test_one_rule_for_plain_prompts(name: str, make_nbce: Callable[..., NBCE], asked: list[Request]) -> None:
    """Models without a chat template, which go on from the text as it stands."""
    case = CASES[name]
    nbce = make_nbce(max_tokens=1)
    (_, parts), *_ = case.turns
    text = "".join(part if isinstance(part, str) else format_passage(part) for part in parts)
    end = "\n" if name == "after the question" else ""  # a row goes on from a token of its own
    LangChainLLM(engine=nbce).invoke(text, **beside(case))
    NBCELLM(engine=nbce).complete(text, contexts=nodes(case))
    assert len(asked) == 2
    for request in asked:
        assert rows(nbce, request) == [f"<s>{row}{end}" for row in case.rows]


def test_labels_go_with_their_passages_where_these_share_a_row(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(chat=True, passages_per_row=2)
    case = CASES["a label over each"]
    talk = resolve([Turn(role, parts) for role, parts in case.turns])
    prompt = Prompt([{"role": "user", "content": talk.texts[0]}])
    request = Request(talk.question, talk.passages, nbce.options, prompt)
    both = f"Source 1:\n{C}Source 2, from 1999:\n{D}{ASKED}"
    assert rows(nbce, request) == [framed(("user", text)) for text in (case.rows[0], both)]


@pytest.mark.parametrize("adapter", [ChatNBCE, NBCELLM])
def test_what_a_chat_template_may_look_at(
    adapter: Any, make_nbce: Callable[..., NBCE], asked: list[Request]
) -> None:
    """A default of the engine, a field of the model, and an argument of each call, the last one first."""

    def ask(model: Any, **call: Any) -> Any:
        messages = [("user", ASKED)] if adapter is ChatNBCE else [ChatMessage(role="user", content=ASKED)]
        (model.invoke if adapter is ChatNBCE else model.chat)(messages, **call)
        return asked[-1].options.chat_template_kwargs

    on, off = {"enable_thinking": True}, {"enable_thinking": False}
    plain = adapter(engine=make_nbce(chat=True, max_tokens=1))
    assert ask(plain) is None
    assert ask(plain, chat_template_kwargs=off) == off
    field = adapter(engine=make_nbce(chat=True, max_tokens=1), chat_template_kwargs=off)
    assert ask(field) == off
    assert ask(field, chat_template_kwargs=on) == on
    assert ask(field, chat_template_kwargs={}) == {}
    assert ask(adapter(engine=make_nbce(chat=True, max_tokens=1, chat_template_kwargs=on))) == on
    with pytest.raises(InputError, match="must not hold messages"):
        ask(plain, chat_template_kwargs={"messages": []})
