"""What only a GPU can show, in under eight minutes: `make gpu`.

Weights are random and made on the device: no download, and the time of a step does not depend on them. Each
part prints its line and is written to `gpu.json` as soon as it is there; a part that fails says why, and the
others go on. `--tiny --device cpu` runs all of it anywhere, with numbers that mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from tiny_models import FAMILIES, WITHOUT_BOS, build_model, build_tokenizer  # noqa: E402

from nbce_rag import NBCE, PassageKVStore, load_model  # noqa: E402
from nbce_rag.decoding.decoder import LockstepDecoder  # noqa: E402
from nbce_rag.models.model import RowPrompt  # noqa: E402
from nbce_rag.models.transformers.attention import use_grouped_attention  # noqa: E402
from nbce_rag.models.transformers.loading import wrap_model  # noqa: E402
from nbce_rag.models.transformers.static_step import record_cuda_graph  # noqa: E402

PASSAGES = [
    "The ferry is run by Ada. It sails at nine. It is blue.",
    "The mill is run by Bob. It is old and has a wheel.",
    "The tower was built by Cy. It leans. Nobody lives there.",
    "The market opens at eight. Fish is sold there.",
]
QUESTION = "Who runs the ferry?"
SHAPES = {
    "tiny": {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "mlp": 96, "vocab": 1024, "head": 16},
    "270M": {
        "hidden": 640,
        "layers": 18,
        "heads": 4,
        "kv_heads": 1,
        "mlp": 2048,
        "vocab": 262_144,
        "head": 256,
    },
    "1B": {
        "hidden": 2048,
        "layers": 16,
        "heads": 32,
        "kv_heads": 8,
        "mlp": 8192,
        "vocab": 128_256,
        "head": 64,
    },
    "8B": {
        "hidden": 4096,
        "layers": 32,
        "heads": 32,
        "kv_heads": 8,
        "mlp": 14_336,
        "vocab": 128_256,
        "head": 128,
    },
}
SUFFIX, QUESTION_ROWS = 26, (1, 11, 27)


class Bench:
    """Where it runs, and what came of it.

    Args:
        device: such as "cuda".
        out: folder of `gpu.json`.
        seconds: when no further part is begun.
        is_trial: nothing is measured: everything runs once or twice.
    """

    def __init__(self, device: str, out: Path, seconds: float, is_trial: bool = False) -> None:
        self.is_trial = is_trial
        self.device, self.out, self.results = torch.device(device), out, dict[str, Any]()
        self._end = time.monotonic() + seconds
        out.mkdir(parents=True, exist_ok=True)

    def part(self, name: str, measure: Callable[[], dict[str, Any]], takes_time: bool = True) -> None:
        """Run a part, unless time is up; print and keep what it gives."""
        if takes_time and time.monotonic() > self._end:
            self.results[name] = "no time left"
        else:
            started = time.monotonic()
            try:
                self.results[name] = measure() | {"seconds": round(time.monotonic() - started, 1)}
            except Exception as error:
                traceback.print_exc()
                self.results[name] = f"{type(error).__name__}: {error}"
        print(name, json.dumps(self.results[name]), flush=True)
        (self.out / "gpu.json").write_text(json.dumps(self.results, indent=2) + "\n")

    def wait(self) -> None:
        """Until the device has done what it was asked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, run: Callable[[], Any], count: int = 20, warm_up: int = 3) -> float:
        """Median of several runs."""
        if self.is_trial:
            count, warm_up = 2, 1
        times = []
        for turn in range(warm_up + count):
            self.wait()
            started = time.perf_counter()
            run()
            self.wait()
            if turn >= warm_up:
                times.append(time.perf_counter() - started)
        return round(1000 * statistics.median(times), 3)


