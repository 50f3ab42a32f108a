r"""How often answers tell of conflicts, rightly and by mistake, and what it costs.

    python tests/benchmarks/bench_conflicts.py --questions ramdocs.jsonl.gz [--limit 20]
    python tests/benchmarks/bench_conflicts.py --questions nq-questions.jsonl.gz \
        --passages nq-passages.jsonl.gz

Of questions that come with their own documents (RAMDocs) those are asked whose documents give several
answers. The answer, and the claims of its conflict (the answer where none is told), are clean if they name
all right answers and no wrong one, as RAMDocs' authors score. Over a corpus every conflict that is told is
marked, so that it can be judged. Costs are shares of the answers' own time, taken in one run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from nbce_rag import NBCE, Passage, PassageIndex
from nbce_rag.evaluation.data.dataset import load_dataset
from nbce_rag.evaluation.data.questions import Question
from nbce_rag.evaluation.studies.conflict import contradicts, judge_answer

MEASURES = ("any_right", "all_right", "no_wrong", "clean")


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--questions", required=True)
    parser.add_argument("--passages")
    parser.add_argument("--index", help="an index of the passages; made anew without one")
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="questions that are left out before these")
    parser.add_argument("--model", help="hub id, folder or GGUF file; default: the packaged model")
    options = parser.parse_args(arguments)

    data = load_dataset(options.passages, options.questions).sample(seed=0)
    questions = [one for one in data.questions if not data.own_contexts or contradicts(one)]
    questions = questions[options.first : options.first + options.limit]
    nbce = NBCE.from_pretrained(options.model, style="short", max_tokens=48, conflicts=True)
    told, seconds, verdicts = 0, [0.0, 0.0], [dict.fromkeys(MEASURES, 0) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        index = None
        if options.index is not None:
            index = PassageIndex.open(options.index)
        elif not data.own_contexts:
            index = PassageIndex.create(Path(folder) / "index")
            index.add(list(data.passages.values()))
        for question in questions:
            passages: list[Passage] = list(question.contexts)
            if index is not None:
                passages = index.search(question.text, 8)
            answer, claims = ask(nbce, question, passages, seconds)
            told += bool(claims)
            texts = (answer, "\n".join(claims) or answer)
            for counts, text in zip(verdicts, texts, strict=True):
                for name, is_so in judge_answer(question, text).items():
                    counts[name] += is_so
            mark = "told" if claims else "-"
            print(f"{mark} {question.text} {answer!r} {claims or ''} right: {list(question.answers)}")
    count = len(questions)
    figures = {"questions": count, "told": told, "cost": seconds[1] / seconds[0] - 1}
    for label, counts in zip(("answer", "told"), verdicts, strict=True):
        figures |= {f"{label}: {name}": counts[name] / count for name in MEASURES}
    for name, figure in figures.items():
        print(f"{name:18} {figure:.2f}")
    return figures


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
