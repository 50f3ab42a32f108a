"""PDFs as text that flows, and where spans of it stand on their pages."""

from __future__ import annotations

import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pdf_maker import lines_pdf, make_pdf, pdf_of

from nbce_rag import PageBox, Passage, page_boxes
from nbce_rag.documents.document import Document
from nbce_rag.documents.folders import read_files
from nbce_rag.documents.limits import ReadLimits
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import InputError, NbceWarning, ReadError


def read(folder: Path, data: bytes, **limits: float) -> Document:
    path = folder / "a.pdf"
    path.write_bytes(data)
    return read_document(path, ReadLimits(**limits))  # type: ignore[arg-type]


def column(left: float, *lines: str, top: float = 600, leading: float = 14) -> list[tuple[float, float, str]]:
    return [(left, top - leading * i, line) for i, line in enumerate(lines)]


LEFT = column(72, "Left one goes", "down the left", "column first.")
RIGHT = column(330, "Right one comes", "after the left", "column ends.")
IN_ROWS = [line for pair in zip(LEFT, RIGHT, strict=True) for line in pair]


@pytest.mark.parametrize("lines", [LEFT + RIGHT, IN_ROWS])
def test_columns_follow_each_other_however_they_were_drawn(
    tmp_path: Path, lines: list[tuple[float, float, str]]
) -> None:
    text = " ".join(read(tmp_path, lines_pdf(lines)).text.split())
    assert text == "Left one goes down the left column first. Right one comes after the left column ends."


def table(*rows: tuple[str, str, str], top: float = 600) -> list[tuple[float, float, str]]:
    return [
        (left, top - 20 * number, text)
        for number, row in enumerate(rows)
        for left, text in zip((72, 222, 372), row, strict=True)
        if text
    ]


def test_tables_keep_their_columns_and_empty_cells(tmp_path: Path) -> None:
    rows = table(("Boat", "Winter", "Summer"), ("Yawl", "", "48"), ("Barge", "75", "9|0"))
    lines = [(72.0, 640.0, "The fees:"), *rows, (72.0, 500.0, "All in crowns.")]
    assert read(tmp_path, lines_pdf(lines)).text == (
        "The fees:\n\n| Boat | Winter | Summer |\n| --- | --- | --- |\n| Yawl |  | 48 |\n"
        "| Barge | 75 | 9\\|0 |\n\nAll in crowns."
    )
    numbers = table(("1", "2", "3"), ("4", "5", "6"))
    assert read(tmp_path, lines_pdf(numbers)).text.startswith(
        "|  |  |  |\n| --- | --- | --- |\n| 1 | 2 | 3 |"
    )


def test_lines_of_a_cell_stay_in_it(tmp_path: Path) -> None:
    lines = [
        *(
            (72.0, 600.0, "Boat"),
            (200.0, 606.0, "Fee in"),
            (200.0, 592.0, "winter"),
            (330.0, 600.0, "Remarks"),
        ),
        *((72.0, 570.0, "Yawl"), (330.0, 570.0, "Only with a pilot who"), (330.0, 556.0, "knows the banks")),
        *(
            (72.0, 530.0, "Dinghy of"),
            (72.0, 516.0, "the school"),
            (200.0, 523.0, "11"),
            (330.0, 523.0, "None"),
        ),
        *((72.0, 480.0, "All fees"), (72.0, 466.0, "in crowns.")),
    ]
    assert read(tmp_path, lines_pdf(lines)).text == (
        "| Boat | Fee in winter | Remarks |\n| --- | --- | --- |\n"
        "| Yawl |  | Only with a pilot who knows the banks |\n| Dinghy of the school | 11 | None |\n\n"
        "All fees\nin crowns."
    )


def test_pairs_are_a_table_though_they_begin_in_lower_case(tmp_path: Path) -> None:
    options = (
        ["-b, --best", "-s, --strict"],
        ["perform the best of all tests", "use strict tests of all kinds"],
    )
    lines = [
        line for pair in zip(column(72, *options[0]), column(250, *options[1]), strict=True) for line in pair
    ]
    assert read(tmp_path, lines_pdf(lines)).text.endswith("| -s, --strict | use strict tests of all kinds |")


def test_code_keeps_its_gaps(tmp_path: Path) -> None:
    lines = [*column(72, "first", "other"), *column(151.2, "INTEGER, of any size", "CHOICE { of others")]
    lines.sort(key=lambda line: -line[1])
    data = lines_pdf(lines).replace(b"/BaseFont /Helvetica", b"/BaseFont /Courier")
    assert read(tmp_path, data).text == "first      INTEGER, of any size\nother      CHOICE { of others"


