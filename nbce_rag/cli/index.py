"""`nbce-rag index`: documents into an index, and its upkeep. Loads nothing heavy before it runs."""

from __future__ import annotations

import math
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..documents.readers import SUFFIXES
from ..documents.watch import require_watchfiles, watch_changes
from ..errors import (
    EmbedderMismatchError,
    IndexDamagedError,
    IndexNotFoundError,
    InputError,
    PassageIndexError,
)
from ..index.address import is_database
from .console import errors_in_one_line, notes, on_terminal, progress_bar, say, spinner
from .index_report import say_report
from .kv import fill, parse_bytes
from .limits import LIMITS, parse_limits
from .options import EmbedderOption, given

if TYPE_CHECKING:
    from ..index import PassageIndex
    from ..index.sync import ConfirmRemoval

__all__ = ["index_command"]

_NOTHING_READ = 1
_PROBLEMS = 1
_RETRY_S = 30.0


def index_command(
    path: Annotated[
        str,
        typer.Option(
            "--index",
            metavar="DIR",
            help="The index, a folder or postgresql://USER@HOST/DATABASE; made if there is none.",
            show_default=False,
        ),
    ],
    documents: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DOCS...",
            help=f"Files and folders: {', '.join(SUFFIXES)}, and any other text.",
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
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Processes that read files; 1 reads them here.",
            show_default="as many as there are cores, 1 for a few small files",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="The most that one file may take, such as max_pages=2000 or max_bytes=200MB; may be "
            f"repeated. Names: {', '.join(LIMITS)}.",
            show_default=False,
        ),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How FAISS holds vectors: auto, flat, hnsw, ivf, ivf-sq8, fp16, sq8, sq4, pq, or a string "
            "for its index_factory; of a database auto, flat, hnsw, hnsw-halfvec. All are written anew.",
            show_default="auto",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read all of the index and say what is wrong.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Pass over what this says, as in .gitignore (drafts/, *.log.txt); may be repeated. Files "
            "named .nbceignore count without being told.",
            show_default=False,
        ),
    ] = None,
    gitignore: Annotated[
        bool, typer.Option("--gitignore", help="Have .gitignore count as .nbceignore does.")
    ] = False,
    keep_missing: Annotated[
        bool,
        typer.Option("--keep-missing", help="Keep the passages of files that are gone from these folders."),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Remove passages also when they are more than half of the index."),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on following these files and folders, until Ctrl-C."),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option("--rebuild", help="Make anew what follows from the passages: filters, words, vectors."),
    ] = False,
    copy_to: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Copy the index as it is to another place, a folder or postgresql://USER@HOST/DATABASE.",
            show_default=False,
        ),
    ] = None,
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
    kv_sentences: Annotated[
        bool,
        typer.Option(help="With --kv: read the sentences of prose too, in twice the room and a little more."),
    ] = True,
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
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --kv: as in `ask`.", show_default=False)
    ] = None,
) -> None:
    """Put documents into an index. Run again, it follows what was added, changed, renamed and deleted."""
    if copy_to is not None:
        if documents or check or rebuild or factory or kv:
            with errors_in_one_line():
                raise InputError("--copy-to goes with --index alone; give the rest in a command of its own")
        _copy(path, copy_to)
        return
    if check or rebuild or not documents:
        with errors_in_one_line():
            switches = {"--keep-missing": keep_missing, "--yes": yes, "--watch": watch}
            of_files = {"--exclude": exclude, "--gitignore": gitignore, "--limit": limit}
            for name, is_set in (switches | of_files).items():
                if is_set:
                    raise InputError(f"{name} goes with documents; leave it out here")
        _maintain(path, documents, factory, check, rebuild)
        return
    of_kv = given(kv_max_bytes=kv_max_bytes, model=model, device=device, dtype=dtype, backend=backend)
    with errors_in_one_line("what was finished is in the index; run the same command again to go on"):
        if of_kv and not kv:
            raise InputError(f"--{next(iter(of_kv)).replace('_', '-')} goes with --kv; add it")
        if kv and is_database(path):
            raise InputError("--kv keeps keys and values in the folder of an index, which a database has not")
        if not (kv or kv_sentences):
            raise InputError("--no-kv-sentences goes with --kv; add it")
        if watch:
            require_watchfiles()  # before anything is embedded
        window = given(max_tokens=max_tokens, overlap=overlap, workers=workers)
        rules = given(exclude=exclude) | {"gitignore": gitignore, "limits": parse_limits(limit or ())}
        kv_limit = None if kv_max_bytes is None else parse_bytes(kv_max_bytes)
        with notes() as found, redirect_stdout(sys.stderr), _open_or_create(path, embedder) as index:
            if factory is not None:
                from ..index.places import place_of

                place_of(path).check_factory(factory, index.dimension)  # before anything is embedded
            with progress_bar() as progress:
                report = index.sync_files(
                    documents,
                    keep_missing=keep_missing,
                    confirm=_confirm(yes),
                    progress=progress,
                    **window,
                    **rules,
                )
            if factory is not None:
                index.compact(factory)
            size = len(index)
        took_in = report.files_added or report.files_changed or report.files_moved
        say_report(report, found, size)
        if kv and size:
            with notes() as found, redirect_stdout(sys.stderr), _open_or_create(path, embedder) as index:
                loading = given(device=device, dtype=dtype, backend=backend)
                done, more = fill(index, model, kv_limit, kv_sentences, **loading)
            for warning in (*more, *found):
                say(f"warning: {warning}")
            typer.echo(done)
        if watch:
            with redirect_stdout(sys.stderr):
                index = _open_or_create(path, embedder)
            with index:
                options = {"keep_missing": keep_missing, "confirm": _confirm(yes)} | window | rules
                _follow(index, documents, options)
        if not (took_in or report.files_unchanged or report.files_removed):
            raise typer.Exit(_NOTHING_READ)


