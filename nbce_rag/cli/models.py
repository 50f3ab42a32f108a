"""`nbce-rag models`: which models are read, and what one of them keeps and needs. Loads no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import expand_home
from ..models.loading import is_served
from .console import FAILED, errors_in_one_line, spinner, table_console
from .options import DeviceOption, DtypeOption, given

if TYPE_CHECKING:
    from ..models.description import ModelDescription
    from ..models.families import Families

__all__ = ["models_command"]

_PASSAGES, _PASSAGE_TOKENS = 8, 500
_OTHER_TOKENS = 200  # wording, question and answer


def models_command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Hub id, folder or GGUF file of one model, gemma3-270m, the packaged one, or URL of a vLLM "
            "server.",
            show_default="all families",
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which families of models are read, or what one model is, keeps and needs."""
    with errors_in_one_line():
        if model is None:
            from ..models.families import families

            table = families()
            if as_json:
                typer.echo(json.dumps(table.to_dict(), ensure_ascii=True))
            else:
                _show_families(table)
            return
        if _show_family(model, as_json):
            return
        if is_served(model):
            _show_servers(model, as_json)
            return
        with spinner("reading the model's configuration"):
            from ..decoding.sentences import MOST_ROWS
            from ..models.description import describe_model

            rows, tokens = 1 + _PASSAGES + MOST_ROWS, _PASSAGE_TOKENS + _OTHER_TOKENS
            described = describe_model(model, rows=rows, tokens=tokens, **given(device=device, dtype=dtype))
        if as_json:
            typer.echo(json.dumps({**asdict(described), "fits": described.fits}, ensure_ascii=True))
        else:
            _show(described, rows)


def _show_family(name: str, as_json: bool) -> bool:
    """Prints one family of the table, where that is what was named; no hub has a model of such a name."""
    from ..models.families import WAYS, families

    family = families().families.get(name)
    if family is None or Path(expand_home(name)).exists():
        return False
    if as_json:
        typer.echo(json.dumps(asdict(family), ensure_ascii=True))
    else:
        typer.echo(f"{family.name}: {WAYS[family.way]}; {family.keeps or family.reason}")
    return True


def _show_servers(model: str, as_json: bool) -> None:
    """Prints what vLLM servers say; ends with an error where one cannot be asked."""
    from ..models.description import describe_servers
    from ..view.labels import one_line

    with spinner("asking the servers"):
        servers = describe_servers(model)
    if as_json:
        typer.echo(json.dumps(servers, ensure_ascii=True))
    else:
        for server in servers:
            typer.echo(one_line(server["url"]))
            plugin = server["plugin"]
            if server["problem"]:
                typer.echo(f"  problem  {one_line(server['problem'])}")
                continue
            typer.echo(f"  model    {one_line(server['name'])} ({one_line(server['root'])})")
            typer.echo(f"  window   {server['window']:,} tokens a row")
            if plugin is None:
                typer.echo("  plugin   none: it was started without nbce-rag (examples/docs/vllm.md)")
            else:
                grammar = "with grammars" if plugin["grammar"] else "without grammars"
                typer.echo(
                    f"  plugin   nbce-rag {one_line(plugin['package'])} in vLLM {one_line(plugin['vllm'])}, "
                    f"wire {plugin['version']}, {grammar}"
                )
                typer.echo(f"  rules    {', '.join(map(one_line, plugin['rules']))}")
    if any(server["problem"] or server["plugin"] is None for server in servers):
        raise typer.Exit(FAILED)


def _show_families(table: Families) -> None:
    from rich.table import Table

    from ..models.families import WAYS

    shown = Table(box=None, pad_edge=False)
    shown.add_column("family", no_wrap=True)
    shown.add_column("rows are read")
    shown.add_column("a context keeps, or why it is refused")
    for family in sorted(table.families.values(), key=lambda family: family.name):
        shown.add_row(family.name, WAYS[family.way], family.keeps or family.reason)
    console = table_console(150)
    console.print(shown, markup=False, highlight=False)
    kinds = [family for family in table.families.values() if "," not in family.name]
    read = sum(family.way != "refused" for family in kinds)
    console.print(
        f"{read} of {len(kinds)} families are read, tried with transformers {table.transformers}. "
        "`nbce-rag models MODEL` tells more of one model.",
        markup=False,
        highlight=False,
    )


def _show(model: ModelDescription, rows: int) -> None:
    from ..models.families import WAYS
    from ..view.labels import one_line

    lines: dict[str, str] = {"family": f"{model.model_type} ({model.architecture or 'cannot be built'})"}
    if model.way == "untried":
        lines["rows are read"] = "not known before it is loaded, which tries it"
    else:
        tried = f", tried with transformers {model.tried}" if model.tried else ""
        lines["rows are read"] = f"{WAYS[model.way]}{tried}"
    if model.reason:
        lines["why"] = model.reason
    lines["a context keeps"] = _kept(model)
    lines["window"] = f"{model.window:,} tokens a row"
    packed = f", packed by {model.quantisation}" if model.quantisation else ""
    lines["weights"] = (
        f"{model.parameters / 1e6:,.0f} million, {_size(model.weight_bytes)} in {model.dtype} on "
        f"{model.device}{packed}"
    )
    lines["chat template"] = _template(model)
    lines[f"{_PASSAGES} passages"] = _need(model, rows)
    width = max(map(len, lines))
    typer.echo(one_line(model.name))
    for label, text in lines.items():
        typer.echo(f"  {label:{width}}  {one_line(text)}")


def _kept(model: ModelDescription) -> str:
    if model.token_bytes is None or model.state_bytes is None:
        return "not known before it is loaded"
    sizes = [f"{_size(model.token_bytes)} a token"] if model.token_bytes else []
    sizes += [f"{_size(model.state_bytes)} a context, whatever its length"] if model.state_bytes else []
    return f"{model.keeps}: {' and '.join(sizes)}" if sizes else "nothing"


def _template(model: ModelDescription) -> str:
    if not model.has_chat_template:
        return "none; a plain prompt, as base models are asked"
    words = ["yes", "told of tools by it" if model.knows_tools else "told of tools in words"]
    if model.thinks and model.thinking_off:
        words.append(f"thinks, switched off by {_variables(model.thinking_off)}")
    elif model.thinks:
        words.append("thinks, which nothing switches off")
    return "; ".join(words)


def _variables(variables: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in variables.items())


def _need(model: ModelDescription, rows: int) -> str:
    free = f"{_size(model.free_bytes)} are free"
    asked = f"of {_PASSAGE_TOKENS} tokens, weights included ({rows} rows at most)"
    if model.needed_bytes is None:
        return f"{asked}: not known before it is loaded; {free}"
    if model.fits:
        advice = "which is enough"
    elif model.weight_bytes > model.free_bytes:
        advice = "too little for the weights alone; take a smaller model"
    else:
        advice = "too little; take fewer or shorter passages"
    if not model.fits and model.dtype == "float32":
        advice += ", or --dtype bfloat16"
    return f"{asked}: about {_size(model.needed_bytes)}; {free}, {advice}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"