HEAD, FOOT = (72.0, 750.0, "Harbour Board - Confidential"), 30.0


def test_running_heads_and_feet_do_not_stand_within_sentences(tmp_path: Path) -> None:
    bodies = ["The gate opens at", "five on Sundays. The", "keeper sleeps. Then", "it closes."]
    pages = [
        [HEAD, (72.0, 600.0, body), (300.0, FOOT, f"Page {i} of 4"), (72.0, FOOT - 10, "Rev. B")]
        for i, body in enumerate(bodies, 1)
    ]
    document = read(tmp_path, lines_pdf(*pages))
    assert document.text == (
        "Harbour Board - Confidential\n\nThe gate opens at\ffive on Sundays. The"
        "\fkeeper sleeps. Then\fit closes.\n\nRev. B"
    )
    assert [document.page(document.text.index(word)) for word in ("gate", "five", "keeper", "closes")] == [
        1,
        2,
        3,
        4,
    ]


def test_the_head_of_a_table_stays_on_each_of_its_pages(tmp_path: Path) -> None:
    pages = [table(("Boat", "Winter", "Summer"), (f"Yawl {n}", "", "48"), top=730) for n in range(3)]
    texts = read(tmp_path, lines_pdf(*pages)).text.split("\f")
    assert all(text.startswith("| Boat | Winter | Summer |\n") for text in texts)
    assert len(texts) == 3


def test_a_head_that_begins_later_stays_where_a_sentence_begins(tmp_path: Path) -> None:
    pages = [[(72.0, 600.0, "It goes"), (72.0, 40.0, "1")]]
    pages += [[(72.0, 750.0, "Tides | " + str(n)), (72.0, 600.0, f"on {n}.")] for n in (2, 3)]
    assert read(tmp_path, lines_pdf(*pages)).text == "It goes\n\n1\fon 2.\fTides | 3\n\non 3."


@pytest.mark.parametrize(
    "pages",
    [
        [
            [(72.0, 720.0, f"Invoice {n}"), (72.0, 600.0, "Pay soon.")] for n in range(5)
        ],  # numbers that are text
        [[(72.0, 720.0, f"Berth {n} is free.")] for n in range(5)],  # all that a page has
        [[(72.0, 720.0, "The same.")] for _ in range(3)],
        [[(72.0, 400.0, "Refrain"), (72.0, 300.0, f"Verse {n}")] for n in range(3)],  # amid the page
        [[(72.0, 720.0, "One"), (72.0, 600.0, "Two")]],  # a page alone
    ],
)
def test_what_only_looks_like_a_head_stays(
    tmp_path: Path, pages: list[list[tuple[float, float, str]]]
) -> None:
    text = read(tmp_path, lines_pdf(*pages)).text
    assert text.split() == [word for page in pages for _, _, line in page for word in line.split()]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[(Har) 20 (bour) -250 (mas) 10 (ter)] TJ", "Harbour master"),
        ("[(H) -300 (A) -300 (R) -300 (B) -300 (O) -300 (U) -300 (R)] TJ", "HARBOUR"),
        ("[(O) -300 (L) -300 (D) -1000 (Q) -300 (U) -300 (A) -300 (Y)] TJ", "OLD QUAY"),
        ("(A B C D E) Tj", "A B C D E"),
        ("(The o\\001ce keeps the \\002le.) Tj", "The office keeps the file."),
        ("(The o\\003ce keeps the \\003le.) Tj", "The oce keeps the le."),
        ("(\\004\\005\\006) Tj", "שלו"),
        ("(a \\007 b) Tj", "a b"),
        ("(one) Tj 0 -14 Td (two) Tj 0 -40 Td (three) Tj 0 -14 Td (four) Tj", "one\ntwo\n\nthree\nfour"),
        ("(har\\255) Tj 0 -14 Td (bour master) Tj", "harbour master"),
        ("(The ware-) Tj 0 -14 Td (house, and COVID-) Tj 0 -14 Td (19) Tj", "The warehouse, and COVID-19"),
        ("(A well-known well-) Tj 0 -14 Td (known one) Tj", "A well-known well-known one"),
        ("(a \\010 b) Tj", "a 𝛼 b"),
        ("(See \\004\\005 \\006\\004 there) Tj", "See שו לש there"),
    ],
)
def test_words_are_whole(tmp_path: Path, content: str, text: str) -> None:
    letters = {1: "ffi", 2: "fi", 3: "\0", 4: "ש", 5: "ל", 6: "ו", 7: "\ufdd1", 8: "𝛼", 0o255: "\u00ad"}
    if text == "שלו":  # as they stand from left to right
        content = "(\\006\\005\\004) Tj"
    assert read(tmp_path, pdf_of(f"BT /F1 12 Tf 72 500 Td {content} ET", letters=letters)).text == text


