"""`nbce-rag eval`: the evaluation on the command line. Loads nothing heavy before it runs."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from ..cli_options import (
    DeviceOption,
    DtypeOption,
    EmbedderOption,
    KOption,
    LimitOption,
    ModelOption,
    PassagesOption,
    QuestionsOption,
    SampleSeedOption,
)
from ..errors import InputError
from ..reporting import errors_in_one_line, notes, say

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
            help="closed-book, gold, top-1, concat, concat-reversed, concat-ntk, concat-yarn, map-rerank, "
            "refine; a fusion rule or a published peer's (replug, leens, cad, robustrag), with numbers, "
            "posterior(beta=0,alpha=0.5), or a joint row, posterior+joint; rules, rules+joint, peers, all.",
            show_default="the usual ones",
        ),
    ] = None,
    limit: LimitOption = None,
    seed: SampleSeedOption = 0,
    half: Annotated[
        int | None,
        typer.Option(
            metavar="1|2", min=1, max=2, help="Ask one half of the sample only.", show_default=False
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Questions in one batch; does not change answers.")
    ] = 8,
    together: Annotated[
        bool,
        typer.Option(
            "--together", help="Methods with the same rows share a batch: sooner, times do not compare."
        ),
    ] = False,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Most tokens of an answer.")] = 24,
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
) -> None:
    """Compare methods on questions with known answers: which finds more, and what does it cost?"""
    log = log or out.with_suffix(".log.jsonl")
    with errors_in_one_line("what was answered is in the log; run the same command again to go on"):
        if rescore is None and questions is None:
            raise InputError("say what to ask with --questions FILE, or what to score with --rescore LOG")
        with notes() as found, redirect_stdout(sys.stderr):
            from .report import rescore as report_of
            from .runner import DEFAULT_METHODS, evaluate

            if rescore is not None:
                report = report_of(rescore)
            else:
                assert questions is not None
                given = {"embedder": embedder, "device": device, "dtype": dtype}
                with _progress() as progress:
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
                        max_tokens=max_tokens,
                        model=model,
                        index=index,
                        log=log,
                        progress=progress,
                        **{name: value for name, value in given.items() if value is not None},
                    )
        _write(out, report)
        for note in found:
            say(f"warning: {note}")
        _show(report)


def _write(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the report whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", errors="replace", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            # Files of this kind are made for their owner only; this one is a plain result.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(file.name, 0o666 & ~mask)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextmanager
def _progress() -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """A bar with running figures on a terminal; elsewhere a line of them after each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)

    def figures(found: Mapping[str, float]) -> str:
        return "  ".join(f"{name} {value:.2f}" for name, value in found.items())

    if not console.is_terminal:
        said = -1

        def print_line(done: int, total: int, found: dict[str, float]) -> None:
            nonlocal said
            tenth = 10 * done // max(total, 1)
            if tenth != said:
                said = tenth
                say(f"{done}/{total} answers. Found: {figures(found)}")

        yield print_line
        return
    shown = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), shown)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def update(done: int, total: int, found: dict[str, float]) -> None:
            progress.update(task, completed=done, total=total, description=figures(found))

        yield update


def _show(report: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has room for the whole table
    table = Table(box=None, pad_edge=False)
    table.add_column("method", overflow="fold")
    heads = ("answer found", "95%", "- concat", "95%", "EM", "F1", "lead = gold", "s/question", "tokens")
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    for name, scores in report["methods"].items():
        difference = scores.get("difference_to_concat", {}).get("answer_found", {})
        table.add_row(
            name,
            _number(scores["answer_found"]),
            _interval(scores["ci95"]["answer_found"]),
            _number(difference.get("mean"), "+.3f"),
            _interval(difference.get("ci95"), "+.2f"),
            _number(scores["exact_match"]),
            _number(scores["f1"]),
            _number(scores["leading_is_gold_when_right"]),
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


def _number(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def _interval(value: list[float] | None, form: str = ".2f") -> str:
    return "" if value is None else " to ".join(format(bound, form) for bound in value)
