"""Token by token, the text is the same as decoded at once, and nothing is shown that has to be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nbce_rag.decoding.detokenizer import TextBuilder
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer

UNFINISHED = "\ufffd"


def byte_bpe() -> Any:
    """Byte-level BPE without word boundaries: tokens hold the end of one character and more of the next."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [
        "the answer is in the text. ",
        "中文中国文本,中文。",
        "日本語の文章",
        "😀😃😄😁 ok",
        "e\u0301a\u0301",
        "stop\n\n",
    ] * 3
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )


def single_bytes() -> Any:
    """One token for each byte: every character beyond ASCII is in two to four tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def sentencepiece(*, strip: bool) -> Any:
    """As Llama 2 (`strip`) and Gemma do it: a blank belongs to the token after it, rare ones are bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*"▁abcdehlorswt.中文", "he", "▁he", "▁hel", "lo", "▁w", "▁▁"]
    merges = [("h", "e"), ("▁", "he"), ("▁he", "l"), ("l", "o"), ("▁", "w"), ("▁", "▁")]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if strip else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def metaspace() -> Any:
    """A Metaspace decoder, which takes the blank off the first token it sees."""
    pieces = ["<unk>", "<s>", *"▁abcdehlorswt.中文", "▁hello", "▁world"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )


BYTE_BPE = byte_bpe()
SINGLE_BYTES = single_bytes()
LLAMA, GEMMA = sentencepiece(strip=True), sentencepiece(strip=False)
METASPACE = metaspace()
BYTE_LEVEL = [BYTE_BPE, SINGLE_BYTES]
EVERY = [*BYTE_LEVEL, LLAMA, GEMMA, METASPACE]

ALPHABET = st.one_of(
    st.sampled_from("ab st.\n 中文本😀é👩\u0301\u200d"),
    st.characters(codec="utf-8", exclude_characters=UNFINISHED),
)
TEXTS = st.text(ALPHABET, max_size=40)
STOPS = st.lists(st.text(st.sampled_from("ab st.\n 中文😀"), min_size=1, max_size=4), max_size=3)


@dataclass
class Told:
    """What a reader of the stream sees."""

    builder: TextBuilder
    pieces: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def tell(tokenizer: Any, ids: Sequence[int], stop: Sequence[str] = ()) -> Told:
    """Push all ids up to the stop, checking at each step what must hold at each step."""
    builder = TextBuilder(TransformersTokenizer(tokenizer), stop)
    told = Told(builder)
    certain: dict[int, tuple[int, int]] = {}
    pushed = 0
    for pushed, token in enumerate(ids, 1):
        told.pieces.append(builder.push(token))
        assert told.text == builder.text
        assert told.text == told.text.strip()  # a trailing blank is held back
        certain |= {i: builder.span(i) for i in range(pushed) if builder.certain(i) and i not in certain}
        if builder.stopped:
            break
    told.pieces.append(builder.finish())
    assert told.text == builder.text
    told.spans = [builder.span(i) for i in range(pushed)]
    assert all(builder.certain(i) for i in range(pushed))
    assert {i: told.spans[i] for i in certain} == certain  # what was certain has not changed
    return told


def check_spans(told: Told) -> None:
    """Ordered, within the text, and covering it without a gap."""
    at, last = 0, (0, 0)
    for start, end in told.spans:
        assert 0 <= start <= end <= len(told.text)
        if start != end:
            assert start == at or (start, end) == last  # next to the one before, or sharing its characters
            at, last = end, (start, end)
    assert at == len(told.text)


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def earliest_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string starts that is complete first, reading character by character."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return min(starts)
    return None


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(BYTE_LEVEL))
@example("中文中国文本,中文。日本語の文章", BYTE_BPE)
@example("👩\u200d👩\u200d👧 e\u0301 中", SINGLE_BYTES)
@example(" \n\t leading and trailing \n", BYTE_BPE)
@example("", BYTE_BPE)
def test_pieces_join_to_the_text(text: str, tokenizer: Any) -> None:
    told = tell(tokenizer, encode(tokenizer, text))
    assert told.text == text.strip()
    assert not any(UNFINISHED in piece for piece in told.pieces)
    check_spans(told)


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.sampled_from(BYTE_LEVEL))
def test_text_is_shown_at_once_when_it_is_certain(text: str, tokenizer: Any) -> None:
    """Nothing is held back but trailing white space and an unfinished character."""
    ids = encode(tokenizer, text)
    builder = TextBuilder(TransformersTokenizer(tokenizer))
    for i, token in enumerate(ids, 1):
        builder.push(token)
        plain = tokenizer.decode(ids[:i], clean_up_tokenization_spaces=False)
        assert builder.text == plain.rstrip(UNFINISHED).strip()


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.sampled_from(BYTE_LEVEL), st.data())
def test_an_answer_cut_short_ends_before_the_half_character(text: str, tokenizer: Any, data: Any) -> None:
    ids = encode(tokenizer, text)
    cut = ids[: data.draw(st.integers(0, len(ids)))]
    told = tell(tokenizer, cut)
    plain: str = tokenizer.decode(cut, clean_up_tokenization_spaces=False)
    assert told.text == plain.rstrip(UNFINISHED).strip()
    assert text.lstrip().startswith(told.text)
    check_spans(told)


