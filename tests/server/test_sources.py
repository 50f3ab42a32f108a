"""Passages in their sources, over the running server."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from index_tools import bag_of_words
from pdf_maker import lines_pdf, pdf_of

from nbce_rag.index import PassageIndex
from nbce_rag.passages import Passage

pytest.importorskip("fastapi")

pytestmark = pytest.mark.filterwarnings("ignore::nbce_rag.errors.NbceWarning")

PROSE = " ".join(f"Sentence {number} tells of lamp {number} on the coast." for number in range(60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    (folder / "lamps.md").write_text(f"# Lamps\n\n{PROSE}\n", encoding="utf-8")
    (folder / "page.html").write_text("<h1>Fog</h1><p>The <b>horn</b> sounds.<script>alert(1)</script></p>")
    (folder / "lights.pdf").write_bytes(
        lines_pdf(
            [(72, 720, "The first page tells of nothing.")],
            [
                (72, 720, "Skarrowmouth light was lit in 1931."),
                (72, 700, "Ilse Brandt was its first keeper."),
            ],
        )
    )
    (folder / "secret.txt").write_text("Nobody indexed this.")
    return folder


@pytest.fixture(scope="module")
def sources(
    folder: Path, reading_nbce: Any, run_app: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    from nbce_rag.server import Served, create_app

    with PassageIndex.create(tmp_path_factory.mktemp("index") / "coast", bag_of_words) as index:
        names = ("lamps.md", "page.html", "lights.pdf")
        index.add_files([folder / name for name in names], max_tokens=40, overlap=8)
        index.add(
            [
                Passage("Only in the index.", id="a/b?c", source=(folder / "secret.txt").as_posix()),
                Passage("From the web.", id="web", source="https://example.org/x"),
            ]
        )
        running = run_app(create_app(served=Served(reading_nbce, {"coast": index})))
        running.index = index
        yield running


def passages_of(server: Any, name: str) -> list[Passage]:
    mine = [one for one in server.index if (one.source or "").endswith(name)]
    return sorted(mine, key=lambda one: one.start or 0)


def get(server: Any, kind: str, passage_id: str, **params: Any) -> Any:
    return server.get(f"/v1/indexes/coast/{kind}/{quote(passage_id, safe='')}", params=params)


def test_a_passage_stands_between_what_stands_around_it(sources: Any, folder: Path) -> None:
    text = (folder / "lamps.md").read_text(encoding="utf-8")
    passages = passages_of(sources, "lamps.md")
    assert len(passages) > 8
    for passage in passages:
        reply = get(sources, "passages", passage.id).json()
        assert reply["text"] == passage.text
        assert reply["kind"] == "text"
        whole = reply["before"].removeprefix("… ") + reply["text"] + reply["after"].removesuffix(" …")
        assert whole.strip() in text
        assert len(whole) > 1000
    assert get(sources, "passages", passages[0].id).json()["before"] == ""
    assert get(sources, "passages", passages[-1].id).json()["after"] == ""


def test_a_passage_without_a_place_stands_alone(sources: Any) -> None:
    reply = get(sources, "passages", "a/b?c").json()
    assert (reply["before"], reply["after"], reply["kind"]) == ("", "", "text")
    assert get(sources, "passages", "web").json()["kind"] == "web"
    assert get(sources, "passages", "web").json()["url"] == "https://example.org/x"


def test_a_source_is_plain_text(sources: Any, folder: Path) -> None:
    passage = passages_of(sources, "lamps.md")[3]
    reply = sources.get(f"/source/coast/{passage.id}")
    assert reply.text == (folder / "lamps.md").read_text(encoding="utf-8")
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    html = sources.get(f"/source/coast/{passages_of(sources, 'page.html')[0].id}")
    assert html.headers["content-type"] == "text/plain; charset=utf-8"
    assert "<" not in html.text
    assert "alert" not in html.text


def test_only_files_that_the_index_read_are_opened(sources: Any) -> None:
    """What a passage calls its source may be anything: it is text, and no path."""
    reply = sources.get(f"/source/coast/{quote('a/b?c', safe='')}")
    assert reply.status_code == 200
    assert reply.text == "Only in the index."


def test_the_source_of_a_file_that_is_gone_is_what_the_index_has(
    tmp_path: Path, reading_nbce: Any, run_app: Callable[..., Any]
) -> None:
    from nbce_rag.server import Served, create_app

    file = tmp_path / "gone.txt"
    file.write_text(PROSE)
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add_files([file], max_tokens=40, overlap=0)
        file.unlink()
        (tmp_path / "other.txt").write_text("Not in the index.")
        file.symlink_to(tmp_path / "other.txt")
        running = run_app(create_app(served=Served(reading_nbce, {"coast": index})))
        first = next(iter(index))
        assert running.get(f"/source/coast/{first.id}").text == PROSE
        assert get(running, "pages", first.id).status_code == 404


def test_a_pdf_comes_as_pages_with_boxes(sources: Any) -> None:
    passage = passages_of(sources, "lights.pdf")[-1]
    start = passage.start or 0
    at = start + passage.text.index("1931")
    assert get(sources, "passages", passage.id).json()["kind"] == "pdf"
    reply = get(sources, "pages", passage.id, span=f"{at}-{at + 4}").json()
    assert reply["is_current"] is True
    page = reply["pages"][-1]
    assert page["number"] == 2
    assert (page["width"], page["height"]) == (1237, 1600)
    [[left, top, width, height]] = page["marks"]
    # Helvetica's "1931" at 12 points, after the words before it on a line 72 points from the left.
    assert 200 / 612 < left < 300 / 612
    assert 15 / 612 < width < 35 / 612
    assert (792 - 735) / 792 < top < (792 - 718) / 792
    assert 5 / 792 < height < 15 / 792
    assert all(box[0] >= 70 / 612 for box in page["boxes"])
    picture = sources.get(f"/{page['url']}")
    assert picture.headers["content-type"] == "image/png"
    assert png_size(picture.content) == (page["width"], page["height"])
    whole = sources.get(f"/source/coast/{passage.id}")
    assert whole.headers["content-type"] == "application/pdf"
    assert whole.content.startswith(b"%PDF")


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height; the picture is read, too."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    length = struct.unpack(">I", data[33:37])[0]
    rows = zlib.decompress(data[41 : 41 + length])
    assert len(rows) == height * (1 + width * (3 if kind == 2 else 1))
    assert depth == 8
    assert 0 in rows[1 : 1 + width] or min(rows) < 100  # there is ink on it
    return width, height


def test_nothing_is_marked_in_a_pdf_that_has_changed(
    tmp_path: Path, reading_nbce: Any, run_app: Callable[..., Any]
) -> None:
    from nbce_rag.server import Served, create_app

    file = tmp_path / "minutes.pdf"
    file.write_bytes(lines_pdf([(72, 720, "The lamp was paid for in 1934.")]))
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add_files([file])
        passage = next(iter(index))
        file.write_bytes(lines_pdf([(72, 720, "The lamp was paid for in 1935 at last.")]))
        running = run_app(create_app(served=Served(reading_nbce, {"coast": index})))
        assert get(running, "pages", passage.id).json() == {
            "object": "pages",
            "is_current": False,
            "pages": [],
        }
        file.write_bytes(b"no PDF at all")
        assert get(running, "pages", passage.id).json()["pages"] == []
        assert running.get(f"/source/coast/{passage.id}?page=1").status_code == 404


def test_boxes_follow_a_turned_page(tmp_path: Path) -> None:
    from nbce_rag.documents.pdf.views import page_views
    from nbce_rag.documents.readers import read_document

    file = tmp_path / "turned.pdf"
    upright = pdf_of("BT /F1 12 Tf 1 0 0 1 72 720 Tm (Turned words) Tj ET")
    file.write_bytes(upright.replace(b"/MediaBox [0 0 612 792]", b"/Rotate 90 /MediaBox [0 0 612 792]"))
    text = read_document(file).text
    [view] = page_views(file, 0, len(text), text, [(0, 6)])
    assert view.width > view.height
    [[left, top, width, height]] = view.boxes
    assert left > 0.85  # what was at the top is at the right now
    assert top < 0.2
    assert height > width  # in shares: the line runs down
    assert view.marks[0][3] < height


def test_what_is_not_there_is_404(sources: Any) -> None:
    missing = get(sources, "passages", "no-such")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"
    for path in ("/source/coast/no-such", "/source/nowhere/web", "/v1/indexes/nowhere/passages/web"):
        assert sources.get(path).status_code == 404
    passage = passages_of(sources, "lights.pdf")[0]
    assert sources.get(f"/source/coast/{passage.id}?page=99").status_code == 404
    assert sources.get("/source/coast/web?page=1").status_code == 404


@pytest.mark.parametrize("span", ["", "5", "7-7", "9-3", "a-b", "-1-4", "1-" + "9" * 40])
def test_a_span_that_is_none_is_told(sources: Any, span: str) -> None:
    passage = passages_of(sources, "lights.pdf")[0]
    reply = get(sources, "pages", passage.id, span=span)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "span"


def test_what_a_caller_may_not_read_is_not_there(sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.app.state.policy, "may_read", lambda caller, index: False, raising=False)
    passage = passages_of(sources, "lights.pdf")[0]
    for path in (
        f"/v1/indexes/coast/passages/{passage.id}",
        f"/v1/indexes/coast/pages/{passage.id}",
        f"/source/coast/{passage.id}",
        f"/source/coast/{passage.id}?page=1",
    ):
        assert sources.get(path).status_code == 404


def test_pages_have_addresses_that_are_signed(sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources.app.state, "sign", lambda path: f"{path}?exp=1&sig=x")
    passage = passages_of(sources, "lights.pdf")[-1]
    [*_, page] = get(sources, "pages", passage.id).json()["pages"]
    assert page["url"] == f"source/coast/{passage.id}?exp=1&sig=x&page=2"
    assert get(sources, "passages", passage.id).json()["url"].endswith("?exp=1&sig=x")
