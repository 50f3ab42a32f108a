"""`nbce-rag eval`: the evaluation on the command line. Loads nothing heavy before it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..evaluation.methods.names import method_choices
from ..files import write_json
from .console import errors_in_one_line, notes, progress_shown, say, table_console
from .options import (
    AnswerStyleOption,
    AnswerTokensOption,
    BackendOption,
    BatchSizeOption,
    DeviceOption,
    DtypeOption,
    EmbedderOption,
    HalfOption,
    KOption,
    LimitOption,
    ModelOption,
    PassagesOption,
    QuestionsOption,
    SampleSeedOption,
    given,
)

__all__ = ["eval_command"]


def eval_command(
    out: Annotated[
        Path, typer.Option("--json", metavar="OUT", help="Where the report goes.", show_default=False)
    ],
    questions: QuestionsOption = None,
    passages: PassagesOption = None,
    k: KOption = 8,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help=f"{method_choices()}.",
            show_default="the usual ones",
        ),
    ] = None,
    limit: LimitOption = None,
    seed: SampleSeedOption = 0,
    half: HalfOption = None,
    batch_size: BatchSizeOption = 8,
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="Methods with the same rows share a batch: sooner, times do not compare."
        ),
    ] = False,
    ablate: Annotated[
        bool,
        typer.Option(
            "--ablate", help="Also say how far answers rest on the gold passages, and on what they cite."
        ),
    ] = False,
    style: AnswerStyleOption = None,
    max_tokens: AnswerTokensOption = None,
    model: ModelOption = None,
    embedder: EmbedderOption = None,
    index: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep or reuse this index.", show_default="a temporary one"),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="One line a result; the same command goes on where it ended.",
            show_default="OUT with .log.jsonl",
        ),
    ] = None,
    rescore: Annotated[
        Path | None,
        typer.Option(metavar="LOG", help="Only make the report of this log anew.", show_default=False),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = None,
) -> None:
    """Compare methods on questions with known answers: which finds more, and what does it cost?"""
    log = log or out.with_suffix(".log.jsonl")
    with errors_in_one_line("what was answered is in the log; run the same command again to go on"):
        if rescore is None and questions is None:
            raise InputError("say what to ask with --questions FILE, or what to score with --rescore LOG")
        with notes() as found, redirect_stdout(sys.stderr):
            from ..evaluation.report import rescore as report_of
            from ..evaluation.runner import DEFAULT_METHODS, evaluate

            if rescore is not None:
                report = report_of(rescore)
            else:
                assert questions is not None
                with progress_shown() as progress:
                    report = evaluate(
                        passages,
                        questions,
                        methods=DEFAULT_METHODS if methods is None else methods,
                        k=k,
                        limit=limit,
                        seed=seed,
                        half=half,
                        batch_size=batch_size,
                        together=together,
                        ablate=ablate,
                        max_tokens=max_tokens,
                        model=model,
                        index=index,
                        log=log,
                        progress=progress,
                        **given(style=style, embedder=embedder, device=device, dtype=dtype, backend=backend),
                    )
        write_json(out, report)
        for note in found:
            say(f"warning: {note}")
        _show(report)


def _show(report: Mapping[str, Any]) -> None:
    from rich.table import Table

    console = table_console(200)
    table = Table(box=None, pad_edge=False)
    table.add_column("method", overflow="fold")
    with_keys = any("keys_share" in scores for scores in report["methods"].values())
    for name in (*(_LONG_HEADS if with_keys else _HEADS), "lead = gold", "stands", "s/question", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, scores in report["methods"].items():
        difference = scores.get("difference_to_concat", {}).get("answer_found", {})
        table.add_row(
            name,
            _number(scores["answer_found"]),
            _interval(scores["ci95"]["answer_found"]),
            _number(difference.get("mean"), "+.3f"),
            _interval(difference.get("ci95"), "+.2f"),
            *(_long_cells(scores) if with_keys else (_number(scores["exact_match"]), _number(scores["f1"]))),
            _number(scores["leading_is_gold_when_right"]),
            _number(scores["words_standing"]),
            _number(scores["seconds_per_question"], ".2f"),
            _number(scores["prompt_tokens"], ".0f"),
        )
    searched = "  ".join(f"{name} {_number(value)}" for name, value in report["retrieval"].items())
    console.print(
        f"{report['dataset']}: {report['questions']} questions, k = {report['k']}, {report['model']}\n"
        f"retrieval: {searched}",
        markup=False,
        highlight=False,
    )
    console.print(table)
    for name, scores in report["methods"].items():
        if scores["did_not_fit"]:
            note = f"for {scores['did_not_fit']} questions the passages did not fit into the window."
        elif not (note := scores.get("unavailable", "")):
            continue
        console.print(f"{name}: {note}", markup=False, highlight=False)


_HEADS = ("answer found", "95%", "- concat", "95%", "EM", "F1")
_LONG_HEADS = ("keys found", "95%", "- concat", "95%", "groups", "identifiers", "95%", "repeated", "words")


def _long_cells(scores: Mapping[str, Any]) -> tuple[str, ...]:
    """Of answers to questions with keys; nothing for a method that was asked none."""
    return (
        _number(scores.get("keys_share")),
        _number(scores.get("identifier_precision")),
        _interval(scores["ci95"].get("identifier_precision")),
        _number(scores.get("repetition")),
        _number(scores.get("words"), ".0f"),
    )


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def _interval(value: list[float] | None, form: str = ".2f") -> str:
    return "" if value is None else " to ".join(format(bound, form) for bound in value)