def machine(bench: Bench, tiny: bool) -> dict[str, Any]:
    """Card, versions, and the rates that everything else is held against."""
    size = 1 << (20 if tiny else 31)
    block = torch.zeros(size, dtype=torch.int8, device=bench.device)
    side = 256 if tiny else 8192
    kind = torch.float32 if bench.device.type == "cpu" else torch.bfloat16
    factor = torch.randn(side, side, device=bench.device, dtype=kind)
    numbers: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "copy_GB_s": round(2 * size / bench.milliseconds(block.clone) / 1e6, 1),
        "product_TFLOP_s": round(2 * side**3 / bench.milliseconds(lambda: factor @ factor) / 1e9, 1),
    }
    if bench.device.type == "cuda":
        numbers["card"] = torch.cuda.get_device_name()
        for name, pinned in (("pinned", True), ("pageable", False)):
            memory = torch.zeros(1 << 28, dtype=torch.int8, pin_memory=pinned)
            took = bench.milliseconds(partial(memory.to, bench.device), 5)
            numbers[f"upload_{name}_GB_s"] = round(memory.numel() / took / 1e6, 1)
    return numbers


def engine(model: Any, tokenizer: Any, device: torch.device, recorded: bool) -> NBCE:
    """An engine over a model that is there, as `load_model` would make it."""
    use_grouped_attention(model)
    ready = wrap_model(model, tokenizer, name="random", weights="random", check=False)
    if recorded and device.type == "cuda":
        ready = dataclasses.replace(ready, recorder=record_cuda_graph)
    return NBCE(ready, kv_store=False, max_tokens=24)


