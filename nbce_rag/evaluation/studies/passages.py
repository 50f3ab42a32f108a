"""Answers against the number of passages: where does one concatenated prompt fall off, where fusion?"""

from __future__ import annotations

from ..log import Row, RunLog
from .pictures import Panel, lines, point
from .study import Finding, Study

__all__ = ["find"]

_POINTS = (1, 2, 4, 8, 16, 32, 64)
_METHODS = "gold,concat,min-entropy,experts,posterior"
_REFERENCE = 8


def find(study: Study) -> Finding:
    """Runs every method with the k best passages, for each k; `kept` is the share of what it finds with 8."""
    points = study.possible(_POINTS, study.depth)
    rows: list[Row] = []
    for k in points:
        report = study.run(f"passages-{k}", study.sample, methods=study.methods or _METHODS, k=k)
        ranks = [row["gold_ranks"] for row in RunLog.read(study.log(f"passages-{k}")).retrieval.values()]
        hits = [any(rank is not None and rank <= k for rank in row) for row in ranks if row]
        read = sum(hits) / len(hits) if hits else None
        for name, scores in report["methods"].items():
            rows.append(
                {
                    "passages": k,
                    "method": name,
                    "answer_found": scores["answer_found"],
                    "ci95": scores["ci95"]["answer_found"],
                    "f1": scores["f1"],
                    "did_not_fit": scores["did_not_fit"],
                    "prompt_tokens": scores["prompt_tokens"],
                    "ttft_s": scores["ttft_s"],
                    "seconds_per_question": scores["seconds_per_question"],
                    "gold_read": read,
                    "unavailable": scores.get("unavailable"),
                }
            )
    reference = {row["method"]: row["answer_found"] for row in rows if row["passages"] == _REFERENCE}
    for row in rows:
        base = reference.get(row["method"])
        row["kept"] = row["answer_found"] / base if base and row["answer_found"] is not None else None
    title = f"Answers against the number of passages ({study.data.name})"
    names = list(dict.fromkeys(row["method"] for row in rows))
    series = {
        name: [point(r["passages"], r["answer_found"], r["ci95"]) for r in rows if r["method"] == name]
        for name in names
    }
    panel = Panel("", "passages read", "share of answers found", series, log=True)
    return Finding(
        title,
        "Every method reads the k best passages of one search. An answer counts when it contains a "
        f"gold answer; kept is the share of what the method finds with {_REFERENCE} passages. Where "
        "passages do not fit into the window there is no answer.",
        {
            "passages": "passages",
            "method": "method",
            "answer_found": "answer found",
            "ci95": "95%",
            "gold_read": "gold passage among them",
            "kept": f"kept of {_REFERENCE}",
            "f1": "F1",
            "did_not_fit": "did not fit",
            "prompt_tokens": "prompt tokens",
            "ttft_s": "first token, s",
            "seconds_per_question": "s a question",
        },
        rows,
        lambda: lines([panel], title),
    )
