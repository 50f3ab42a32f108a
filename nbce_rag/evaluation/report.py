"""The report of an evaluation, made from its log alone."""

from __future__ import annotations

import os

from ..options import Options
from .log import Row, RunLog
from .metrics import Figures, paired_differences, retrieval_scores, score_method

__all__ = ["BASELINE", "DEFAULT_RULE", "report_of", "rescore"]

BASELINE = "concat"
DEFAULT_RULE: str = Options().rule.name  # type: ignore[attr-defined]


def rescore(log: str | os.PathLike[str]) -> Figures:
    """The report of a log.

    Returns:
        `dataset`, `model`, `k`, `questions` and the rest of the log's header.

        `retrieval`: `recall@1/3/5/10` and `mrr` (of the first 100).

        `methods` by name, each with `parameters` (the numbers that make it), `answer_found`, `exact_match`
        and `f1` (means over questions), `ci95` of each, `difference_to_concat` (paired, with intervals),
        `citation_precision` and `citation_recall` (`leading` and `any`), `leading_is_gold_when_right`,
        `words_standing` (share of the numbers and names in citations that stand in a passage cited
        there; the others lose their mark), `marked_words_verbatim` (share of those that stand there which do
        so letter by letter, but for case and width), `right_unmarked` (count of right answers in whose
        citations none stands),
        `abstained` (share that is an abstention, the prompt's refusal, or nothing), `did_not_fit` (count),
        `ttft_s` and `seconds_per_question` (medians, s), `prompt_tokens` and `cached_tokens` (means). The
        leading citation is the one with the most evidence over the answer. A method that the model cannot
        do has `unavailable`, the reason, and no scores.

        Where questions have keys, `answer_found` is the share of answers that hold a string of each group,
        and there are `keys_share`, `identifier_precision`, `repetition` and `words` beside it, as
        `nbce_rag.evaluation.long_metrics` defines them, with intervals and differences too; their means are
        over the answers that have a value (`score_row`).

        `differences` from "posterior - concat" and the like to the mean difference of each score, question
        by question, with `ci95`: the default rule minus each other method, where both were run.

    Raises:
        ReadError: it cannot be read.
        InputError: it is no log of an evaluation.
    """
    return report_of(RunLog.read(log))


def report_of(log: RunLog) -> Figures:
    """As `rescore`, of a log in memory."""
    assert log.header is not None
    header = {name: value for name, value in log.header.items() if name != "type"}
    refusal = header.get("refusal")
    by_method: dict[str, list[Row]] = {}
    # In the order of the search, which is that of the questions, however often the run was interrupted.
    order = {id_: place for place, id_ in enumerate(log.retrieval)}
    for (method, _), row in sorted(log.rows.items(), key=lambda item: order[item[0][1]]):
        by_method.setdefault(method, []).append(row)
    names = dict.fromkeys([*log.methods, *(method for method, _ in log.rows)])
    methods: dict[str, Figures] = {}
    for name in names:
        about = log.methods.get(name, {})
        baseline = by_method.get(BASELINE) if name != BASELINE else None
        if name in by_method or about.get("unavailable"):
            figures = score_method(by_method.get(name, []), baseline, refusal=refusal)
            extra = {"unavailable": about["unavailable"]} if about.get("unavailable") else {}
            methods[name] = {"parameters": about.get("parameters", {})} | figures | extra
    default = by_method.get(DEFAULT_RULE, [])
    return header | {
        "retrieval": retrieval_scores(list(log.retrieval.values())),
        "methods": methods,
        "differences": {
            f"{DEFAULT_RULE} - {name}": paired_differences(default, rows, refusal=refusal)
            for name, rows in by_method.items()
            if default and name != DEFAULT_RULE
        },
    }