def equality(bench: Bench, families: Sequence[str]) -> dict[str, Any]:
    """Whether tokens are those of the CPU, in float32, and how far log-probs are off; with contexts from the
    device and from pinned memory too."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases: dict[str, dict[str, Any]] = {
        "greedy": {},
        "without drafts": {"prompt_lookup_num_tokens": 0},
        "sampled": {"temperature": 1.0, "seed": 0, "top_k": 20},
        "min-entropy": {"fusion": "min-entropy"},
        "experts": {"fusion": "experts"},
        "mean": {"fusion": "mean"},
        "long": {"style": "long"},
    }
    equal, worst, failures = 0, 0.0, []
    for family in families:
        tokenizer = build_tokenizer(bos=family not in WITHOUT_BOS)
        cpu = engine(build_model(family, len(tokenizer)), tokenizer, torch.device("cpu"), False)
        there = build_model(family, len(tokenizer)).to(bench.device)
        gpu = engine(there, tokenizer, bench.device, True)
        for name, options in cases.items():
            expected, answer = (one.answer(QUESTION, PASSAGES, **options) for one in (cpu, gpu))
            same = [token.id for token in answer.tokens] == [token.id for token in expected.tokens]
            equal += same
            if not same:
                failures.append(f"{family}, {name}")
                continue
            off = [abs(a.logprob - b.logprob) for a, b in zip(answer.tokens, expected.tokens, strict=True)]
            worst = max([worst, *off])
        both = [[answer.text for answer in one.batch([(QUESTION, PASSAGES)] * 3)] for one in (cpu, gpu)]
        equal += both[0] == both[1]
        plain = [token.id for token in cpu.answer(QUESTION, PASSAGES).tokens]
        for most in (None, 0):
            stored = NBCE(gpu.model, kv_store=PassageKVStore(device_bytes=most), max_tokens=24)
            answers = [stored.answer(QUESTION, PASSAGES) for _ in range(2)]
            same = all([token.id for token in answer.tokens] == plain for answer in answers)
            equal += same
            if not same:
                failures.append(f"{family}, stored, device_bytes={most}")
    total = len(families) * (len(cases) + 3)
    return {"equal": equal, "of": total, "worst_nats": round(worst, 6), "different": failures}


def waits(bench: Bench) -> dict[str, Any]:
    """How often a step of the decoder waits for the device, as torch itself counts."""
    if bench.device.type != "cuda":
        return {"waits": None}
    tokenizer = build_tokenizer()
    nbce = engine(build_model("llama", len(tokenizer)).to(bench.device), tokenizer, bench.device, True)
    counts: list[int] = []
    step = LockstepDecoder.step

    def counted(decoder: LockstepDecoder) -> Any:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                return step(decoder)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                counts.append(sum("synchronizing" in str(one.message) for one in caught))

    LockstepDecoder.step = counted  # type: ignore[assignment, method-assign]
    try:
        nbce.answer(QUESTION, PASSAGES, prompt_lookup_num_tokens=0)
    finally:
        LockstepDecoder.step = step  # type: ignore[method-assign]
    return {"waits_by_step": counts}


def random_model(bench: Bench, shape: str) -> Any:
    """A llama of this shape, its weights made where they stay."""
    size = SHAPES[shape]
    config = transformers.LlamaConfig(
        hidden_size=size["hidden"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        head_dim=size["head"],
        intermediate_size=size["mlp"],
        vocab_size=size["vocab"],
        max_position_embeddings=16_384,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device=bench.device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    # `to_empty` leaves these without numbers.
    fresh = type(model.model.rotary_emb)(config)
    for name, buffer in fresh.named_buffers():
        model.model.rotary_emb.get_buffer(name).copy_(buffer)
    return model


class Shape:
    """Steps and prompts of one shape of model.

    Args:
        bench: where.
        shape: a key of `SHAPES`.
        tokens: of a passage.
    """

    def __init__(self, bench: Bench, shape: str, tokens: int) -> None:
        self.bench, self.shape, self.tokens = bench, shape, tokens
        self.native = random_model(bench, shape)
        self.plain = engine(self.native, build_tokenizer(), bench.device, False).model
        self.recorded = engine(self.native, build_tokenizer(), bench.device, True).model
        self.generator = torch.Generator().manual_seed(0)

    def ids(self, count: int) -> tuple[int, ...]:
        """Random tokens."""
        drawn = torch.randint(3, 400, (count,), generator=self.generator)
        return tuple(map(int, drawn.tolist()))

    def prompt(self, passages: int) -> RowPrompt:
        """Row 0 and passages, with the question behind them."""
        return RowPrompt(((), *(self.ids(self.tokens) for _ in range(passages))), self.ids(SUFFIX))

    def steps(self, counts: Sequence[int] = QUESTION_ROWS) -> dict[str, Any]:
        """A step of so many rows in ms, launched and recorded; and the bytes that it has to read at least."""
        weights = sum(p.numel() * p.element_size() for p in self.native.parameters())
        weights -= self.native.get_input_embeddings().weight.nbytes  # a lookup
        found: dict[str, Any] = {"GB_of_weights": round(weights / 1e9, 6)}
        for rows in counts:
            prompt = (
                self.prompt(rows - 1) if rows > 1 else RowPrompt((self.ids(10 * self.tokens),), self.ids(26))
            )
            for name, model in (("launched", self.plain), ("recorded", self.recorded)):
                opened, _ = model.open([prompt], 64)
                step = torch.full((rows, 1), 5)
                found[f"{rows}_rows_{name}"] = self.bench.milliseconds(partial(opened.step, step), 30, 8)
                del opened
        opened, _ = self.plain.open([self.prompt(10)], 128)
        draft = torch.full((11, 9), 5)
        found["11_rows_9_tokens"] = self.bench.milliseconds(lambda: opened.step(draft), 8, 2)
        return found

    def first_token(self) -> dict[str, Any]:
        """From a prompt to its first log-probs, in ms: one prompt, and rows from nothing and from each tier.

        Without and with sixteen rows of sentences, which are read anew, in one pass with the question.
        """
        whole = torch.tensor([self.ids(10 * self.tokens + SUFFIX)], device=self.bench.device)

        def one_prompt() -> None:
            with torch.no_grad():
                self.native(input_ids=whole, logits_to_keep=1)

        prompt = self.prompt(10)
        sentences = RowPrompt(((), *(self.ids(40) for _ in range(16))), prompt.suffix)
        times = {
            "one_prompt": self.bench.milliseconds(one_prompt, 5, 1),
            "nothing_stored": self.bench.milliseconds(lambda: self.plain.open([prompt], 64), 5, 1),
        }

        def read(store: PassageKVStore, with_sentences: bool) -> None:
            rows, _ = self.plain.open([prompt], 64, store.of(self.plain))
            if with_sentences:
                more, _ = self.plain.open([sentences], 64)
                rows.joined(more.keep(range(1, 17)))

        with tempfile.TemporaryDirectory() as folder:
            tiers = {
                "device": PassageKVStore(1 << 34, device_bytes=1 << 34),
                "pinned": PassageKVStore(1 << 34, device_bytes=0),
                "files": PassageKVStore(0, folder, device_bytes=0),
            }
            for name, store in tiers.items():
                read(store, False)
                store.flush()
                times[name] = self.bench.milliseconds(partial(read, store, False), 10, 2)
                times[f"{name}_sentences"] = self.bench.milliseconds(partial(read, store, True), 10, 2)
            times["GB_of_contexts"] = round(tiers["pinned"].nbytes / 1e9, 6)
        return times

    def generate(self) -> dict[str, Any]:
        """transformers' own loop over one prompt, in ms a token: as it comes, and with a static cache."""
        whole = torch.tensor([self.ids(10 * self.tokens)], device=self.bench.device)
        found = {}
        for name, options in (("dynamic", {}), ("static", {"cache_implementation": "static"})):
            tokens = {"max_new_tokens": 33, "min_new_tokens": 33, "do_sample": False, **options}
            short = tokens | {"max_new_tokens": 1, "min_new_tokens": 1}
            long_ms = self.bench.milliseconds(partial(self.native.generate, whole, **tokens), 2, 1)
            short_ms = self.bench.milliseconds(partial(self.native.generate, whole, **short), 2, 1)
            found[name] = round((long_ms - short_ms) / 32, 3)
        return found

    def compiled(self) -> dict[str, Any]:
        """A step of eleven rows that was compiled before it was recorded."""
        model = dataclasses.replace(self.recorded, compiled=True)  # type: ignore[type-var]
        started = time.monotonic()
        opened, _ = model.open([self.prompt(10)], 64)
        step = torch.full((11, 1), 5)
        for _ in range(6):
            opened.step(step)
        self.bench.wait()
        took = time.monotonic() - started
        return {
            "11_rows": self.bench.milliseconds(lambda: opened.step(step), 30, 3),
            "compiling_s": round(took, 1),
        }


