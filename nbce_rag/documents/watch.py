"""Waiting for changes of files and folders; needs the package watchfiles."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import InputError, MissingDependencyError
from ..files import expand_home

__all__ = ["require_watchfiles", "watch_changes"]

_POLL_MS = 1_000  # after which it is first told that watching has begun


def require_watchfiles() -> Any:
    """The package watchfiles.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import watchfiles
    except ImportError as error:
        raise MissingDependencyError(
            "Watching folders needs the package watchfiles: pip install 'nbce-rag[watch]'"
        ) from error
    return watchfiles


def watch_changes(
    paths: Iterable[str | os.PathLike[str]], ignored: str | os.PathLike[str] | None
) -> Iterator[bool]:
    """Yields True once watching has begun, and again whenever something has changed, without end.

    Changes that come together are one.

    Args:
        paths: Files and folders; those that are not there are left out.
        ignored: A folder whose changes do not count; None for none.

    Returns:
        An iterator that yields False after every second in which nothing changes.

    Raises:
        MissingDependencyError: watchfiles is not installed.
        InputError: None of the paths is there.
    """
    watchfiles = require_watchfiles()
    there = [path for path in map(expand_home, paths) if os.path.exists(path)]
    if not there:
        raise InputError("There is nothing to watch: none of the paths is there.")
    inside = () if ignored is None else (os.path.join(os.path.realpath(expand_home(ignored)), ""),)
    has_begun = False
    for changes in watchfiles.watch(
        *there, watch_filter=None, rust_timeout=_POLL_MS, yield_on_timeout=True, raise_interrupt=True
    ):
        yield not has_begun or any(not os.path.realpath(path).startswith(inside) for _, path in changes)
        has_begun = True
