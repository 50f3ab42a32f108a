"""The command line: `nbce-rag index`, `ask`, `eval`, `study`, `kv` and `bench`.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .benchmark.command import bench_command
from .cli_options import DeviceOption, DtypeOption, EmbedderOption, KOption, ModelOption
from .errors import IndexNotFoundError, InputError
from .evaluation.command import eval_command
from .evaluation.studies.command import study_command
from .kv_command import fill, kv_command, parse_bytes, store_of_index
from .reporting import errors_in_one_line, notes, progress_bar, say, spinner
from .writing import check_writable, write_whole

if TYPE_CHECKING:
    from .answer import Answer
    from .index import PassageIndex

__all__ = ["app", "main"]

_NOTHING_READ = 1
_PROBLEMS = 1

app = typer.Typer(
    help="Answers questions from your documents, reading every passage on its own, and cites them.",
    no_args_is_help=True,
    add_completion=False,
    # An error that is not ours is a bug, and its plain traceback is what a report of it needs.
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs the command line and exits."""
    for out in (sys.stdout, sys.stderr):
        if isinstance(out, io.TextIOWrapper):
            # A terminal or pipe that cannot show a character gets a question mark, not a traceback.
            out.reconfigure(errors="replace")
    app(prog_name="nbce-rag")


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"nbce-rag {__version__}")
        raise typer.Exit


