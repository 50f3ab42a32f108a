"""The server: OpenAI's wire, and one of our own, over one engine and its indexes (extra `[server]`).

`wire` translates, `routes` transport; `asking` is the one way in which a question becomes an answer. It
loads no web framework before it is asked for an application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["Served", "ServerSettings", "create_app"]

if TYPE_CHECKING:
    from .app import create_app
    from .served import Served
    from .settings import ServerSettings

_HOME = {"create_app": "app", "Served": "served", "ServerSettings": "settings"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'nbce_rag.server' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
