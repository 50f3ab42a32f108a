"""Instances of vLLM that are killed and started again in the middle of answers.

    python tests/benchmarks/chaos_vllm.py --rounds 200

Each round asks three instances some questions at once, greedy and drawn ones; meanwhile one or several of
them are killed at a random moment (they listen no more, and their connections break off), and some groups
fall apart, stop, or are refused. Each answer has to be the one that the same model gives in this process, to
the token, and its pieces have to join to it, or there has to be an error of ours that says what failed. The
instances are `vllm_tools.FakeVllm`, in threads: what is proved is what this side does.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from table_model import TableModel, random_table
from tiny_models import build_tokenizer
from vllm_tools import FakeVllm, Fault

from nbce_rag import NBCE, Answer, Request, load_model
from nbce_rag.errors import NbceError
from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
from nbce_rag.prompts.template import PromptTemplate

_TEMPLATE = PromptTemplate(
    prefix="Read this.\n", passage="{heading}{text}\n\n", suffix="Question: {question}\nAnswer:"
)
_PASSAGES = (
    "The ferry is run by Ada. It leaves at noon.",
    "The market opens at eight and sells fish, bread and apples.",
    "The museum was built in 1891.",
    "Water boils at 100 degrees at sea level.",
)
_INSTANCES = 3
_QUESTIONS = 6
_PATIENCE = 120.0  # seconds; no question takes as long, on however busy a machine
_FAULTS = (
    Fault("die", 2),
    Fault("end", 3),
    Fault("poison", 1),
    Fault("unequal", 4),
    Fault("abort", 2),
    Fault("status", 503),
)


class Chaos:
    """Three instances of one model, and the same model here.

    Attributes:
        counts: of answers, errors, kills and requests.
        faults: what must not be.
        slowest: seconds that a round took at most.
    """

    def __init__(self, folder: str, seed: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.slowest = 0.0
        tokenizer = build_tokenizer()
        tokenizer.save_pretrained(folder)
        table: Any = TableModel(
            random_table(len(tokenizer)),
            vocab_size=len(tokenizer),
            tokenizer=TransformersTokenizer(tokenizer),
        )
        options: dict[str, Any] = {"prompt": _TEMPLATE, "max_tokens": 12, "sleep": False}
        self.plain = NBCE(table, kv_store=False, **options)
        self.servers = [FakeVllm(table, folder, pace=0.003) for _ in range(_INSTANCES)]
        for server in self.servers:
            server.start()
        urls = [server.url for server in self.servers]
        self.served = NBCE(load_model(urls, server_timeout=30.0, max_retries=2), **options)

    def round(self) -> None:
        """Some questions, and what befalls the instances meanwhile."""
        requests = [self._request(number) for number in range(_QUESTIONS)]
        expected = self.plain.batch(requests)
        for server in self.servers:
            if self.random.random() < 0.3:
                server.faults += [None, self.random.choice(_FAULTS)]
        begun = time.monotonic()
        threads = [
            threading.Thread(target=self._ask, args=pair) for pair in zip(requests, expected, strict=True)
        ]
        for thread in threads:
            thread.start()
        self._harm()
        for thread in threads:
            thread.join(_PATIENCE)
            if thread.is_alive():
                self.faults.append("a question that never ends")
        self.slowest = max(self.slowest, time.monotonic() - begun)
        for server in self.servers:
            server.faults.clear()

    def end(self) -> None:
        """The instances are there: all is answered."""
        request = self._request(0)
        [expected] = self.plain.batch([request])
        errors = self.counts["errors"]
        self._ask(request, expected)
        if self.counts["errors"] > errors:
            self.faults.append("no answer although all instances are there")
        self.counts["requests"] = sum(len(server.groups) for server in self.servers)
        for server in self.servers:
            server.kill()

    def _request(self, number: int) -> Request:
        drawn: dict[str, Any] = {}
        if number % 2:
            drawn = {"temperature": 1.0, "seed": self.random.randrange(1000)}
        passages = self.random.sample(_PASSAGES, self.random.randint(1, 3))
        rule = self.random.choice(["posterior", "min-entropy", "experts"])
        return self.plain.request(f"Question {self.random.randrange(50)}?", passages, fusion=rule, **drawn)

    def _harm(self) -> None:
        count = self.random.choice([0, 1, 1, 1, 2, _INSTANCES])
        harmed = self.random.sample(self.servers, count)
        for server in harmed:
            time.sleep(self.random.uniform(0, 0.08))
            server.kill()
            self.counts["kills"] += 1
        time.sleep(self.random.uniform(0.02, 0.3))
        for server in harmed:
            server.start()

    def _ask(self, request: Request, expected: Answer) -> None:
        try:
            pieces = list(self.served.stream(request))
        except NbceError as error:
            self.counts["errors"] += 1
            if "vLLM" not in str(error):
                self.faults.append(f"an error that does not say what failed: {error!r}")
            return
        except Exception as error:
            self.faults.append(f"an error that is not ours: {error!r}")
            return
        answer = pieces[-1].answer
        self.counts["answers"] += 1
        if answer is None or answer.text != expected.text:
            self.faults.append(f"{expected.text!r} came as {answer and answer.text!r}")
        elif [token.id for token in answer.tokens] != [token.id for token in expected.tokens]:
            self.faults.append("other tokens of the same text")
        elif "".join(piece.text for piece in pieces) != answer.text:
            self.faults.append("pieces that do not join to the answer")


def chaos(rounds: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """What was done, and what must not have been."""
    with tempfile.TemporaryDirectory() as folder:
        run = Chaos(folder, seed)
        for _ in range(rounds):
            run.round()
        run.end()
        run.counts["seconds in the slowest round"] = round(run.slowest)
        return run.counts, run.faults


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    counts, faults = chaos(options.rounds, options.seed)
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{options.rounds} rounds in {time.monotonic() - begun:.0f} s: {told}; {len(faults)} faults")
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
