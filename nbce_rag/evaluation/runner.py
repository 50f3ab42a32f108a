"""Runs the methods over the questions, and makes the report from the log alone."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from ..answer import Answer
from ..decoding.generation import NO_PASSAGES
from ..decoding.kv_store import PassageKVStore
from ..embedding import DEFAULT_EMBEDDER, EmbedderLike
from ..engine import NBCE, Request
from ..errors import ContextLengthError, InputError, NbceWarning
from ..passages import Passage
from .datasets import Dataset, Question, load_dataset
from .log import Row, RunLog
from .methods import Method, parse_methods
from .metrics import retrieval_scores, score_method, score_row
from .retrieval import retrieve

__all__ = ["DEFAULT_METHODS", "Progress", "evaluate", "rescore"]

DEFAULT_METHODS = "closed-book,gold,top-1,concat,map-rerank,min-entropy,experts,posterior"
BASELINE = "concat"
_KV_BYTES = 4 << 30

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (answers done, answers in all, answer_found so far by method)."""


def evaluate(
    passages: str | os.PathLike[str] | None,
    questions: str | os.PathLike[str] | Dataset,
    *,
    methods: str | Sequence[str] = DEFAULT_METHODS,
    k: int = 8,
    limit: int | None = None,
    seed: int = 0,
    half: int | None = None,
    batch_size: int = 8,
    together: bool = False,
    max_tokens: int = 24,
    model: str | os.PathLike[str] | NBCE | None = None,
    embedder: EmbedderLike = DEFAULT_EMBEDDER,
    index: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **model_options: Any,
) -> dict[str, Any]:
    """Ask questions with known answers by several methods over the same retrieved passages.

    All methods share model, wording, stopping and `max_tokens`; their numbers differ only in which
    passages stand in which row and how rows are fused. Methods take turns on each batch of questions and
    share stored keys and values of passages, so times depend on the order of the methods: the first one
    that reads a passage by itself pays for it. A method whose passages do not fit into the model's window
    gets no answer for that question, and the report counts it (`did_not_fit`).

    Args:
        passages: the corpus; see `nbce_rag.evaluation.load_dataset`, also for None.
        questions: the questions, or a dataset that was loaded (then `passages` is not used).
        methods: names, see `nbce_rag.evaluation.methods`.
        k: passages that are retrieved for each question.
        limit, seed, half: which questions, see `Dataset.sample`.
        batch_size: questions in one batch. Does not change answers.
        together: methods that read the same rows, such as all fusion rules, share a batch, so that their
            prompts are read once. The answers are the same and come sooner; the times are shares of the
            batch and do not compare.
        max_tokens: most tokens of an answer.
        model: as in `NBCE.from_pretrained`, or an engine; an engine keeps its own options and KV store.
        embedder: as in `PassageIndex.create`.
        index: folder of an index to keep or reuse; None makes one for this run only.
        log: file of one line a result. If it is there already and of the same evaluation, what it holds
            is not computed again.
        progress: told how far the run is.
        **model_options: further arguments of `NBCE.from_pretrained`.

    Returns:
        The report, in JSON types: see `rescore`.

    Raises:
        InputError: impossible arguments or data, or the log or index is of something else.
        ReadError: a file cannot be read.
        ModelError: the model cannot be loaded.
    """
    chosen = parse_methods(methods)
    for name, value in (("k", k), ("batch_size", batch_size), ("max_tokens", max_tokens)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name}={value!r} must be a whole number, at least 1.")
    whole = questions if isinstance(questions, Dataset) else load_dataset(passages, questions)
    data = whole.sample(limit, seed=seed, half=half)
    if isinstance(model, NBCE):
        nbce = model
    else:
        store = {"kv_store": PassageKVStore(_KV_BYTES)} | model_options
        nbce = NBCE.from_pretrained(model, **store)
    shared = nbce.options.updated(fusion="posterior", max_tokens=max_tokens)  # methods have their own fusion
    header = {
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "questions": len(data.questions),
        "limit": limit,
        "seed": seed,
        "half": half,
        "k": k,
        "model": nbce.model.name,
        "dtype": str(nbce.model.dtype).removeprefix("torch."),
        "embedder": getattr(embedder, "name", None) or str(getattr(embedder, "__name__", embedder)),
        "max_tokens": max_tokens,
        "options_sha256": hashlib.sha256(f"{nbce.prompt!r}{shared!r}".encode()).hexdigest(),
        "refusal": nbce.prompt.refusal,
    }
    results = RunLog.resume(log, header)
    try:
        retrieved = retrieve(data, results, k, embedder, index)
        _run(nbce, data, retrieved, _groups(chosen, together), results, batch_size, max_tokens, progress)
        return _report(results)
    finally:
        results.close()


def rescore(log: str | os.PathLike[str]) -> dict[str, Any]:
    """The report of a log.

    Returns:
        `dataset`, `model`, `k`, `questions` and the rest of the log's header; `retrieval` with
        `recall@1/3/5/10` and `mrr` (of the first 100); `methods` by name, each with `answer_found`,
        `exact_match` and `f1` (means over questions), `ci95` of each, `difference_to_concat` (paired, with
        intervals), `citation_precision` and `citation_recall` (`leading` and `any`),
        `leading_is_gold_when_right`, `abstained` (share), `did_not_fit` (count), `ttft_s` and
        `seconds_per_question` (medians, s), `prompt_tokens` and `cached_tokens` (means). The leading
        citation is the one with the most evidence over the answer.

    Raises:
        ReadError: it cannot be read.
        InputError: it is no log of an evaluation.
    """
    return _report(RunLog.read(log))


