"""`nbce-rag attribute`: the sources of a text somebody else wrote. Loads nothing heavy before it runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..files import check_writable, expand_home, write_whole
from ..fusion.registry import RULES
from .console import echo_answer, errors_in_one_line, notes, say, spinner
from .options import BackendOption, DeviceOption, DtypeOption, KOption, ModelOption, StyleOption, given

__all__ = ["attribute_command"]


def attribute_command(
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    path: Annotated[
        str, typer.Option("--index", metavar="DIR", help="The index to search.", show_default=False)
    ],
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="The answer.", show_default=False)
    ] = None,
    text_file: Annotated[
        Path | None,
        typer.Option(
            "--text-file", metavar="FILE", help="A file with the answer; - is stdin.", show_default=False
        ),
    ] = None,
    k: KOption = 8,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="On metadata, as in `nbce-rag ask`.", show_default=False),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Search by meaning and by words (BM25).")] = False,
    model: ModelOption = None,
    fusion: Annotated[
        str | None, typer.Option(metavar="RULE", help=f"{', '.join(RULES)}.", show_default=False)
    ] = None,
    style: StyleOption = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Say how much less likely the text is without each passage.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with the evidence.", show_default=False),
    ] = None,
    kv: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL",
            help="Keep keys and values of passages in this folder or bucket, and take them from it.",
            show_default="the index's, if `index --kv` made one",
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    backend: BackendOption = None,
) -> None:
    """Say which passages an answer rests on that somebody else wrote: a person, or another model."""
    with errors_in_one_line():
        if not question.strip():
            raise InputError("the question is empty; write it after `attribute`, in quotation marks")
        answered = _text(text, text_file)
        if html is not None:
            check_writable(html)
        stdout = sys.stdout
        with notes() as messages, redirect_stdout(sys.stderr):
            with spinner("loading"):
                from ..engine.rag import Rag
                from .where import parse_where

                rag = Rag.open(
                    path,
                    model,
                    **given(
                        k=k,
                        where=parse_where(where or ()),
                        mode="hybrid" if hybrid else None,
                        fusion=fusion,
                        style=style,
                        kv_store=kv,
                        device=device,
                        dtype=dtype,
                        backend=backend,
                    ),
                )
            with rag, spinner("reading"):
                answer = rag.attribute(question, answered)
                if ablate:
                    answer = rag.ablate(answer)
            if as_json:
                echo_answer(answer, stdout)
            else:
                from rich.console import Console

                from ..view.plain import render

                render(answer, Console(file=stdout))
            if html is not None:
                write_whole(html, answer.to_html().encode())
        for message in messages:
            if message not in answer.warnings:
                say(f"warning: {message}")


def _text(text: str | None, file: Path | None) -> str:
    """The answer, from where it was given.

    Raises:
        InputError: from nowhere or from both places, the file is no text in UTF-8, or it is empty.
    """
    if (text is None) == (file is None):
        both = "both were given" if text is not None else "neither was given"
        raise InputError(f"give the answer with either --text or --text-file; {both}")
    name = "the text of --text" if file is None else "stdin" if str(file) == "-" else str(file)
    if file is not None:
        try:
            raw = sys.stdin.buffer.read() if str(file) == "-" else Path(expand_home(file)).read_bytes()
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{name} is no text in UTF-8 ({error}); convert it first") from error
    if text is None or not text.strip():
        raise InputError(f"{name} is empty; give an answer with words in it")
    return text
