"""`nbce-rag kv`: how much a KV store holds, what it was good for, making it smaller, and shipping it to other
machines; and `index --kv`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..index.folder import IndexFolder
from .console import errors_in_one_line, progress_bar, say, size_text, spinner
from .kv_shipping import check_shipping, ship

if TYPE_CHECKING:
    from ..index import PassageIndex
    from ..kv.folder import KVFolder

__all__ = ["fill", "kv_command", "parse_bytes"]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def kv_command(
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIR]",
            help="An index whose passages were read with `index --kv`, or the folder of a KV store.",
            show_default="the user's cache",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Remove what was used longest ago, down to the limit, and what is damaged."
        ),
    ] = False,
    max_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Set the limit (2GB, 500MiB) and prune to it.", show_default=False),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all contexts.")] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="URL",
            help="Send what is missing there: s3://bucket/prefix, gs://, az://, file:///folder.",
            show_default=False,
        ),
    ] = None,
    pull: Annotated[
        str | None,
        typer.Option("--pull", metavar="URL", help="Bring what is missing here.", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how much --push or --pull would ship.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the stored keys and values of passages, how often they were used, remove some, or ship them."""
    with errors_in_one_line("what was shipped or removed stays so; run the same command again to go on"):
        from ..kv.folder import KVFolder

        if push is not None or pull is not None or dry_run:
            check_shipping(push, pull, prune=prune, clear=clear, max_bytes=max_bytes is not None)
            shipped_folder = KVFolder(_folder(path))
            if max_bytes is not None:
                shipped_folder.set_limit(parse_bytes(max_bytes))
            ship(shipped_folder, push or pull or "", is_push=push is not None, dry=dry_run, as_json=as_json)
            return

        limit = None if max_bytes is None else parse_bytes(max_bytes)
        folder = KVFolder(_folder(path))
        if not folder.path.is_dir():
            raise InputError(
                f"There is no KV store at {str(folder.path)!r}; `index --kv` and `ask --kv DIR` make one."
            )
        if limit is not None:
            folder.set_limit(limit)
        removed = _prune(folder, clear) if prune or clear or limit is not None else 0
        report = _report(folder)
        if as_json:
            typer.echo(json.dumps(report, ensure_ascii=True))
        else:
            _show(report, removed if prune or clear or limit is not None else None)


def fill(
    index: PassageIndex, model: str | None, max_bytes: int | None, sentences: bool, **options: Any
) -> tuple[str, list[str]]:
    """`index --kv`: reads what is in the index and not in its store.

    Returns:
        (what was done, in a line; what a person should know).
    """
    from ..kv.folder import KVFolder
    from ..kv.store import PassageKVStore

    folder = IndexFolder(index.path).kv
    if max_bytes is not None:
        KVFolder(folder).set_limit(max_bytes)
    store = PassageKVStore(0, folder)
    try:
        with spinner("loading the model"):
            from ..engine.nbce import NBCE

            engine = NBCE.from_pretrained(model, kv_store=store, **options)
        with progress_bar() as progress:
            report = engine.prefill(index, progress=progress, sentences=sentences)
    finally:
        store.close()  # interrupted or not, what was read is kept
    notes = []
    if report.too_long:
        notes.append(
            f"{len(report.too_long)} passages are longer than a row, {report.too_long[0]!r} among them; they "
            "are read when a question comes"
        )
    size = size_text(KVFolder(folder).nbytes())
    read = f"{report.read} passages" + (f" and {report.sentences} sentences" if report.sentences else "")
    return f"Keys and values: {read} read, {report.kept} kept, {size} in all.", notes


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 2GB, 1.5 GiB or 800000.

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", text.upper())
    if match is None or (match[3] and not match[2]):
        raise InputError(f"{text!r} is no size; write it like 2GB, 500MiB or a number of bytes.")
    size = float(match[1]) * (_BINARY if match[3] else _UNITS)[match[2]]
    if size >= 2**63:
        raise InputError(f"{text[:40]!r} is more than any disk holds; write it like 2GB or 500MiB.")
    return int(size)


def _folder(path: str | None) -> Path:
    if path is None:
        from ..files import cache_dir

        return cache_dir() / "kv"
    index = IndexFolder(path)
    return index.kv if index.has_index() else index.path


def _prune(folder: KVFolder, clear: bool) -> int:
    folder.sweep()
    if clear:
        return folder.evict(0)
    from ..kv.format import DamagedContextError, read_context

    removed = 0
    for entry in folder.entries():
        key, codec, _ = entry.path.name.split(".")
        try:
            read_context(entry.path, {"key": key, "codec": codec})
        except DamagedContextError as error:
            say(f"damaged: {entry.path.name}: {error}")
            removed += folder.remove(entry.path)
        except OSError as error:
            say(f"cannot be read: {entry.path.name}: {error.strerror}")
    return removed + folder.evict(folder.limit())


def _report(folder: KVFolder) -> dict[str, Any]:
    counts = folder.counts()
    models: dict[tuple[str, str, str], Counter[str]] = {}
    for entry in folder.entries():
        key, states = _model_of(entry.path)
        found = models.setdefault(key, Counter())
        found.update(contexts=1, bytes=entry.size)
        if states:
            found["state_bytes"] = states  # of each context
    names = ("model", "dtype", "codec")
    return {
        "folder": str(folder.path),
        "contexts": sum(found["contexts"] for found in models.values()),
        "bytes": sum(found["bytes"] for found in models.values()),
        "max_bytes": folder.limit(),
        "models": [dict(zip(names, key, strict=True)) | found for key, found in sorted(models.items())],
        **{
            tier: {kind: counts.get(f"{tier}_{kind}", 0) for kind in ("hits", "misses")}
            for tier in ("memory", "disk")
        },
        **{name: counts.get(name, 0) for name in ("written", "evicted", "damaged")},
    }


def _model_of(path: Path) -> tuple[tuple[str, str, str], int]:
    """(model, dtype, codec) as a file says, and the bytes of its states; only its header is read."""
    from ..kv.format import DamagedContextError, read_label

    try:
        label, states = read_label(path)
    except (DamagedContextError, OSError):
        label, states = {}, 0
    return (label.get("model", "?"), label.get("dtype", "?"), path.name.split(".")[1]), states


def _show(report: dict[str, Any], removed: int | None) -> None:
    from ..view.labels import one_line

    if removed is not None:
        typer.echo(f"Removed {removed:,} contexts.")
    typer.echo(
        f"{one_line(report['folder'])}: {report['contexts']:,} contexts, {size_text(report['bytes'])} of at "
        f"most {size_text(report['max_bytes'])}"
    )
    for model in report["models"]:
        name = one_line(f"{model['model']} {model['dtype']} {model['codec']}")
        states = ""
        if "state_bytes" in model:
            states = f", {size_text(model['state_bytes'])} of each are states, however short it is"
        typer.echo(f"  {name}: {model['contexts']:,} contexts, {size_text(model['bytes'])}{states}")
    for tier in ("memory", "disk"):
        hits = report[tier]["hits"]
        asked = hits + report[tier]["misses"]
        share = f" ({hits / asked:.0%})" if asked else ""
        typer.echo(f"Found in {tier}: {hits:,} of {asked:,}{share}")
    typer.echo(f"Written {report['written']:,}, evicted {report['evicted']:,}, damaged {report['damaged']:,}")
