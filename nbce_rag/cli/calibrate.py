"""`nbce-rag calibrate`: how much support is little, on questions of the user's own.

Loads nothing heavy before it runs.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..evidence.calibration import FALSE_ALARMS
from ..files import check_writable
from ..fusion.registry import RULES
from .console import errors_in_one_line, notes, progress_bar, say
from .options import (
    BackendOption,
    DeviceOption,
    DtypeOption,
    KOption,
    LimitOption,
    LookOption,
    MinScoreOption,
    MmrOption,
    ModelOption,
    QuestionsOption,
    RerankOption,
    SampleSeedOption,
    StyleOption,
    given,
)

__all__ = ["calibrate_command"]

_FAR = 0.15  # from 0.5, of the area under a curve by the length of the question


def calibrate_command(
    path: Annotated[
        str, typer.Option("--index", metavar="DIR", help="The index that is asked.", show_default=False)
    ],
    questions: QuestionsOption = None,
    false_alarms: Annotated[
        float,
        typer.Option(metavar="X", help="Share of answerable questions that may be silenced by mistake."),
    ] = 0.05,
    k: KOption = 8,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Search by words as well as by meaning, as in ask.")
    ] = False,
    rerank: RerankOption = None,
    mmr: MmrOption = None,
    look: LookOption = None,
    min_score: MinScoreOption = None,
    limit: LimitOption = None,
    seed: SampleSeedOption = 0,
    model: ModelOption = None,
    fusion: Annotated[
        str | None, typer.Option(metavar="RULE", help=f"{', '.join(RULES)}.", show_default=False)
    ] = None,
    style: StyleOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = None,
) -> None:
    """Learn from your own questions when no passage is about one; `ask --abstain-below` then works on it."""
    with errors_in_one_line():
        if questions is None:
            raise InputError("say what is asked with --questions FILE")
        FALSE_ALARMS.check("false_alarms", false_alarms)
        with notes() as found, redirect_stdout(sys.stderr):
            from ..engine.nbce import NBCE
            from ..evaluation.data.questions import read_questions
            from ..index import PassageIndex
            from ..index.folder import IndexFolder
            from ..models.loading import is_served

            cases = [
                {
                    "question": question.text,
                    "gold_ids": question.gold_ids,
                    "answers": question.answers,
                    "answerable": bool(question.answers or question.keys),
                }
                for question in read_questions(questions)[0]
            ]
            if limit is not None:
                random.Random(seed).shuffle(cases)
                cases = cases[:limit]
            with PassageIndex.open(path) as index:
                check_writable(IndexFolder(path).calibration)  # before a model is loaded for it
                own = IndexFolder(path).kv
                nbce = NBCE.from_pretrained(
                    model,
                    kv_store=own if own.is_dir() and not is_served(model, backend) else None,
                    **given(fusion=fusion, style=style, device=device, dtype=dtype, backend=backend),
                )
                with progress_bar() as progress:
                    calibration = nbce.calibrate(
                        cases,
                        index,
                        false_alarms=false_alarms,
                        k=k,
                        search=given(
                            mode="hybrid" if hybrid else None,
                            rerank=rerank,
                            mmr=mmr,
                            look=look,
                            min_score=min_score,
                        ),
                        progress=progress,
                    )
        for note in found:
            say(f"warning: {note}")
        typer.echo(_told(calibration.figures, false_alarms))


def _told(figures: Mapping[str, Any], false_alarms: float) -> str:
    lines = [
        f"Calibrated on {figures['scored']} answerable questions by {figures['measure']}. To silence at most "
        f"{false_alarms:.0%} of questions like these: --abstain-below {false_alarms:g}"
    ]
    if figures["passage_not_found"]:
        lines.append(f"{figures['passage_not_found']} were left out, whose passage the search did not find.")
    if removed := figures.get("removed"):
        lines.append(f"With their passages left out {_silenced(removed)}.")
    if without := figures.get("given"):
        length = without["auroc_of_length"]
        lines.append(
            f"Of those without an answer {_silenced(without)}; by the length of the question alone "
            f"{length:.2f}."
        )
        if abs(length - 0.5) > _FAR:
            lines.append("They differ in style from the others, so that these figures prove little.")
    lines.append(
        "This tells that no passage is about a question. That one is about it and does not answer, it cannot "
        "tell."
    )
    return "\n".join(lines)


def _silenced(figures: Mapping[str, Any]) -> str:
    return f"{figures['silenced']:.2f} of {figures['questions']} are silenced, AUROC {figures['auroc']:.2f}"