def test_titles_lose_their_nuls(tmp_path: Path) -> None:
    title = "/Title <FEFF00430061006E006F006E00000000>"
    assert read(tmp_path, pdf_of("BT /F1 9 Tf 72 500 Td (x) Tj ET", info=title)).title == "Canon"
    assert (
        read(tmp_path, pdf_of("BT /F1 9 Tf 72 500 Td (x) Tj ET", info="/Title (Plan\\000\\000)")).title
        == "Plan"
    )


def test_half_a_surrogate_pair_ends_nothing(tmp_path: Path) -> None:
    content = "BT /F1 9 Tf 72 500 Td (x\\001y) Tj ET"
    data = pdf_of(content, info="/Title <FEFF0043D8000043>", letters={1: "\ue001"}).replace(
        b"<e001>", b"<d800>"
    )
    document = read(tmp_path, data)
    assert (document.text, document.title) == ("x\ufffdy", None)


def test_pages_without_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("One.", "", "", "Four.", "", "Six."))
    errors: list[ReadError] = []
    ((_, passages),) = read_files([path], on_error=errors.append)
    assert [passage.text for passage in passages] == ["One.\f\f\fFour.\f\fSix."]
    assert [str(error) for error in errors] == [
        f"{path}: pages 2-3, 5 hold no text. If it is an image, run text recognition on it first, with "
        "ocrmypdf for example."
    ]
    path.write_bytes(make_pdf("", "Two."))
    with pytest.warns(NbceWarning, match=r"a\.pdf: page 1 holds no text"):
        list(read_files([path]))


def form_pdf(*fields: str, content: str = "") -> bytes:
    """A PDF of one page with these annotations, all of which are in its form."""
    names = " ".join(f"{5 + number} 0 R" for number in range(len(fields)))
    drawing = f"BT /F1 12 Tf 72 720 Td ({content}) Tj ET" if content else ""
    objects = (
        f"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [{names}] >> >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Annots [{names}] /Contents 4 0 R /Resources "
        "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
        *(f"<< /Type /Annot /Rect [10 10 90 30] {field} >>" for field in fields),
    )
    body = "\n".join(f"{number} 0 obj\n{text}\nendobj" for number, text in enumerate(objects, start=1))
    return f"%PDF-1.7\n{body}\ntrailer\n<< /Root 1 0 R >>\n".encode("latin-1")


FIELDS = (
    "/Subtype /Widget /FT /Tx /T (applicant) /TU (Name of applicant) /V (Grace\rHopper)",
    "/Subtype /Widget /FT /Ch /Ff 131072 /T (port) /Opt [(Kiel) (Bremen)] /V (Kiel)",
    "/Subtype /Widget /FT /Btn /T (sailor) /V /Yes /AS /Yes /AP << /N << /Yes 4 0 R /Off 4 0 R >> >>",
    "/Subtype /Widget /FT /Btn /T (diver) /V /Off /AS /Off /AP << /N << /Yes 4 0 R /Off 4 0 R >> >>",
    "/Subtype /Widget /FT /Tx /Ff 8192 /T (code) /V (secret)",
    "/Subtype /Widget /FT /Tx /F 2 /T (hidden) /V (unseen)",
    "/Subtype /Widget /FT /Tx /T (empty)",
    "/Subtype /FreeText /DA (/Helv 12 Tf) /Contents (Typed on the page)",
    "/Subtype /Text /Contents (A comment)",
)


def test_what_is_filled_in_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(form_pdf(*FIELDS, content="Please fill in."))
    filled = "Name of applicant: Grace Hopper\nport: Kiel\nsailor: Yes\nTyped on the page"
    document = read_document(path)
    assert document.text == f"Please fill in.\n\n{filled}"
    start = document.text.index("fill")
    assert page_boxes(path, start, start + 4)
    start = document.text.index("Grace")
    assert page_boxes(path, start, start + 5) == ()
    path.write_bytes(form_pdf(*FIELDS))
    assert read_document(path).text == filled


