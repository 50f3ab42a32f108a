r"""Many requests from several threads, some of which leave or fail: nothing is lost, memory stays flat.

    python tests/benchmarks/soak.py [--requests 1000] [--clients 8] [--model MODEL]

Without `--model` a tiny random model is made, in float32, so that every answer can be compared with the one
that the same question gets alone. Every fifth request is closed after two pieces, every seventh is wrong in
itself, every eleventh has no time. At the end the script says how many came to what, and the memory of the
process after each tenth of them; it fails where an answer is wrong or lost, or where the second half of the
run grew by more than a twentieth.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from queue import Empty, SimpleQueue

from nbce_rag import NBCE, AnswerTimeoutError, InputError, NbceError, Passage

PASSAGES = [
    Passage("The ferry to the island is run by Ada and leaves at noon from the old harbour."),
    Passage("The market opens at eight and sells fish, bread and apples."),
    Passage("The museum was built in 1891 and holds 2,350 paintings."),
    Passage("Dogs ride for free."),
]
KINDS = 40  # different questions


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def tiny_engine() -> NBCE:
    """A random model of three layers."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny_models import build_model, build_tokenizer

    from nbce_rag.models.transformers.loading import wrap_model

    tokenizer = build_tokenizer()
    return NBCE(wrap_model(build_model("llama", len(tokenizer)), tokenizer), max_tokens=16)


def asked(number: int) -> tuple[str, list[Passage]]:
    kind = number % KINDS
    return f"Question number {kind}?", PASSAGES[kind % 4 : kind % 4 + 1 + kind % 3]


def ask(nbce: NBCE, number: int, texts: dict[int, str]) -> str:
    """What came of one request."""
    question, passages = asked(number)
    try:
        if number % 7 == 3:
            nbce.answer(question, [Passage(" ")])
            return "no error"
        if number % 11 == 5:
            nbce.answer(question, passages, max_seconds=1e-6)
            return "in time"
        pieces = nbce.stream(question, passages)
        if number % 5 == 2:
            for _ in range(2):
                next(pieces, None)
            pieces.close()  # type: ignore[attr-defined]
            return "left"
        text = "".join(piece.text for piece in pieces)
        wanted = texts.get(number % KINDS, text)
        return "answered" if text == wanted else f"wrong: {text!r} for {wanted!r}"
    except InputError:
        return "refused"
    except AnswerTimeoutError:
        return "too late"
    except NbceError as error:
        return f"failed: {error}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", help="hub id, folder or GGUF file; answers are then not compared")
    options = parser.parse_args(arguments)
    nbce = NBCE.from_pretrained(options.model, max_tokens=16) if options.model else tiny_engine()
    texts = {} if options.model else {kind: nbce.answer(*asked(kind)).text for kind in range(KINDS)}
    numbers: SimpleQueue[int] = SimpleQueue()
    for number in range(options.requests):
        numbers.put(number)
    outcomes: Counter[str] = Counter()
    memory: list[float] = []
    lock = threading.Lock()
    started = time.perf_counter()

    def client() -> None:
        while True:
            try:
                number = numbers.get_nowait()
            except Empty:
                return
            outcome = ask(nbce, number, texts)
            with lock:
                outcomes[outcome] += 1
                if outcomes.total() % max(1, options.requests // 10) == 0:
                    gc.collect()
                    memory.append(resident())

    threads = [threading.Thread(target=client) for _ in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        f"{options.requests} requests of {options.clients} clients in {time.perf_counter() - started:.0f} s"
    )
    print(", ".join(f"{count} {name}" for name, count in outcomes.most_common()))
    print("MB after each tenth: " + " ".join(f"{value:.0f}" for value in memory))
    while nbce.scheduler.load.running:  # those that left a moment ago
        time.sleep(0.01)
    print(nbce.scheduler.load)
    half = memory[len(memory) // 2 :]
    is_right = outcomes.total() == options.requests and not any(
        name.startswith(("wrong", "failed", "no error")) for name in outcomes
    )
    return 0 if is_right and max(half) <= 1.05 * half[0] else 1


if __name__ == "__main__":
    sys.exit(main())