def test_a_token_that_ends_within_a_character_still_shows_its_beginning() -> None:
    whole = BYTE_BPE.convert_ids_to_tokens(range(len(BYTE_BPE)))
    mixed = [
        i
        for i, t in enumerate(whole)
        if (d := BYTE_BPE.decode([i])).endswith(UNFINISHED) and d.strip(UNFINISHED)
    ]
    assert mixed, "the vocabulary has tokens of a character and a half"
    token = next(i for i in mixed if not BYTE_BPE.decode([i]).startswith(UNFINISHED))
    builder = TextBuilder(TransformersTokenizer(BYTE_BPE))
    assert builder.push(token) == BYTE_BPE.decode([token]).rstrip(UNFINISHED).strip()


def test_a_long_chain_of_tokens_that_all_end_within_a_character() -> None:
    """Each token finishes one character and begins the next; that may go on for as long as it likes."""
    alphabet = _byte_alphabet()
    assert sorted(alphabet) == sorted(pre_tokenizers.ByteLevel.alphabet())
    data = ("中" * 30).encode()
    vocab = {letter: byte for byte, letter in enumerate(alphabet)}
    parts = [data[:2], *(data[i : i + 3] for i in range(2, len(data) - 3, 3)), data[-1:]]
    assert b"".join(parts) == data
    for part in parts:
        vocab.setdefault("".join(alphabet[b] for b in part), len(vocab))
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="!"))
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    told = tell(wrapped, [vocab["".join(alphabet[b] for b in part)] for part in parts])
    assert told.text == "中" * 30
    assert [len(piece) for piece in told.pieces] == [0, *[1] * 30, 0]