def test_spans_know_their_boxes(tmp_path: Path) -> None:
    lines = [(72.0, 600.0, "The rope is in the ware-"), (72.0, 586.0, "house of Bram.")]
    path = tmp_path / "a.pdf"
    path.write_bytes(lines_pdf([(72.0, 700.0, "First.")], lines))
    text = read_document(path).text
    start = text.index("warehouse")
    first, second = page_boxes(path, start, start + len("warehouse"))
    assert (first.page, second.page) == (2, 2)
    assert first.left > 150
    assert 595 < first.bottom < first.top < 612
    assert (round(second.left), 580 < second.bottom < 590) == (73, True)
    assert page_boxes(path, start, start) == page_boxes(path, text.index("\f"), text.index("\f") + 1) == ()
    assert [box.page for box in page_boxes(path, 0, len(text))] == [1, 2, 2]
    (passages,) = (passages for _, passages in read_files([path]))
    (whole,) = passages
    assert isinstance(whole, Passage)
    assert whole.start is not None
    assert whole.end is not None
    assert page_boxes(str(whole.source), whole.start, whole.end)[0] == PageBox(
        1, *page_boxes(path, 0, 6)[0][1:]
    )


@pytest.mark.parametrize("span", [(-1, 2), (3, 2), (0, 99), (None, 2), (0, 1.5)])
def test_spans_that_are_not_there_are_refused(tmp_path: Path, span: tuple[int, int]) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf("One."))
    with pytest.raises(InputError, match="its text has 4 characters, so there is no span from"):
        page_boxes(path, *span)
    path.write_bytes(b"text")
    with pytest.raises(ReadError, match="is not a PDF"):
        page_boxes(path, 0, 1)


WORDS = st.text(st.sampled_from("abcdeABC.,19"), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from([72, 250, 430]), st.integers(5, 52), WORDS), max_size=8),
        min_size=1,
        max_size=3,
    )
)
def test_each_word_is_found_again_in_its_box(tmp_path: Path, drawn: list[list[tuple[int, int, str]]]) -> None:
    """Lines anywhere: nothing is lost but heads, and the box of each character lies where it was drawn."""
    pages = [[(float(x), 14.0 * y, text) for x, y, text in page] for page in drawn]
    path = tmp_path / "a.pdf"
    path.write_bytes(lines_pdf(*pages))
    if not any(pages):
        with pytest.raises(ReadError, match="no text"):
            read_document(path)
        return
    document = read_document(path)
    for start, character in enumerate(document.text):
        boxes = page_boxes(path, start, start + 1) if character.isalnum() and start % 3 == 0 else ()
        for box in boxes:
            assert box.page == document.page(start)
            drawn_there = [
                text for x, y, text in pages[box.page - 1] if x - 1 <= box.left and abs(box.bottom - y) < 14
            ]
            assert any(character in text for text in drawn_there)


def bomb(unit: bytes, size: int) -> bytes:
    packer = zlib.compressobj(9)
    block = unit * ((1 << 20) // len(unit))
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])


@pytest.mark.parametrize("unit", [b"q ", b"[", b" ", b"BT /F1 9 Tf (a) Tj ET "])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, unit: bytes) -> None:
    start = time.perf_counter()
    packed = bomb(unit, 200 << 20)
    for data, filters in ((packed, "/FlateDecode"), (zlib.compress(packed), "[/FlateDecode /FlateDecode]")):
        with pytest.raises(ReadError, match="holds a stream that unpacks to over 100 times its size"):
            read(tmp_path, pdf_of(data, "BT ET", stream=f"/Filter {filters}"))
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("packed", [False, True])
def test_drawings_that_draw_themselves_are_refused(tmp_path: Path, packed: bool) -> None:
    def form(number: int, count: int) -> bytes:
        content = b"/X Do " * count
        content = zlib.compress(content) if packed else content
        filters = b"/Filter /FlateDecode" if packed else b""
        return (
            b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Length %d %s "
            b"/Resources << /XObject << /X %d 0 R >> >> >>\nstream\n%s\nendstream"
        ) % (len(content), filters, number, content)

    data = make_pdf("One.")
    for message, forms in (
        ("without end", {20: form(20, 2)}),
        ("without end", {20: form(21, 1), 21: form(20, 1)}),
        ("over 1,000,000 times", {n: form(n + 1, 2) for n in range(20, 50)}),
    ):
        objects = b"".join(b"%d 0 obj\n%s\nendobj\n" % item for item in forms.items())
        with pytest.raises(ReadError, match=message):
            read(tmp_path, data.replace(b"xref\n", objects + b"xref\n", 1))
    objects = b"20 0 obj\n" + form(21, 3) + b"\nendobj\n"
    assert read(tmp_path, data.replace(b"xref\n", objects + b"xref\n", 1)).text == "One."


