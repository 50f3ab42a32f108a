"""How the page is served, and what of it is not ours."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

MAKES_HTML = re.compile(
    r"(inner|outer|Adjacent)HTML|dangerously|eval\(|new Function|document\.write", re.IGNORECASE
)
PAGE = Path(str(files("nbce_rag.server").joinpath("page")))


def test_the_page_and_its_files_come_with_a_strict_policy(server: Any) -> None:
    page = server.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for path in loaded:
        reply = server.get(f"/{path}")
        assert reply.status_code == 200
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert reply.headers["content-type"].split(";")[0] in ("text/css", "text/javascript", "image/svg+xml")
    for reply in (page, server.get(f"/{loaded[0]}")):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
    assert "style=" not in page.text
    assert not re.search(r"<script(?![^>]*src=)", page.text)


def test_what_a_browser_has_is_not_sent_again(server: Any) -> None:
    page = server.get("/")
    again = server.get("/", headers={"if-none-match": f"W/{page.headers['etag']}"})
    assert (again.status_code, again.content) == (304, b"")
    assert server.get("/", headers={"if-none-match": '"another"'}).status_code == 200


def test_a_file_under_another_version_is_not_kept(server: Any) -> None:
    reply = server.get("/page/0123456789abcdef/app.js")
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/page/x/nothing.js", "/page/x/../../app.py", "/page/x/..%2f..%2fapp.py", "/page/x//etc/passwd"]
)
def test_nothing_else_is_served(server: Any, path: str) -> None:
    assert server.get(path).status_code == 404


def test_the_rules_to_choose_from(server: Any) -> None:
    from nbce_rag.fusion.registry import RULES

    assert server.get("/page/settings.json").json() == {"rules": list(RULES)}


def test_what_is_not_ours_is_named_with_its_hash() -> None:
    table = (PAGE / "THIRD_PARTY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (vendor/\S+) \|.*\| ([0-9a-f]{64}) \|$", table, re.MULTILINE)
    vendored = sorted((PAGE / "vendor").iterdir())
    assert [name for name, _ in rows] == [f"vendor/{file.name}" for file in vendored]
    for file, (_, digest) in zip(vendored, rows, strict=True):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest


def test_our_modules_make_no_html_and_load_nothing_from_elsewhere() -> None:
    for file in [*PAGE.glob("*.js"), PAGE / "style.css", PAGE / "index.html"]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|eval\(|new Function|document\.write", text
        ), file
        assert "dangerously" not in text
        addresses = re.findall(r"https?://[\w.]+", text)
        assert addresses == [], file
        if file.suffix == ".js":
            assert len(text.splitlines()) <= 300, file


def test_both_languages_have_the_same_words() -> None:
    text = (PAGE / "strings.js").read_text(encoding="utf-8")
    english, chinese = text.split("const ZH = {")
    names = r"^  (?:  )?(\$?\w+):"
    assert re.findall(names, english.split("const EN = {")[1], re.MULTILINE) == re.findall(
        names, chinese.split("function seconds")[0], re.MULTILINE
    )
