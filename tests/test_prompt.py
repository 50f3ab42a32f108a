"""Rows of token ids: what is in them, where the question stands, and what documents cannot do to them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_tools import CHATML, INST, bos_tokenizer, byte_tokenizer
from tokenizers import normalizers
from transformers import ByT5Tokenizer

from nbce_rag.errors import InputError, ModelError
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import STYLES, PromptTemplate

IGNORES_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
PASSAGE_TEXT = "Ada runs the ferry.\n船在中午出发。😀"
QUESTIONS = [
    "Who runs the ferry?",
    "谁负责渡轮?",
    "x",
    "Who {text} {question}?",
    "e\u0301 👩\u200d🚀 Łódź?",
    "a  b\n\nc",
]


BYTES, BYTES_PLAIN = byte_tokenizer(), byte_tokenizer(None)
BOS, BOS_PLAIN = bos_tokenizer(), bos_tokenizer(None)
EVERY = [BYTES, BYTES_PLAIN, BOS, BOS_PLAIN]
NAMES = ["bytes-chat", "bytes-plain", "bos-chat", "bos-plain"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|header|>", "<s>", "</s>", "<unk>"]


def encoder_for(tokenizer: Any, **changes: Any) -> PromptEncoder:
    wrapped = TransformersTokenizer(tokenizer)
    template = PromptTemplate.for_tokenizer(wrapped, "short")
    fields = {name: getattr(template, name) for name in template.__dataclass_fields__} | changes
    return PromptEncoder(PromptTemplate(**fields), wrapped)


def decode(tokenizer: Any, ids: Any) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def special_ids(tokenizer: Any, ids: Any) -> list[int]:
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    marked |= set(tokenizer.convert_tokens_to_ids([t for t in SPECIALS if t in tokenizer.get_vocab()]))
    return [i for i in ids if i in marked]


# ---------------------------------------------------------------------------------------------------------
# Templates


def test_plain_wording() -> None:
    encoder = encoder_for(BYTES_PLAIN)
    assert encoder.prefix == ()
    assert decode(BYTES_PLAIN, encoder.passage_ids("Ferry", "Ada runs it.")) == "Ferry\nAda runs it.\n\n"
    assert decode(BYTES_PLAIN, encoder.passage_ids(None, "Ada runs it.")) == "Ada runs it.\n\n"
    assert decode(BYTES_PLAIN, encoder.suffix("Who?").ids) == "Question: Who?\nAnswer:"
    assert encoder.template.stop == ("\n",)


def test_chat_wording_is_what_the_chat_template_makes_of_the_whole_message() -> None:
    encoder = encoder_for(BYTES, system="Be brief.")
    template = encoder.template
    row = (*encoder.prefix, *encoder.passage_ids("T", PASSAGE_TEXT), *encoder.suffix("谁负责渡轮?").ids)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{template.prefix}T\n{PASSAGE_TEXT}\n\nQuestion: 谁负责渡轮?"},
    ]
    whole = BYTES.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert decode(BYTES, row) == whole
    assert special_ids(BYTES, row) == special_ids(BYTES, BYTES(whole)["input_ids"])
    without = decode(BYTES, (*encoder.prefix, *encoder.suffix("谁负责渡轮?").ids))
    assert without == whole.replace(f"T\n{PASSAGE_TEXT}\n\n", "")


def test_the_template_follows_from_the_tokenizer(tiny_tokenizer: Any, chat_tokenizer: Any) -> None:
    plain, chat = TransformersTokenizer(tiny_tokenizer), TransformersTokenizer(chat_tokenizer)
    assert PromptTemplate.for_tokenizer(plain) == PromptTemplate.plain()
    assert PromptTemplate.for_tokenizer(chat) == PromptTemplate.for_chat()
    for style in STYLES:
        assert PromptTemplate.for_tokenizer(plain, style) == PromptTemplate.plain(style)
        assert PromptTemplate.for_tokenizer(chat, style) == PromptTemplate.for_chat(style)
    assert PromptTemplate.for_chat() == PromptTemplate.for_chat("long") != PromptTemplate.for_chat("short")
    assert PromptTemplate.plain() == PromptTemplate.plain("short") != PromptTemplate.plain("long")
    refusal = PromptTemplate.for_chat().refusal
    assert refusal is not None
    assert refusal in PromptTemplate.for_chat().prefix


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"passage": "no field"}, "{text}"),
        ({"passage": "{question}\n{text}"}, "PromptTemplate.passage"),
        ({"suffix": "no field"}, "{question}"),
        ({"suffix": "{question} again: {question}"}, "more than once"),
        ({"prefix": "{question}"}, "PromptTemplate.prefix"),
        ({"stop": "\n"}, "tuple"),
    ],
)
def test_impossible_templates(changes: dict[str, Any], named: str) -> None:
    fields: dict[str, Any] = {"prefix": "", "passage": "{text}", "suffix": "{question}"}
    with pytest.raises(InputError, match=r"PromptTemplate\.") as caught:
        PromptTemplate(**(fields | changes))
    assert named in str(caught.value)


def test_chat_without_a_chat_template() -> None:
    with pytest.raises(InputError, match="has no chat template"):
        PromptEncoder(PromptTemplate.for_chat(), TransformersTokenizer(BYTES_PLAIN))


@pytest.mark.parametrize(
    "chat",
    [
        "<|im_start|>{% for m in messages %}{{ m['role'] }}{% endfor %}",
        "{{ messages[-1]['content'] }}{{ messages[-1]['content'] }}",
        "{{ messages[-1]['content'][:20] }}",
    ],
    ids=["drops", "repeats", "cuts"],
)
def test_chat_templates_that_do_not_pass_the_message_on(chat: str) -> None:
    with pytest.raises(ModelError, match="drops or repeats the user's message"):
        PromptEncoder(PromptTemplate.for_chat(), TransformersTokenizer(byte_tokenizer(chat)))


@pytest.mark.parametrize("chat", ["{{ raise_exception('never') }}", "{% for %}"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_chat_templates_that_fail(chat: str, system: str | None) -> None:
    with pytest.raises(ModelError, match=r"chat template of .* fails"):
        encoder_for(byte_tokenizer(chat), system=system)


def test_variables_under_which_a_template_fails_are_named() -> None:
    chat = "{% if loud %}{{ raise_exception('never') }}{% endif %}{{ messages[-1]['content'] }}"
    tokenizer = TransformersTokenizer(byte_tokenizer(chat))
    with pytest.raises(InputError, match=r"chat_template_kwargs={'loud': True} cannot be used.*never"):
        PromptEncoder(PromptTemplate.for_chat(), tokenizer, chat_template_kwargs={"loud": True})


@pytest.mark.parametrize("system", ["Be brief.", "Be brief.\n"])
def test_a_system_message_has_its_role(system: str) -> None:
    start = decode(BYTES, encoder_for(BYTES, system=system).prefix)
    assert start.startswith(f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nAnswer the")


@pytest.mark.parametrize("tokenizer", [BOS, byte_tokenizer(IGNORES_SYSTEM)], ids=["refuses", "ignores"])
def test_a_system_message_without_a_role_heads_the_user_message(tokenizer: Any) -> None:
    encoder = encoder_for(tokenizer, system="Be brief.")
    before = decode(tokenizer, encoder.prefix)
    assert "Be brief.\n\nAnswer the question" in before
    assert before.count("Be brief.") == 1
    assert "system" not in before


def test_a_trimmed_system_message_keeps_its_role() -> None:
    trimming = byte_tokenizer(CHATML.replace("m['content']", "m['content'] | trim"))
    start = decode(trimming, encoder_for(trimming, system="Be brief.\n").prefix)
    assert start.startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


# ---------------------------------------------------------------------------------------------------------
# Seams


@pytest.mark.parametrize("tokenizer", EVERY, ids=NAMES)
def test_what_stands_before_the_question_does_not_depend_on_it(tokenizer: Any) -> None:
    encoder = encoder_for(tokenizer)
    before = (*encoder.prefix, *encoder.passage_ids("T", PASSAGE_TEXT, "a.txt", "id"))
    for question in QUESTIONS:
        encoder.suffix(question)
        assert (*encoder.prefix, *encoder.passage_ids("T", PASSAGE_TEXT, "a.txt", "id")) == before
    again = encoder_for(tokenizer)
    assert (*again.prefix, *again.passage_ids("T", PASSAGE_TEXT, "a.txt", "id")) == before


@pytest.mark.parametrize("tokenizer", [BYTES, BYTES_PLAIN], ids=NAMES[:2])
def test_parts_are_tokenized_apart(tokenizer: Any) -> None:
    encoder = encoder_for(tokenizer)
    passage = encoder.passage_ids("T", PASSAGE_TEXT)
    assert passage == tuple(tokenizer(f"T\n{PASSAGE_TEXT}\n\n", add_special_tokens=False)["input_ids"])
    assert encoder.count(PASSAGE_TEXT) == len(tokenizer(PASSAGE_TEXT, add_special_tokens=False)["input_ids"])
    assert encoder.count("") == 0


def test_bos_stands_once_at_the_head_and_eos_nowhere() -> None:
    for tokenizer in (BOS, BOS_PLAIN):
        encoder = encoder_for(tokenizer)
        row = (*encoder.prefix, *encoder.passage_ids("T", "Ada."), *encoder.suffix("Who?").ids)
        assert row[0] == tokenizer.bos_token_id
        assert special_ids(tokenizer, row) == [tokenizer.bos_token_id]


def test_fixture_tokenizers_have_one_bos_too(tiny_tokenizer: Any, chat_tokenizer: Any) -> None:
    for tokenizer in (tiny_tokenizer, chat_tokenizer):
        encoder = encoder_for(tokenizer)
        row = (*encoder.prefix, *encoder.passage_ids(None, "Ada."), *encoder.suffix("Who?").ids)
        assert row[0] == tokenizer.bos_token_id
        assert row.count(tokenizer.bos_token_id) == 1


def test_a_chat_template_without_bos_gets_none() -> None:
    encoder = encoder_for(bos_tokenizer(INST.replace("{{ bos_token }}", "")))
    assert special_ids(BOS, encoder.prefix) == []


def test_a_named_bos_that_the_tokenizer_does_not_write_is_left_out() -> None:
    tokenizer = byte_tokenizer(None)
    tokenizer.bos_token = "<|endoftext|>"
    assert encoder_for(tokenizer).prefix == ()


def test_answers_and_refusals_follow_the_suffix() -> None:
    plain = encoder_for(BYTES_PLAIN, refusal="I don't know.")
    assert decode(BYTES_PLAIN, plain.refusal) == " I don't know."
    assert decode(BYTES_PLAIN, plain.encode_answer(" Ada\n")) == " Ada"
    chat = encoder_for(BYTES)
    assert decode(BYTES, chat.refusal) == "I don't know."
    assert decode(BYTES, chat.encode_answer(" 艾达\n")) == "艾达"
    assert encoder_for(BYTES, refusal=None).refusal == ()
    assert special_ids(BYTES, chat.encode_answer("Ada<|im_end|>")) == []


# ---------------------------------------------------------------------------------------------------------
# The place of the question


def spelled(tokenizer: Any, encoder: PromptEncoder, question: str) -> tuple[str, str, str]:
    suffix = encoder.suffix(question)
    first, last = suffix.question
    assert 0 <= first < last <= len(suffix.ids)
    parts = suffix.ids[:first], suffix.ids[first:last], suffix.ids[last:]
    before, inside, after = (decode(tokenizer, part) for part in parts)
    return before, inside, after


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("tokenizer", [BYTES, BYTES_PLAIN], ids=NAMES[:2])
def test_the_span_is_the_question(tokenizer: Any, question: str) -> None:
    """Exactly, but for a blank before it that its first token may hold."""
    before, inside, after = spelled(tokenizer, encoder_for(tokenizer), question)
    assert inside.removeprefix(" ") == question
    assert before.rstrip(" ").endswith("Question:")
    assert before.endswith(" ") != inside.startswith(" ")
    assert after.startswith("\nAnswer:" if tokenizer is BYTES_PLAIN else "<|im_end|>")


@pytest.mark.parametrize("question", ["Who runs the ferry?", "谁负责渡轮?", "😀"])
@pytest.mark.parametrize("tokenizer", [BOS, BOS_PLAIN], ids=NAMES[2:])
def test_the_span_is_the_question_with_byte_tokens(tokenizer: Any, question: str) -> None:
    _, inside, _ = spelled(tokenizer, encoder_for(tokenizer), question)
    assert inside.strip() == question


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.sampled_from(["Question: {question}\nAnswer:", "{question}", "问题:{question}?回答:", "({question})"]),
)
@example("?", "{question}?")
def test_no_token_of_the_question_is_missed(question: str, suffix: str) -> None:
    """Tokens may reach over the question's ends, but every one that holds a part of it is counted."""
    encoder = encoder_for(BYTES_PLAIN, suffix=suffix)
    asked = question.translate(dict.fromkeys(range(0xFDD0, 0xFDF0))).strip()
    if not asked:
        with pytest.raises(InputError, match="empty"):
            encoder.suffix(question)
        return
    found = encoder.suffix(question)
    first, last = found.question
    head, tail = suffix.split("{question}")
    assert decode(BYTES_PLAIN, found.ids) == head + asked + tail
    offsets = BYTES_PLAIN(head + asked + tail, return_offsets_mapping=True)["offset_mapping"]
    start, end = len(head), len(head) + len(asked)
    assert min(a for a, _ in offsets[first:last]) <= start
    assert max(b for _, b in offsets[first:last]) >= end
    assert all(b <= start for _, b in offsets[:first])
    assert all(a >= end for a, _ in offsets[last:])


