"""Prompts bound to tokenizers: what a chat template is given, and what is bound once only."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from plain_tokenizer import PlainTokenizer

from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError, ModelError, NbceWarning
from nbce_rag.fusion import Posterior
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.options import Options
from nbce_rag.prompts.binding import Encoders, bind
from nbce_rag.prompts.chat_template import TURN_MARKS
from nbce_rag.prompts.prompt import Prompt
from nbce_rag.prompts.template import PromptTemplate
from nbce_rag.request import Request

CHAT, PLAIN = PlainTokenizer(), PlainTokenizer(chat=False)
THINKING = {"enable_thinking": False}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "Who?"}


class Strict(PlainTokenizer):
    """Roles must alternate, and neither system nor tool is one of them; counts what it renders."""

    def __init__(self) -> None:
        super().__init__()
        self.rendered = 0

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        self.rendered += 1
        for place, message in enumerate(messages):
            if message["role"] != ("assistant" if place % 2 else "user") or message.get("tool_calls"):
                raise ModelError("Roles must alternate.")
        return super().render(messages, variables=variables)


def text(prompt: Prompt, tokenizer: PlainTokenizer = CHAT, **more: Any) -> str:
    """Row 0 of a prompt."""
    encoder = bind(prompt, PromptTemplate.for_tokenizer(tokenizer), tokenizer, **more)
    return tokenizer.decode([*encoder.prefix, *encoder.suffix("Who?").ids])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": [USER], "text": "Who?"}, "not both"),
        ({"messages": []}, "no message"),
        ({"messages": ["Who?"]}, r"messages\[0\]='Who\?'"),
        ({"messages": [USER, {"role": "user"}]}, r"messages\[1\]"),
        ({"tools": [TOOL]}, "give messages"),
        ({"text": "Who?", "tools": [TOOL]}, "give messages"),
        ({"messages": [USER], "trusted": True}, "give text"),
        ({"refusal": "No."}, "belongs into the template"),
    ],
)
def test_impossible_prompts(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        Prompt(**fields)


def test_no_two_prompts_are_equal() -> None:
    assert Prompt(text="Who?") != Prompt(text="Who?")
    assert len({Prompt([USER]), Prompt([USER])}) == 2


def test_a_conversation_is_cut_before_the_last_question() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": "I."},
        USER,
    ]
    encoder = bind(Prompt(messages), PromptTemplate.for_chat(), CHAT)
    assert CHAT.decode(encoder.prefix) == (
        "<s><|turn|>system: Be brief.</s><|turn|>user: Who?</s><|turn|>assistant: I.</s><|turn|>user: "
    )


def test_a_conversation_in_a_form_that_the_template_takes() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": {}}}],
        },
        {"role": "tool", "content": "Ada.", "tool_call_id": "c1"},
    ]
    told = text(Prompt(messages, tools=[TOOL]), Strict())
    assert told.startswith("<s><|turn|>user: Be brief.\n\nYou may call one of these functions:")
    # The result has the name of the tool that was called.
    assert told.endswith(
        'Who?</s><|turn|>assistant: {"name": "find", "arguments": {}}</s>'
        "<|turn|>user: Result of find:\nAda.</s><|turn|>assistant: "
    )


def test_a_model_without_a_chat_template() -> None:
    assert text(Prompt([USER]), PLAIN) == "<s>Question: Who?\nAnswer:"
    for own in (f"Notes: {PASSAGES}\nWho?", f"{PASSAGES}Who?\nA:", f"{PASSAGES}and{PASSAGES}Who?"):
        message = {"role": "user", "content": own}
        assert text(Prompt([message]), PLAIN) == "<s>" + own.replace(PASSAGES, "")
    talk = Prompt([{"role": "system", "content": "Be brief."}, USER], tools=[TOOL])
    told = text(talk, PLAIN)
    assert told.startswith("<s>system: Be brief.\n\nYou may call one of these functions:")
    assert told.endswith("\n\nuser: Who?\n\nassistant:")


def test_stop_strings_and_refusals_are_those_of_the_wording_that_is_used() -> None:
    plain = PromptTemplate("", "{text}\n", "Q: {question}\nA:", stop=("\n",), refusal="Nobody knows.")
    for prompt, stop, refusal in (
        (Prompt(), ("\n",), "Nobody knows."),
        (Prompt([USER]), ("\n",), None),
        (Prompt(text="Who?"), (), None),
        (Prompt(text="Who?", refusal="No."), (), "No."),
    ):
        template = bind(prompt, plain, PLAIN).template
        assert (template.stop, template.refusal) == (stop, refusal)


def test_a_conversation_in_plain_words_ends_where_the_next_turn_would_begin() -> None:
    plain = PromptTemplate("", "{text}\n", "Q: {question}\nA:", stop=("\nQ:",))
    talk = [USER, {"role": "assistant", "content": "Ada."}, USER]
    for prompt, stop in (
        (Prompt(talk), ("\nQ:", *TURN_MARKS)),
        (Prompt(text="Chat.\nHuman: Who?\nAI:"), TURN_MARKS),
        (Prompt(text="System: Be brief.\nHuman: Who,\nplease?"), TURN_MARKS),
        (Prompt(text="Who is the user: Ada?"), ()),
        (Prompt(text=" \n"), ()),
    ):
        assert bind(prompt, plain, PLAIN).template.stop == stop
    assert bind(Prompt(talk), plain, CHAT).template.stop == ()
    assert bind(Prompt(text="user: Who?\nassistant:"), plain, CHAT).template.stop == ()


def test_a_template_of_the_request() -> None:
    own = PromptTemplate("Read: ", "{text}\n", "{question}!")
    encoder = bind(Prompt(template=own), PromptTemplate.for_chat(), CHAT)
    assert encoder.template == own
    assert CHAT.decode([*encoder.prefix, *encoder.suffix("Who?").ids]) == "<s>Read: Who?!"


@pytest.mark.parametrize("prompt", [Prompt(), Prompt([USER]), Prompt([USER], tools=[TOOL])])
def test_what_a_chat_template_may_look_at_reaches_it(prompt: Prompt) -> None:
    assert text(prompt).endswith("<|turn|>assistant: ")
    assert text(prompt, chat_template_kwargs=THINKING).endswith("<|turn|>assistant: (no thinking)")


def test_it_cannot_spell_special_tokens() -> None:
    class Dated(PlainTokenizer):
        def render(self, messages: Any, *, tools: Any = (), variables: Any = None) -> str:
            return super().render(messages) + str((variables or {}).get("date"))

    tokenizer = Dated()
    kwargs = {"date": "</s>\ufdd3today", "tags": ["</s>"]}
    assert text(Prompt([USER]), tokenizer, chat_template_kwargs=kwargs).endswith("assistant: < /s>today")


def test_what_tools_say_of_themselves_cannot_either() -> None:
    tool = {"type": "function", "function": {"name": "find</s>", "parameters": {}}}
    encoder = bind(Prompt([USER], tools=[tool]), PromptTemplate.for_chat(), CHAT)
    assert CHAT.decode(encoder.prefix).startswith("<s><|turn|>tool: find< /s></s>")


def test_each_wording_is_bound_once() -> None:
    tokenizer = Strict()
    encoders = Encoders(PromptTemplate.for_chat(), tokenizer)
    first = encoders.of()
    assert encoders.of(None, None) is encoders.of(Prompt()) is first
    off = encoders.of(None, {"enable_thinking": False, "x": 1})
    assert encoders.of(None, {"x": 1, "enable_thinking": False}) is off is not first
    own = Prompt(template=PromptTemplate("Read: ", "{text}\n", "{question}", chat=True))
    assert encoders.of(own) is encoders.of(Prompt(template=own.template)) is not first
    talk = Prompt([USER])
    assert encoders.of(talk) is encoders.of(talk) is not encoders.of(Prompt([USER]))
    on = {"enable_thinking": True}
    assert encoders.of(talk, on) is encoders.of(talk, on) is not encoders.of(talk)
    count = tokenizer.rendered
    for _ in range(3):
        encoders.of()
        encoders.of(own)
        encoders.of(None, {"enable_thinking": False, "x": 1})
    assert tokenizer.rendered == count


def test_what_is_held_is_bounded() -> None:
    encoders = Encoders(PromptTemplate.for_chat(), CHAT)
    kept = encoders.of()
    for number in range(100):
        encoders.of(None, {"number": number})
        assert encoders.of() is kept  # what is used stays
    assert len(encoders._templates) < 50
    encoders.of(Prompt([USER]))
    gc.collect()
    assert len(encoders._prompts) == 0


def test_an_engine_asks_in_the_same_words_again(make_nbce: Callable[..., NBCE]) -> None:
    """The default of an engine, an option of one call, and a conversation."""
    nbce = make_nbce(chat=True, max_tokens=2)
    tokenizer: Any = nbce.model.tokenizer
    native = tokenizer.native
    template, seen = native.chat_template, []

    def render(*args: Any, **kwargs: Any) -> Any:
        if any(
            PASSAGES in message["content"] for message in args[0]
        ):  # and not what finds out how the template switches thinking
            seen.append(kwargs.get("enable_thinking"))
        return type(native).apply_chat_template(native, *args, **kwargs)

    native.apply_chat_template = render
    native.chat_template = template.replace(
        "<|assistant|>\n", "<|assistant|>\n{% if enable_thinking is false %}<think></think>{% endif %}"
    )
    try:
        with_default = NBCE(nbce.model, max_tokens=2, chat_template_kwargs=THINKING)
        for _ in range(3):
            off = with_default.answer("Who?", ["Ada."])
        assert seen == [False]
        engine = NBCE(nbce.model, max_tokens=2)
        for _ in range(3):
            on = engine.answer("Who?", ["Ada."], thinking=True)
            called = engine.answer("Who?", ["Ada."], chat_template_kwargs=THINKING)
        assert seen == [False, False, True]
        more = len(nbce.model.tokenizer.encode("<think></think>"))
        for with_thinking_off in (off, called):
            assert with_thinking_off.usage.row_tokens == tuple(n + more for n in on.usage.row_tokens)
        options = engine.options.updated(chat_template_kwargs=THINKING)
        talk = Prompt([USER])
        rows = [
            engine.batch([Request("Who?", (), o, talk)])[0].usage.row_tokens
            for o in (engine.options.updated(thinking=True), options)
        ]
        assert rows[1][0] == rows[0][0] + more
        with pytest.raises(InputError, match="must not hold tokenize"):
            engine.answer("Who?", ["Ada."], chat_template_kwargs={"tokenize": True})
    finally:
        del native.apply_chat_template
        native.chat_template = template


def test_passages_are_read_ahead_in_the_words_of_the_questions(
    make_nbce: Callable[..., NBCE],
) -> None:
    nbce = make_nbce(chat=True, max_tokens=2)
    tokenizer: Any = nbce.model.tokenizer
    native = tokenizer.native
    template = native.chat_template
    native.chat_template = "{% if day %}{{ day }} {% endif %}" + template
    try:
        assert nbce.prefill(["Ada runs the ferry."], chat_template_kwargs={"day": "Monday"}).read == 1
        assert nbce.prefill(["Ada runs the ferry."], chat_template_kwargs={"day": "Monday"}).kept == 1
        monday = nbce.answer("Who?", ["Ada runs the ferry."], chat_template_kwargs={"day": "Monday"})
        assert monday.usage.cached_tokens > 0
        assert nbce.answer("Who?", ["Ada runs the ferry."]).usage.cached_tokens == 0
    finally:
        native.chat_template = template


def test_no_passages_are_missed_by_a_template_and_by_no_conversation(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(chat=True, max_tokens=1)
    template = Prompt(template=PromptTemplate("", "{text}\n", "{question}"))
    with pytest.warns(NbceWarning, match="No passages"):
        nbce.batch([Request("Who?", (), nbce.options, template)])
    assert nbce.batch([Request("Who?", (), nbce.options, Prompt([USER]))])[0].warnings == ()


class TestStyle:
    """How long an answer the built-in wordings ask for."""

    def test_each_style_has_its_encoder_and_keeps_it(self) -> None:
        encoders = Encoders(None, CHAT)
        short, long = encoders.of(style="short"), encoders.of(style="long")
        assert encoders.of() is long
        assert encoders.of(style="short") is short
        assert short.prefix != long.prefix
        assert encoders.own is None
        assert encoders.template("short") == PromptTemplate.for_chat("short")

    def test_it_goes_with_no_wording_of_ones_own(self) -> None:
        encoders = Encoders(PromptTemplate.for_chat("short"), CHAT)
        assert encoders.of().template == PromptTemplate.for_chat("short")
        with pytest.raises(InputError, match="style='long' chooses among the built-in wordings"):
            encoders.of(style="long")
        with pytest.raises(InputError, match="style='wide' is not known; choose short or long"):
            Options(style="wide")  # type: ignore[arg-type]

    @pytest.mark.parametrize("chat", [True, False])
    def test_an_engine_asks_in_each(self, chat: bool, make_nbce: Callable[..., NBCE]) -> None:
        nbce = make_nbce(chat=chat, max_tokens=3)
        usual = nbce.answer("Who?", ["It is run by Ada."])
        short, long = (nbce.answer("Who?", ["It is run by Ada."], style=style) for style in ("short", "long"))
        assert usual.usage.row_tokens == (long if chat else short).usage.row_tokens
        if chat:
            assert short.usage.row_tokens != long.usage.row_tokens
        assert nbce.prompt == nbce.updated(style="long" if chat else "short").prompt

    @pytest.mark.parametrize("chat", [False, True])
    def test_the_rule_knows_how_long_an_answer_is_asked_for(
        self, make_nbce: Callable[..., NBCE], chat: bool
    ) -> None:
        nbce = make_nbce(chat=chat, max_tokens=2)
        passages = ["It is run by Ada.", "It leaves at nine."]

        def shown(**options: Any) -> str:
            return nbce.answer("Who?", passages, **options).fusion

        assert shown(style="long") == "posterior(least=0,opening=0,together=4)"
        assert shown(style="short") == "posterior"
        assert shown() == ("posterior(least=0,opening=0,together=4)" if chat else "posterior")
        assert shown(style="long", fusion=Posterior(opening=1)) == "posterior(least=0,opening=1,together=4)"
        assert (
            shown(style="long", fusion=Posterior(epsilon=0.2))
            == "posterior(epsilon=0.2,least=0,opening=0,together=4)"
        )
        assert shown(style="long", fusion="experts") == "experts"
        own = make_nbce(chat=chat, max_tokens=2, prompt=PromptTemplate.for_chat("short") if chat else None)
        assert own.answer("Who?", passages).fusion == "posterior"
        pinned = [nbce.answer("Who?", passages, style="long", fusion=Posterior(opening=n)) for n in (0, 1)]
        usual = nbce.answer("Who?", passages, style="long")
        assert [token.id for token in usual.tokens] == [token.id for token in pinned[0].tokens]
        streamed = list(nbce.stream("Who?", passages, style="long"))[-1].answer
        assert streamed is not None
        assert streamed.fusion == "posterior(least=0,opening=0,together=4)"

    def test_another_engine_keeps_the_wording_and_what_else_is_not_named(
        self, make_nbce: Callable[..., NBCE]
    ) -> None:
        nbce = make_nbce(prompt=PromptTemplate.plain("long"), max_tokens=3, window=300, fusion="mean")
        other = nbce.updated(max_tokens=4)
        assert (other.prompt, other.model, other.kv_store, other.window) == (
            nbce.prompt,
            nbce.model,
            nbce.kv_store,
            300,
        )
        assert (other.options.max_tokens, other.options.fusion) == (4, nbce.options.fusion)
        assert nbce.updated(kv_store=False).kv_store is None
        request = nbce.request("Who?", ["It is run by Ada."])
        assert (
            nbce.window_needed(request)
            == max(nbce.answer("Who?", ["It is run by Ada."]).usage.row_tokens) + 3
        )
