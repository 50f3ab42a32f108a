"""What stands above the seam, on a backend of another kind: the model of tables."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from hypothesis import given, settings
from hypothesis import strategies as st
from table_model import TableModel, random_table, table_of

from nbce_rag import (
    NBCE,
    MinEntropy,
    Passage,
    PassageKVStore,
    Posterior,
    Prompt,
    PromptTemplate,
    Request,
    load_model,
)
from nbce_rag.decoding.decoder import LockstepDecoder
from nbce_rag.engine import batch
from nbce_rag.errors import InputError, MissingDependencyError, NumericalError
from nbce_rag.models.loading import BACKENDS
from nbce_rag.models.model import Can, Model, Step
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer


@pytest.fixture
def table(tiny_tokenizer: Any) -> Callable[..., NBCE]:
    """`table(max_tokens=4)`: an engine on a random table; `can=` and the like go to the backend."""

    def make(**options: Any) -> NBCE:
        backend = {name: options.pop(name) for name in ("can", "free", "window", "table") if name in options}
        vocab_size = len(tiny_tokenizer)
        model: Model = TableModel(
            backend.pop("table", None) or random_table(vocab_size),
            vocab_size=vocab_size,
            tokenizer=TransformersTokenizer(tiny_tokenizer),
            **backend,
        )
        return NBCE(model, prompt=TEMPLATE, **{"max_tokens": 6, **options})

    return make


def test_answers_batches_scores_and_comparisons(table: Callable[..., NBCE]) -> None:
    nbce = table()
    answer = nbce.answer(QUESTION, PASSAGES)
    assert answer.usage.generated_tokens == 6
    assert sum(answer.tokens[0].weights) == pytest.approx(1)
    two = [Passage("It is run by Ada. It leaves at noon. Dogs ride for free.")]
    assert nbce.answer(QUESTION, two).usage.sentence_rows == 3
    assert [a.text for a in nbce.batch([(QUESTION, PASSAGES), ("Why?", PASSAGES[:1])])] == [
        answer.text,
        nbce.answer("Why?", PASSAGES[:1]).text,
    ]
    assert nbce.score(QUESTION, PASSAGES, ["Ada", "Bob"]).best in ("Ada", "Bob")
    assert len(nbce.compare(QUESTION, PASSAGES[:2]).groups) >= 1


def test_drafts_and_batches_change_no_token(table: Callable[..., NBCE]) -> None:
    nbce = table(max_tokens=20)
    plain = nbce.answer(QUESTION, PASSAGES, prompt_lookup_num_tokens=0)
    assert nbce.answer(QUESTION, PASSAGES).tokens == plain.tokens


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), passages=st.integers(1, 5), rule=st.sampled_from([Posterior(), MinEntropy()])
)
def test_weights_are_a_distribution_whatever_the_table(
    seed: int, passages: int, rule: Any, tiny_tokenizer: Any
) -> None:
    vocab_size = len(tiny_tokenizer)
    tokenizer = TransformersTokenizer(tiny_tokenizer)
    model = TableModel(random_table(vocab_size, seed=seed), vocab_size=vocab_size, tokenizer=tokenizer)
    nbce = NBCE(model, prompt=TEMPLATE, max_tokens=4, fusion=rule)
    answer = nbce.answer(QUESTION, [Passage(f"Text {n}.") for n in range(passages)])
    assert all(sum(token.weights) == pytest.approx(1, abs=1e-5) for token in answer.tokens)
    assert all(min(token.weights) >= 0 for token in answer.tokens)


def test_stored_contexts_are_not_read_again(table: Callable[..., NBCE]) -> None:
    nbce = table(kv_store=PassageKVStore())
    model: Any = nbce.model
    assert nbce.prefill(PASSAGES).read == len(PASSAGES)
    read = len(model.read_contexts)
    answer = nbce.answer(QUESTION, PASSAGES, fusion=MinEntropy())
    assert len(model.read_contexts) == read
    assert answer.usage.cached_tokens > 0


def test_what_a_backend_cannot_do_is_refused_by_name(table: Callable[..., NBCE]) -> None:
    nbce = table(can=Can(likelihood=False, rewind=False, repeat=False, grammar=False))
    for options in ({"relevance": True}, {"regex": "a+"}, {"json_schema": {"type": "object"}}):
        [name] = options
        with pytest.raises(InputError, match=rf"'table'.*{name}"):
            nbce.answer(QUESTION, PASSAGES, **options)
    with pytest.raises(InputError, match="'table' cannot score"):
        nbce.score(QUESTION, PASSAGES, ["a", "b"])
    # The default rule does without the likelihoods, and nothing is drafted.
    with pytest.warns(UserWarning, match="'table' gives no likelihoods"):
        answer = nbce.answer(QUESTION, PASSAGES)
    assert any("gives no likelihoods" in warning for warning in answer.warnings)
    assert [passage.relevance for passage in answer.passages] == [None] * len(PASSAGES)
    assert answer.usage.generated_tokens == 6


def test_memory_is_asked_of_the_backend(table: Callable[..., NBCE]) -> None:
    with pytest.raises(InputError, match=r"rows need about .* GiB"):
        table(free=1000).answer(QUESTION, PASSAGES)


def test_a_nan_comes_through(table: Callable[..., NBCE], tiny_tokenizer: Any) -> None:
    def broken(ids: tuple[int, ...]) -> torch.Tensor:
        return torch.full((len(tiny_tokenizer),), float("nan"))

    with pytest.raises(NumericalError):
        table(table=broken).answer(QUESTION, PASSAGES)


def test_a_table_of_the_last_token(table: Callable[..., NBCE], tiny_tokenizer: Any) -> None:
    """An answer that is known beforehand: each token is followed by the next one."""
    vocab_size = len(tiny_tokenizer)
    ids = tiny_tokenizer("The ferry sells bread.", add_special_tokens=False)["input_ids"]
    start = tiny_tokenizer(TEMPLATE.suffix, add_special_tokens=False)["input_ids"][-1]
    entries = {before: {after: 0.9} for before, after in zip([start, *ids], [*ids, 1], strict=True)}
    nbce = table(table=table_of(entries, vocab_size), max_tokens=30)
    answer = nbce.answer(QUESTION, PASSAGES[:2], fusion=MinEntropy(beta=0.0))
    assert answer.text == "The ferry sells bread."
    assert answer.finish_reason == "stop"


def test_a_window_below_the_models_own(table: Callable[..., NBCE]) -> None:
    nbce = table()
    with pytest.raises(InputError, match=r"window=513 is not within 1\.\.512"):
        NBCE(nbce.model, prompt=TEMPLATE, window=513)
    small = NBCE(nbce.model, prompt=TEMPLATE, window=80, max_tokens=6)
    assert small.window == 80
    with pytest.warns(UserWarning, match="overlapping windows"):
        answer = small.answer(QUESTION, PASSAGES)
    assert max(answer.usage.row_tokens) <= 74


def test_backends_and_tokenizers_by_name(tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="backend='nope' is not known; choose transformers"):
        NBCE.from_pretrained("x", backend="nope")
    with pytest.raises(InputError, match="tokenizer= goes with a model"):
        NBCE.from_pretrained("x", tokenizer=tiny_tokenizer)


@pytest.mark.parametrize(
    ("model", "backend", "options", "is_installed", "expected"),
    [
        ("x.gguf", None, {}, True, "llama.cpp"),
        (Path("x.gguf"), None, {"n_threads": 2}, True, "llama.cpp"),
        ("x.gguf", None, {"dtype": "auto", "device": None}, True, "llama.cpp"),
        ("x.gguf", None, {}, False, "transformers"),
        ("x.gguf", None, {"kv_type": "q8_0"}, False, "llama.cpp"),  # to say that it is not installed
        ("x.gguf", None, {"dtype": "float32"}, True, "transformers"),
        ("x.gguf", "transformers", {}, True, "transformers"),
        ("x", None, {}, True, "transformers"),
        (None, None, {}, True, "transformers"),
        (None, "llama.cpp", {}, True, "llama.cpp"),
    ],
)
def test_which_backend_reads_a_model(
    model: Any,
    backend: str | None,
    options: dict[str, Any],
    is_installed: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    for name in BACKENDS:
        loader = import_module(f"nbce_rag.models.{name.replace('.', '_')}.loading")
        made = functools.wraps(loader.load_model)(lambda model, _name=name, **o: calls.append((_name, o)))
        monkeypatch.setattr(loader, "load_model", made)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed else None)
    load_model(model, backend=backend, **options)
    [(chosen, passed)] = calls
    assert chosen == expected
    assert passed == {name: value for name, value in options.items() if value not in ("auto", None)}


def test_options_of_another_backend_are_named() -> None:
    with pytest.raises(
        InputError, match=r"Unknown option kv_type; .* by transformers\. There is backend='llama.cpp'"
    ):
        load_model("x", kv_type="q8_0")
    with pytest.raises(InputError, match=r"Unknown option dtype; .*n_gpu_layers.* by llama.cpp\. There is"):
        NBCE.from_pretrained("x.gguf", backend="llama.cpp", dtype="float32")
    with pytest.raises(InputError, match=r"Unknown option device, dtype; [^']*$"):
        load_model("x.gguf", dtype="float32", kv_type="q8_0", backend="llama.cpp", device="cpu")


def test_llama_cpp_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbce_rag.models.llama_cpp.library import library

    library.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingDependencyError, match=r"nbce-rag\[llama-cpp\]"):
        load_model("x.gguf", backend="llama.cpp")


def test_steps_of_a_question_that_has_ended_are_passed_over(
    table: Callable[..., NBCE], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that holds the loop itself may hand out several steps at once, some past the end."""

    class Doubling(LockstepDecoder):
        def step(self) -> list[Step]:
            return [step for step in super().step() for _ in range(2)]

    monkeypatch.setattr(batch, "LockstepDecoder", Doubling)
    pieces = list(table(max_tokens=3).stream(QUESTION, PASSAGES))
    assert sum(piece.answer is not None for piece in pieces) == 1


