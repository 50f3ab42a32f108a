"""What a server may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ServerSettings"]


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of `nbce-rag serve`.

    Attributes:
        indexes: folders of indexes, by the names under which they are served.
        model: as in `NBCE.from_pretrained`; None is the packaged default.
        opening: what else `NBCE.from_pretrained` takes: `device`, `dtype`, `kv_store`, ...
        options: defaults of every answer (`nbce_rag.options.Options`).
        search: defaults of every search (`PassageIndex.search`).
        reranker: the cross-encoder of searches with `rerank`, by name or folder; None: there is none.
        public_url: under which browsers reach the server, for links to sources; None takes each request's.
        ping_seconds: a stream that says nothing for so long sends a comment, so that no proxy cuts it.
    """

    indexes: Mapping[str, Path] = field(default_factory=dict)
    model: str | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    reranker: str | None = None
    public_url: str | None = None
    ping_seconds: float = 15.0
