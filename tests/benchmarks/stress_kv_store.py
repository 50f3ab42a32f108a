"""Kills processes that fill a KV store at random moments, and checks each time that the store is whole.

PYTHONPATH=.:tests python tests/benchmarks/stress_kv_store.py [--rounds 50] [--seed 0]
"""

from __future__ import annotations

import argparse
import functools
import random
import shutil
import tempfile
import time
from pathlib import Path

from kv_tools import kill_while_writing
from tiny_models import build_model, build_tokenizer

from nbce_rag.models.transformers.loading import load_model


def main() -> None:
    """Runs the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        model, folder = Path(scratch, "model"), Path(scratch, "kv")
        tokenizer = build_tokenizer()
        build_model("gemma3", len(tokenizer)).save_pretrained(model)
        tokenizer.save_pretrained(model)
        loaded = load_model(model, device="cpu", dtype="float32")
        for number in range(arguments.rounds):
            delay = chance.uniform(0, 0.15)
            found, left = kill_while_writing(loaded, model, folder, functools.partial(time.sleep, delay))
            print(f"{number}: killed after {delay:.3f} s: {found} contexts, {left} scratch files", flush=True)
            shutil.rmtree(folder)
    print("every store was whole")


if __name__ == "__main__":
    main()
