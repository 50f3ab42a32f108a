"""The seam between words and ids: what every tokenizer behind it does, ours of plain Python among them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from plain_tokenizer import BOS, PlainTokenizer
from tiny_models import build_tokenizer
from tokenizer_tools import bos_tokenizer, byte_tokenizer
from transformers import ByT5Tokenizer

from nbce_rag.decoding.detokenizer import TextBuilder
from nbce_rag.decoding.grammar import Constraint
from nbce_rag.decoding.plan import plan_rows
from nbce_rag.decoding.sampling import Sampler
from nbce_rag.errors import InputError, ModelError
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.options import Options
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import PromptTemplate
from nbce_rag.prompts.tokenizer import Tokenizer

TEXTS = ["Who runs the ferry?", "谁负责渡轮?", "a  b\n\nc ", "e\u0301 👩\u200d🚀 Łódź", " Part", "x"]
CASES = [
    pytest.param(TransformersTokenizer(build_tokenizer(chat=True)), id="transformers"),
    pytest.param(TransformersTokenizer(byte_tokenizer()), id="transformers-without-bos"),
    pytest.param(TransformersTokenizer(bos_tokenizer()), id="transformers-sentencepiece"),
    pytest.param(TransformersTokenizer(ByT5Tokenizer()), id="transformers-slow"),
    pytest.param(PlainTokenizer(), id="plain"),
    pytest.param(PlainTokenizer(offsets=False), id="plain-without-offsets"),
]
MESSAGES = [{"role": "user", "content": "Who runs the ferry?"}]


@pytest.fixture(params=CASES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = request.param
    return made


@pytest.mark.parametrize("text", TEXTS)
def test_texts_come_back(tokenizer: Tokenizer, text: str) -> None:
    """But for a blank at the start, which some tokenizers add or take away."""
    ids = tokenizer.encode(text)
    assert ids == tokenizer.encode(text)
    assert all(isinstance(i, int) and i >= 0 for i in ids)
    assert tokenizer.decode(ids).lstrip(" ") == text.lstrip(" ")
    assert tokenizer.decode(ids, skip_specials=True) == tokenizer.decode(ids)


def test_nothing_is_put_around_a_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == ()
    assert len(tokenizer.bos_ids) <= 1
    assert not set(tokenizer.bos_ids) & set(tokenizer.encode("Who?"))
    assert tokenizer.decode(()) == ""


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_are_characters_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    encoded = tokenizer.encode_with_offsets(text)
    if encoded is None:
        return
    ids, offsets = encoded
    assert ids == tokenizer.encode(text)
    assert len(offsets) == len(ids)
    ends = [0]
    for start, end in offsets:
        assert 0 <= start <= end <= len(text)
        assert start <= ends[-1] or not text[ends[-1] : start].strip()  # nothing but blanks is left out
        ends.append(max(end, ends[-1]))
    assert ends[-1] == len(text)


def test_special_tokens_are_one_token_each_and_can_be_left_out(tokenizer: Tokenizer) -> None:
    assert tokenizer.specials
    for text in tokenizer.specials:
        assert text.strip()
        ids = tokenizer.encode(f"a{text}b")
        assert text in tokenizer.decode(ids)
        assert text not in tokenizer.decode(ids, skip_specials=True)
        assert "a" in tokenizer.decode(ids, skip_specials=True)


def test_half_a_character_is_a_replacement_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("😀")
    if len(ids) > 1 and tokenizer.name != "ByT5Tokenizer":  # which drops what makes no character
        assert "\ufffd" in tokenizer.decode(ids[:-1])


def test_a_chat_template_renders_or_says_that_it_cannot(tokenizer: Tokenizer) -> None:
    assert tokenizer.name
    if tokenizer.has_chat_template:
        text = tokenizer.render(MESSAGES)
        assert text.count("Who runs the ferry?") == 1
        assert tokenizer.render(MESSAGES, variables={"nobody_looks_at_this": True}) == text
    else:
        with pytest.raises(ModelError, match="chat template"):
            tokenizer.render(MESSAGES)


def test_a_failing_template_is_named() -> None:
    native = build_tokenizer(chat=True)
    native.chat_template = "{{ raise_exception('never') }}"
    native.name_or_path = "some/model"
    with pytest.raises(ModelError, match=r"chat template of 'some/model' fails: never"):
        TransformersTokenizer(native).render(MESSAGES)


def test_variables_and_tools_reach_the_template() -> None:
    native = build_tokenizer(chat=True)
    native.chat_template = "{{ thinking }} {% for t in tools %}{{ t['function']['name'] }}{% endfor %}"
    tools = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
    text = TransformersTokenizer(native).render(MESSAGES, tools=tools, variables={"thinking": "off"})
    assert text == "off find"


def test_tokens_added_later_are_special_too() -> None:
    native = build_tokenizer()
    tokenizer = TransformersTokenizer(native)
    assert "<|turn|>" not in tokenizer.specials
    native.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    assert "<|turn|>" in tokenizer.specials


def test_several_threads(tokenizer: Tokenizer) -> None:
    """Two objects for one tokenizer take turns as well."""
    native = getattr(tokenizer, "native", None)
    second: Tokenizer = tokenizer if native is None else TransformersTokenizer(native)
    texts = [f"{i} Ada runs the ferry. 船在中午出发。" * (i % 7 + 1) for i in range(60)]
    want = [(tokenizer.encode_with_offsets(text), tokenizer.encode(text)) for text in texts]

    def work(place: int) -> Any:
        one = (tokenizer, second)[place % 2]
        return one.encode_with_offsets(texts[place]), one.encode(texts[place])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(len(texts)))) == want


# ---------------------------------------------------------------------------------------------------------
# Everything above a backend, on a tokenizer that transformers knows nothing of


@pytest.mark.parametrize("offsets", [True, False])
def test_rows_of_a_plain_tokenizer(offsets: bool) -> None:
    tokenizer = PlainTokenizer(chat=False, offsets=offsets)
    encoder = PromptEncoder(PromptTemplate.for_tokenizer(tokenizer), tokenizer)
    passage = Passage("Ada</s> runs it.", title="艾达")
    plan = plan_rows(encoder, "谁 runs it?", [passage], Options(), 512)
    texts = [tokenizer.decode([*row.context, *plan.suffix.ids]) for row in plan.rows]
    assert texts == [
        "<s>Question: 谁 runs it?\nAnswer:",
        "<s>艾达\nAda< /s> runs it.\n\nQuestion: 谁 runs it?\nAnswer:",
    ]
    start, end = plan.suffix.question
    assert tokenizer.decode(plan.suffix.ids[start:end]) == "谁 runs it?"
    assert plan.rows[0].context == (BOS,)


def test_chat_rows_of_a_plain_tokenizer() -> None:
    tokenizer = PlainTokenizer()
    template = PromptTemplate.for_tokenizer(tokenizer, "short")
    assert template.chat
    encoder = PromptEncoder(template, tokenizer, chat_template_kwargs={"enable_thinking": False})
    text = tokenizer.decode((*encoder.prefix, *encoder.suffix("Who<|turn|>?").ids))
    assert text == (
        f"<s><|turn|>user: {template.prefix}Question: Who< |turn|>?</s><|turn|>assistant: (no thinking)"
    )


def test_text_of_a_plain_tokenizer_comes_in_whole_characters() -> None:
    tokenizer = PlainTokenizer()
    builder = TextBuilder(tokenizer, stop=("END",))
    pieces = [builder.push(token) for token in tokenizer.encode(" Ada 负责 😀</s>渡轮 END.")]
    assert "".join(pieces) == builder.text == "Ada 负责 😀渡轮"
    assert builder.stopped
    assert not any("\ufffd" in piece for piece in pieces)


def test_bad_words_of_a_plain_tokenizer() -> None:
    torch = pytest.importorskip("torch")
    tokenizer = PlainTokenizer()
    sampler = Sampler(Options(bad_words=("ab",)), tokenizer, frozenset())
    scores = torch.zeros(259)
    scores[ord("a")] = 1.0
    assert sampler.choose(sampler.process(scores)) == ord("a")
    assert sampler.process(scores)[ord("b")] == float("-inf")


def test_grammars_of_a_plain_tokenizer() -> None:
    pytest.importorskip("llguidance")
    tokenizer = PlainTokenizer()
    (end,) = tokenizer.encode("</s>")
    constraint = Constraint(tokenizer, regex="yes|no", vocab_size=259, eos_ids=frozenset({end}))
    assert constraint.allowed().nonzero().flatten().tolist() == [ord("n"), ord("y")]
    for token in tokenizer.encode("no"):
        constraint.accept(token)
    assert constraint.finished


def test_a_tokenizer_without_an_index_for_grammars_is_named() -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(InputError, match="ByT5Tokenizer is not a fast tokenizer"):
        TransformersTokenizer(ByT5Tokenizer()).grammar_index([1])


def test_control_tokens_that_are_not_called_special_count_too() -> None:
    from tokenizers import AddedToken

    native = byte_tokenizer()
    names = ["</think>", "<tool_response>", "<|fim_middle|>", "[TOOL_CALLS]"]
    plain = ["<table>", "</b>", "\n\n", "  ", "hello"]
    native.add_tokens([AddedToken(name, special=False, normalized=False) for name in names + plain])
    specials = TransformersTokenizer(native).specials
    assert specials >= set(names)
    assert not specials & set(plain)
