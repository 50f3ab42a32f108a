"""The page at `/` and what it is made of: files of `nbce_rag/server/page`, as they are."""

from __future__ import annotations

import hashlib
import mimetypes
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from ...fusion.registry import RULES

__all__ = ["HEADERS", "router"]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What keeps a page of ours to itself: nothing from elsewhere, no script but its own, in no one's frame."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
}
_YEAR = 365 * 24 * 3600

router = APIRouter(include_in_schema=False)


class _Page(NamedTuple):
    """The files of the page, by their paths, and a name that only these contents have."""

    assets: dict[str, bytes]
    version: str


@lru_cache(maxsize=1)
def _page() -> _Page:
    root = files(__package__.rpartition(".")[0]).joinpath("page")
    assets = dict(sorted(_walk(root, "")))
    digest = hashlib.sha256()
    for name, data in assets.items():
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return _Page(assets, digest.hexdigest()[:16])


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    result = []
    for entry in folder.iterdir():
        name = prefix + entry.name
        result += _walk(entry, f"{name}/") if entry.is_dir() else [(name, entry.read_bytes())]
    return result


@router.get("/")
def page(request: Request) -> Response:
    """The page. What it loads has the version in its path, so that browsers may keep it for good."""
    assets, version = _page()
    body = assets["index.html"].replace(b'="page/', f'="page/{version}/'.encode())
    return _answer(request, body, ".html", version, "no-cache")


@router.get("/page/settings.json")
def settings() -> dict[str, list[str]]:
    """What the page offers to choose from: the fusion rules."""
    return {"rules": list(RULES)}


@router.get("/page/{version}/{path:path}")
def asset(request: Request, version: str, path: str) -> Response:
    """A file of the page; under another version than this one's it is told anew each time."""
    assets, current = _page()
    if path not in assets:
        return Response(status_code=404, headers=HEADERS)
    caching = f"public, max-age={_YEAR}, immutable" if version == current else "no-cache"
    return _answer(request, assets[path], "." + path.rpartition(".")[2], current, caching)


def _answer(request: Request, body: bytes, suffix: str, version: str, caching: str) -> Response:
    headers = {**HEADERS, "Cache-Control": caching, "ETag": f'"{version}"'}
    if f'"{version}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    kind = _TYPES.get(suffix) or mimetypes.types_map.get(suffix, "application/octet-stream")
    return Response(body, media_type=kind, headers=headers)
