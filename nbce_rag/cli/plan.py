"""`nbce-rag plan`: memory, disk and machines that passages and users take, before anything is loaded."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .console import errors_in_one_line, size_text, spinner
from .options import BackendOption, DeviceOption, DtypeOption, KOption, ModelOption, given

if TYPE_CHECKING:
    from ..engine.sizing import CapacityPlan

__all__ = ["plan_command"]


def plan_command(
    passages: Annotated[int, typer.Option(metavar="N", min=0, help="Passages in the index.")] = 10_000,
    users: Annotated[int, typer.Option(metavar="M", min=1, help="Users at work at the same time.")] = 1,
    model: ModelOption = None,
    k: KOption = 8,
    passage_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a passage.")] = 200,
    answer_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of an answer.")] = 120,
    questions_per_hour: Annotated[
        float, typer.Option(metavar="X", help="Questions of a user an hour.")
    ] = 12.0,
    seconds: Annotated[float, typer.Option(metavar="X", help="Seconds that an answer may take.")] = 20.0,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Of one instance, as `nbce-rag bench` measures it.", show_default=False
        ),
    ] = None,
    dimension: Annotated[int, typer.Option(metavar="N", min=1, help="Numbers of a vector.")] = 384,
    no_kv_sentences: Annotated[
        bool, typer.Option("--no-kv-sentences", help="Without keys and values of sentences.")
    ] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what passages and users take: memory, disk, tokens a second, machines. Loads no weights."""
    with errors_in_one_line():
        from ..engine.sizing import Workload, plan_capacity
        from ..models.loading import check_backend

        check_backend(backend)
        workload = Workload(
            passages=passages,
            passage_tokens=passage_tokens,
            users=users,
            questions_per_hour=questions_per_hour,
            answer_tokens=answer_tokens,
            k=k,
            seconds=seconds,
            dimension=dimension,
            sentences=not no_kv_sentences,
        )
        with spinner("reading the model's configuration"):
            plan = plan_capacity(
                workload,
                model,
                backend=backend,
                tokens_per_second=tokens_per_second,
                **given(device=device, dtype=dtype),
            )
        if as_json:
            report = asdict(plan) | {
                "rows": workload.rows,
                "row_tokens": workload.row_tokens,
                "answers_at_once": workload.answers_at_once,
            }
            typer.echo(json.dumps(report, ensure_ascii=True))
        else:
            _show(plan)


def _show(plan: CapacityPlan) -> None:
    from ..view.labels import one_line

    load, model = plan.workload, plan.model
    at_once = _count(load.answers_at_once, "answer")
    stored, unstored = plan.read_tokens_per_second
    lines = {
        "weights": f"{size_text(plan.weight_bytes)} in each instance, {model.dtype} on {model.device}",
        "an answer": f"{_known(plan.answer_bytes)}: at most {load.rows} rows of {load.row_tokens:,} tokens",
        "free here": f"{size_text(model.free_bytes)}, of which {size_text(plan.usable_bytes)} are used",
        "fits": _fitting(plan),
        "keys and values": f"{_known(plan.passage_kv_bytes)} a passage, {_known(plan.kv_bytes)} in all",
        "index": f"{size_text(plan.index_bytes)} on disk, {size_text(plan.vector_bytes)} of vectors mapped",
        "needed": f"{plan.tokens_per_second:,.3g} tokens a second, {at_once} at once",
        "to be read": f"{stored:,.3g} tokens a second, {unstored:,.3g} where nothing is stored",
        "instances": "not known" if plan.instances is None else f"{plan.instances:,}",
    }
    passages = f"{_count(load.passages, 'passage')} of {_count(load.passage_tokens, 'token')}"
    asked = f"{passages}, {_count(load.users, 'user')}"
    typer.echo(one_line(f"{model.name}: {asked}"))
    width = max(map(len, lines))
    for label, text in lines.items():
        typer.echo(f"  {label:{width}}  {one_line(text)}")
    for note in plan.notes:
        typer.echo(one_line(note))


def _fitting(plan: CapacityPlan) -> str:
    if plan.answers_per_instance is None:
        return "not known before the model is loaded"
    return f"{_count(plan.answers_per_instance, 'answer')} at once in an instance like this machine"


def _known(number: int | None) -> str:
    return "not known before the model is loaded" if number is None else size_text(number)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
