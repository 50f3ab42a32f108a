"""E-books (EPUB 2 and 3): chapters in reading order, each by the reader of HTML."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ...errors import ReadError
from ..archives import Archive, readable
from ..document import Document, document_of
from ..limits import Deadline, ReadLimits
from . import html

__all__ = ["DOCUMENTS", "PACKAGES", "VERSION"]

VERSION = 1 + html.VERSION  # chapters are such pages

PACKAGES = ("lxml",)

_KIND = "an e-book (.epub)"
_CONTAINER = "META-INF/container.xml"
_NAVIGATION = "application/x-dtbncx+xml"


def _read_epub(path: Path, data: bytes, limits: ReadLimits) -> Document:
    archive = Archive(path, data, limits, _KIND)
    deadline = Deadline(path, limits)
    parts: list[tuple[str, dict[str, Any]]] = []
    gaps: list[str] = []
    with readable(path, _KIND):
        package = _first(archive.markup(_CONTAINER), "rootfile").get("full-path")
        root = archive.markup(package)
        items = {
            item.get("id"): (_place(package, item.get("href") or ""), item) for item in root.iter("{*}item")
        }
        spine = [item.get("idref") for item in root.iter("{*}itemref")]
        limits.check_pages(path, len(spine))
        titles = _chapter_titles(archive, items.values())
        encrypted = _encrypted(archive)
        for name in dict.fromkeys(spine):
            deadline.check()
            place, item = items.get(name, ("", None))
            if item is None or "nav" in (item.get("properties") or "").split():
                continue
            if place in encrypted:
                raise archive.encrypted()
            try:
                chapter = html.DOCUMENTS[".html"](Path(f"{path}: {place}"), archive.read(place), limits)
            except ReadError as error:
                gaps.append(f"a chapter is left out: {str(error).removeprefix(f'{path}: ')}")
                continue
            title = titles.get(place) or chapter.title
            parts.append((chapter.text, {"chapter": title} if title else {}))
        title = root.findtext(".//{http://purl.org/dc/elements/1.1/}title")
    return document_of(parts, title, gaps)


def _chapter_titles(archive: Archive, items: Any) -> dict[str, str]:
    """Titles of chapters by their place, from the table of contents of EPUB 3 or else of EPUB 2."""
    titles: dict[str, str] = {}
    for place, item in items:
        is_new = "nav" in (item.get("properties") or "").split()
        if not is_new and item.get("media-type") != _NAVIGATION:
            continue
        try:
            contents = archive.markup(place)
        except ReadError:  # a book can be read without
            continue
        for link in contents.iter("{*}a", "{*}navPoint"):
            target = link.get("href") or next((to.get("src") for to in link.iter("{*}content")), None)
            label = link if link.get("href") else next(link.iter("{*}navLabel"), None)
            if target and label is not None:
                # Several may lead into one chapter: the first is the chapter's own.
                titles.setdefault(_place(place, target), " ".join("".join(label.itertext()).split()))
    return titles


def _encrypted(archive: Archive) -> set[str]:
    """Parts that cannot be read without a key. Fonts are often merely obfuscated."""
    name = "META-INF/encryption.xml"
    if name not in archive:
        return set()
    return {unquote(part.get("URI") or "") for part in archive.markup(name).iter("{*}CipherReference")}


def _place(base: str, link: str) -> str:
    """The part of the archive that a link in another part leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(link.partition("#")[0])))


def _first(root: Any, name: str) -> Any:
    return next(root.iter(f"{{*}}{name}"))


DOCUMENTS = {".epub": _read_epub}
