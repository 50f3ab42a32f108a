"""Citations against the passages that hold the answer.

Beside precision and recall of what is cited at all, there is recall at k as CiteControl has it (arXiv
2510.20303): the k passages that have most of the citations, where k is the number of gold passages, over all
answers and over right ones, and by the number of gold passages, which is the number of hops of a question
such as MuSiQue's. Figures of retrieved passages, some of which lack a gold one, are bounded by that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .intervals import bootstrap_ci, mean

__all__ = ["citation_figures"]


def citation_figures(
    rows: Sequence[Mapping[str, Any]], right: Collection[str], *, seed: int = 0
) -> dict[str, Any]:
    """Citations of one method; nothing (None) for one that has cited nothing at all.

    Args:
        rows: lines of the log. Those without gold passages do not count, nor those of questions without an
            answer, of which no citation is right.
        right: ids of the questions that are answered rightly.
        seed: of the intervals.

    Returns:
        `citation_precision` and `citation_recall` (`leading`, `any`) and `leading_is_gold_when_right`.

        `citations_at_k`: `questions`, `recall` (mean share of a question's k gold passages that are among its
        k passages cited most) with `recall_ci95`, and `precision` (mean share of these that are gold; fewer
        than k may be cited, and answers that cite nothing do not count); `when_right`, the same over right
        answers, and `by_hops`, the same by k as a text, each with its own `when_right`.
    """
    with_gold = [row for row in rows if row["gold_ids"] and (row["answers"] or row.get("keys"))]
    if not any(row["cited"] for row in with_gold):
        empty = {"leading": None, "any": None}
        return {
            "citation_precision": empty,
            "citation_recall": dict(empty),
            "leading_is_gold_when_right": None,
            "citations_at_k": None,
        }
    pairs = {
        "leading": [({row["leading"]} - {None}, set(row["gold_ids"])) for row in with_gold],
        "any": [(set(row["cited"]), set(row["gold_ids"])) for row in with_gold],
    }
    right_leads = [row["leading"] in row["gold_ids"] for row in with_gold if row["question_id"] in right]
    by_hops: dict[int, list[Mapping[str, Any]]] = {}
    for row in with_gold:
        by_hops.setdefault(len(set(row["gold_ids"])), []).append(row)
    return {
        "citation_precision": {
            name: mean([len(ids & gold) / len(ids) for ids, gold in sets if ids])
            for name, sets in pairs.items()
        },
        "citation_recall": {
            name: mean([len(ids & gold) / len(gold) for ids, gold in sets]) for name, sets in pairs.items()
        },
        "leading_is_gold_when_right": mean([float(lead) for lead in right_leads]),
        "citations_at_k": {
            **_at_k_of_all_and_right(with_gold, right, seed),
            "by_hops": {str(k): _at_k_of_all_and_right(by_hops[k], right, seed) for k in sorted(by_hops)},
        },
    }


def _at_k_of_all_and_right(
    rows: Sequence[Mapping[str, Any]], right: Collection[str], seed: int
) -> dict[str, Any]:
    right_rows = [row for row in rows if row["question_id"] in right]
    return {**_at_k(rows, seed), "when_right": _at_k(right_rows, seed)}


def _at_k(rows: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    recalls, precisions = [], []
    for row in rows:
        gold = set(row["gold_ids"])
        first = _cited_most(row)[: len(gold)]
        hits = len(gold.intersection(first))
        recalls.append(hits / len(gold))
        if first:
            precisions.append(hits / len(first))
    return {
        "questions": len(rows),
        "recall": mean(recalls),
        "recall_ci95": bootstrap_ci(recalls, seed=seed),
        "precision": mean(precisions),
    }


def _cited_most(row: Mapping[str, Any]) -> list[str]:
    """Ids of the cited passages, the one with most of the citations first."""
    # Logs of before this was noted have the leading one and the order of the citations.
    order = row.get("cited_most") or [row["leading"], *row["cited"]]
    return [id_ for id_ in dict.fromkeys(order) if id_ is not None]