def _follow(index: PassageIndex, documents: list[Path], options: dict[str, Any]) -> None:
    """`nbce-rag index --watch`: until it is interrupted."""
    again_at = math.inf
    for has_changed in watch_changes(documents, index.path if index.has_folder else None):
        if not has_changed and time.monotonic() < again_at:
            continue
        again_at = math.inf
        try:
            with notes() as found, redirect_stdout(sys.stderr), progress_bar() as progress:
                report = index.sync_files(documents, progress=progress, **options)
        except InputError as error:  # most of the index would go: the folder may come back
            say(f"error: {error}")
            continue
        except (IndexDamagedError, IndexNotFoundError, EmbedderMismatchError):
            raise
        except PassageIndexError as error:  # a full disk, another writer: that may pass
            say(f"error: {error} Tried again in {_RETRY_S:g} s.")
            again_at = time.monotonic() + _RETRY_S
            continue
        if report.files_added or report.files_changed or report.files_moved or report.files_removed:
            say_report(report, found, len(index))


def _confirm(yes: bool) -> ConfirmRemoval | None:
    """Who is asked whether more than half of an index may be removed: who typed --yes, or sits there."""
    if yes:
        return lambda count, total: True
    if not on_terminal():
        return None
    return lambda count, total: typer.confirm(
        f"The files of {count} of {total} passages are gone. Remove these passages?", err=True
    )


def _maintain(
    path: str, documents: list[Path] | None, factory: str | None, check: bool, rebuild: bool
) -> None:
    """`nbce-rag index` without documents."""
    with errors_in_one_line():
        if documents or not (check or rebuild or factory):
            raise InputError("give either documents, or --check, --rebuild or --factory")
        with redirect_stdout(sys.stderr), spinner("reading the index"):
            from ..index import PassageIndex

            with PassageIndex.open(path, maintenance=True) as index:
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
        beside = "" if is_database(path) else f", {report.tail} of them not in a FAISS file"
        typer.echo(
            f"Passages: {report.passages}{beside}. "
            f"{'No problems.' if report.ok else f'Problems: {len(report.problems)}.'}"
        )
        if not report.ok:
            raise typer.Exit(_PROBLEMS)


def _copy(path: str, target: str) -> None:
    """`nbce-rag index --copy-to`."""
    with errors_in_one_line("nothing was copied; run the same command again"):
        with redirect_stdout(sys.stderr), progress_bar() as progress:
            from ..index import PassageIndex

            with PassageIndex.open(path, maintenance=True) as index:
                show = None if progress is None else lambda done, total: progress(done, total, "passages")
                count = index.copy_to(target, progress=show)
        typer.echo(f"Passages: {count} copied.")


def _open_or_create(path: str, embedder: str | None) -> PassageIndex:
    with spinner("opening the index"):
        from ..index import PassageIndex

        try:
            return PassageIndex.open(path, embedder=embedder)
        except IndexNotFoundError:
            return PassageIndex.create(path, **given(embedder=embedder))
