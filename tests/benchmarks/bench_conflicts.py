r"""How often answers tell of conflicts, rightly and by mistake, and what it costs.

    python tests/benchmarks/bench_conflicts.py --questions ramdocs.jsonl.gz [--limit 20] \
        [--methods experts,concat]
    python tests/benchmarks/bench_conflicts.py --questions nq-questions.jsonl.gz \
        --passages nq-passages.jsonl.gz [--first 40]

Of questions that come with their own documents (RAMDocs) the figures say how often a conflict is told where
the documents give several answers, and where they do not. The answer, what is told (the claims of its
conflict; the answer where none is told) and the answers of other methods are clean if they name all right
answers and no wrong one, as RAMDocs' authors score. Over a corpus every conflict that is told is marked, so
that it can be judged; with `--quick` questions of which nothing can be told are counted and not answered.
Costs are shares of the answers' own time, taken in one run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from nbce_rag import NBCE, Passage, PassageIndex
from nbce_rag.engine import conflicts
from nbce_rag.evaluation.data.dataset import Dataset, load_dataset
from nbce_rag.evaluation.data.questions import Question
from nbce_rag.evaluation.studies.conflict import contradicts, judge_answer
from nbce_rag.evaluation.studies.study import Study
from nbce_rag.evidence.claims import held_share
from nbce_rag.passages import whole_text

MEASURES = ("any_right", "all_right", "no_wrong", "clean")
TOKENS = 48


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--questions", required=True)
    parser.add_argument("--passages")
    parser.add_argument("--index", help="an index of the passages; made anew without one")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="questions that are left out before these")
    parser.add_argument(
        "--quick", action="store_true", help="do not answer where no two passages are about the question"
    )
    parser.add_argument("--methods", help="others to compare with, for questions with their own documents")
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    options = parser.parse_args(arguments)

    data = load_dataset(options.passages, options.questions)
    data = data.sample(options.first + options.limit, seed=0)
    data = replace(data, questions=data.questions[options.first :])
    nbce = NBCE.from_pretrained(options.model, style="short", max_tokens=TOKENS, conflicts=True)
    told: dict[bool, list[bool]] = {True: [], False: []}
    verdicts: dict[str, list[dict[str, bool]]] = {"answer": [], "told": []}
    seconds = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        index = None
        if options.index is not None:
            index = PassageIndex.open(options.index)
        elif not data.own_contexts:
            index = PassageIndex.create(Path(folder) / "index")
            index.add(list(data.passages.values()))
        for question in data.questions:
            passages: list[Passage] = list(question.contexts)
            if index is not None:
                passages = index.search(question.text, 8)
            if options.quick and not may_be_told(question, passages):
                told[contradicts(question)].append(False)
                continue
            answer, claims = ask(nbce, question, passages, seconds)
            told[contradicts(question)].append(bool(claims))
            verdicts["answer"].append(judge_answer(question, answer))
            verdicts["told"].append(judge_answer(question, "\n".join(claims) or answer))
            mark = "told" if claims else "-"
            print(
                f"{mark} {question.text} {answer!r} {claims or ''} right: {list(question.answers)}",
                flush=True,
            )
        if options.methods and data.own_contexts:
            verdicts |= others(nbce, data, options.methods, Path(folder))
    figures = {"answered": len(verdicts["answer"]), "cost": seconds[1] / seconds[0] - 1}
    for is_there, marks in told.items():
        label = "contradicting documents" if is_there else "others"
        figures |= {f"{label}": len(marks), f"{label}, told": sum(marks)}
    for label, some in verdicts.items():
        figures |= {f"{label}: {name}": sum(one[name] for one in some) / len(some) for name in MEASURES}
    for name, figure in figures.items():
        print(f"{name:30} {figure:.3g}")
    return figures


def may_be_told(question: Question, passages: Sequence[Passage]) -> bool:
    """Whether two passages have enough of the question's words, whatever they weigh."""
    shares = [held_share(question.text, whole_text(passage)) for passage in passages]
    ordered = sorted(shares, reverse=True)
    return any(
        most >= conflicts._HELD and other >= conflicts._ABOUT * most for most, other in pairwise(ordered)
    )


def others(nbce: NBCE, data: Dataset, methods: str, folder: Path) -> dict[str, list[dict[str, bool]]]:
    """What other methods answer over the same documents, judged, by method."""
    study = Study(folder, data, nbce, max_tokens=TOKENS)
    study.run("others", data, methods=methods, k=max(len(question.contexts) for question in data.questions))
    questions = {question.id: question for question in data.questions}
    return {
        method: [judge_answer(questions[row["question_id"]], row["answer"]) for row in rows]
        for method, rows in study.rows("others", methods).items()
    }


def ask(
    nbce: NBCE, question: Question, passages: list[Passage], seconds: list[float]
) -> tuple[str, list[str]]:
    """The answer and the claims of its conflicts; seconds until its last token and in all are added."""
    start = time.perf_counter()
    written = start
    for piece in nbce.stream(question.text, passages):
        if piece.tokens:
            written = time.perf_counter()
        if piece.answer is not None:
            answer = piece.answer
    seconds[0] += written - start
    seconds[1] += time.perf_counter() - start
    return answer.text, [claim.text for conflict in answer.conflicts for claim in conflict.claims]


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