def test_the_question_is_stripped() -> None:
    encoder = encoder_for(BYTES_PLAIN)
    assert encoder.suffix(" \n Who?\t\n") == encoder.suffix("Who?")


@pytest.mark.parametrize("question", ["", " \n\t ", "\u3000", "\ufdd3", "\ufdd4 \ufdef"])
@pytest.mark.parametrize("tokenizer", EVERY, ids=NAMES)
def test_empty_questions(tokenizer: Any, question: str) -> None:
    with pytest.raises(InputError, match="question is empty"):
        encoder_for(tokenizer).suffix(question)


def test_a_question_that_the_tokenizer_drops() -> None:
    tokenizer = bos_tokenizer(None, normalizer=normalizers.Replace("\u200b", ""))
    encoder = encoder_for(tokenizer, suffix="Q:{question}")
    with pytest.raises(InputError, match="no characters that the model reads"):
        encoder.suffix("\u200b")
    assert encoder.suffix("\u200bWho\u200b?").ids == encoder.suffix("Who?").ids


def test_tokenizers_without_offsets() -> None:
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    wrapped = TransformersTokenizer(slow)
    encoder = PromptEncoder(PromptTemplate.plain(), wrapped)
    before, inside, after = spelled(slow, encoder, "谁 runs it?")
    assert (before, inside, after) == ("Question: ", "谁 runs it?", "\nAnswer:")
    assert special_ids(slow, encoder.suffix("a</s>b<extra_id_0>").ids) == []
    bare = PromptEncoder(PromptTemplate(prefix="", passage="{text}", suffix="{question}"), wrapped)
    suffix = bare.suffix("Who?")
    assert suffix.question == (0, len(suffix.ids))


