"""How soon contexts come back from the KV store, and what its 8-bit codec changes.

    python tests/benchmarks/bench_kv_store.py [--passages 10] [--tokens 128] [--model M] [--dtype float32]
    python tests/benchmarks/bench_kv_store.py --effect QUESTIONS [--corpus PASSAGES] [--limit 50]

The first form reads passages cold, from disk (a new store on a warm page cache each time) and from memory:
`read` is the time until keys and values of all rows are at hand, `first token` that of a whole
`NBCE.answer` of one token. The second asks the same questions with exact and with 8-bit keys and values
(files as in `nbce-rag eval`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nbce_rag import NBCE, Passage
from nbce_rag.errors import NbceWarning
from nbce_rag.evaluation import evaluate
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.transformers.contexts import read_contexts
from nbce_rag.models.transformers.loading import load_model
from nbce_rag.models.transformers.memory import RowMemory
from nbce_rag.prompts.encoder import PromptEncoder

WORDS = (
    "harbour",
    "pilot",
    "ferry",
    "lamp",
    "river",
    "market",
    "bridge",
    "letter",
    "clock",
    "tower",
    "otter",
)


def passage(number: int, tokens: int, nbce: NBCE) -> Passage:
    """A text of about so many tokens, different for each number."""
    text = f"Number {number}."
    at = number
    while len(nbce.model.tokenizer.encode(text)) < tokens - 2:
        at = (at * 31 + 7) % 1009
        text += f" {WORDS[at % len(WORDS)]}"
    return Passage(text)


def timed(work: Callable[[], Any]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_reading(arguments: argparse.Namespace) -> None:
    """Prints the first table."""
    loaded = load_model(arguments.model, dtype=arguments.dtype)
    nbce = NBCE(loaded, kv_store=False)
    passages = [passage(number, arguments.tokens, nbce) for number in range(arguments.passages)]
    request = nbce.request("Who keeps the lamp at the north harbour in winter?", passages, max_tokens=1)
    encoder = PromptEncoder(nbce.prompt, loaded.tokenizer)
    contexts = [
        encoder.context({0: encoder.passage_ids(p.title, p.text, p.source, p.id)}) for p in request.passages
    ]
    tokens = sum(map(len, contexts))
    with tempfile.TemporaryDirectory() as folder:

        def read(store: PassageKVStore | None) -> None:
            read_contexts(loaded, contexts, None if store is None else store.of(loaded), loaded.batch_tokens)

        def read_and_place(store: PassageKVStore | None) -> None:
            packed, _ = read_contexts(
                loaded, contexts, None if store is None else store.of(loaded), loaded.batch_tokens
            )
            longest = max(map(len, contexts))
            memory = RowMemory([longest - len(ids) for ids in contexts], longest + 64, loaded.layout)
            for row, ids in enumerate(contexts):
                memory.place(row, packed[ids], len(ids))

        for codec in (None, "int8"):
            filled = PassageKVStore(folder=folder, codec=codec)
            cold = timed(lambda filled=filled: read(filled))  # type: ignore[misc]
            flush = timed(filled.flush)
            size = sum(e.size for e in filled._disk.folder.entries()) if filled._disk else 0
            print(
                f"{codec or 'exact'}: {len(contexts)} contexts, {tokens} tokens, "
                f"{filled.nbytes / 1e6:.1f} MB in memory, {size / 1e6:.1f} MB on disk (all codecs)"
            )
            print(f"  cold  read {cold * 1e3:8.1f} ms, then {flush * 1e3:.1f} ms until all was on disk")

            def from_disk(codec: str | None = codec) -> PassageKVStore:
                return PassageKVStore(folder=folder, codec=codec)

            rows: list[tuple[str, Callable[[], PassageKVStore]]] = [
                ("disk", from_disk),
                ("ram", lambda filled=filled: filled),  # type: ignore[misc]
            ]
            for name, store in rows:
                times: dict[str, list[float]] = {"read": [], "read and place": [], "first token": []}
                for _ in range(arguments.repeats):
                    for kind, work in (("read", read), ("read and place", read_and_place)):
                        opened = store()
                        times[kind].append(timed(lambda work=work, opened=opened: work(opened)))  # type: ignore[misc]
                    nbce = NBCE(loaded, kv_store=store())
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", NbceWarning)
                        times["first token"].append(timed(lambda nbce=nbce: nbce.batch([request])))  # type: ignore[misc]
                shown = ", ".join(
                    f"{kind} {statistics.median(values) * 1e3:.1f} ms" for kind, values in times.items()
                )
                print(f"  {name:5} {shown}")
        nothing = NBCE(loaded, kv_store=False)
        asked = [timed(lambda: nothing.batch([request])) for _ in range(min(3, arguments.repeats))]
        print(f"no store: first token {statistics.median(asked) * 1e3:.1f} ms")


def measure_effect(arguments: argparse.Namespace) -> None:
    """Prints the second table."""
    answers: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec in ("exact", "int8"):
            log = Path(folder, f"{codec}.jsonl")
            report = evaluate(
                arguments.corpus,
                arguments.effect,
                methods="posterior",
                limit=arguments.limit,
                max_tokens=20,
                model=arguments.model,
                dtype=arguments.dtype,
                index=Path(folder, "index"),
                kv_store=PassageKVStore(4 << 30, codec=codec),
                log=log,
            )
            scores = report["methods"]["posterior"]
            print(f"{codec}: answer found {scores['answer_found']:.3f}, F1 {scores['f1']:.3f}")
            from nbce_rag.evaluation.log import RunLog

            answers[codec] = {id_: str(row["answer"]) for (_, id_), row in RunLog.read(log).rows.items()}
    same = sum(answers["exact"][id_] == answers["int8"][id_] for id_ in answers["exact"])
    print(f"the same answer, character by character: {same} of {len(answers['exact'])}")


def main() -> None:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model", default=None)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--effect", metavar="QUESTIONS")
    parser.add_argument("--corpus", metavar="PASSAGES")
    parser.add_argument("--limit", type=int, default=50)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {arguments.dtype}")
    (measure_effect if arguments.effect else measure_reading)(arguments)


if __name__ == "__main__":
    main()
