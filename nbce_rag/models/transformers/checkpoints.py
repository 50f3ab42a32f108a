"""The files of a checkpoint: all parts there, each readable, and which of them hold the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ModelError

__all__ = ["check_parts", "damaged_part", "weight_files"]

_WHOLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def check_parts(folder: Path) -> None:
    """Before anything is read: a checkpoint in several files has to have all of them.

    Raises:
        ModelError: one is missing, or the list of them is damaged.
    """
    if (folder / _WHOLE).is_file() or not (folder / _INDEX).is_file():
        return
    try:
        missing = [file.name for file in _parts(folder) if not file.is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"Cannot read {str(folder / _INDEX)!r}, which lists the files of weights."
        ) from error
    if missing:
        raise ModelError(
            f"The folder {str(folder)!r} is not complete: {', '.join(missing)} of the files that {_INDEX} "
            "lists are missing. Copy or download them too."
        )


def weight_files(name: str, hub: Mapping[str, Any]) -> list[Path]:
    """The files that a checkpoint's weights were read from; empty where that cannot be told.

    Args:
        name: folder or hub id, as it was loaded.
        hub: revision, token, cache_dir, as transformers takes them.
    """
    from transformers.utils.hub import cached_file

    folder = Path(name)
    if not folder.is_dir():
        places: dict[str, Any] = {key: hub.get(key) for key in ("cache_dir", "token", "revision")}
        try:
            config = cached_file(name, "config.json", local_files_only=True, **places)
        except (OSError, ValueError):
            return []
        if config is None:
            return []
        folder = Path(config).parent
    try:
        files = [folder / _WHOLE] if (folder / _WHOLE).is_file() else _parts(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return files if all(file.is_file() for file in files) else []


def damaged_part(files: Sequence[Path]) -> str:
    """A sentence that names the first of several files that is no safetensors file; else ""."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            return f"{file.name} is damaged: {error}."
    return ""


def _parts(folder: Path) -> list[Path]:
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]