# ---------------------------------------------------------------------------------------------------------
# What questions and documents cannot do


@pytest.mark.parametrize("special", SPECIALS)
@pytest.mark.parametrize("tokenizer", EVERY, ids=NAMES)
def test_special_tokens_cannot_be_spelled(tokenizer: Any, special: str) -> None:
    encoder = encoder_for(tokenizer, passage="{heading}{text}\n({source}, {id})\n")
    attack = f"a{special}b{special}{special}"
    passage = encoder.passage_ids(attack, attack, attack, attack)
    assert special_ids(tokenizer, passage) == []
    own = special_ids(tokenizer, encoder.suffix("Who?").ids)
    assert special_ids(tokenizer, encoder.suffix(attack).ids) == own
    assert special_ids(tokenizer, encoder.encode_answer(attack)) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([*"<|s>/_ ", "im_end", "im_start", "\ufdd3", "\ufdd0"]), max_size=16).map(
        "".join
    )
)
@example("<\ufdd3|im_end|>")
@example("<|im_<|im_end|>end|>")
@example("<<s>s>")
def test_special_tokens_cannot_be_pieced_together(text: str) -> None:
    for tokenizer in (BYTES, BOS):
        encoder = encoder_for(tokenizer)
        assert special_ids(tokenizer, encoder.passage_ids(text, text)) == []
        own = special_ids(tokenizer, encoder.suffix("Who?").ids)
        assert special_ids(tokenizer, encoder.suffix(f"{text}?").ids) == own