def test_what_unpacks_has_a_limit(tmp_path: Path) -> None:
    content = zlib.compress(b"BT /F1 9 Tf 72 500 Td (a) Tj ET " + b" " * 20_000)
    data = pdf_of(content, content, stream="/Filter /FlateDecode")
    assert read(tmp_path, data, max_unpacked_bytes=50_000).text == "a\fa"
    with pytest.raises(ReadError, match="unpacks to more than 30,000 bytes"):
        read(tmp_path, data, max_unpacked_bytes=30_000)
    with pytest.raises(ReadError, match="unpacks to more than 3 characters"):
        read(tmp_path, make_pdf("four"), max_unpacked_bytes=3)


def test_pages_and_time_have_limits(tmp_path: Path) -> None:
    data = make_pdf(*["x"] * 5)
    with pytest.raises(ReadError, match="has 5 pages, over the limit of 4"):
        read(tmp_path, data, max_pages=4)
    with pytest.raises(ReadError, match="takes over 1e-09 seconds"):
        read(tmp_path, data, max_seconds=1e-9)


def test_trees_of_pages_that_lie_do_no_harm(tmp_path: Path) -> None:
    data = make_pdf("One.", "Two.")
    kids = b"/Kids [5 0 R 7 0 R]"
    assert kids in data
    with pytest.raises(ReadError, match="none of its 2 pages"):
        read(tmp_path, data.replace(kids, b"/Kids [2 0 R 2 0 R]"))
    document = read(tmp_path, data.replace(kids, b"/Kids [5 0 R 9 0 R]"))
    assert document.text.strip() == "One."
    assert "page 2" in document.gaps[0]
    with pytest.raises(ReadError, match="over the limit"):
        read(tmp_path, data.replace(b"/Count 2", b"/Count 60000"))


def test_threads_take_turns(tmp_path: Path) -> None:
    paths = []
    for number in range(8):
        paths.append(tmp_path / f"{number}.pdf")
        paths[-1].write_bytes(make_pdf(*[f"Page {page} of book {number}." for page in range(40)]))
    texts: dict[Path, str] = {}
    threads = [
        threading.Thread(target=lambda path=path: texts.update({path: read_document(path).text}))
        for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, path in enumerate(paths):
        assert texts[path].split("\f") == [f"Page {page} of book {number}." for page in range(40)]


def test_powers_stay_powers(tmp_path: Path) -> None:
    def raised(text: str, rise: float, size: float = 7) -> str:
        return f"/F1 {size} Tf {rise} Ts ({text}) Tj /F1 12 Tf 0 Ts"

    content = (
        f"BT /F1 12 Tf 72 700 Td (The basin holds 3 x 10) Tj {raised('6', 4)} ( litres of H) Tj "
        f"{raised('2', -3)} (O in 5 m) Tj {raised('-2', 4)} (, on the 4) Tj {raised('th', 4)} ( of 12) Tj "
        f"{raised('3', 0)} (.) Tj ET"
    )
    document = read(tmp_path, pdf_of(content))
    assert document.text == "The basin holds 3 x 10^6 litres of H2O in 5 m^-2, on the 4th of 123."
    start = document.text.index("^6")
    (box,) = page_boxes(tmp_path / "a.pdf", start, start + 2)
    assert box.bottom > 700


def test_bullets_are_items_and_no_columns(tmp_path: Path) -> None:
    lines = [(72.0, 700.0 - 14 * n, "\\267") for n in range(3)]
    lines += [(100.0, 700.0 - 14 * n, f"Item number {n}") for n in range(3)]
    data = lines_pdf(sorted(lines, key=lambda line: (-line[1], line[0])), letters={0o267: "\uf0b7"})
    assert read(tmp_path, data).text == "• Item number 0\n• Item number 1\n• Item number 2"


@pytest.mark.parametrize("shift", [0, 45, 70])
def test_numbers_stand_under_their_heads_though_not_below_them(tmp_path: Path, shift: int) -> None:
    heads, numbers = (150, 300), (200 - shift, 350 - shift)
    lines: list[tuple[float, float, str]] = [
        (72, 700, "Boat"),
        (heads[0], 700, "Crew"),
        (heads[1], 700, "Fee"),
    ]
    for row, (boat, crew, fee) in enumerate((("Yawl", "4", "12"), ("Ketch", "", "30"), ("Sloop", "2", "9"))):
        bottom = 680 - 20 * row
        lines.append((72, bottom, boat))
        lines += [(left, bottom, text) for left, text in zip(numbers, (crew, fee), strict=True) if text]
    assert read(tmp_path, lines_pdf(lines)).text == (
        "| Boat | Crew | Fee |\n| --- | --- | --- |\n| Yawl | 4 | 12 |\n| Ketch |  | 30 |\n| Sloop | 2 | 9 |"
    )