def small_step(bench: Bench, shape: str, tokens: int) -> dict[str, Any]:
    """A step of eleven rows of the shape of the packaged model, in ms."""
    return {name: ms for name, ms in Shape(bench, shape, tokens).steps((11,)).items() if "11" in name}


def memory(bench: Bench, shape: Shape) -> dict[str, Any]:
    """What answers leave behind, and whether steps can be recorded while contexts are written to files."""
    tokenizer = build_tokenizer()
    model = build_model("llama", len(tokenizer)).to(bench.device)
    with tempfile.TemporaryDirectory() as folder:
        base = engine(model, tokenizer, bench.device, True).model
        nbce = NBCE(base, kv_store=PassageKVStore(folder=folder), max_tokens=24)

        def answer(number: int) -> None:
            passages = [f"{text} Number {number}." for text in PASSAGES]
            nbce.answer(QUESTION, passages, prompt_lookup_num_tokens=0)

        answer(0)
        before = allocated(bench.device)
        for number in range(1, 4 if bench.is_trial else 21):
            answer(number)
        after = allocated(bench.device)
        assert nbce.kv_store is not None
        device = torch.device(bench.device.type, bench.device.index or 0)
        stored = nbce.kv_store.bytes_on(device)
        failures = list(base.recording_failed)  # type: ignore[attr-defined]
        nbce.kv_store.close()
    return {
        "MB_before": before,
        "MB_after": after,
        "MB_held_by_the_store": round(stored / 1e6, 3),
        "recording_failed": failures,
        "GB_free_as_the_engine_sees_it": round(shape.plain.free() / 1e9, 2),
    }


def allocated(device: torch.device) -> float | None:
    """MB that torch has allocated on a GPU."""
    return round(torch.cuda.memory_allocated(device) / 1e6, 3) if device.type == "cuda" else None


