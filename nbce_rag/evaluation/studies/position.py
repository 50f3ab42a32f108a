"""Answers against the rank of the gold passage: is it lost in the middle?"""

from __future__ import annotations

from dataclasses import replace

from ...passages import Passage
from ..data.questions import Question
from ..log import Row
from .pictures import Panel, lines, point
from .study import Finding, Study

__all__ = ["find"]

_K = 16
_METHODS = "concat,min-entropy,experts,posterior"


def find(study: Study) -> Finding:
    """Puts the gold passage at each rank among the best others; the scores stay with the ranks."""
    k = min(study.k or _K, study.depth)
    ranks = study.possible((1, *(max(1, round(k * part / 4)) for part in (1, 2, 3)), k), k)
    rankings = study.search(k + 8)  # room for gold passages among them, which are taken out
    rows: list[Row] = []
    for rank in ranks:

        def contexts(question: Question, rank: int = rank) -> list[Passage] | None:
            return _contexts(study, question, rankings[question.id], k, rank)

        data = study.over(f"gold-at-{rank}", contexts)
        report = study.run(f"position-{k}-{rank}", data, methods=study.methods or _METHODS, k=k)
        rows += [
            {
                "rank": rank,
                "method": name,
                "questions": scores["questions"],
                "answer_found": scores["answer_found"],
                "ci95": scores["ci95"]["answer_found"],
                "leading_is_gold_when_right": scores["leading_is_gold_when_right"],
                "did_not_fit": scores["did_not_fit"],
            }
            for name, scores in report["methods"].items()
        ]
    title = f"Answers against the gold passage's rank among {k} ({study.data.name})"
    names = list(dict.fromkeys(row["method"] for row in rows))
    series = {
        name: [point(r["rank"], r["answer_found"], r["ci95"]) for r in rows if r["method"] == name]
        for name in names
    }
    panel = Panel("", "rank of the gold passage", "share of answers found", series)
    return Finding(
        title,
        f"The gold passage stands at each rank among {k}, the others being the best found; the first "
        "gold passage of a question counts and its others are left out. Retrieval scores stay with "
        "the ranks, so that a rule which trusts them sees the gold passage ranked there.",
        {
            "rank": "rank",
            "method": "method",
            "questions": "questions",
            "answer_found": "answer found",
            "ci95": "95%",
            "leading_is_gold_when_right": "leading citation is gold, of right answers",
            "did_not_fit": "did not fit",
        },
        rows,
        lambda: lines([panel], title),
    )


def _contexts(
    study: Study, question: Question, ranking: list[Passage], k: int, rank: int
) -> list[Passage] | None:
    if not question.gold_ids:
        return None
    others = [passage for passage in ranking if passage.id not in question.gold_ids][: k - 1]
    if len(others) < k - 1:
        return None
    order = [*others[: rank - 1], study.data.passages[question.gold_ids[0]], *others[rank - 1 :]]
    return [replace(p, score=best.score) for p, best in zip(order, ranking, strict=False)]