@app.callback()
def _nbce_rag(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


@app.command("index")
def index_documents(
    path: Annotated[
        Path,
        typer.Option("--index", metavar="DIR", help="The index; made if there is none.", show_default=False),
    ],
    documents: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DOCS...",
            help="Files and folders: .txt, .md, .rst, .html, .pdf, .jsonl.",
            show_default=False,
        ),
    ] = None,
    embedder: EmbedderOption = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Most tokens of a passage.",
            show_default="what the embedder reads, at most 200",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Tokens that a passage repeats from the one before.", show_default="32"
        ),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How FAISS holds vectors: auto, flat, hnsw, ivf, ivf-sq8, fp16, sq8, sq4, pq, or a string "
            "for its index_factory. All vectors are written anew.",
            show_default="auto",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all of the index and say what is wrong.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Make anew what follows from the passages: filters, words, vectors."),
    ] = False,
    kv: Annotated[
        bool,
        typer.Option(
            "--kv",
            help="Also let the model read all passages now, so that answers start sooner; see `nbce-rag kv`.",
        ),
    ] = False,
    kv_max_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="With --kv: most bytes that takes (20GB).", show_default="16GiB"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="M", help="With --kv: the model, as in `ask`.", show_default="packaged"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --kv: as in `ask`.", show_default=False)
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --kv: as in `ask`.", show_default=False)
    ] = None,
) -> None:
    """Put documents into an index. Run again, it takes in only what has changed."""
    if check or rebuild or not documents:
        _maintain(path, documents, factory, check, rebuild)
        return
    of_kv = _given(kv_max_bytes=kv_max_bytes, model=model, device=device, dtype=dtype)
    with errors_in_one_line("what was finished is in the index; run the same command again to go on"):
        if of_kv and not kv:
            raise InputError(f"--{next(iter(of_kv)).replace('_', '-')} goes with --kv; add it")
        limit = None if kv_max_bytes is None else parse_bytes(kv_max_bytes)
        with notes() as found, redirect_stdout(sys.stderr), _open_or_create(path, embedder) as index:
            if factory is not None:
                from .index.factories import check_factory

                check_factory(factory, index.dimension)  # before anything is embedded
            with progress_bar() as progress:
                report = index.add_files(
                    documents, progress=progress, **_given(max_tokens=max_tokens, overlap=overlap)
                )
            if factory is not None:
                index.compact(factory)
            size = len(index)
        for reasons in report.files_failed.values():
            for reason in reasons.splitlines():
                say(f"failed: {reason}")
        for warning in (*report.warnings, *found):
            say(f"warning: {warning}")
        typer.echo(
            f"Files: {report.files_added} added, {report.files_unchanged} unchanged, "
            f"{len(report.files_failed)} failed. Passages: {report.passages_added} added, "
            f"{report.passages_removed} removed, {size} in the index."
        )
        if kv and size:
            with notes() as found, redirect_stdout(sys.stderr), _open_or_create(path, embedder) as index:
                done, more = fill(index, model, limit, **_given(device=device, dtype=dtype))
            for warning in (*more, *found):
                say(f"warning: {warning}")
            typer.echo(done)
        if not report.files_added and not report.files_unchanged:
            raise typer.Exit(_NOTHING_READ)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    path: Annotated[
        Path, typer.Option("--index", metavar="DIR", help="The index to search.", show_default=False)
    ],
    k: KOption = 8,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="On metadata: year>=1900, language=en,de, tags~pet, or JSON. Repeat it for more.",
            show_default=False,
        ),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Search by meaning and by words (BM25).")] = False,
    rerank: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Cross-encoder that scores what was found, by name or folder.",
            show_default=False,
        ),
    ] = None,
    mmr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.0,
            max=1.0,
            help="Passages that differ: 1 is relevance alone, 0 difference alone.",
            show_default=False,
        ),
    ] = None,
    min_score: Annotated[
        float | None,
        typer.Option(metavar="X", min=-1.0, max=1.0, help="Least score of a passage.", show_default=False),
    ] = None,
    model: ModelOption = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="min-entropy, mean, max, experts or posterior.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most tokens of the answer.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="T", min=0.0, help="Sample; 0 takes the likeliest token.", show_default=False),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0.0, max=1.0, help="Sample from the likeliest tokens only.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="Same seed, same sample.", show_default=False)
    ] = None,
    abstain_below: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Do not answer when the passages add less than this over no passage (nats a token).",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="FILE", help="Write the answer as a page with its evidence.", show_default=False
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw the evidence: .png, .svg, .pdf. Extra [plot].",
            show_default=False,
        ),
    ] = None,
    kv: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep keys and values of passages in this folder, and take them from it.",
            show_default="the index's, if `index --kv` made one",
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Answer a question from an index, and say which passages the answer rests on."""
    if kv is None and store_of_index(path).is_dir():
        kv = store_of_index(path)
    options = _given(
        fusion=fusion,
        kv_store=kv,
        device=device,
        dtype=dtype,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        abstain_below=abstain_below,
    )
    with errors_in_one_line():
        if not question.strip():
            raise InputError("the question is empty; write it after `ask`, in quotation marks")
        for file in (html, plot):
            if file is not None:
                check_writable(file)
        if plot is not None:
            from .view.figure import check_suffix

            check_suffix(plot.suffix)
            options["entropies"] = True
        stdout = sys.stdout
        with notes() as found, redirect_stdout(sys.stderr):
            with spinner("searching"):
                from .index import PassageIndex
                from .index.where_text import parse_where

                asked = _given(
                    where=parse_where(where or ()),
                    mode="hybrid" if hybrid else None,
                    rerank=rerank,
                    mmr=mmr,
                    min_score=min_score,
                )

                with PassageIndex.open(path) as index:
                    # Loads the embedder, so that the time of the search is that of searching.
                    _ = index.embedder.dimension
                    started = perf_counter()
                    passages = index.search(question, k=k, **asked)
                    retrieve = perf_counter() - started
            with spinner("loading the model"):
                from .engine import NBCE

                # The options of the answer go here too: they are checked before the model is loaded.
                engine = NBCE.from_pretrained(model, **options)
            if as_json:
                answer = engine.answer(question, passages)
                timed = _with_retrieval(answer, retrieve)
                # ASCII, so that no locale can garble it.
                typer.echo(json.dumps(timed.to_dict(), ensure_ascii=True, allow_nan=False), file=stdout)
            else:
                from rich.console import Console

                from .terminal import stream

                answer = stream(engine.stream(question, passages), Console(file=stdout))
            if kv is not None and engine.kv_store is not None:
                engine.kv_store.close()  # says here what could not be written
            _write_views(_with_retrieval(answer, retrieve), html, plot)
        for note in found:
            # The answer's own warnings are part of what was printed.
            if note not in answer.warnings:
                say(f"warning: {note}")


app.command("bench")(bench_command)
app.command("eval")(eval_command)
app.command("kv")(kv_command)
app.command("study")(study_command)


def _maintain(
    path: Path, documents: list[Path] | None, factory: str | None, check: bool, rebuild: bool
) -> None:
    """`nbce-rag index` without documents."""
    with errors_in_one_line():
        if documents or not (check or rebuild or factory):
            raise InputError("give either documents, or --check, --rebuild or --factory")
        with redirect_stdout(sys.stderr), spinner("reading the index"):
            from .index.maintaining import open_for_maintenance

            with open_for_maintenance(path) as index:
                if rebuild:
                    index.rebuild()
                if factory is not None:
                    index.compact(factory)
                report = index.check()
        for problem in report.problems:
            say(f"problem: {problem}")
        for segment in report.segments:
            typer.echo(
                f"{segment['file']}: {segment['vectors']} vectors, {segment['removed']} removed, "
                f"{segment['factory']}, recall {segment['recall']:.3f}"
            )
        typer.echo(
            f"Passages: {report.passages}, {report.tail} of them not in a FAISS file. "
            f"{'No problems.' if report.ok else f'Problems: {len(report.problems)}.'}"
        )
        if not report.ok:
            raise typer.Exit(_PROBLEMS)


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that the others keep the library's own defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _with_retrieval(answer: Answer, seconds: float) -> Answer:
    """`answer` with the time of the search, which took place before the engine began to count."""
    timings = answer.timings
    return replace(answer, timings=replace(timings, retrieve=seconds, total=timings.total + seconds))


def _write_views(answer: Answer, html: Path | None, plot: Path | None) -> None:
    if html is not None:
        write_whole(html, answer.to_html().encode())
    if plot is not None:
        from .view.figure import to_bytes

        write_whole(plot, to_bytes(answer.plot(), plot.suffix))


def _open_or_create(path: Path, embedder: str | None) -> PassageIndex:
    with spinner("opening the index"):
        from .index import PassageIndex

        try:
            return PassageIndex.open(path, embedder=embedder)
        except IndexNotFoundError:
            return PassageIndex.create(path, **_given(embedder=embedder))
