"""Files as LibreOffice writes them, from files that other libraries made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from nbce_rag.documents.document import Document
from nbce_rag.documents.folders import read_files
from nbce_rag.documents.readers import read_document

pytestmark = pytest.mark.skipif(shutil.which("soffice") is None, reason="needs LibreOffice (soffice)")

Convert = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    folder = tmp_path_factory.mktemp("libreoffice")

    def converted(file: Path, target: str) -> Path:
        suffix = target.partition(":")[0]
        profile = f"-env:UserInstallation=file://{folder}/profile"
        outcome = file.parent / f"to-{suffix}"
        places = ["--outdir", str(outcome), str(file)]
        command = ["soffice", profile, "--headless", "--convert-to", target, *places]
        done = subprocess.run(command, check=False, capture_output=True, timeout=240)
        path = outcome / f"{file.stem}.{suffix}"
        if not path.exists():
            pytest.skip(f"this LibreOffice does not write .{suffix}: {done.stderr.decode()[-200:]}")
        return path

    return converted


def converted_twice(convert: Convert, file: Path, *suffixes: str) -> Document:
    for suffix in suffixes:
        file = convert(file, suffix)
    return read_document(file)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    docx: Any = pytest.importorskip("docx")
    document = docx.Document()
    document.core_properties.title = "Harbour handbook"
    document.sections[0].header.paragraphs[0].text = "Running head"
    document.add_heading("Boats", 1)
    paragraph = document.add_paragraph("A yawl sails 10")
    paragraph.add_run("6").font.superscript = True
    paragraph.add_run(" miles; naïve café – “quotes”, H")
    paragraph.add_run("2").font.subscript = True
    paragraph.add_run("O.")
    paragraph.add_run(" Hidden words.").font.hidden = True
    for style in ("List Bullet", "List Bullet", "List Number", "List Number"):
        document.add_paragraph(f"In {style}", style=style)
    document.add_heading("Lengths", 2)
    table = document.add_table(rows=4, cols=3)
    rows = [
        ("Boat", "Length", "Crew"),
        ("Yawl", "48", ""),
        ("", "50", "3"),
        ("Ketch | so", "60", "five\nor six"),
    ]
    for number, row in enumerate(rows):
        for column, text in enumerate(row):
            table.cell(number, column).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    document.add_page_break()
    document.add_heading("Second page", 1)
    document.save(str(tmp_path / "text.docx"))
    return tmp_path / "text.docx"


@pytest.mark.parametrize("suffixes", [("odt",), ("odt", "docx")])
def test_text(text_file: Path, convert: Convert, suffixes: tuple[str, ...]) -> None:
    document = converted_twice(convert, text_file, *suffixes)
    assert document.title == "Harbour handbook"
    assert document.text.split("\n\n") == [
        "# Boats",
        "A yawl sails 10^6 miles; naïve café – “quotes”, H2O.",
        "- In List Bullet\n- In List Bullet\n1. In List Number\n2. In List Number",
        "## Lengths",
        "| Boat | Length | Crew |\n| --- | --- | --- |\n| Yawl | 48 |  |\n| Yawl | 50 | 3 |\n"
        "| Ketch \\| so | 60 | five<br>or six |",
        "# Second page",
    ]


def test_text_as_html(text_file: Path, convert: Convert) -> None:
    document = converted_twice(convert, text_file, "html")
    assert document.title == "Harbour handbook"
    assert "A yawl sails 10^6 miles; naïve café – “quotes”, H₂O." in document.text
    assert "Hidden" not in document.text
    assert "| Yawl | 48 |  |\n| Yawl | 50 | 3 |\n" in document.text


def test_text_as_pdf(text_file: Path, convert: Convert) -> None:
    document = converted_twice(convert, text_file, "pdf")
    assert document.title == "Harbour handbook"
    assert len(document.page_starts) == 2
    assert document.text.count("Running head") == 1
    assert "naïve café – “quotes”" in document.text
    assert "| Boat | Length | Crew |\n| --- | --- | --- |\n" in document.text
    assert "Hidden" not in document.text


@pytest.fixture
def sheet_file(tmp_path: Path) -> Path:
    openpyxl: Any = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Fleet"
    sheet.append(["Boat", "Built", "Share", "Total", "Ready"])
    sheet.append(["Yawl", date(1931, 5, 4), 0.25, "=1+2", True])
    sheet.append(["Łódź, so", datetime(1940, 1, 2, 13, 30), 0.5, "=D2*2", False])
    sheet.append(["Sloop", None, None, '=A1&"!"', None])
    for cell in ("C2", "C3"):
        sheet[cell].number_format = "0%"
    book.create_sheet("Secret").append(["hidden words"])
    book["Secret"].sheet_state = "hidden"
    places = book.create_sheet("Zeiten & Orte")
    for row in (["Ort", "Zahl"], ["merged", 1], [None, 2]):
        places.append(row)
    places.merge_cells("A2:A3")
    book.save(tmp_path / "sheets.xlsx")
    return tmp_path / "sheets.xlsx"


@pytest.mark.parametrize("suffixes", [("ods",), ("ods", "xlsx")])
def test_sheets(sheet_file: Path, convert: Convert, suffixes: tuple[str, ...]) -> None:
    document = converted_twice(convert, sheet_file, *suffixes)
    assert document.text.split("\n\n") == [
        "## Fleet",
        "| Boat | Built | Share | Total | Ready |\n| --- | --- | --- | --- | --- |\n"
        "| Yawl | 1931-05-04 | 25% | 3 | TRUE |\n"
        "| Łódź, so | 1940-01-02 13:30:00 | 50% | 6 | FALSE |\n"
        "| Sloop |  |  | Boat! |  |",
        "## Zeiten & Orte",
        "| Ort | Zahl |\n| --- | --- |\n| merged | 1 |\n| merged | 2 |",
    ]
    assert document.gaps == ("hidden sheets are left out: Secret.",)


def test_sheets_as_csv(sheet_file: Path, convert: Convert) -> None:
    path = convert(sheet_file, "csv:Text - txt - csv (StarCalc):44,34,76")  # commas, quotes, UTF-8
    ((_, passages),) = read_files([path])
    assert [passage.text for passage in passages] == [
        "Boat: Yawl\nBuilt: 1931-05-04\nShare: 25%\nTotal: 3\nReady: TRUE",
        "Boat: Łódź, so\nBuilt: 1940-01-02 13:30:00\nShare: 50%\nTotal: 6\nReady: FALSE",
        "Boat: Sloop\nTotal: Boat!",
    ]


@pytest.fixture
def slide_file(tmp_path: Path) -> Path:
    pptx: Any = pytest.importorskip("pptx")
    inches = pptx.util.Inches
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Our boats"
    frame = first.placeholders[1].text_frame
    frame.text = "Yawls"
    below = frame.add_paragraph()
    below.text, below.level = "small ones", 1
    first.notes_slide.notes_text_frame.text = "Speak slowly."
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Numbers"
    table = second.shapes.add_table(2, 2, inches(1), inches(2), inches(6), inches(2)).table
    for number, row in enumerate((("Boat", "Length"), ("Yawl", "48"))):
        for column, text in enumerate(row):
            table.cell(number, column).text = text
    hidden = deck.slides.add_slide(deck.slide_layouts[5])
    hidden.shapes.title.text = "Secret"
    hidden._element.set("show", "0")
    deck.save(tmp_path / "slides.pptx")
    return tmp_path / "slides.pptx"


@pytest.mark.parametrize("suffixes", [("odp",), ("odp", "pptx")])
def test_slides(slide_file: Path, convert: Convert, suffixes: tuple[str, ...]) -> None:
    document = converted_twice(convert, slide_file, *suffixes)
    assert document.text.split("\n\n") == [
        "## Our boats",
        "- Yawls\n  - small ones",
        "Notes: Speak slowly.",
        "## Numbers",
        "| Boat | Length |\n| --- | --- |\n| Yawl | 48 |",
    ]
    assert document.gaps == ("hidden slides are left out: 3.",)


def test_slides_as_pdf(slide_file: Path, convert: Convert) -> None:
    document = converted_twice(convert, slide_file, "pdf")
    assert len(document.page_starts) == 2
    assert document.text.startswith("Our boats\n\n• Yawls\n– small ones")
    assert document.text.endswith("| Boat | Length |\n| --- | --- |\n| Yawl | 48 |")
