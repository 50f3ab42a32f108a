"""Settings from a TOML file, from NBCE_* in the environment, and from flags: one layer over the other."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import expand_home
from ..index.address import is_database
from ..values import shown
from .limits import Limits
from .settings import ServerSettings, named_index

__all__ = ["read_settings"]

_PREFIX = "NBCE_"


def read_settings(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> ServerSettings:
    """Settings from a TOML file, the environment and flags; the latter win. Tables are joined name by name.

    In the environment a setting is NBCE_ and its name (NBCE_PORT=8080), a list has commas, a table is JSON,
    and limits are settings too (NBCE_MAX_ROWS=32). NBCE_INDEXES is "harbour=/data/harbour,law=/data/law".

    Args:
        file: as `serve --config` takes it. Paths in it are meant from its folder.
        environ: `os.environ`.
        flags: by the names of settings.

    Raises:
        InputError: a setting that is not known, or a value that cannot be used; says where it stands.
    """
    values: dict[str, Any] = {}
    layers = [
        ({} if file is None else _from_file(file), f"{file}: "),
        (_from_environ(environ or {}), "environment: "),
        (dict(flags or {}), ""),
    ]
    for layer, place in layers:
        for name, value in layer.items():
            try:
                value = _READERS[name](value)
            except InputError as error:
                raise InputError(f"{place}{name}: {error}") from error
            is_table = isinstance(value, Mapping) and isinstance(values.get(name), Mapping)
            values[name] = {**values[name], **value} if is_table else value
    if "limits" in values:
        values["limits"] = _limits(values["limits"])
    return ServerSettings(**values)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The settings {file} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"The settings {file} are no TOML: {error}.") from error
    for name in table:
        if name not in _READERS:
            near = difflib.get_close_matches(name, _READERS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(_READERS)}."
            raise InputError(f"{file}: {name!r} is no setting; {hint}")
    for name in ("keys", "files"):
        if isinstance(table.get(name), str):
            table[name] = str(file.parent / expand_home(table[name]))
    if isinstance(indexes := table.get("indexes"), dict):
        table["indexes"] = {
            name: str(file.parent / expand_home(path))
            if isinstance(path, str) and not is_database(path)
            else path
            for name, path in indexes.items()
        }
    return table


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    for variable, text in environ.items():
        name = variable.removeprefix(_PREFIX).lower()
        if not variable.startswith(_PREFIX) or not text:
            continue
        if name in _LIMITS:
            limits[name] = text
        elif name == "indexes":
            values[name] = _named_paths(text)
        elif name in _READERS:
            values[name] = text
    return {**values, "limits": limits} if limits else values


def _named_paths(text: str) -> dict[str, str]:
    return dict(named_index(part) for part in filter(None, (part.strip() for part in text.split(","))))


def _limits(table: Mapping[str, Any]) -> Limits:
    if unknown := sorted(set(table) - set(_LIMITS)):
        raise InputError(f"limits: {unknown[0]!r} is no limit; there are {', '.join(_LIMITS)}.")
    return Limits(**{name: _limit(name, value) for name, value in table.items()})


def _limit(name: str, value: Any) -> Any:
    try:
        return _number(value)
    except InputError as error:
        raise InputError(f"limits: {name}: {error}") from error


def _number(value: Any) -> Any:
    """A number that may be text; the range is checked elsewhere."""
    if not isinstance(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError as error:
        raise InputError(f"{shown(value)} is no number.") from error


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise InputError(f"{shown(value)} is neither true nor false.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{shown(value)} must be a text.")
    return value


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(expand_home(_text(value)))


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(filter(None, (part.strip() for part in value.split(","))))
    if not isinstance(value, list | tuple):
        raise InputError(f"{shown(value)} must be a list of texts.")
    return tuple(map(_text, value))


def _table(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InputError(f"{shown(value)} is no JSON ({error}).") from error
    if not isinstance(value, Mapping):
        raise InputError(f"{shown(value)} must be a table of names and values.")
    return dict(value)


def _places(value: Any) -> dict[str, Path | str]:
    return {
        name: place if isinstance(place, str) and is_database(place) else _path(place)
        for name, place in _table(value).items()
    }


_READERS: dict[str, Callable[[Any], Any]] = {
    "indexes": _places,
    "model": _text,
    "opening": _table,
    "options": _table,
    "search": _table,
    "reranker": _text,
    "public_url": _text,
    "ping_seconds": _number,
    "host": _text,
    "port": _number,
    "keys": _path,
    "api_key": _text,
    "link_secret": _text,
    "no_auth": _truth,
    "allowed_hosts": _texts,
    "cors_origins": _texts,
    "proxies": _texts,
    "root_path": _text,
    "allow_write": _truth,
    "files": _path,
    "metrics": _truth,
    "log_content": _truth,
    "shutdown_timeout": _number,
    "limits": _table,
}
_LIMITS = tuple(limit.name for limit in fields(Limits))