def test_errors_come_before_any_work(table: Callable[..., NBCE]) -> None:
    nbce = table()
    model: Any = nbce.model
    requests = [nbce.request(QUESTION, PASSAGES), nbce.request("Why?", PASSAGES, regex="(")]
    with pytest.raises(InputError):
        nbce.batch(requests)
    assert model.opened == []


wrong: Any = Request  # so that mypy lets wrong arguments pass
engine: Any = NBCE


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda nbce: nbce.batch([wrong("q?", ["text"])]), r"passages\[0\] of a request is a str"),
        (lambda nbce: nbce.batch([{"passages": ["x"]}]), "lacks its question"),
        (lambda nbce: nbce.answer("q?", document=5), "must be a text, got int"),
        (lambda nbce: nbce.answer("q?", 5), "must be a sequence of passages, got int"),
        (lambda nbce: nbce.prefill(5), "must be a sequence of passages, got int"),
        (lambda nbce: nbce.score("q?", ["x"], [1, 2]), r"choices=\(1, 2\)"),
        (lambda nbce: nbce.answer("q?", ["x"], prompt="Say it."), "give an nbce_rag.Prompt"),
        (lambda nbce: nbce.stream(nbce.request("q?", ["x"]), max_tokens=1), "has its passages and options"),
        (lambda nbce: engine("gemma3-270m"), "NBCE.from_pretrained takes names"),
        (lambda nbce: engine(nbce.model, window="12"), "window='12' must be a number"),
        (lambda nbce: NBCE(nbce.model, window=True), "window=True must be a number"),
        (lambda nbce: NBCE(nbce.model, max_batch_tokens=0), "max_batch_tokens=0 is out of range"),
        (lambda nbce: NBCE(nbce.model, prompt=TEMPLATE, style="long"), "leave one of them out"),
        (lambda nbce: NBCE.from_pretrained("x", prompt=TEMPLATE, style="long"), "leave one of them out"),
        (lambda nbce: NBCE.from_pretrained(object(), dtype="bfloat16"), "dtype: a model that is already"),
        (lambda nbce: load_model("x", nonsense=3), "Unknown option nonsense; a model is loaded with device"),
    ],
)
def test_wrong_arguments_are_named(
    call: Callable[[Any], Any], message: str, table: Callable[..., NBCE]
) -> None:
    with pytest.raises(InputError, match=message):
        call(table())


