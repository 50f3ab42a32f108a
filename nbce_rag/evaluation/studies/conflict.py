"""Passages that contradict each other: are all right answers named, none that is wrong, and is it seen?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...errors import InputError
from ..data.dataset import Dataset
from ..data.questions import Question
from ..intervals import bootstrap_ci
from ..log import Row, RunLog
from ..metrics import answer_found, is_cjk, normalise
from .pictures import Panel, Point, bars, point
from .study import Finding, Study

__all__ = ["contradicts", "find", "judge_answer", "judge_comparison"]

_METHODS = "concat,min-entropy,experts,posterior,robustrag"
_KINDS = ("correct", "misinfo", "noise")
_MEASURES = {
    "any_right": "a right answer",
    "all_right": "all right answers",
    "no_wrong": "no wrong answer",
    "clean": "all right, none wrong",
}


def find(study: Study) -> Finding:
    """Asks every question over all of its documents, and compares what each document says by itself."""
    data = study.sample
    documents = [p.metadata.get("type") for q in data.questions for p in q.contexts]
    if not data.own_contexts or not set(documents) & set(_KINDS):
        raise InputError(
            f"{data.name} does not say which documents are right; this study needs questions with "
            "documents of a type, as RAMDocs has them, and no --passages."
        )
    k = max(len(question.contexts) for question in data.questions)
    methods = study.methods or _METHODS
    study.run("conflict", data, methods=methods, k=k)
    questions = {question.id: question for question in data.questions}
    rows: list[Row] = []
    for method, lines in study.rows("conflict", methods).items():
        verdicts = [judge_answer(questions[row["question_id"]], row["answer"]) for row in lines]
        kinds = [_kind(data, row["leading"]) for row in lines if row["leading"] is not None]
        row: Row = {"method": method} | _shares(verdicts, tuple(_MEASURES))
        row |= _shares([{f"cites_{kind}": kind == own for kind in _KINDS} for own in kinds], _CITATIONS)
        rows.append(row | {"answers_cited": len(kinds)})
    verdicts = [judge_comparison(questions[row["question_id"]], row) for row in _comparisons(study, data)]
    rows.append({"method": "compare"} | _shares(verdicts, tuple(_MEASURES)) | _detection(verdicts))
    title = f"Passages that contradict each other ({data.name})"
    return Finding(
        title,
        "Each question is asked over all of its documents. An answer is clean when it names all right"
        " answers and no wrong one. The leading citation leads to a document of a type: correct, "
        "misinfo or noise. For `compare`, the answers of all groups count; it finds a disagreement "
        "when there are several groups, and there is one when the documents' answers, noise left out,"
        " are several.",
        {
            "method": "method",
            **_MEASURES,
            "clean_ci95": "95%",
            "cites_correct": "leads to correct",
            "cites_misinfo": "to misinfo",
            "cites_noise": "to noise",
            "answers_cited": "answers that cite",
            "disagreement_recall": "disagreements found",
            "disagreement_precision": "found and true",
        },
        rows,
        lambda: bars(_panels(rows), title),
    )


_CITATIONS = tuple(f"cites_{kind}" for kind in _KINDS)


def _kind(data: Dataset, passage_id: str) -> str:
    return str(data.passages[passage_id].metadata.get("type"))


def judge_answer(question: Question, text: str) -> dict[str, bool]:
    """Which right and wrong answers a text names, by the normalisation of `answer_found`."""
    characters = is_cjk(question.text, *question.answers)

    def names(answer: str) -> bool:
        return answer_found(text, [answer], characters=characters)

    right = [names(answer) for answer in question.answers]
    wrong = [names(answer) for answer in question.wrong_answers]
    return {
        "any_right": any(right),
        "all_right": all(right),
        "no_wrong": not any(wrong),
        "clean": all(right) and not any(wrong),
    }


def judge_comparison(question: Question, row: Row) -> dict[str, bool]:
    """The same of all groups' answers, and whether a disagreement is seen and is there."""
    text = "\n".join(group["text"] for group in row["groups"])
    return judge_answer(question, text) | {
        "seen": len(row["groups"]) > 1,
        "there": contradicts(question),
    }


def contradicts(question: Question) -> bool:
    """Whether the documents give several answers, noise left out."""
    answers = {
        normalise(str(p.metadata.get("answer")))
        for p in question.contexts
        if p.metadata.get("type") in ("correct", "misinfo")
    }
    return len(answers) > 1


def _comparisons(study: Study, data: Dataset) -> list[Row]:
    """What each document says by itself, grouped; one line of a log a question."""
    nbce = study.nbce
    header = {
        "dataset_sha256": data.sha256,
        "model": nbce.model.fingerprint,
        "max_tokens": study.max_tokens,
        "rule": repr(nbce.options.fusion),
    }
    log = RunLog.resume(study.log("conflict-compare"), header)
    try:
        for place, question in enumerate(data.questions):
            if ("compare", question.id) not in log.rows:
                comparison = nbce.compare(question.text, question.contexts, max_tokens=study.max_tokens)
                groups = [
                    {"text": g.text, "weight": g.weight, "passages": [p.id for p in g.passages]}
                    for g in comparison.groups
                ]
                row = {"type": "answer", "method": "compare", "question_id": question.id, "groups": groups}
                log.append([row | {"silent": [passage.id for passage in comparison.silent]}])
            if study.progress is not None:
                study.progress(place + 1, len(data.questions), {})
        return [log.rows["compare", question.id] for question in data.questions]
    finally:
        log.close()


def _shares(verdicts: Sequence[Mapping[str, bool]], names: Sequence[str]) -> Row:
    """Means with intervals."""
    shares: Row = {}
    for name in names:
        values = [float(verdict[name]) for verdict in verdicts]
        shares[name] = sum(values) / len(values) if values else None
        shares[f"{name}_ci95"] = bootstrap_ci(values)
    return shares


def _detection(verdicts: Sequence[Mapping[str, bool]]) -> Row:
    there = [float(verdict["seen"]) for verdict in verdicts if verdict["there"]]
    seen = [float(verdict["there"]) for verdict in verdicts if verdict["seen"]]
    return {
        "disagreement_recall": sum(there) / len(there) if there else None,
        "disagreement_recall_ci95": bootstrap_ci(there),
        "disagreement_precision": sum(seen) / len(seen) if seen else None,
        "disagreement_precision_ci95": bootstrap_ci(seen),
    }


def _panels(rows: Sequence[Row]) -> list[Panel]:
    def series(
        names: Sequence[Row], keys: Sequence[str], head: Callable[[str], str]
    ) -> dict[str, list[Point]]:
        return {
            head(key): [point(x, row.get(key), row.get(f"{key}_ci95")) for x, row in enumerate(names)]
            for key in keys
        }

    citing = [row for row in rows if row.get("answers_cited")]
    answers = Panel(
        "answers",
        "share of questions",
        "",
        series(rows, tuple(_MEASURES), lambda key: _MEASURES[key]),
        ticks={float(x): str(row["method"]) for x, row in enumerate(rows)},
    )
    citations = Panel(
        "leading citation leads to",
        "share of answers that cite (their number)",
        "",
        series(citing, _CITATIONS, lambda key: key.removeprefix("cites_")),
        # One prompt cites only where a question has one document: a full bar of a single answer misleads.
        ticks={float(x): f"{row['method']} ({row['answers_cited']})" for x, row in enumerate(citing)},
    )
    return [answers, citations] if citing else [answers]
