"""Stored keys and values in 8 bits against exact ones: do the answers change?"""

from __future__ import annotations

import inspect
from typing import Any

from ...engine.nbce import NBCE
from ...errors import InputError
from ...kv.store import PassageKVStore
from ..intervals import bootstrap_ci
from ..log import Row, RunLog
from ..methods.names import parse_methods
from ..metrics import Figures, paired_differences
from .pictures import Panel, bars, point
from .study import Finding, Study

__all__ = ["find"]

_METHODS = "min-entropy,experts,posterior"
_BYTES = 4 << 30
_CODECS = {"exact": None, "8 bits": "int8"}


def find(study: Study) -> Finding:
    """Every passage is read from the store: it is filled in a first pass, which is not counted."""
    if "codec" not in inspect.signature(PassageKVStore).parameters:
        raise InputError(
            "The KV store of this version keeps keys and values exactly and has no codec; 8-bit ones "
            "cannot be studied with it."
        )
    methods, k = study.methods or _METHODS, study.k or 8
    reports: dict[str, Figures] = {}
    sizes: dict[str, int | None] = {}
    for name, codec in _CODECS.items():
        options: dict[str, Any] = {"codec": codec} if codec else {}
        store = PassageKVStore(_BYTES, **options)
        nbce = NBCE(study.nbce.model, prompt=study.nbce.prompt, kv_store=store)
        run = f"kv8-{codec or 'exact'}-{k}"
        if not _is_complete(study, run, methods):
            first: dict[str, Any] = {"max_tokens": 1, "log": None, "progress": None}
            study.run(run, study.sample, methods="posterior", k=k, model=nbce, **first)
        reports[name] = study.run(run, study.sample, methods=methods, k=k, model=nbce)
        sizes[name] = store.nbytes or None
    exact, small = (study.rows(f"kv8-{codec or 'exact'}-{k}", methods) for codec in _CODECS.values())
    refusal = study.nbce.prompt.refusal
    rows: list[Row] = []
    for method, theirs in small.items():
        same = [float(a["answer"] == b["answer"]) for a, b in zip(theirs, exact[method], strict=True)]
        change = paired_differences(theirs, exact[method], refusal=refusal)["answer_found"]
        one, other = (reports[name]["methods"][method] for name in _CODECS)
        rows.append(
            {
                "method": method,
                "exact": one["answer_found"],
                "exact_ci95": one["ci95"]["answer_found"],
                "8 bits": other["answer_found"],
                "8 bits_ci95": other["ci95"]["answer_found"],
                "difference": change["mean"],
                "difference_ci95": change["ci95"],
                "same": sum(same) / len(same),
                "same_ci95": bootstrap_ci(same),
                "exact_bytes": sizes["exact"],
                "8 bits_bytes": sizes["8 bits"],
            }
        )
    title = f"Keys and values in 8 bits ({study.data.name}, k = {k})"
    ticks = {float(x): row["method"] for x, row in enumerate(rows)}
    series = {
        head: [point(x, row[key], row[f"{key}_ci95"]) for x, row in enumerate(rows)]
        for head, key in (
            ("answer found, exact", "exact"),
            ("answer found, 8 bits", "8 bits"),
            ("same answer", "same"),
        )
    }
    panel = Panel("", "share of questions", "", series, ticks=ticks)
    return Finding(
        title,
        "The same questions over the same passages, their keys and values read from a store that "
        "keeps them exactly and from one that keeps them in 8 bits. Same: the answer is the same "
        "text.",
        {
            "method": "method",
            "exact": "answer found, exact",
            "exact_ci95": "95%",
            "8 bits": "8 bits",
            "8 bits_ci95": "95%",
            "difference": "difference",
            "difference_ci95": "95%",
            "same": "same answer",
            "exact_bytes": "bytes, exact",
            "8 bits_bytes": "bytes, 8 bits",
        },
        rows,
        lambda: bars([panel], title),
    )


def _is_complete(study: Study, run: str, methods: str) -> bool:
    """Whether the log has all answers, so that the store need not be filled again."""
    if not study.log(run).exists():
        return False
    rows = RunLog.read(study.log(run)).rows
    questions = study.sample.questions
    return all((m.name, question.id) in rows for m in parse_methods(methods) for question in questions)