def _report(log: RunLog) -> dict[str, Any]:
    assert log.header is not None
    header = {name: value for name, value in log.header.items() if name != "type"}
    by_method: dict[str, list[Row]] = {}
    # In the order of the search, which is that of the questions, however often the run was interrupted.
    order = {id_: place for place, id_ in enumerate(log.retrieval)}
    for (method, _), row in sorted(log.rows.items(), key=lambda item: order[item[0][1]]):
        by_method.setdefault(method, []).append(row)
    first = dict.fromkeys(method for method, _ in log.rows)
    return header | {
        "retrieval": retrieval_scores(list(log.retrieval.values())),
        "methods": {
            name: score_method(
                by_method[name],
                by_method.get(BASELINE) if name != BASELINE else None,
                refusal=header.get("refusal"),
            )
            for name in first
        },
    }


def _groups(methods: Sequence[Method], together: bool) -> list[list[Method]]:
    """Methods that share a batch, each by itself unless wanted."""
    groups: dict[Any, list[Method]] = {}
    for method in methods:
        rows = (method.choose, method.together, method.joint_row, method.apart)
        groups.setdefault(rows if together else method.name, []).append(method)
    return list(groups.values())


def _run(
    nbce: NBCE,
    data: Dataset,
    retrieved: dict[str, list[Passage]],
    groups: Sequence[Sequence[Method]],
    log: RunLog,
    batch_size: int,
    max_tokens: int,
    progress: Progress | None,
) -> None:
    methods = [method for group in groups for method in group]
    total = len(data.questions) * len(methods)
    done = sum((method.name, q.id) in log.rows for method in methods for q in data.questions)
    found: dict[str, list[float]] = {method.name: [] for method in methods}
    refusal = nbce.prompt.refusal
    for (name, _), row in log.rows.items():
        found.setdefault(name, []).append(score_row(row, refusal)["answer_found"])

    def tell() -> None:
        if progress is not None:
            progress(done, total, {m.name: fmean(found[m.name]) for m in methods if found[m.name]})

    tell()
    for start in range(0, len(data.questions), batch_size):
        for group in groups:
            asked = [
                (question, method)
                for question in data.questions[start : start + batch_size]
                for method in group
                if (method.name, question.id) not in log.rows
            ]
            if asked:
                rows = _ask(nbce, data, retrieved, asked, max_tokens)
                log.append(rows)
                done += len(rows)
                for row in rows:
                    found[str(row["method"])].append(score_row(row, refusal)["answer_found"])
                tell()


def _ask(
    nbce: NBCE,
    data: Dataset,
    retrieved: dict[str, list[Passage]],
    asked: Sequence[tuple[Question, Method]],
    max_tokens: int,
) -> list[Row]:
    """One line of the log for each question and method of a batch."""
    batch: list[list[Request]] = []
    for question, method in asked:
        gold = [data.passages[id_] for id_ in question.gold_ids]
        arguments = method.requests(question.text, retrieved[question.id], gold)
        batch.append([nbce.request(**each, max_tokens=max_tokens) for each in arguments])
    started = time.perf_counter()
    answers = iter(_batch(nbce, [request for requests in batch for request in requests]))
    seconds = time.perf_counter() - started
    lines = []
    for (question, method), requests in zip(asked, batch, strict=True):
        given = [next(answers) for _ in requests]
        lines.append(_line(question, method, given, seconds, len(asked)))
    return lines


def _batch(nbce: NBCE, requests: Sequence[Request]) -> list[Answer | ContextLengthError]:
    """Answers, and errors in place of those whose passages do not fit."""
    try:
        with warnings.catch_warnings():
            # What they say is in the answers, and goes into the log.
            warnings.simplefilter("ignore", NbceWarning)
            return list(nbce.batch(requests))
    except ContextLengthError as error:
        # Raised before anything is computed, so that looking for the culprit costs nothing.
        if len(requests) == 1:
            return [error]
        middle = len(requests) // 2
        return _batch(nbce, requests[:middle]) + _batch(nbce, requests[middle:])


def _line(
    question: Question,
    method: Method,
    given: Sequence[Answer | ContextLengthError],
    seconds: float,
    batch: int,
) -> Row:
    line: Row = {
        "type": "answer",
        "method": method.name,
        "question_id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "gold_ids": list(question.gold_ids),
        "answer": "",
        "finish_reason": "does_not_fit",
        "leading": None,
        "cited": [],
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "seconds": seconds / batch,
        "ttft_s": None,
        "batch": batch,
        "error": None,
        "warnings": [],
    }
    answers = [answer for answer in given if isinstance(answer, Answer)]
    if len(answers) < len(given):
        return line | {"error": next(str(error) for error in given if not isinstance(error, Answer))}
    answer = answers[method.best(answers)] if method.apart else answers[0]
    weight: dict[str, float] = {}
    for citation in answer.citations:
        share = citation.share * (citation.end - citation.start)
        weight[citation.passage_id] = weight.get(citation.passage_id, 0.0) + share
    return line | {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "leading": max(weight, key=weight.__getitem__) if weight else None,
        "cited": list(weight),
        "prompt_tokens": sum(a.usage.prompt_tokens for a in answers),
        "cached_tokens": sum(a.usage.cached_tokens for a in answers),
        # Nothing of a ranking can be shown before all of it is there.
        "ttft_s": seconds if method.apart else answer.timings.first_token,
        "warnings": [w for w in dict.fromkeys(w for a in answers for w in a.warnings) if w != NO_PASSAGES],
    }