def loading(bench: Bench, shape: str) -> dict[str, Any]:
    """Seconds to load a checkpoint, and by how many GB the process's own memory has grown behind it."""
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(bench, shape)
        size = sum(tensor.nbytes for tensor in model.parameters())
        model.cpu().save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        del model
        before = psutil.Process().memory_full_info().uss
        started = time.monotonic()
        loaded = load_model(folder, device=str(bench.device), dtype="bfloat16", check=False)
        bench.wait()
        took = time.monotonic() - started
        grown = psutil.Process().memory_full_info().uss - before
    return {
        "GB": round(size / 1e9, 6),
        "took_s": round(took, 2),
        "GB_of_the_process": round(grown / 1e9, 3),
        "device": str(loaded.device),
    }


def demands(results: dict[str, Any]) -> dict[str, Any]:
    """The figures that are asked for, of an 8B shape."""
    steps, first, rates = results["steps"], results["first_token"], results["machine"]
    floor = 1000 * steps["GB_of_weights"] / rates["copy_GB_s"]
    one, prompt = steps["1_rows_recorded"], first["one_prompt"]
    asked = {
        "11 rows / 1 row (<= 1.15)": round(steps["11_rows_recorded"] / one, 2),
        "27 rows / 1 row (<= 1.25)": round(steps["27_rows_recorded"] / one, 2),
        "11 rows / memory floor (<= 1.6)": round(steps["11_rows_recorded"] / floor, 2),
        "one prompt / first token, device memory (>= 12)": round(prompt / first["device"], 1),
        "the same, pinned memory (>= 7)": round(prompt / first["pinned"], 1),
        "the same, files (>= 3)": round(prompt / first["files"], 1),
        "the same with sentences, device memory (>= 3.5)": round(prompt / first["device_sentences"], 1),
        "the same with sentences, pinned memory (>= 3.5)": round(prompt / first["pinned_sentences"], 1),
        "9 tokens / 1 token (<= 1.35)": round(steps["11_rows_9_tokens"] / steps["11_rows_launched"], 2),
    }
    if "upload_pinned_GB_s" in rates:
        bound = 1000 * first["GB_of_contexts"] / rates["upload_pinned_GB_s"]
        asked["pinned memory, ms beyond 1.3 x its upload (<= 10)"] = round(first["pinned"] - 1.3 * bound, 1)
    return asked


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the parts; what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--tiny", action="store_true", help="a shape that any machine can do")
    parser.add_argument("--shape", choices=SHAPES, default="8B")
    parser.add_argument("--tokens", type=int, default=512, help="of a passage")
    parser.add_argument("--seconds", type=float, default=440, help="no part is begun after that")
    parser.add_argument("--only", nargs="*", help="these parts alone")
    arguments = parser.parse_args(words)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no NVIDIA GPU here; --device cpu --tiny runs the script without one.")
    bench = Bench(arguments.device, arguments.out, arguments.seconds, arguments.tiny)
    shape: list[Shape] = []

    def of_shape() -> Shape:
        if not shape:
            name, tokens = ("tiny", 24) if arguments.tiny else (arguments.shape, arguments.tokens)
            shape.append(Shape(bench, name, tokens))
        return shape[0]

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "machine": lambda: machine(bench, arguments.tiny),
        "equality": lambda: equality(bench, list(FAMILIES)[: 1 if arguments.tiny else None]),
        "waits": lambda: waits(bench),
        "steps": lambda: of_shape().steps(),
        "first_token": lambda: of_shape().first_token(),
        "generate": lambda: of_shape().generate(),
        "compiled": lambda: of_shape().compiled(),
        "small_step": lambda: small_step(bench, "tiny" if arguments.tiny else "270M", 128),
        "memory": lambda: memory(bench, of_shape()),
        "loading": lambda: loading(bench, "tiny" if arguments.tiny else "1B"),
        "demands": lambda: demands(bench.results),
    }
    for name, measure in parts.items():
        if not arguments.only or name in arguments.only:
            bench.part(name, measure, takes_time=name != "demands")
    return bench.results


if __name__ == "__main__":
    main()
