"""`nbce-rag ask`: a question to an index. Loads nothing heavy before it runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..files import check_writable, write_whole
from ..fusion.registry import RULES
from .console import echo_answer, errors_in_one_line, notes, say, spinner
from .options import (
    BackendOption,
    ChatTemplateOption,
    DeviceOption,
    DtypeOption,
    KOption,
    LookOption,
    MinScoreOption,
    MmrOption,
    ModelOption,
    RerankOption,
    StyleOption,
    ThinkingOption,
    ThoughtTokensOption,
    given,
    parse_kwargs,
)

if TYPE_CHECKING:
    from ..answers.answer import Answer
    from ..engine.rag import Rag

__all__ = ["ask_command"]


def ask_command(
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    path: Annotated[
        str, typer.Option("--index", metavar="DIR", help="The index to search.", show_default=False)
    ],
    k: KOption = 8,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="On metadata: year>=1900, language=en,de, tags~pet, place.town=Brill, or JSON. Repeat it "
            "for more.",
            show_default=False,
        ),
    ] = None,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Search by meaning and by words (BM25).")] = False,
    rerank: RerankOption = None,
    mmr: MmrOption = None,
    look: LookOption = None,
    min_score: MinScoreOption = None,
    model: ModelOption = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help=f"{', '.join(RULES)}.",
            show_default=False,
        ),
    ] = None,
    style: StyleOption = None,
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
            help="Over a calibrated index (`calibrate`) do not answer where support is not above this: 0.05. "
            "Else, where the passages add less than this over no passage (nats a token).",
            show_default=False,
        ),
    ] = None,
    answer_without_context: Annotated[
        bool,
        typer.Option(
            "--answer-without-context", help="Where no passage is found, answer from the question alone."
        ),
    ] = False,
    parts: Annotated[
        bool | None,
        typer.Option(
            "--parts/--no-parts",
            help="Answer a question with several parts part by part.",
            show_default="parts",
        ),
    ] = None,
    thinking: ThinkingOption = None,
    max_thought_tokens: ThoughtTokensOption = None,
    sleep: Annotated[
        bool | None,
        typer.Option(
            "--sleep/--no-sleep",
            help="Leave passages unread for as long as they cannot change a token.",
            show_default="sleep",
        ),
    ] = None,
    conflicts: Annotated[
        bool | None,
        typer.Option(
            "--conflicts/--no-conflicts",
            help="Say where passages give other answers than this one.",
            show_default="conflicts",
        ),
    ] = None,
    chat_template_kwargs: ChatTemplateOption = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Say how much less likely the answer is without each passage.")
    ] = False,
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
            help="Draw the evidence: .png, .svg, .pdf. Extra \\[plot].",
            show_default=False,
        ),
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
    """Answer a question from an index, and say which passages the answer rests on."""
    with errors_in_one_line():
        if not question.strip():
            raise InputError("the question is empty; write it after `ask`, in quotation marks")
        for file in (html, plot):
            if file is not None:
                check_writable(file)
        if plot is not None:
            from ..view.figure import check_suffix

            check_suffix(plot.suffix)
        stdout = sys.stdout
        with notes() as messages, redirect_stdout(sys.stderr):
            with spinner("loading"):
                from ..engine.rag import Rag
                from .where import parse_where

                # Options of search and answer go here too: they are checked before a model is loaded.
                rag = Rag.open(
                    path,
                    model,
                    **given(
                        k=k,
                        where=parse_where(where or ()),
                        mode="hybrid" if hybrid else None,
                        rerank=rerank,
                        mmr=mmr,
                        look=look,
                        min_score=min_score,
                        fusion=fusion,
                        style=style,
                        max_tokens=max_tokens,
                        temperature=temperature,
                        top_p=top_p,
                        seed=seed,
                        abstain_below=abstain_below,
                        answer_without_context=answer_without_context or None,
                        parts=parts,
                        thinking=thinking,
                        max_thought_tokens=max_thought_tokens,
                        sleep=sleep,
                        conflicts=conflicts,
                        chat_template_kwargs=parse_kwargs(chat_template_kwargs, "--chat-template-kwargs"),
                        entropies=None if plot is None else True,
                        kv_store=kv,
                        device=device,
                        dtype=dtype,
                        backend=backend,
                    ),
                )
            reason = ""
            with rag:  # leaving it says what could not be written
                if as_json:
                    answer = rag.ask(question)
                    if ablate:
                        answer = _ablated(rag, answer)
                    echo_answer(answer, stdout)
                else:
                    from rich.console import Console

                    from ..live.terminal import stream

                    thoughts = Console(file=sys.stderr) if thinking else None
                    answer = stream(rag.stream(question), Console(file=stdout), thoughts)
                    if ablate:
                        from ..view.likelihoods import likelihood_lines

                        answer = _ablated(rag, answer)
                        for line in likelihood_lines(answer):
                            typer.echo(line, file=stdout)
                if not answer.passages:
                    reason = rag.explain()
            _write_views(answer, html, plot)
        if reason:
            say(f"nothing was found: {reason}")
        for message in messages:
            # The answer's own warnings are part of what was printed.
            if message not in answer.warnings:
                say(f"warning: {message}")


def _ablated(rag: Rag, answer: Answer) -> Answer:
    """The answer with what its passages cost it; as it was, and said so, where that cannot be told."""
    if not answer.tokens or not answer.passages:
        return answer  # an abstention, or an answer over nothing, which is said already
    try:
        return rag.ablate(answer)
    except InputError as error:
        say(f"warning: --ablate: {error}")
        return answer


def _write_views(answer: Answer, html: Path | None, plot: Path | None) -> None:
    if html is not None:
        write_whole(html, answer.to_html().encode())
    if plot is not None:
        from ..view.figure import to_bytes

        write_whole(plot, to_bytes(answer.plot(), plot.suffix))
