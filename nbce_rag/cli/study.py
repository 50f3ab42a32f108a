"""`nbce-rag study`: studies on the command line. Loads nothing heavy before it runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..evaluation.studies import STUDIES
from ..files import expand_home
from .console import errors_in_one_line, notes, progress_shown, say
from .options import (
    AnswerStyleOption,
    AnswerTokensOption,
    BackendOption,
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    EmbedderOption,
    HalfOption,
    LimitOption,
    ModelOption,
    PassagesOption,
    QuestionsOption,
    SampleSeedOption,
    given,
)

__all__ = ["study_command"]


def study_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="; ".join(f"{study}: {about}" for study, about in STUDIES.items()),
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Table, picture and logs; the same command goes on where it ended.",
            show_default=False,
        ),
    ],
    questions: QuestionsOption = None,
    passages: PassagesOption = None,
    k: Annotated[
        int | None,
        typer.Option(
            "-k", metavar="K", min=1, help="Passages, where not varied.", show_default="the study's"
        ),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Numbers of passages, or ranks.", show_default="the study's"),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="As in eval.", show_default="the study's")
    ] = None,
    limit: LimitOption = None,
    seed: SampleSeedOption = 0,
    half: HalfOption = None,
    batch_size: BatchSizeOption = 8,
    style: AnswerStyleOption = None,
    max_tokens: AnswerTokensOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = None,
) -> None:
    """Write a table and a picture of how answers change with one thing."""
    out = Path(expand_home(out))
    with errors_in_one_line("what was answered is in the logs; run the same command again to go on"):
        if name not in STUDIES:
            raise InputError(f"unknown study {name!r}; choose one of {', '.join(STUDIES)}")
        if questions is None:
            raise InputError("say what to ask with --questions FILE")
        chosen = None if points is None else _points(points)
        with notes() as found, redirect_stdout(sys.stderr):
            from ..embedding.sentence_transformer import DEFAULT_EMBEDDER
            from ..engine.nbce import NBCE
            from ..evaluation.data.dataset import load_dataset
            from ..evaluation.methods.names import parse_methods
            from ..evaluation.studies.pictures import require_matplotlib
            from ..evaluation.studies.study import Study, run_study

            # What can be wrong is looked at before a model is loaded.
            require_matplotlib()
            if methods is not None:
                parse_methods(methods)
            data = load_dataset(passages, questions, embedder or DEFAULT_EMBEDDER)
            # Without a store, which below float32 would make a study that goes on round otherwise.
            options = given(style=style, device=device, dtype=dtype, backend=backend)
            nbce = NBCE.from_pretrained(model, kv_store=False, **options)
            with progress_shown() as progress:
                study = Study(
                    out=out,
                    data=data,
                    nbce=nbce,
                    methods=methods,
                    k=k,
                    points=chosen,
                    limit=limit,
                    seed=seed,
                    half=half,
                    batch_size=batch_size,
                    max_tokens=max_tokens,
                    embedder=embedder or DEFAULT_EMBEDDER,
                    progress=progress,
                )
                run_study(name, study)
        for note in found:
            say(f"warning: {note}")
        typer.echo((out / f"{name}.md").read_text(encoding="utf-8"))


def _points(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--points {text!r} must be whole numbers with commas, such as 1,2,4") from None
