"""`nbce-rag kv --push` and `--pull`: the keys and values of a corpus to a bucket, and from there."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from .console import FAILED, progress_bar, say, size_text, spinner

if TYPE_CHECKING:
    from ..kv.folder import KVFolder
    from ..kv.shipping import Cargo, Shipment

__all__ = ["check_shipping", "ship"]

_MOST_NAMES = 5


def check_shipping(push: str | None, pull: str | None, *, prune: bool, clear: bool, max_bytes: bool) -> None:
    """Raises InputError for options that do not go together."""
    if (push is None) == (pull is None):
        raise InputError("Give one of --push URL and --pull URL; --dry-run goes with one of them.")
    if prune or clear or (max_bytes and push is not None):
        raise InputError("Pruning is a command of its own: --push takes no --prune, --clear or --max-bytes.")


def ship(folder: KVFolder, url: str, *, is_push: bool, dry: bool, as_json: bool) -> None:
    """Sizes first, then what is missing goes.

    Args:
        folder: of the KV store.
        url: of the bucket.
        is_push: whether it goes there, and does not come from there.
        dry: whether sizes are all.
        as_json: whether the report is one JSON object.

    Raises:
        InputError: there is nothing to push or to pull, no room for what would come, or the bucket does not
            answer.
    """
    from ..kv.objects import Objects
    from ..kv.shipping import cargo_to_pull, cargo_to_push, pull, push

    if is_push and not folder.path.is_dir():
        raise InputError(
            f"There is no KV store at {str(folder.path)!r}; `index --kv` and `ask --kv DIR` make one."
        )
    objects = Objects(url)
    with spinner(f"listing {objects.name}"):
        cargo = (cargo_to_push if is_push else cargo_to_pull)(folder, objects)
    if not is_push and not cargo.missing and not cargo.present:
        raise InputError(
            f"There are no keys and values at {objects.name}: check its address; --push sends some."
        )
    way = f"{objects.name} lacks" if is_push else f"{folder.path} lacks"
    size = size_text(cargo.nbytes)
    say(f"{way} {len(cargo.missing):,} contexts, {size}; {cargo.present:,} are there already")
    if not is_push:
        _check_room(folder, cargo.nbytes)
    shipment = None
    if not dry and cargo.missing:
        with progress_bar() as progress:
            shipment = (push if is_push else pull)(folder, objects, cargo, progress)
    report = _report(cargo, shipment, objects.name)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=True))
    elif not dry:
        done = "Sent" if is_push else "Brought"
        typer.echo(f"{done} {report['contexts']:,} contexts, {size_text(report['bytes'])}.")
    if shipment is not None and (shipment.damaged or shipment.failed):
        _tell_left(shipment)
        raise typer.Exit(FAILED)


def _check_room(folder: KVFolder, size: int) -> None:
    limit, used = folder.limit(), folder.nbytes()
    if used + size > limit:
        raise InputError(
            f"{size_text(size)} would come and {size_text(used)} are there, and the folder may hold "
            f"{size_text(limit)}. Raise the limit (--max-bytes), or remove what is not needed (--clear)."
        )
    place = next(
        place for place in (folder.path.absolute(), *folder.path.absolute().parents) if place.exists()
    )
    if size > (free := shutil.disk_usage(place).free):
        raise InputError(f"{size_text(size)} would come and the disk has {size_text(free)} free.")


def _report(cargo: Cargo, shipment: Shipment | None, url: str) -> dict[str, Any]:
    return {
        "url": url,
        "missing": len(cargo.missing),
        "missing_bytes": cargo.nbytes,
        "present": cargo.present,
        "contexts": 0 if shipment is None else shipment.contexts,
        "bytes": 0 if shipment is None else shipment.nbytes,
        "damaged": [] if shipment is None else shipment.damaged,
        "failed": {} if shipment is None else dict(shipment.failed),
    }


def _tell_left(shipment: Shipment) -> None:
    left = [(name, "damaged") for name in shipment.damaged] + shipment.failed
    for name, reason in left[:_MOST_NAMES]:
        say(f"left out: {name}: {reason}")
    if len(left) > _MOST_NAMES:
        say(f"left out: {len(left) - _MOST_NAMES:,} more")
