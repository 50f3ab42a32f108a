"""Irrelevant passages only: does it abstain, and not where an answer stands?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...passages import Passage
from ..data.corpus import holds
from ..data.questions import Question
from ..intervals import bootstrap_ci
from ..log import Row
from ..metrics import is_silent
from .pictures import Panel, lines, point
from .study import Finding, Study

__all__ = ["find", "separation", "silence"]

_POINTS = (1, 2, 4, 8, 16)
_METHODS = "concat,min-entropy,experts,posterior,robustrag"
_LOSS = 0.05
_DEPTH = 100


def find(study: Study) -> Finding:
    """Asks each question over k passages without the answer, and over the same with the gold passage."""
    points = study.possible(_POINTS, max(1, study.depth - 1))
    # As deep for few points as for many, so that a later run with more of them goes on with the same logs.
    rankings = study.search(max(_DEPTH, points[-1] + 24))
    methods, refusal = study.methods or _METHODS, study.nbce.prompt.refusal
    rows: list[Row] = []
    for k in points:
        lines_of = {}
        for kind in ("without", "with"):

            def contexts(question: Question, k: int = k, gold: bool = kind == "with") -> list[Passage] | None:
                return _contexts(study, question, rankings[question.id], k, gold)

            unanswerable: dict[str, Any] = (
                {"answers": (), "keys": (), "gold_ids": ()} if kind == "without" else {}
            )
            data = study.over(f"{kind}-{k}", contexts, **unanswerable)
            name = f"irrelevant-{kind}-{k}"
            study.run(name, data, methods=methods, k=k)
            lines_of[kind] = study.rows(name, methods)
        for method, without in lines_of["without"].items():
            rows.append(
                {"passages": k, "method": method} | _figures(without, lines_of["with"][method], refusal)
            )
    title = f"Abstaining when no passage holds the answer ({study.data.name})"
    names = list(dict.fromkeys(row["method"] for row in rows))

    def panel(head: str, label: str, key: str) -> Panel:
        series = {
            name: [point(r["passages"], r[key], r[f"{key}_ci95"]) for r in rows if r["method"] == name]
            for name in names
        }
        return Panel(head, "passages read", label, series, log=True)

    panels = [
        panel("by itself, no answer there", "share that abstains", "abstained"),
        panel("by itself, answer there", "share that abstains", "abstained_wrongly"),
        panel(f"by grounding, losing {_LOSS:.0%} of the answerable", "share that abstains", "by_grounding"),
    ]
    return Finding(
        title,
        "Each question is asked over k passages none of which holds an answer, and over the same with"
        " the gold passage in place of the last. By itself: the answer is an abstention, the prompt's"
        " refusal, or nothing. By grounding: with the threshold of `abstain_below` that silences "
        f"{_LOSS:.0%} of the questions with the gold passage; separation is the probability that such "
        "a question has the higher grounding of the two (0.5 is chance).",
        {
            "passages": "passages",
            "method": "method",
            "questions": "questions",
            "abstained": "abstains, no answer there",
            "abstained_ci95": "95%",
            "abstained_wrongly": "abstains, answer there",
            "by_grounding": "by grounding",
            "by_grounding_ci95": "95%",
            "threshold": "threshold, nats a token",
            "separation": "separation",
        },
        rows,
        lambda: lines(panels, title),
    )


_FIGURES = (
    "abstained",
    "abstained_ci95",
    "abstained_wrongly",
    "abstained_wrongly_ci95",
    "threshold",
    "by_grounding",
    "by_grounding_ci95",
    "separation",
)


def _contexts(
    study: Study, question: Question, ranking: list[Passage], k: int, gold: bool
) -> list[Passage] | None:
    """k passages without the answer, with `gold` the last one replaced by the gold passage."""
    if not question.gold_ids or not question.answers:
        return None
    others = [p for p in ranking if p.id not in question.gold_ids and not holds(p, question.answers)][:k]
    if len(others) < k:
        return None
    if gold:
        id_ = question.gold_ids[0]
        scores = {passage.id: passage.score for passage in ranking}
        passage = replace(study.data.passages[id_], score=scores.get(id_, ranking[-1].score))
        others = sorted([*others[:-1], passage], key=lambda p: -(p.score or 0.0))
    return others


def _figures(without: Sequence[Row], with_gold: Sequence[Row], refusal: str | None) -> Row:
    # What does not fit into the window has not been silent; it was not asked.
    without, with_gold = ([row for row in rows if not row["error"]] for rows in (without, with_gold))
    if not without or not with_gold:
        return dict.fromkeys(_FIGURES) | {"questions": 0}
    silent = [float(is_silent(row, refusal)) for row in without]
    wrongly = [float(is_silent(row, refusal)) for row in with_gold]
    threshold, caught = silence(_groundings(without, refusal), _groundings(with_gold, refusal), _LOSS)
    return {
        "questions": len(without),
        "abstained": sum(silent) / len(silent),
        "abstained_ci95": bootstrap_ci(silent),
        "abstained_wrongly": sum(wrongly) / len(wrongly),
        "abstained_wrongly_ci95": bootstrap_ci(wrongly),
        "threshold": threshold,
        "by_grounding": sum(caught) / len(caught),
        "by_grounding_ci95": bootstrap_ci(caught),
        "separation": separation(_groundings(without, refusal), _groundings(with_gold, refusal)),
    }


def _groundings(rows: Sequence[Row], refusal: str | None) -> list[float]:
    """Grounding of each answer; minus infinity where there is none or nothing was said."""
    return [
        float("-inf") if row["grounding"] is None or is_silent(row, refusal) else float(row["grounding"])
        for row in rows
    ]


def separation(low: Sequence[float], high: Sequence[float]) -> float:
    """Probability that one of `high` is above one of `low`, ties counting half: the area under the ROC."""
    wins = sum((b > a) + 0.5 * (b == a) for a in low for b in high)
    return wins / (len(low) * len(high))


def silence(low: Sequence[float], high: Sequence[float], loss: float) -> tuple[float | None, list[float]]:
    """The threshold that at most a share of `high` lies below, and which of `low` do (1) or not (0).

    None for a threshold of minus infinity: more of `high` than that say nothing by themselves.
    """
    threshold = sorted(high)[int(loss * len(high))]
    caught = [float(value < threshold) for value in low]
    return (None if threshold == float("-inf") else threshold), caught
