r"""How fast 1, 4 and 16 concurrent questions are answered, against one after the other.

    python tests/benchmarks/bench_scheduler.py [--model MODEL] [--questions 1 4 16] [--passages 4]

Every question has passages of its own, of which none is in a store. Of each number of questions: seconds for
all of them one after the other, and all at once from as many threads; generated tokens a second; and when the
first token came, of the median question and of the last one, counted from the common start. The two ways take
turns on the same machine; what others do there in the meantime makes a run worth little, its ratios more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence

from nbce_rag import NBCE, Answer, Passage

_NAMES = """
harbour ferry market museum bread apples noon evening square island captain ticket painting garden bridge
lamp letter winter river stone
"""
_WORDS = _NAMES.split()


def question(number: int, passages: int, words: int) -> tuple[str, list[Passage]]:
    """A question and passages that no other question has."""
    texts = []
    for passage in range(passages):
        seed = number * 31 + passage * 7
        picked = [_WORDS[(seed + step * (3 + passage)) % len(_WORDS)] for step in range(words)]
        texts.append(Passage(f"Note {number}.{passage}: {' '.join(picked)}."))
    return f"What does note {number} say about the {_WORDS[number % len(_WORDS)]}?", texts


def one_by_one(nbce: NBCE, asked: Sequence[tuple[str, list[Passage]]]) -> tuple[float, list[float], int]:
    """Seconds for all, seconds to the first token of each, generated tokens."""
    return _timed([asked], nbce)


def at_once(nbce: NBCE, asked: Sequence[tuple[str, list[Passage]]]) -> tuple[float, list[float], int]:
    """The same of as many threads as questions."""
    return _timed([[one] for one in asked], nbce)


def _timed(
    lines: Sequence[Sequence[tuple[str, list[Passage]]]], nbce: NBCE
) -> tuple[float, list[float], int]:
    firsts: list[float] = []
    answers: list[Answer] = []
    started = time.perf_counter()

    def ask(line: Sequence[tuple[str, list[Passage]]]) -> None:
        for text, passages in line:
            is_first = True
            for piece in nbce.stream(text, passages):
                if is_first:
                    firsts.append(time.perf_counter() - started)
                    is_first = False
                if piece.answer is not None:
                    answers.append(piece.answer)

    threads = [threading.Thread(target=ask, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return seconds, firsts, sum(answer.usage.generated_tokens for answer in answers)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--passages", type=int, default=4)
    parser.add_argument("--words", type=int, default=40, help="of a passage")
    parser.add_argument("--tokens", type=int, default=24)
    options = parser.parse_args(arguments)
    nbce = NBCE.from_pretrained(options.model, kv_store=False, max_tokens=options.tokens)
    nbce.answer(*question(10**6, options.passages, options.words))  # what is done once
    print("questions  way         seconds  tokens/s  first token: median  last")
    for count in options.questions:
        asked = [question(number, options.passages, options.words) for number in range(count)]
        for name, way in (("in turns", one_by_one), ("at once", at_once)):
            seconds, firsts, tokens = way(nbce, asked)
            print(
                f"{count:9}  {name:10}  {seconds:7.2f}  {tokens / seconds:8.2f}  "
                f"{statistics.median(firsts):19.2f}  {max(firsts):4.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