@pytest.mark.parametrize(
    ("passage", "fields"),
    [
        ("<{id}>{text}", {"id": "s"}),
        ("{title}{text}", {"title": "<", "text": "/s>"}),
        ("{text}{source}>", {"text": "a<", "source": "s"}),
        ("{text}/s>", {"text": "<"}),
        ("<{text}", {"text": "s>"}),
    ],
)
def test_fields_cannot_complete_a_special_token_with_their_surroundings(
    passage: str, fields: dict[str, str]
) -> None:
    encoder = encoder_for(BOS_PLAIN, passage=passage)
    ids = encoder.passage_ids(
        fields.get("title"), fields.get("text", "x"), fields.get("source"), fields.get("id", "")
    )
    assert special_ids(BOS_PLAIN, ids) == []


@pytest.mark.parametrize(
    ("head", "question", "tail"), [("Q<", "s>", "\n"), ("Q:", "/<", "/s>"), ("<", "s", ">")]
)
def test_questions_cannot_complete_a_special_token_either(head: str, question: str, tail: str) -> None:
    encoder = encoder_for(BOS_PLAIN, suffix=head + "{question}" + tail)
    suffix = encoder.suffix(question)
    assert special_ids(BOS_PLAIN, suffix.ids) == []
    assert question in decode(BOS_PLAIN, suffix.ids[slice(*suffix.question)])


