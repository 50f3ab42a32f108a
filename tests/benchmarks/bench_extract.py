"""When sentences are read together, and what stands in them; no language model is loaded.

    python tests/benchmarks/bench_extract.py QUESTIONS PASSAGES [--index DIR] [--limit 200] [--embedder]

Of questions with answers: the share whose form says that they take two passages, and of which another passage
has words besides that the best one lacks, by number of gold passages. Of the latter: gold passages that have
a sentence in the row, questions that have one of all, and those whose answer stands in it; the same of the
sentences nearest by the embedder (`--embedder`), and of the passages themselves.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from nbce_rag import Passage, PassageIndex
from nbce_rag.decoding.extract import nearest_sentences, takes_two
from nbce_rag.documents.splitting import split_sentences
from nbce_rag.evaluation.data.dataset import load_dataset
from nbce_rag.evaluation.data.questions import Question
from nbce_rag.evaluation.metrics import answer_found
from nbce_rag.prompts.relations import is_nested

Spans = Mapping[int, Sequence[tuple[int, int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("questions")
    parser.add_argument("passages")
    parser.add_argument("-k", type=int, default=8)
    parser.add_argument("--index", help="folder of an index to keep or reuse")
    parser.add_argument("--limit", type=int, help="questions, in the order of nbce-rag eval")
    parser.add_argument("--embedder", action="store_true", help="also choose sentences by the embedder")
    arguments = parser.parse_args()
    data = load_dataset(arguments.passages, arguments.questions)
    answerable = tuple(question for question in data.questions if question.answers)
    data = replace(data, questions=answerable).sample(arguments.limit, seed=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        PassageIndex.create(arguments.index or folder, exist_ok=True) as index,
    ):
        index.add(list(data.passages.values()))
        found = index.search_batch([question.text for question in data.questions], arguments.k)
        print(f"{arguments.questions}: {len(data.questions)} questions")
        fired = []
        by_gold: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
        for question, passages in zip(data.questions, found, strict=True):
            takes = takes_two(question.text, passages, 0)
            by_gold[len(question.gold_ids)].append((is_nested(question.text), takes))
            if takes:
                fired.append((question, passages))
        for count, pairs in sorted(by_gold.items()):
            form, both = np.mean(pairs, axis=0)
            print(f"{count} gold, n = {len(pairs)}: by form {form:.3f}, and by words {both:.3f}")
        for name in ("words", "embedder", "whole passages")[:: 1 if arguments.embedder else 2]:
            held = [in_row(q, p, spans_of(name, q.text, p, index)) for q, p in fired]
            gold, every, answer, size = np.mean(held, axis=0)
            print(
                f"{name}: gold passages {gold:.3f}, all {every:.3f}, answer {answer:.3f}, words {size:.0f} "
                f"(n = {len(fired)})"
            )


def spans_of(name: str, question: str, passages: Sequence[Passage], index: PassageIndex) -> Spans:
    """What is read of the passages, by number."""
    if name == "words":
        return nearest_sentences(question, passages)
    if name == "whole passages":
        return {number: [(0, len(passage.text))] for number, passage in enumerate(passages)}
    places = [(i, *span) for i, p in enumerate(passages) for span in split_sentences(p.text, 64)]
    texts = [f"{passages[i].title or ''}\n{passages[i].text[start:end]}".strip() for i, start, end in places]
    scores = index.embedder.embed(texts) @ index.embedder.embed([question])[0]
    nearest: dict[int, list[tuple[int, int]]] = {}
    for place in np.argsort(-scores, kind="stable"):
        i, start, end = places[place]
        if sum(map(len, nearest.values())) < 6 and len(nearest.get(i, ())) < 2:
            nearest.setdefault(i, []).append((start, end))
    return nearest


def in_row(question: Question, passages: Sequence[Passage], spans: Spans) -> tuple[float, bool, bool, int]:
    """Share of the gold passages in a row, whether all are, whether the answer is, and its words."""
    ids = {passages[number].id for number in spans}
    text = " ".join(passages[i].text[start:end] for i, some in spans.items() for start, end in some)
    gold = [id_ in ids for id_ in question.gold_ids]
    return sum(gold) / len(gold), all(gold), answer_found(text, question.answers), len(text.split())


if __name__ == "__main__":
    main()
