"""Runs the methods over the questions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from ..checks import COUNT
from ..embedding.resolve import EmbedderLike
from ..embedding.sentence_transformer import DEFAULT_EMBEDDER
from ..engine.nbce import NBCE
from ..errors import InputError
from ..options import Options
from ..prompts.template import Style
from .asker import Asker
from .data.dataset import Dataset, load_dataset
from .log import Row, RunLog
from .methods.method import Method
from .methods.names import parse_methods
from .metrics import Figures, score_row
from .report import report_of
from .retrieval import embedder_name, retrieve

__all__ = ["DEFAULT_METHODS", "MAX_TOKENS", "Progress", "evaluate", "in_style"]

DEFAULT_METHODS = "closed-book,gold,top-1,concat,map-rerank,min-entropy,experts,posterior"

MAX_TOKENS: dict[Style, int] = {"short": 24, "long": 120}
"""Most tokens of an answer, where no number is given."""

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
    ablate: bool = False,
    style: Style | None = None,
    max_tokens: int | None = None,
    model: str | os.PathLike[str] | NBCE | None = None,
    embedder: EmbedderLike = DEFAULT_EMBEDDER,
    index: str | os.PathLike[str] | None = None,
    log: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **model_options: Any,
) -> Figures:
    """Ask questions with known answers by several methods over the same retrieved passages.

    All methods share model, wording, stopping and `max_tokens`; their numbers differ only in which
    passages stand in which row and how rows are fused. Methods take turns on each batch of questions and
    share stored keys and values of passages, so times depend on the order of the methods: the first one
    that reads a passage by itself pays for it. A method whose passages do not fit into the model's window
    gets no answer for that question, and the report counts it (`did_not_fit`). A method that the model cannot
    do, such as stretching positions that it has not, is left out with the reason (`unavailable`).

    Args:
        passages: the corpus; see `nbce_rag.evaluation.load_dataset`, also for None.
        questions: the questions, or a dataset that was loaded (then `passages` is not used).
        methods: names, see `nbce_rag.evaluation.methods.names`.
        k: passages that are retrieved for each question.
        limit, seed, half: which questions, see `Dataset.sample`.
        batch_size: questions in one batch. In float32 it changes no answer; below, rounding may change a few.
        together: methods that read the same rows, such as all fusion rules, share a batch, so that their
            prompts are read once. The answers are the same and come sooner; the times are shares of the
            batch and do not compare.
        ablate: also say how many nats an answer loses without the gold passages (`necessity`), and over what
            it cites alone (`sufficiency`), for methods with a passage a row (`NBCE.ablate`). It takes longer;
            the times of answers stay theirs.
        style: how long an answer the built-in wordings ask for, see `nbce_rag.options.Options`. None is
            "short" for all models, so that figures compare; an engine keeps its own style or wording.
        max_tokens: most tokens of an answer; None is 24, and 120 in the style "long".
        model: as in `NBCE.from_pretrained`, or an engine; an engine keeps its own options and KV store.
            Otherwise there is no store, so that every method reads its passages, and a run that goes on
            after an end rounds as one that was never ended.
        embedder: as in `PassageIndex.create`.
        index: folder of an index to keep or reuse; None makes one for this run only.
        log: file of one line a result. If it is there already and of the same evaluation, what it holds
            is not computed again.
        progress: told how far the run is.
        **model_options: further arguments of `NBCE.from_pretrained`.

    Returns:
        The report, in JSON types: see `nbce_rag.evaluation.rescore`.

    Raises:
        InputError: impossible arguments or data, or the log or index is of something else.
        ReadError: a file cannot be read.
        ModelError: the model cannot be loaded.
    """
    all_methods = parse_methods(methods)
    if style is not None:
        Options().updated(style=style)  # before a model is loaded for nothing
    for name, value in (("k", k), ("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value is not None:
            COUNT.check(name, value)
    whole = questions if isinstance(questions, Dataset) else load_dataset(passages, questions, embedder)
    data = whole.sample(limit, seed=seed, half=half)
    if isinstance(model, NBCE):
        nbce = model
    else:
        # What one question leaves to the next would be rounded otherwise in a run that goes on after an end.
        nbce = NBCE.from_pretrained(model, **({"kv_store": False} | model_options))
    styled = in_style(nbce, style)
    if max_tokens is None:
        max_tokens = MAX_TOKENS[styled.options.style or "short"]
    # Methods have rules of their own, and their lines in the log say with which numbers.
    shared = {
        name: value for name, value in vars(styled.options).items() if name not in ("fusion", "max_tokens")
    }
    header = {
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "questions": len(data.questions),
        "limit": limit,
        "seed": seed,
        "half": half,
        "k": k,
        "model": nbce.model.name,
        "dtype": nbce.model.dtype,
        "embedder": embedder_name(embedder),
        "style": styled.options.style,
        "max_tokens": max_tokens,
        "options_sha256": hashlib.sha256(f"{styled.prompt!r}{shared!r}".encode()).hexdigest(),
        "refusal": styled.prompt.refusal,
    }
    results = RunLog.resume(log, header)
    try:
        contexts = retrieve(data, results, k, embedder, index)
        asker = Asker(nbce, data, contexts, max_tokens, styled.options.style, ablate)
        able = _describe(asker, all_methods, results)
        _run(asker, data, _groups(able, together), results, batch_size, progress)
        return report_of(results)
    finally:
        results.close()


def in_style(nbce: NBCE, style: Style | None, default: Style = "short") -> NBCE:
    """The engine with its wording in a style.

    Args:
        nbce: an engine.
        style: the style; None is the engine's own, and the default where it has neither a style nor a wording
            of its own.
        default: the style of an engine that says nothing.

    Raises:
        InputError: no style, or one beside a wording of the engine's own.
    """
    if style is None and (nbce.options.style is not None or nbce.has_own_prompt):
        return nbce
    return nbce.updated(style=style or default)


def _describe(asker: Asker, methods: Sequence[Method], log: RunLog) -> list[Method]:
    """Says in the log what the methods are; those that the model can do.

    Raises:
        InputError: the log has answers by a method of this name with other numbers.
    """
    for method in methods:
        line = log.methods.get(method.name)
        if line is not None and line["parameters"] != method.parameters:
            raise InputError(
                f"The log {log.path} has answers by {method.name!r} with other numbers "
                f"({line['parameters']} there, {method.parameters} here); give another file for the log."
            )
    lines = [
        {
            "type": "method",
            "method": method.name,
            "parameters": dict(method.parameters),
            "unavailable": asker.unavailable(method),
        }
        for method in methods
        if method.name not in log.methods
    ]
    if lines:
        log.append(lines)
    return [method for method in methods if not log.methods[method.name]["unavailable"]]


def _groups(methods: Sequence[Method], together: bool) -> list[list[Method]]:
    """Methods that share a batch, each by itself unless they go together."""
    groups: dict[object, list[Method]] = {}
    for method in methods:
        labels = method.options.get("order_labels", False)
        rows = (method.choose, method.layout, method.joint_row, labels)
        alone = not together or method.layout == "refine" or method.rope
        groups.setdefault(method.name if alone else rows, []).append(method)
    return list(groups.values())


def _run(
    asker: Asker,
    data: Dataset,
    groups: Sequence[Sequence[Method]],
    log: RunLog,
    batch_size: int,
    progress: Progress | None,
) -> None:
    assert log.header is not None
    methods = [method for group in groups for method in group]
    total = len(data.questions) * len(methods)
    done = sum((method.name, q.id) in log.rows for method in methods for q in data.questions)
    scores: dict[str, list[float]] = {method.name: [] for method in methods}
    refusal = log.header["refusal"]
    for (name, _), row in log.rows.items():
        scores.setdefault(name, []).append(_found(row, refusal))

    def tell() -> None:
        if progress is not None:
            progress(done, total, {m.name: fmean(scores[m.name]) for m in methods if scores[m.name]})

    tell()
    for start in range(0, len(data.questions), batch_size):
        for group in groups:
            pairs = [
                (question, method)
                for question in data.questions[start : start + batch_size]
                for method in group
                if (method.name, question.id) not in log.rows
            ]
            if pairs:
                rows = asker.ask(pairs)
                log.append(rows)
                done += len(rows)
                for row in rows:
                    scores[str(row["method"])].append(_found(row, refusal))
                tell()


def _found(row: Row, refusal: str | None) -> float:
    return score_row(row, refusal)["answer_found"] or 0.0