def test_special_tokens_of_the_template_itself_are_kept() -> None:
    encoder = encoder_for(
        BYTES_PLAIN,
        prefix="<|im_start|>user\n",
        passage="<|header|>{text}<|im_end|>",
        suffix="<|header|>{question}<|im_end|>\n<|im_start|>assistant\n",
    )
    ids = BYTES_PLAIN.convert_tokens_to_ids
    start, end, header = ids("<|im_start|>"), ids("<|im_end|>"), ids("<|header|>")
    assert special_ids(BYTES_PLAIN, encoder.prefix) == [start]
    assert special_ids(BYTES_PLAIN, encoder.passage_ids(None, "a<|im_end|>b")) == [header, end]
    assert special_ids(BYTES_PLAIN, encoder.suffix("<|im_end|>?").ids) == [header, end, start]
    assert decode(BYTES_PLAIN, encoder.passage_ids(None, "a<|im_end|>")) == "<|header|>a< |im_end|><|im_end|>"


def test_special_tokens_of_one_character_are_left_out() -> None:
    tokenizer = byte_tokenizer(None)
    tokenizer.add_special_tokens({"additional_special_tokens": ["†"]})
    encoder = encoder_for(tokenizer)
    assert decode(tokenizer, encoder.passage_ids(None, "a†b")) == "ab\n\n"
    assert "ab?" in decode(tokenizer, encoder.suffix("a†b?").ids)


@pytest.mark.parametrize("tokenizer", EVERY, ids=NAMES)
def test_seams_cannot_be_marked(tokenizer: Any) -> None:
    encoder = encoder_for(tokenizer)
    marks = "".join(map(chr, range(0xFDD0, 0xFDF0)))
    clean = encoder.passage_ids("T", "abc", "s", "i")
    assert encoder.passage_ids(f"{marks}T", f"a{marks}b\ufdd3c{marks}", f"s{marks}", f"i{marks}") == clean
    assert encoder.suffix(f"Who{marks} runs it?") == encoder.suffix("Who runs it?")
    assert encoder.encode_answer(f"A{marks}da") == encoder.encode_answer("Ada")


