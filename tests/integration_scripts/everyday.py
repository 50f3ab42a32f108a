"""Some fifty everyday chains and engines, in the shapes of the frameworks' tutorials, with real answers.

    python tests/integration_scripts/everyday.py [--model FILE] [--only WORD] [--max-tokens 48]

The model is a hub id, a folder or a GGUF file; without one it is the packaged one (extra `[local]`). Prints
a table: the chain, its answer, how many citations came with it, and whether it went through. What asks for
tools or JSON is asked of base models too, and says then that they cannot.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), *map(str, Path(__file__).parents[2:3])]

TEXTS = {
    "Ferry": "The ferry to Karrow is run by Ada Quill. It leaves Brennick at noon and at six every day.",
    "Market": "The market of Brennick opens at eight in the morning and sells fish, bread and apples.",
    "Museum": "The Museum of Tides was built in 1891 by Tomas Reed. It holds 2,350 paintings.",
    "Lamp": "The lamp of the lighthouse is lit at dusk by Mirele Arrow, the keeper since 1902.",
    "Tramway": "The ridge tramway takes eleven minutes from the harbour to the mine and costs two crowns.",
}
QUESTION, FOLLOW_UP = "Who runs the ferry to Karrow?", "When does it leave?"


@dataclass
class World:
    """What every chain is made of.

    Attributes:
        engine: the model.
        folder: where indexes may lie.
        embed: texts into vectors.
    """

    engine: Any
    folder: Path
    embed: Any


@dataclass(frozen=True)
class Result:
    """What came of a chain: its answer, and how many citations stood beside it; None where it has none."""

    answer: str
    citations: int | None = None


Chain = Callable[[World], Result]


def chains() -> dict[str, Chain]:
    """All of them by name; those of a framework that is not installed are left out."""
    found: dict[str, Chain] = {}
    for module in ("langchain_chains", "llama_index_engines"):
        try:
            found |= __import__(module).CHAINS
        except ImportError as error:
            print(f"{module} is left out: {error}", file=sys.stderr)
    return found


def run(world: World, name: str, chain: Chain) -> tuple[str, str, str, str, float]:
    """(name, answer, citations, state, seconds) of one chain; an error is its state."""
    begun = time.monotonic()
    try:
        result = chain(world)
        state = "ok" if result.answer.strip() else "empty"
        answer, cited = result.answer, "" if result.citations is None else str(result.citations)
    except Exception as error:  # whatever a chain raises is its result here
        answer, cited, state = f"{type(error).__name__}: {error}", "", "failed"
    return name, " ".join(answer.split()), cited, state, time.monotonic() - begun


def table(rows: Iterator[tuple[str, str, str, str, float]], width: int = 90) -> int:
    """Prints rows as they come; how many of them failed."""
    failed = 0
    print("| chain | answer | citations | | s |\n| --- | --- | --- | --- | --- |", flush=True)
    for name, answer, cited, state, seconds in rows:
        shown = answer.replace("|", "/")
        shown = shown if len(shown) <= width else f"{shown[: width - 1]}…"
        print(f"| {name} | {shown} | {cited} | {state} | {seconds:.0f} |", flush=True)
        failed += state == "failed"
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Runs them; the number of those that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model")
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--max-tokens", type=int, default=48)
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from nbce_rag import NBCE, SentenceTransformerEmbedder

    engine = NBCE.from_pretrained(asked.model, max_tokens=asked.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        world = World(engine, Path(folder), SentenceTransformerEmbedder())
        some = {name: chain for name, chain in chains().items() if asked.only in name}
        return table(run(world, name, chain) for name, chain in some.items())


if __name__ == "__main__":
    sys.exit(main())