def test_a_request_in_words_of_its_own(table: Callable[..., NBCE]) -> None:
    nbce = table(max_tokens=2)
    own = Prompt(text="Say this:")
    assert nbce.request("Say this:", prompt=own).prompt is own
    assert len(nbce.answer("Say this:", prompt=own).usage.row_tokens) == 1
    template = PromptTemplate.plain("long")
    assert nbce.updated(prompt=template, max_batch_tokens=7).prompt == template


def test_an_answer_that_goes_round_in_circles_is_ended(
    table: Callable[..., NBCE], tiny_tokenizer: Any
) -> None:
    """Greedy decoding never leaves a loop, so that only the most tokens would end it."""
    words = tiny_tokenizer.encode("the ferry is run by Ada", add_special_tokens=False)[:5]

    def cyclic(ids: tuple[int, ...]) -> torch.Tensor:
        log_probs = torch.full((len(tiny_tokenizer),), -20.0)
        after = words.index(ids[-1]) + 1 if ids[-1] in words else 0
        log_probs[words[after % len(words)]] = 0.0
        return log_probs.log_softmax(-1)

    nbce = table(table=cyclic, window=512, max_tokens=200, prompt_lookup_num_tokens=0)
    answer = nbce.answer(QUESTION, PASSAGES)
    assert (answer.finish_reason, answer.usage.generated_tokens) == ("stop", 35)
    assert any("circles" in warning for warning in answer.warnings)
    assert "".join(piece.text for piece in nbce.stream(QUESTION, PASSAGES)) == answer.text
    short = nbce.answer(QUESTION, PASSAGES, max_tokens=30)
    assert (short.finish_reason, short.warnings) == ("length", ())


def test_a_codec_that_cannot_round_is_refused_not_said_to_have_rounded(table: Callable[..., NBCE]) -> None:
    rounding = PassageKVStore(codec="int8")
    with pytest.raises(InputError, match=r"codec='int8'.*no codec rounds"):
        NBCE(table(can=Can(round=False)).model, kv_store=rounding)
    assert NBCE(table().model, kv_store=rounding).kv_store is rounding
    assert NBCE(table(can=Can(round=False)).model, kv_store=PassageKVStore()).kv_store is not None