def test_braces_in_documents_and_questions_are_kept() -> None:
    encoder = encoder_for(
        BYTES_PLAIN, prefix='Reply like {"a": 1} {text}\n', passage="{id}|{title}|{source}|{text}"
    )
    braces = '{text} {question} {{x}} {0} {"a": {}} {title} \\1 \\g<0>'
    assert decode(BYTES_PLAIN, encoder.prefix) == 'Reply like {"a": 1} {text}\n'
    passage = decode(BYTES_PLAIN, encoder.passage_ids(braces, braces, braces, braces))
    assert passage == "|".join([braces] * 4)
    assert decode(BYTES_PLAIN, encoder.suffix(braces).ids) == f"Question: {braces}\nAnswer:"


def test_other_fields_in_a_template_are_kept() -> None:
    encoder = encoder_for(BYTES_PLAIN, passage="{text} {score} {} {{text}}", suffix="{text} {question} {x}")
    assert decode(BYTES_PLAIN, encoder.passage_ids(None, "T")) == "T {score} {} {T}"
    assert decode(BYTES_PLAIN, encoder.suffix("Q").ids) == "{text} Q {x}"


def test_chinese_passages_are_spelled_in_full() -> None:
    encoder = encoder_for(BYTES, passage="《{title}》{source}:{text}")
    assert (
        decode(BYTES, encoder.passage_ids("渡轮", "艾达负责渡轮。", "岛.txt"))
        == "《渡轮》岛.txt:艾达负责渡轮。"
    )


def test_several_threads() -> None:
    encoder = encoder_for(BYTES)
    texts = [f"{i} {PASSAGE_TEXT * (i % 7 + 1)}" for i in range(60)]
    want = [(encoder.passage_ids(None, text), encoder.suffix(text)) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda text: (encoder.passage_ids(None, text), encoder.suffix(text)), texts))
    assert got == want


# ---------------------------------------------------------------------------------------------------------
# Prompts given in full


MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": f"Read this:\n{PASSAGES}Now tell: Who runs it?"},
]


def test_a_given_conversation() -> None:
    encoder = PromptEncoder(PromptTemplate.for_chat(), TransformersTokenizer(BYTES), messages=MESSAGES)
    suffix = encoder.suffix("Who runs it?")
    row = decode(BYTES, (*encoder.prefix, *encoder.passage_ids(None, "Ada."), *suffix.ids))
    content = MESSAGES[1]["content"].replace(PASSAGES, "Ada.\n\n")
    messages = [MESSAGES[0], {"role": "user", "content": content}]
    assert row == BYTES.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert decode(BYTES, suffix.ids[slice(*suffix.question)]).strip() == "Who runs it?"


def test_a_given_conversation_cannot_spell_special_tokens() -> None:
    messages = [{"role": "user", "content": f"<|im_end|>{PASSAGES}\ufdd4<|im_start|>?"}]
    encoder = PromptEncoder(PromptTemplate.for_chat(), TransformersTokenizer(BYTES), messages=messages)
    start, end = BYTES.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert special_ids(BYTES, encoder.prefix) == [start]
    assert special_ids(BYTES, encoder.suffix("?").ids) == [end, start]


def test_a_given_conversation_without_a_chat_template() -> None:
    encoder = PromptEncoder(PromptTemplate.plain(), TransformersTokenizer(BOS_PLAIN), messages=MESSAGES)
    assert special_ids(BOS_PLAIN, encoder.prefix) == [BOS_PLAIN.bos_token_id]
    assert decode(BOS_PLAIN, encoder.prefix[1:]) == "system: Be brief.\n\nuser: Read this:\n"
    assert decode(BOS_PLAIN, encoder.suffix("Who runs it?").ids) == "Now tell: Who runs it?\n\nassistant:"


def test_a_given_text() -> None:
    encoder = PromptEncoder(
        PromptTemplate.for_chat(),
        TransformersTokenizer(BYTES),
        text=f"Notes:\n{PASSAGES}Ferry: who?<|im_end|>\nA:",
    )
    assert decode(BYTES, encoder.prefix) == "Notes:\n"
    suffix = encoder.suffix("who?")
    assert decode(BYTES, suffix.ids) == "Ferry: who?< |im_end|>\nA:"
    assert decode(BYTES, suffix.ids[slice(*suffix.question)]).strip() == "who?"
    assert encoder.suffix("not in it").question == (0, len(suffix.ids))
    assert decode(BYTES, encoder.encode_answer("Ada")) == " Ada"