def _byte_alphabet() -> list[str]:
    """Characters that stand for the bytes 0 to 255 in byte-level vocabularies."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


@settings(max_examples=150, deadline=None)
@given(TEXTS, STOPS, st.sampled_from(BYTE_LEVEL))
@example("the answer is\n\nstop here", ["\n\nst"], SINGLE_BYTES)
@example("aab", ["ab"], SINGLE_BYTES)
@example("中文 中文本", ["文本"], SINGLE_BYTES)
@example("a bs", ["b", " bs"], BYTE_BPE)
@example("a  b", [" b"], SINGLE_BYTES)
@example("\n\na\n", ["\n"], BYTE_BPE)
def test_stop_strings_cut_exactly(text: str, stops: list[str], tokenizer: Any) -> None:
    told = tell(tokenizer, encode(tokenizer, text), stops)
    whole = text.lstrip()
    at = earliest_stop(whole, stops)
    assert told.builder.stopped == (at is not None)
    assert told.text == (whole if at is None else whole[:at]).rstrip()
    check_spans(told)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.sampled_from("ab \n"), max_size=20), st.text(st.sampled_from("ab \n"), min_size=1, max_size=4)
)
def test_one_stop_string_cuts_at_its_first_occurrence(text: str, stop: str) -> None:
    told = tell(BYTE_BPE, encode(BYTE_BPE, text), [stop])
    whole = text.lstrip()
    at = whole.find(stop)
    assert told.text == (whole[:at] if at >= 0 else whole).rstrip()


def test_where_a_stop_string_contains_another_tokens_make_no_difference() -> None:
    words = (BYTE_BPE.decode([token]) for token in range(len(BYTE_BPE)))
    word = next(word for word in words if len(word) >= 3 and word.isascii() and word.isalpha())
    assert len(encode(BYTE_BPE, word)) == 1
    for tokenizer in BYTE_LEVEL:
        assert tell(tokenizer, encode(tokenizer, word), [word, word[1]]).text == word[0]


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_known() -> None:
    builder = TextBuilder(TransformersTokenizer(SINGLE_BYTES), ["###"])
    shown = [builder.push(token) for token in encode(SINGLE_BYTES, "a##b##")]
    assert shown == ["a", "", "", "##b", "", ""]
    assert builder.finish() == "##"
    assert not builder.stopped


def test_blanks_are_held_back_until_something_follows() -> None:
    builder = TextBuilder(TransformersTokenizer(SINGLE_BYTES))
    assert [builder.push(token) for token in encode(SINGLE_BYTES, " \na \n b ")] == [
        "",
        "",
        "a",
        "",
        "",
        "",
        " \n b",
        "",
    ]
    assert builder.finish() == ""
    assert builder.text == "a \n b"


def test_after_a_stop_string_nothing_more_comes() -> None:
    builder = TextBuilder(TransformersTokenizer(SINGLE_BYTES), ["."])
    shown = [builder.push(token) for token in encode(SINGLE_BYTES, "a.b.c")]
    assert "".join(shown) + builder.finish() == builder.text == "a"
    assert builder.finish() == ""
    assert builder.span(4) == (1, 1)


def test_empty_stop_strings_stop_nothing() -> None:
    assert tell(SINGLE_BYTES, encode(SINGLE_BYTES, "ab"), [""]).text == "ab"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(EVERY), st.lists(st.integers(0, 10_000), max_size=40), STOPS)
def test_random_tokens_never_crash(tokenizer: Any, numbers: list[int], stops: list[str]) -> None:
    """Most of these are no valid UTF-8, which a model at a high temperature writes just as well."""
    told = tell(tokenizer, [n % len(tokenizer) for n in numbers], stops)
    check_spans(told)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BYTE_LEVEL), st.lists(st.integers(0, 10_000), max_size=40))
def test_random_tokens_give_the_decoded_text(tokenizer: Any, numbers: list[int]) -> None:
    ids = [n % len(tokenizer) for n in numbers]
    plain: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    unfinished = len(plain) - len(plain.rstrip(UNFINISHED))
    assert tell(tokenizer, ids).text == plain[: len(plain) - min(unfinished, 8)].strip()


def test_a_replacement_character_of_the_model_is_shown() -> None:
    text = f"a{UNFINISHED}{UNFINISHED}b"
    for tokenizer in BYTE_LEVEL:
        assert tell(tokenizer, encode(tokenizer, text)).text == text


@settings(max_examples=120, deadline=None)
@given(st.text(st.sampled_from("abcdehlorswt. 中文日😀é"), max_size=30), st.sampled_from([LLAMA, GEMMA]))
@example("he  hello   world", LLAMA)
@example("日 日本 hello", LLAMA)
def test_sentencepiece_keeps_blanks_and_joins_bytes(text: str, tokenizer: Any) -> None:
    told = tell(tokenizer, encode(tokenizer, text))
    assert told.text == text.strip()
    check_spans(told)


@pytest.mark.parametrize("tokenizer", [LLAMA, GEMMA, METASPACE], ids=["llama", "gemma", "metaspace"])
def test_a_blank_after_a_special_token_is_kept(tokenizer: Any) -> None:
    tokens = ["▁w", "<s>", "▁hel", "lo"] if tokenizer is not METASPACE else ["▁world", "<s>", "▁hello", "."]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    want = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
    assert " h" in want
    told = tell(tokenizer, ids)
    assert told.text == want
    assert told.spans[1] == (len(tokens[0]) - 1, len(tokens[0]) - 1)


def test_metaspace_keeps_the_blanks_between_words() -> None:
    ids = METASPACE.convert_tokens_to_ids(["▁hello", "▁world", ".", "▁", "▁hello"])
    assert tell(METASPACE, ids).text == METASPACE.decode(ids).strip()


def test_the_tokens_of_one_character_share_its_span() -> None:
    ids = encode(SINGLE_BYTES, "a😀b")
    assert tell(SINGLE_BYTES, ids).spans == [(0, 1), *[(1, 2)] * 4, (2, 3)]


def test_tokens_of_white_space_at_the_ends_have_empty_spans() -> None:
    told = tell(SINGLE_BYTES, encode(SINGLE_BYTES, " a b "))
    assert told.spans == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 3)]
