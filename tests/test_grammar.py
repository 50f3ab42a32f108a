from __future__ import annotations

import gc
import json
import random
import re
import sys
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import jsonschema
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from nbce_rag.decoding.grammar import Constraint
from nbce_rag.errors import InputError, MissingDependencyError, NbceWarning
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer

EOS, TURN, PAD = 0, 1, 2
FAST: Any = transformers.PreTrainedTokenizerFast
SPECIAL = ["<eos>", "<turn>", "<pad>"]
WIDTH = 512  # of the logits: more than each of the vocabularies below
LINES = [
    '{"name": "Ada", "age": 36, "tags": ["a", "b"]}, {"name":"Bob","age":4,"tags":[]}',
    "The quick brown fox, café naïve 北京 🎉, the quick answer",
    'true false null -1.5e10 [1,2,3] {"x":{"y":"z"}}',
]


def byte_level(*, lines: list[str] = LINES, every_byte: bool = True, lower: bool = False) -> Any:
    tokenizer = Tokenizer(models.BPE())
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if every_byte else []
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines * 3, trainer)
    return FAST(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def sentencepiece() -> Any:
    """Pieces with "▁" for a blank and single bytes for what has no piece, as in Llama 2 and Gemma."""
    pieces = [(token, 0.0) for token in SPECIAL] + [("<unk>", 0.0)]
    pieces += [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    pieces += [(chr(c) if c != 32 else "▁", -5.0) for c in range(32, 127)]
    pieces += [(p, -3.0) for p in ("北", "▁the", '":', '",', '{"', "true", "Ada", "café", '"name"')]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([*SPECIAL, "<unk>"])
    return FAST(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


BPE = byte_level()
UNIGRAM = sentencepiece()
LOWER = byte_level(lower=True)
TOKENIZERS = [
    pytest.param(BPE, id="bpe"),
    pytest.param(UNIGRAM, id="unigram"),
    pytest.param(LOWER, id="lower-casing"),
]

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "home": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 8},
                "geo": {"type": "array", "items": {"type": "number", "minimum": -90, "maximum": 90}},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": PERSON,
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "enum": {"enum": ["Ada", "北京 🎉", 17, None, {"a": [1, 2]}]},
    "const": {"type": "object", "properties": {"Kind": {"const": "Ada"}}, "required": ["Kind"]},
    "integer": {"type": "integer", "minimum": -12, "exclusiveMaximum": 305},
    "number": {"type": "number", "exclusiveMinimum": 0, "maximum": 1.5},
    "string": {"type": "string", "minLength": 2, "maxLength": 5},
    "unicode pattern": {"type": "string", "pattern": "^[éα-ω北京]{1,3}!?$"},
    "any of": {"anyOf": [{"type": "null"}, {"type": "array", "items": PERSON, "minItems": 1}]},
    "recursive": {
        "$defs": {"t": {"type": "object", "properties": {"t": {"$ref": "#/$defs/t"}}, "minProperties": 0}},
        "$ref": "#/$defs/t",
    },
    "anything": {},
}
REGEXES = [
    "yes|no|cannot say",
    r"\d{4}-\d\d-\d\d",
    "[^a]{1,4}b?",
    "(é|北京)+ ?🎉",
    "a*",
    r" ?/\\\n",
    "Ada",
    "(?i)ok",
]


WRAPPED = {id(native): TransformersTokenizer(native) for native in (BPE, UNIGRAM, LOWER)}


def constrain(tokenizer: Any, *, eos_ids: frozenset[int] = frozenset({EOS}), **options: Any) -> Constraint:
    if not isinstance(tokenizer, TransformersTokenizer):
        tokenizer = WRAPPED.get(id(tokenizer)) or TransformersTokenizer(tokenizer)
    return Constraint(tokenizer, eos_ids=eos_ids, **options)


def token_bytes(tokenizer: Any, token: int) -> bytes:
    piece = tokenizer.convert_ids_to_tokens(token)
    if byte := re.fullmatch(r"<0x(..)>", piece):
        return bytes([int(byte[1], 16)])
    if tokenizer is UNIGRAM:
        return str(piece).replace("▁", " ").encode()
    # A byte-level piece is decoded from the middle of a text, where nothing is stripped.
    return bytes(_BYTES[char] for char in piece)


def _byte_alphabet() -> dict[str, int]:
    """The stand-ins of byte-level vocabularies: bytes that cannot be printed count up from 256."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in own]
    return {chr(b): b for b in own} | {chr(256 + i): b for i, b in enumerate(rest)}


_BYTES = _byte_alphabet()


def write(constraint: Constraint, tokenizer: Any, seed: int, *, check: Callable[[str, bool], None]) -> str:
    """Choose among the allowed tokens at random, after a while towards an end, and return the text."""
    rng = random.Random(seed)
    written = b""
    for step in range(2000):
        mask = constraint.allowed()
        assert mask.shape == (WIDTH,)
        assert mask.dtype == torch.bool
        assert not mask[len(tokenizer) :].any()
        assert not mask[[TURN, PAD]].any()
        tokens = mask.nonzero().flatten().tolist()
        assert tokens
        try:
            check(written.decode(), EOS in tokens)
        except UnicodeDecodeError:
            assert EOS not in tokens
        assert constraint.finished == (tokens == [EOS])
        if EOS in tokens and (tokens == [EOS] or step > 40 or rng.random() < 0.3):
            constraint.accept(EOS)
            assert constraint.finished
            return written.decode()
        tokens = [t for t in tokens if t != EOS]
        closing = [t for t in tokens if token_bytes(tokenizer, t) in (b'"', b"}", b"]", b"0")]
        token = rng.choice(closing if closing and (step > 40 or rng.random() < 0.2) else tokens)
        constraint.accept(token)
        written += token_bytes(tokenizer, token)
    raise AssertionError(f"no end in sight: {written[-200:]!r}")


def spell(constraint: Constraint, tokenizer: Any, text: str) -> bool:
    """Whether the text can be written byte by byte or in larger steps, and end there."""
    rest = text.encode()
    while rest:
        tokens = constraint.allowed().nonzero().flatten().tolist()
        fits = [t for t in tokens if t != EOS and rest.startswith(token_bytes(tokenizer, t))]
        if not fits:
            return False
        token = max(fits, key=lambda t: len(token_bytes(tokenizer, t)))
        constraint.accept(token)
        rest = rest[len(token_bytes(tokenizer, token)) :]
    return bool(constraint.allowed()[EOS])


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_choice_ends_in_json_of_the_schema(tokenizer: Any, name: str) -> None:
    schema = SCHEMAS[name]
    validator = jsonschema.Draft202012Validator(schema)

    def check(text: str, may_end: bool) -> None:
        if may_end:
            validator.validate(json.loads(text))

    texts = set()
    for seed in range(8):
        constraint = constrain(tokenizer, json_schema=schema, vocab_size=WIDTH)
        text = write(constraint, tokenizer, seed, check=check)
        validator.validate(json.loads(text))
        texts.add(text)
    assert len(texts) > 1 or name == "const"


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("regex", REGEXES)
def test_every_choice_ends_in_a_full_match(tokenizer: Any, regex: str) -> None:
    def check(text: str, may_end: bool) -> None:
        assert may_end == bool(re.fullmatch(regex, text))

    for seed in range(8):
        constraint = constrain(tokenizer, regex=regex, vocab_size=WIDTH)
        assert re.fullmatch(regex, write(constraint, tokenizer, seed, check=check))


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("options", "text", "possible"),
    [
        ({"json_schema": PERSON}, '{"name":"Ada","age":36,"home":{"city":"北京 🎉","geo":[1.5,-3]}}', True),
        ({"json_schema": PERSON}, '{"age":36,"name":"Ada"}', False),  # not in the schema's order
        ({"json_schema": PERSON}, '{"name": "Ada", "age": 36}', False),  # blanks
        ({"json_schema": PERSON}, ' {"name":"Ada","age":36}', False),  # a blank before
        (
            {"json_schema": PERSON | {"x-guidance": {"whitespace_flexible": True}}},
            '{ "name":"A", "age": 3}',
            True,
        ),
        ({"json_schema": {"enum": ["Ada", "ada"]}}, '"Ada"', True),
        ({"json_schema": {"enum": ["Ada"]}}, '"ada"', False),
        ({"json_schema": {"type": "string", "format": "date"}}, '"2024-12-01"', True),
        ({"json_schema": {"type": "string", "format": "date"}}, '"2024-13-01"', False),
        ({"regex": "Ada"}, "Ada", True),  # forced text that one of the tokenizers would turn to lower case
        ({"regex": "^(yes|no)$"}, "no", True),
        ({"regex": "yes|no"}, " no", False),
        ({"regex": " ?(yes|no)"}, " no", True),
        ({"regex": "a|ab"}, "ab", True),
        ({"regex": "a|ab"}, "", False),
        ({"regex": r"\\"}, "\\", True),
        ({"regex": r"[\d-]\d"}, "-7", True),
        ({"regex": r"\d"}, "٧", False),
        ({"regex": r"\w\s"}, "北 ", True),
        ({"regex": "a/b\nc"}, "a/b\nc", True),
        ({"regex": "<eos>"}, "<eos>", True),  # as text, never by the end token
    ],
)
def test_what_can_be_written(tokenizer: Any, options: dict[str, Any], text: str, possible: bool) -> None:
    assert spell(constrain(tokenizer, **options, vocab_size=WIDTH), tokenizer, text) is possible


def test_text_and_mapping_give_the_same_grammar() -> None:
    schemas: list[Mapping[str, Any] | str] = [json.dumps(PERSON), MappingProxyType(PERSON)]
    for schema in schemas:
        constraint = constrain(BPE, json_schema=schema, vocab_size=WIDTH)
        assert spell(constraint, BPE, '{"name":"Ada","age":36}')


def finished(constraint: Constraint) -> bool:
    """A call, since type checkers take a property for constant between two asserts."""
    return constraint.finished


def test_finished_when_only_the_end_may_follow() -> None:
    constraint = constrain(BPE, regex="ab?", vocab_size=WIDTH)
    a, b = BPE.convert_tokens_to_ids(["a", "b"])
    assert not finished(constraint)
    constraint.accept(a)
    assert not finished(constraint)
    assert constraint.allowed()[EOS]
    constraint.accept(b)
    assert finished(constraint)
    assert constraint.allowed().nonzero().flatten().tolist() == [EOS]
    constraint.accept(EOS)
    constraint.accept(EOS)  # rows that have ended stay in their batch
    assert finished(constraint)


def test_end_token_ends_a_text_that_could_go_on() -> None:
    constraint = constrain(BPE, regex="a*", vocab_size=WIDTH)
    constraint.accept(EOS)
    assert constraint.finished
    assert constraint.allowed().nonzero().flatten().tolist() == [EOS]
    with pytest.raises(InputError, match="may not come next"):
        constraint.accept(BPE.convert_tokens_to_ids("a"))


@pytest.mark.parametrize("ends", [{EOS, TURN}, {TURN}, {TURN, 500}, {500}, {90}])
def test_end_tokens_are_allowed_together_where_the_text_may_end(ends: set[int]) -> None:
    constraint = constrain(BPE, regex="cc?", vocab_size=WIDTH, eos_ids=frozenset(ends))
    assert not constraint.allowed()[sorted(ends)].any()
    constraint.accept(BPE.convert_tokens_to_ids("c"))
    allowed = constraint.allowed()
    assert allowed[sorted(ends)].all()
    assert not allowed[sorted({EOS, TURN} - ends)].any()
    constraint.accept(BPE.convert_tokens_to_ids("c"))
    assert constraint.finished
    constraint.accept(max(ends))
    assert constraint.finished


def test_an_end_token_that_is_also_text_does_not_stand_for_its_text() -> None:
    letter = BPE.convert_tokens_to_ids("q")
    constraint = constrain(BPE, regex="[a-z]{2}", vocab_size=WIDTH, eos_ids=frozenset({letter}))
    assert not constraint.allowed()[letter]


def test_no_end_token_of_its_own_but_one_given() -> None:
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="give eos_ids"):
        constrain(tokenizer, regex="a", vocab_size=WIDTH, eos_ids=frozenset())
    constraint = constrain(tokenizer, regex="a", vocab_size=WIDTH, eos_ids=frozenset({TURN}))
    constraint.accept(tokenizer.convert_tokens_to_ids("a"))
    assert constraint.allowed().nonzero().flatten().tolist() == [TURN]


def test_logits_narrower_than_the_vocabulary() -> None:
    width = len(BPE) - 20
    constraint = constrain(BPE, json_schema={}, vocab_size=width)
    assert constraint.allowed().shape == (width,)
    with pytest.raises(InputError, match="may not come next"):
        constraint.accept(width)


@pytest.mark.parametrize("token", [-1, PAD, 450, WIDTH, 10**9])
def test_a_refused_token_changes_nothing(token: int) -> None:
    constraint = constrain(BPE, regex="[ab]+", vocab_size=WIDTH)
    constraint.accept(BPE.convert_tokens_to_ids("a"))
    before = constraint.allowed()
    with pytest.raises(InputError, match=rf"Token {token}\b.*regex='\[ab\]\+'.*allowed\(\)"):
        constraint.accept(token)
    assert torch.equal(constraint.allowed(), before)
    constraint.accept(BPE.convert_tokens_to_ids("b"))


def test_a_mask_that_the_parser_disagrees_with_does_no_harm() -> None:
    constraint = constrain(BPE, regex="a", vocab_size=WIDTH)
    a, b = BPE.convert_tokens_to_ids(["a", "b"])
    constraint._mask()[b] = True  # as llguidance does now and then for tokenizers that normalise
    with pytest.raises(InputError, match="may not come next"):
        constraint.accept(b)
    constraint.accept(a)
    assert constraint.finished


def test_refusal_shows_the_token() -> None:
    constraint = constrain(BPE, regex="a", vocab_size=WIDTH)
    with pytest.raises(InputError, match="'z'"):
        constraint.accept(BPE.convert_tokens_to_ids("z"))


def test_allowed_is_a_copy() -> None:
    constraint = constrain(BPE, regex="a", vocab_size=WIDTH)
    constraint.allowed().fill_(True)
    assert int(constraint.allowed().sum()) == 1


@pytest.mark.parametrize("options", [{}, {"json_schema": {}, "regex": "a"}])
def test_exactly_one_grammar(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"neither|both"):
        constrain(BPE, **options, vocab_size=WIDTH)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "Invalid type: nonsense"),
        ({"not": {"type": "string"}}, r'Unimplemented keys: \["not"\].*lenient'),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf.*coerce_one_of"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "Unsatisfiable"),
        ({"$ref": "#/$defs/gone"}, r"/\$defs/gone.*does not exist"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-around"),
        ({"type": {1, 2}}, "not of a JSON type"),
        ({"minimum": float("nan")}, "not a JSON object"),
        ('{"type": ', "not a JSON object"),
        ("[1]", "its JSON is of type list"),
        (True, "it is of type bool"),
        ("", "not a JSON object"),
    ],
)
def test_bad_schema(schema: Any, reason: str) -> None:
    with pytest.raises(InputError, match=f"(?s)json_schema=.*{reason}") as caught:
        constrain(BPE, json_schema=schema, vocab_size=WIDTH)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("regex", "reason"),
    [
        ("(a", r"unclosed group\..*Rust"),
        ("a(?=b)", "look-ahead.*is not supported"),
        (r"\bword", "lookarounds not supported"),
        (r"(a)\1", "backreferences are not supported"),
        (r"[^\s\S]", "no text fits"),
        ("", "not empty"),
        (3, "must be a text"),
        ("(?ix) a\nb", "on one line"),
        ("\\", "backslash"),
        ("a\\\\\\", "backslash"),
    ],
)
def test_bad_regex(regex: Any, reason: str) -> None:
    with pytest.raises(InputError, match=f"regex=.*{reason}"):
        constrain(BPE, regex=regex, vocab_size=WIDTH)


def test_long_grammars_are_shortened_in_messages() -> None:
    with pytest.raises(InputError) as caught:
        constrain(BPE, regex="a" * 5000 + "(", vocab_size=WIDTH)
    assert len(str(caught.value)) < 700


def test_ignored_keywords_are_told() -> None:
    schema = {"type": "integer", "not": {"const": 1}, "x-guidance": {"lenient": True}}
    with pytest.warns(NbceWarning, match="not"):
        constraint = constrain(BPE, json_schema=schema, vocab_size=WIDTH)
    assert spell(constraint, BPE, "1")


def test_tokenizer_that_lacks_what_must_come() -> None:
    tokenizer = byte_level(lines=["abc abd"], every_byte=False)
    with pytest.raises(InputError, match="no token for what must come"):
        constrain(tokenizer, regex="xyz", vocab_size=WIDTH)
    constraint = constrain(tokenizer, regex="axb", vocab_size=WIDTH)
    constraint.accept(tokenizer.convert_tokens_to_ids("a"))
    with pytest.raises(InputError, match="no token for what must come"):
        constraint.allowed()


def test_slow_tokenizer() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match="Slow is not a fast tokenizer"):
        constrain(Slow(), regex="a", vocab_size=WIDTH, eos_ids=frozenset({EOS}))


@pytest.mark.parametrize("ends", [{-1}, {EOS, WIDTH}])
def test_end_tokens_outside_of_the_logits(ends: set[int]) -> None:
    with pytest.raises(InputError, match="eos_ids"):
        constrain(BPE, regex="a", vocab_size=WIDTH, eos_ids=frozenset(ends))


def test_vocab_size_must_be_positive() -> None:
    with pytest.raises(InputError, match="vocab_size=0"):
        constrain(BPE, regex="a", vocab_size=0)


def test_llguidance_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=re.escape("pip install 'nbce-rag[grammar]'")):
        constrain(BPE, regex="a", vocab_size=WIDTH)


def test_vocabulary_is_read_once_for_each_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    import llguidance.hf

    built = []
    original = llguidance.hf.from_tokenizer

    def counted(tokenizer: Any, **options: Any) -> Any:
        built.append(len(tokenizer))
        return original(tokenizer, **options)

    monkeypatch.setattr(llguidance.hf, "from_tokenizer", counted)
    tokenizer = byte_level()
    wrapped = TransformersTokenizer(tokenizer)

    def make(tokenizer: Any, number: int) -> Constraint:
        return constrain(tokenizer, regex=f"{number}x", vocab_size=WIDTH)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, [wrapped] * 8, range(8), timeout=60))
    assert len(built) == 1
    assert all(spell(constraint, tokenizer, f"{i}x") for i, constraint in enumerate(made))

    tokenizer.add_tokens(["hello world"])
    constraint = constrain(wrapped, regex="hello world|no", vocab_size=WIDTH)
    assert len(built) == 2
    assert constraint.allowed()[len(tokenizer) - 1]

    gone = weakref.ref(tokenizer)
    del tokenizer, wrapped, constraint, made
    gc.collect()
    assert gone() is None
