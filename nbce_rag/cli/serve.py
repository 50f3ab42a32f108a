"""`nbce-rag serve`: answers over HTTP. Listens at once, and loads the model behind the port."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError, MissingDependencyError
from .console import FAILED, errors_in_one_line, say
from .kv import parse_bytes
from .named_indexes import ServedKvOption, check_indexes, named_indexes, own_kv
from .options import BackendOption, DeviceOption, DtypeOption, ModelOption, given

if TYPE_CHECKING:
    from ..server.settings import ServerSettings

__all__ = ["serve_command"]


def serve_command(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INDEX...]",
            help="Indexes, folders or URLs of databases, served under their own names.",
            show_default=False,
        ),
    ] = None,
    named: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="NAME=INDEX",
            help="An index and the name to serve it under. Repeat it for more.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings in TOML. NBCE_* in the environment wins over it, flags win over both.",
            show_default="$NBCE_CONFIG",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.", show_default="8000"),
    ] = None,
    model: ModelOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    kv: ServedKvOption = None,
    reranker: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Cross-encoder for requests with `rerank`.", show_default=False),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for keys; `nbce-rag key new` makes them.", show_default=False),
    ] = None,
    no_auth: Annotated[
        bool | None,
        typer.Option("--no-auth", help="Listen at other addresses without keys.", show_default=False),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that browsers reach it by. Repeat it.", show_default=False),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Pages from there may ask. Repeat it.", show_default=False),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="A proxy whose X-Forwarded-* is believed. Repeat it.", show_default=False
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Address for links to sources.", show_default="each request's"),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="What a proxy takes off paths.", show_default=False)
    ] = None,
    allow_write: Annotated[
        bool | None,
        typer.Option("--allow-write", help="Take files over HTTP, from keys that may.", show_default=False),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where they are kept.", show_default="the user's cache"),
    ] = None,
    metrics: Annotated[
        bool | None,
        typer.Option("--metrics/--no-metrics", help="Figures at /metrics.", show_default="metrics"),
    ] = None,
    log_content: Annotated[
        bool | None,
        typer.Option("--log-content", help="Log questions and answers too.", show_default=False),
    ] = None,
    shutdown_timeout: Annotated[
        float | None,
        typer.Option(metavar="S", min=0, help="Seconds that answers have to end.", show_default="30"),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=N",
            help="A limit, such as max_rows=32, max_body_bytes=8MB, max_waiting=16. Repeat it.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="One; more are refused, and why.", hidden=True)
    ] = None,
) -> None:
    """Serve indexes over HTTP: OpenAI's wire with true citations, a page that shows them, files, metrics."""
    with errors_in_one_line():
        _check_installed()
        from ..models.loading import is_served
        from ..server.process import check_single
        from ..server.setting_layers import read_settings

        check_single(workers, os.environ)
        file = config or (Path(text) if (text := os.environ.get("NBCE_CONFIG")) else None)
        flags = given(
            indexes=named_indexes((*(paths or ()), *(named or ()))) or None,
            host=host,
            port=port,
            model=model,
            reranker=reranker,
            keys=keys,
            no_auth=no_auth,
            allowed_hosts=allowed_host,
            cors_origins=cors_origin,
            proxies=proxy,
            public_url=public_url,
            root_path=root_path,
            allow_write=allow_write,
            files=files,
            metrics=metrics,
            log_content=log_content,
            shutdown_timeout=shutdown_timeout,
            limits=_limits(limit or ()) or None,
            opening=given(backend=backend, device=device, dtype=dtype, kv_store=kv and str(kv)) or None,
        )
        settings = read_settings(file, os.environ, flags)
        check_indexes(settings.indexes)
        is_remote = is_served(settings.model, settings.opening.get("backend"))
        if "kv_store" not in settings.opening and not is_remote and (folder := own_kv(settings.indexes)):
            settings = replace(settings, opening={**settings.opening, "kv_store": folder})
        _serve(settings)


def _serve(settings: ServerSettings) -> None:
    from ..server.app import create_app
    from ..server.logs import set_up_logs
    from ..server.process import address_of, listening_socket, run

    app = create_app(settings)
    with listening_socket(settings.host, settings.port) as listener:
        for line in _greeting(settings, address_of(listener), len(app.state.policy.keys.ring())):
            typer.echo(line)
        set_up_logs(contents=settings.log_content)
        error = run(app, settings, app.state.policy, app.state.opening, listener)
    if error is not None:
        say(f"error: {error}")
        raise typer.Exit(FAILED)


def _greeting(settings: ServerSettings, address: str, keys: int) -> list[str]:
    told = f"on, {keys}" if keys else "off, whoever reaches the port may ask"
    return [
        f"nbce-rag at {settings.public_url or address}",
        f"  indexes: {', '.join(settings.indexes) or 'none'}",
        f"  model: {settings.model or 'packaged'}",
        f"  keys: {told}",
        f"  files over HTTP: {'taken' if settings.allow_write else 'not taken'}",
        "  there: the page; /v1 is OpenAI's wire, /docs has every field",
    ]


def _check_installed() -> None:
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        if find_spec(package) is None:
            raise MissingDependencyError(f"`nbce-rag serve` needs {package}: pip install 'nbce-rag[server]'")


def _limits(expressions: Iterable[str]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for expression in expressions:
        name, sign, text = (part.strip() for part in expression.partition("="))
        if not sign:
            raise InputError(f"--limit {expression!r} sets no limit; write it like max_rows=32.")
        limits[name] = parse_bytes(text) if name.endswith("_bytes") else text
    return limits
