"""Answers of several sentences, with code: are the keys there, are names made up, do they go in circles?"""

from __future__ import annotations

from ...errors import InputError
from ...prompts.template import Style
from ..log import Row
from .pictures import Panel, bars, point
from .study import Finding, Study

__all__ = ["STYLE", "find"]

STYLE: Style = "long"
"""How the questions are put, where the engine does not say."""

_K = 8
_METHODS = "concat,min-entropy,experts,posterior"
_BASE = "posterior"
_SHARES = {
    "answer_found": "keys found",
    "identifier_precision": "identifiers in the passages",
    "repetition": "repeated",
}
_AMOUNTS = {"words": "words"}


def find(study: Study) -> Finding:
    """Asks the questions that have keys, and compares every method with the default rule, paired."""
    sample = study.sample
    if not all(question.keys for question in sample.questions):
        raise InputError(f"{study.data.name} has questions without `keys`, which this study looks for.")
    k = min(study.k or _K, study.depth)
    report = study.run(f"long-{k}", sample, methods=study.methods or _METHODS, k=k)
    rows: list[Row] = []
    for name, scores in report["methods"].items():
        difference = report["differences"].get(f"{_BASE} - {name}", {}).get("answer_found", {})
        row: Row = {"method": name, "questions": scores["questions"]}
        for key in (*_SHARES, *_AMOUNTS):
            row |= {key: scores.get(key), f"{key}_ci95": scores["ci95"].get(key)}
        row |= {"behind_default": difference.get("mean"), "behind_default_ci95": difference.get("ci95")}
        row |= {"keys_share": scores.get("keys_share"), "did_not_fit": scores["did_not_fit"]}
        rows.append(row | {"seconds_per_question": scores["seconds_per_question"]})
    title = f"Long answers ({study.data.name}, k = {k})"
    ticks = {float(x): str(row["method"]) for x, row in enumerate(rows)}

    def panel(head: str, label: str, keys: dict[str, str], share: bool = True) -> Panel:
        series = {
            name: [point(x, row[key], row.get(f"{key}_ci95")) for x, row in enumerate(rows)]
            for key, name in keys.items()
        }
        return Panel(head, label, "", series, ticks=ticks, share=share)

    panels = [
        panel("answers", "share", _SHARES),
        panel("length", "words", _AMOUNTS, share=False),
        panel("time", "seconds", {"seconds_per_question": "median of a question"}, share=False),
    ]
    return Finding(
        title,
        "Keys are found when an answer holds a string of each of its question's groups; groups is the share "
        f"of the groups of which it does, and {_BASE} - method the difference of keys found, question by "
        "question. Identifiers are the names of code in an answer, and what counts is how many of them stand "
        "in the passages: the others were made up, or come from the model's memory. Repeated is the share of "
        "an answer's runs of four words that stand earlier in it.",
        {
            "method": "method",
            "questions": "questions",
            "answer_found": "keys found",
            "answer_found_ci95": "95%",
            "behind_default": f"{_BASE} - method",
            "behind_default_ci95": "95%",
            "keys_share": "groups",
            "identifier_precision": "identifiers",
            "identifier_precision_ci95": "95%",
            "repetition": "repeated",
            "repetition_ci95": "95%",
            "words": "words",
            "words_ci95": "95%",
            "did_not_fit": "did not fit",
            "seconds_per_question": "s a question",
        },
        rows,
        lambda: bars(panels, title),
    )
