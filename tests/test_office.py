"""Presentations, workbooks, OpenDocument files and e-books."""

from __future__ import annotations

import re
import shutil
import subprocess
import zipfile
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from office_files import DATES, epub, repacked, word, workbook

from nbce_rag.documents.folders import read_files
from nbce_rag.documents.limits import ReadLimits
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import ReadError

openpyxl = pytest.importorskip("openpyxl")
pptx = pytest.importorskip("pptx")


def metadata(path: Path) -> list[dict[str, Any]]:
    errors: list[ReadError] = []
    files = read_files([path], max_tokens=30, overlap=0, on_error=errors.append)
    return [dict(p.metadata) for _, passages in files for p in passages]


class TestSlides:
    def make(self, path: Path) -> Path:
        from pptx.chart.data import CategoryChartData
        from pptx.enum.chart import XL_CHART_TYPE
        from pptx.util import Inches

        deck = pptx.Presentation()
        deck.core_properties.title = "Fleet"
        first = deck.slides.add_slide(deck.slide_layouts[1])
        first.shapes.title.text = "Our\vboats"
        frame = first.placeholders[1].text_frame
        frame.text = "Yawls"
        frame.add_paragraph().text = "small"
        frame.paragraphs[1].level = 1
        first.notes_slide.notes_text_frame.text = "Speak slowly."
        second = deck.slides.add_slide(deck.slide_layouts[5])
        second.shapes.title.text = "Numbers"
        where = (Inches(1), Inches(1), Inches(4), Inches(1))
        table = second.shapes.add_table(3, 2, *where).table
        for row, texts in enumerate((("Boat", "Length"), ("Yawl", "48"), ("", "50"))):
            for column, text in enumerate(texts):
                table.cell(row, column).text = text
        table.cell(1, 0).merge(table.cell(2, 0))
        second.shapes.add_group_shape().shapes.add_textbox(*where).text_frame.text = "In a group."
        data = CategoryChartData()
        data.categories = ["May", "June"]
        data.add_series("Trips", (3, 4.5))
        second.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *where, data)
        hidden = deck.slides.add_slide(deck.slide_layouts[5])
        hidden.shapes.title.text = "Secret"
        hidden._element.set("show", "0")
        deck.save(str(path))
        return path

    def test_slides_have_titles_items_tables_charts_and_notes(self, tmp_path: Path) -> None:
        document = read_document(self.make(tmp_path / "a.pptx"))
        assert document.text.split("\n\n") == [
            "## Our boats",
            "- Yawls\n  - small",
            "Notes: Speak slowly.",
            "## Numbers",
            "| Boat | Length |\n| --- | --- |\n| Yawl | 48 |\n| Yawl | 50 |",
            "In a group.",
            "|  | Trips |\n| --- | --- |\n| May | 3 |\n| June | 4.5 |",
        ]
        assert document.title == "Fleet"
        assert document.gaps == ("hidden slides are left out: 3.",)

    def test_titles_points_and_several_plots_of_charts(self, tmp_path: Path) -> None:
        from pptx.chart.data import BubbleChartData, CategoryChartData, XyChartData
        from pptx.enum.chart import XL_CHART_TYPE

        deck = pptx.Presentation()
        slide = deck.slides.add_slide(deck.slide_layouts[6])
        pairs = XyChartData()
        series = pairs.add_series("Depth")
        series.add_data_point(1, 2.5)
        series.add_data_point(3, 4)
        chart = slide.shapes.add_chart(XL_CHART_TYPE.XY_SCATTER, 0, 0, 9, 9, pairs).chart
        chart.has_title = True
        chart.chart_title.text_frame.text = "Soundings"
        bubbles = BubbleChartData()
        bubbles.add_series("Ports").add_data_point(1, 2, 10)
        slide.shapes.add_chart(XL_CHART_TYPE.BUBBLE, 0, 0, 9, 9, bubbles)
        trips = CategoryChartData()
        trips.categories = ["May"]
        trips.add_series("Trips", (3,))
        frame = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, 9, 9, trips)
        plot = frame.chart.plots[0]._element
        plot.addnext(deepcopy(plot))  # as a line over columns
        deck.save(str(tmp_path / "a.pptx"))
        trip = "|  | Trips |\n| --- | --- |\n| May | 3 |"
        assert read_document(tmp_path / "a.pptx").text.split("\n\n") == [
            "Soundings",
            "|  | Depth |\n| --- | --- |\n| 1 | 2.5 |\n| 3 | 4 |",
            "|  | Ports |  |\n| --- | --- | --- |\n| 1 | 2 | 10 |",
            trip,
            trip,
        ]

    def test_diagrams_are_read_and_broken_ones_cost_themselves(self, tmp_path: Path) -> None:
        from pptx.opc.package import Part
        from pptx.opc.packuri import PackURI
        from pptx.oxml import parse_xml

        main = "http://schemas.openxmlformats.org/drawingml/2006"
        relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
        presentations = "http://schemas.openxmlformats.org/presentationml/2006/main"
        node = "<d:pt><d:t><a:p><a:r><a:t>{}</a:t></a:r></a:p></d:t></d:pt>"
        data = (
            f'<d:dataModel xmlns:d="{main}/diagram" xmlns:a="{main}/main"><d:ptLst><d:pt/>'
            f"{node.format('Cast off')}{node.format('Sail')}</d:ptLst></d:dataModel>"
        )
        deck = pptx.Presentation()
        for number, blob in enumerate((data, "<broken", data)):
            slide = deck.slides.add_slide(deck.slide_layouts[6])
            part = Part(PackURI(f"/ppt/diagrams/data{number}.xml"), "application/xml", deck.part.package)
            part.blob = blob.encode()
            name = slide.part.relate_to(part, f"{relations}/diagramData")
            frame = (
                f'<p:graphicFrame xmlns:p="{presentations}" xmlns:a="{main}/main" xmlns:r="{relations}">'
                '<p:nvGraphicFramePr><p:cNvPr id="4" name="D"/><p:cNvGraphicFramePr/><p:nvPr/>'
                f'</p:nvGraphicFramePr><p:xfrm/><a:graphic><a:graphicData uri="{main}/diagram">'
                f'<d:relIds xmlns:d="{main}/diagram" r:dm="{name}"/></a:graphicData>'
                "</a:graphic></p:graphicFrame>"
            )
            slide.shapes._spTree.append(parse_xml(frame))
        deck.save(str(tmp_path / "a.pptx"))
        document = read_document(tmp_path / "a.pptx")
        assert document.text == "- Cast off\n- Sail\n\n- Cast off\n- Sail"
        assert document.gaps == ("charts and diagrams that cannot be read are left out, on slides 2.",)

    def test_passages_know_their_slide(self, tmp_path: Path) -> None:
        assert metadata(self.make(tmp_path / "a.pptx"))[0] == {"slide": 1}
        assert metadata(tmp_path / "a.pptx")[-1] == {"slide": 2}


class TestSheets:
    def test_sheets_are_tables_under_their_names(self, tmp_path: Path) -> None:
        path = workbook(
            tmp_path / "a.xlsx",
            {
                "Fleet 2024": [
                    ["Our boats"],
                    ["Boat", "Length", None, "Note"],
                    ["Yawl", 48, None, "a|b\nc"],
                    ["Ketch", 0.1 + 0.2, None, True],
                    [],
                    [None, "A remark"],
                ],
                "Empty": [],
                "Dates": [["day", "again", "time", "hour"], DATES, [timedelta(hours=30), 1e20, -0.5, "#N/A"]],
            },
            title="The fleet",
        )
        document = read_document(path)
        assert document.text.split("\n\n") == [
            "## Fleet 2024",
            "Our boats",
            "| Boat | Length | Note |\n| --- | --- | --- |\n| Yawl | 48 | a\\|b<br>c |\n"
            "| Ketch | 0.3 | TRUE |",
            "A remark",
            "## Dates",
            "| day | again | time | hour |\n| --- | --- | --- | --- |\n"
            "| 2024-05-01 | 2024-05-02 | 2024-05-01 13:30:00 | 09:15:00 |\n"
            "| 1 day, 6:00:00 | 1e+20 | -0.5 | #N/A |",
        ]
        assert document.title == "The fleet"
        assert [place["sheet"] for place in metadata(path)][::3] == ["Fleet 2024", "Dates"]

    def test_merged_cells_shares_hidden_sheets_and_formulas(self, tmp_path: Path) -> None:
        book = openpyxl.Workbook()
        sheet = book.active
        for row in (["Region", "Town", "Share"], ["North", "Oslo", 0.25], [None, "Bergen", "=1/2"]):
            sheet.append(row)
        sheet.merge_cells("A2:A3")
        sheet["C2"].number_format = "0.0%"
        book.create_sheet("Hidden").sheet_state = "hidden"
        book["Hidden"]["A1"] = "secret"
        book.save(tmp_path / "a.xlsx")
        with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
            markup = archive.read("xl/worksheets/sheet1.xml")
        # Excel keeps the last result of a formula; openpyxl writes none.
        assert read_document(tmp_path / "a.xlsx").gaps == (
            "hidden sheets are left out: Hidden.",
            "formulas without a saved result are left out: 1; open the file and save it once.",
        )
        markup = re.sub(rb"<f>1/2</f><v ?/>|<f>1/2</f><v></v>", b"<f>1/2</f><v>0.5</v>", markup)
        assert b"<v>0.5</v>" in markup
        document = read_document(repacked(tmp_path / "a.xlsx", {"xl/worksheets/sheet1.xml": markup}))
        assert document.text.splitlines()[4:] == ["| North | Oslo | 25% |", "| North | Bergen | 0.5 |"]
        assert document.gaps == ("hidden sheets are left out: Hidden.",)

    def test_far_cells_take_no_time_and_no_space(self, tmp_path: Path) -> None:
        book = openpyxl.Workbook()
        book.active["A1"] = "first"
        book.active["XFD1048576"] = "last"
        book.save(tmp_path / "a.xlsx")
        assert read_document(tmp_path / "a.xlsx").text == "## Sheet\n\nfirst\n\nlast"
        book = openpyxl.Workbook()
        for number in range(1, 300):
            book.active.cell(number, number, f"c{number}")
            book.active.cell(number, 1, "x")
        book.save(tmp_path / "b.xlsx")
        assert len(read_document(tmp_path / "b.xlsx").text) < 5_000

    def test_a_sheet_that_says_it_is_larger_than_it_is(self, tmp_path: Path) -> None:
        path = workbook(tmp_path / "a.xlsx", {"A": [["x", "y"], [1, 2]]})
        with zipfile.ZipFile(path) as archive:
            markup = archive.read("xl/worksheets/sheet1.xml")
        markup = markup.replace(b'ref="A1:B2"', b'ref="A1:XFD1048576"')
        assert b"XFD" in markup
        repacked(path, {"xl/worksheets/sheet1.xml": markup})
        assert read_document(path).text == "## A\n\n| x | y |\n| --- | --- |\n| 1 | 2 |"


NAMESPACES = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
    'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" '
    'xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" '
    'xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0" '
    'xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" '
    'xmlns:presentation="urn:oasis:names:tc:opendocument:xmlns:presentation:1.0"'
)


def opendocument(path: Path, kind: str, body: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "content.xml",
            f"<office:document-content {NAMESPACES}><office:body><office:{kind}>{body}</office:{kind}>"
            "</office:body></office:document-content>",
        )
        archive.writestr(
            "meta.xml",
            '<m xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A title</dc:title></m>',
        )
    return path


class TestOpenDocument:
    def test_text(self, tmp_path: Path) -> None:
        row = "<table:table-row>{}</table:table-row>"
        cell = "<table:table-cell{}><text:p>{}</text:p></table:table-cell>"
        covered = "<table:covered-table-cell/>"
        body = (
            "<text:tracked-changes><text:p>deleted</text:p></text:tracked-changes>"
            '<text:h text:outline-level="2">A  heading</text:h>'
            "<text:p>One<text:s text:c='2'/>two<text:tab/>three<text:line-break/>four\n  five"
            "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Said Ada.</text:p>"
            "</text:note-body></text:note><office:annotation><text:p>remark</text:p></office:annotation>"
            "<text:ruby><text:ruby-base>佐</text:ruby-base><text:ruby-text>さ</text:ruby-text></text:ruby>"
            "<draw:frame><draw:text-box><text:p>In the box.</text:p></draw:text-box></draw:frame></text:p>"
            "<text:list><text:list-item><text:p>a</text:p><text:list><text:list-item><text:p>b</text:p>"
            "</text:list-item></text:list></text:list-item></text:list>"
            "<table:table>"
            + row.format(cell.format("", "X") + cell.format("", "Y"))
            + row.format(cell.format(' table:number-rows-spanned="2"', "m") + cell.format("", "1"))
            + row.format(covered + cell.format("", "2"))
            + "</table:table>"
        )
        document = read_document(opendocument(tmp_path / "a.odt", "text", body))
        assert document.text.split("\n\n") == [
            "## A heading",
            "One  two\tthree\nfour five[^1]佐",
            "In the box.",
            "- a\n  - b",
            "| X | Y |\n| --- | --- |\n| m | 1 |\n| m | 2 |",
            "[^1]: Said Ada.",
        ]
        assert document.title == "A title"

    def test_powers_stay_powers_and_hidden_text_is_left_out(self, tmp_path: Path) -> None:
        def style(name: str, properties: str, family: str = "text", parent: str = "") -> str:
            return (
                f'<style:style style:name="{name}" style:family="{family}" '
                f'style:parent-style-name="{parent}">'
                f"<style:text-properties {properties}/></style:style>"
            )

        styles = (
            style("up", 'style:text-position="super 58%"')
            + style("also-up", 'style:text-position="33% 58%"')
            + style("child", "", parent="up")
            + style("down", 'style:text-position="-33% 58%"')
            + style("level", 'style:text-position="0% 100%"')
            + style("circle", "", parent="circle")
            + style("off", 'text:display="none"')
            + style("on", 'text:display="true"', parent="off")
            + style("off", 'text:display="none"', "paragraph")
        )
        names = "up also-up child down level circle none"
        spans = "".join(f'<text:span text:style-name="{name}">6</text:span>,' for name in names.split())
        body = (
            f"{styles}<text:p>{spans}<text:span text:style-name='up'>th</text:span></text:p>"
            "<text:p>a<text:span text:style-name='off'>b</text:span><text:span text:style-name='on'>c"
            "</text:span>d</text:p><text:p text:style-name='off'>e</text:p>"
            "<text:h text:style-name='off'>f</text:h>"
            "<text:section text:display='none'><text:p>g</text:p></text:section>"
            "<text:section><text:p>h</text:p></text:section>"
        )
        text = read_document(opendocument(tmp_path / "a.odt", "text", body)).text
        assert text == "^6,^6,^6,6,6,6,6,th\n\nacd\n\nh"

    def test_lists_have_their_numbers(self, tmp_path: Path) -> None:
        levels = "".join(
            f'<text:list-level-style-number text:level="{level}" style:num-format="{kind}" {more}/>'
            for level, kind, more in (
                (1, "1", 'style:num-suffix="."'),
                (2, "a", 'style:num-prefix="(" style:num-suffix=")" text:display-levels="1"'),
                (3, "i", 'text:display-levels="3" text:start-value="4"'),
            )
        )

        def item(text: str, more: str = "") -> str:
            return f"<text:list-item><text:p>{text}</text:p>{more}</text:list-item>"

        def items(content: str, more: str = "") -> str:
            return f'<text:list text:style-name="L" {more}>{content}</text:list>'

        third = f"<text:list>{item('deep')}</text:list>"
        second = f"<text:list>{item('a')}{item('b', third)}</text:list>"
        body = (
            f'<text:list-style style:name="L">{levels}</text:list-style>'
            + items(item("one") + item("two", second))
            + "<text:p>Between.</text:p>"
            + items(item("three"), 'text:continue-numbering="true"')
            + "<text:p>Again.</text:p>"
            + items(item("new"))
        )
        document = read_document(opendocument(tmp_path / "a.odt", "text", body))
        assert document.text.split("\n\n") == [
            "1. one\n2. two\n  (a) a\n  (b) b\n    2.b.iv deep",
            "Between.",
            "3. three",
            "Again.",
            "1. new",
        ]

    def test_hidden_sheets_are_left_out_and_named(self, tmp_path: Path) -> None:
        sheet = (
            '<table:table table:name="{0}" table:style-name="{0}"><table:table-row><table:table-cell>'
            "<text:p>x</text:p></table:table-cell></table:table-row></table:table>"
        )
        style = '<style:style style:name="B"><style:table-properties table:display="false"/></style:style>'
        body = style + sheet.format("A") + sheet.format("B")
        document = read_document(opendocument(tmp_path / "a.ods", "spreadsheet", body))
        assert document.text == "## A\n\n| x |\n| --- |"
        assert document.gaps == ("hidden sheets are left out: B.",)

    def test_sheets_with_cells_repeated_a_million_times(self, tmp_path: Path) -> None:
        cells = (
            "<table:table-cell><text:p>x</text:p></table:table-cell>"
            '<table:table-cell table:number-columns-repeated="16383"/>'
        )
        body = (
            f'<table:table table:name="Fleet"><table:table-row>{cells}</table:table-row>'
            f'<table:table-row table:number-rows-repeated="1048575">'
            '<table:table-cell table:number-columns-repeated="16384"/></table:table-row></table:table>'
        )
        path = opendocument(tmp_path / "a.ods", "spreadsheet", body)
        assert read_document(path).text == "## Fleet\n\n| x |\n| --- |"
        assert metadata(path) == [{"sheet": "Fleet"}]

    def test_slides(self, tmp_path: Path) -> None:
        box = "<draw:frame{}><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame>"
        title = box.format(' presentation:class="title"', "Boats")
        notes = box.format(' presentation:class="notes"', "Slowly.")
        body = (
            f"<draw:page>{box.format('', 'Words.')}{title}"
            f"<presentation:notes>{notes}{box.format('', '7')}</presentation:notes></draw:page>"
            '<draw:page draw:style-name="dp9">' + box.format("", "Secret.") + "</draw:page>"
            '<style:style style:name="dp9"><style:drawing-page-properties presentation:visibility="hidden"/>'
            "</style:style>"
        )
        path = opendocument(tmp_path / "a.odp", "presentation", body)
        assert read_document(path).text == "## Boats\n\nWords.\n\nNotes: Slowly."
        assert read_document(path).gaps == ("hidden slides are left out: 2.",)
        assert metadata(path)[0] == {"slide": 1}


NCX = """<?xml version="1.0"?><!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "ncx-2005-1.dtd">
<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap>
<navPoint><navLabel><text>The start</text></navLabel><content src="text/z.xhtml#top"/></navPoint>
<navPoint><navLabel><text>The end</text></navLabel><content src="text/a.xhtml"/></navPoint>
</navMap></ncx>"""


class TestBooks:
    def test_chapters_come_in_reading_order_with_their_titles(self, tmp_path: Path) -> None:
        pages = {"z.xhtml": "<p>It began.</p>", "a.xhtml": "<p>It ended.</p>", "b.xhtml": "<p>Notes.</p>"}
        path = epub(tmp_path / "a.epub", pages, ncx=NCX)
        document = read_document(path)
        assert document.text == "It began.\n\nIt ended.\n\nNotes."
        assert document.title == "The Log"
        assert [dict(part.metadata) for part in document.parts] == [
            {"chapter": "The start"},
            {"chapter": "The end"},
            {},
        ]

    def test_a_chapter_that_is_missing_is_named(self, tmp_path: Path) -> None:
        path = epub(tmp_path / "a.epub", {"a.xhtml": "<p>One.</p>", "b.xhtml": "<p>Two.</p>"})
        document = read_document(repacked(path, {"OEBPS/text/a.xhtml": None}))
        assert document.text == "Two."
        assert len(document.gaps) == 1
        assert "a.xhtml" in document.gaps[0]


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, 10))
    + "]>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a9 SYSTEM "file:///etc/passwd">]>'


def hostile(folder: Path, suffix: str, declaration: str) -> Path:
    path = folder / f"a{suffix}"
    if suffix == ".docx":
        word(path, "<w:p/>")
        part = "word/document.xml"
    elif suffix == ".xlsx":
        workbook(path, {"A": [["x"]]})
        part = "xl/worksheets/sheet1.xml"
    elif suffix == ".pptx":
        pptx.Presentation().save(str(path))
        part = "ppt/presentation.xml"
    elif suffix == ".odt":
        opendocument(path, "text", "<text:p>x</text:p>")
        part = "content.xml"
    else:
        epub(path, {"a.xhtml": "<p>x</p>"})
        part = "OEBPS/content.opf"
    with zipfile.ZipFile(path) as archive:
        markup = archive.read(part).decode()
    head, _, rest = markup.rpartition("?>")
    head += "?>" if head else ""
    begin, end = rest.split(">", 1)
    return repacked(path, {part: f"{head}{declaration}{begin}>&a9;{end}".encode()})


FORMATS = (".docx", ".xlsx", ".pptx", ".odt", ".epub")


class TestHostile:
    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("declaration", [BOMB, OUTSIDE])
    def test_entities_are_refused(self, tmp_path: Path, suffix: str, declaration: str) -> None:
        with pytest.raises(ReadError, match=r"declares entities in|entity amplification"):
            read_document(hostile(tmp_path, suffix, declaration))

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_what_unpacks_to_too_much_is_refused(self, tmp_path: Path, suffix: str) -> None:
        path = hostile(tmp_path, suffix, "")
        repacked(path, {"extra.bin": bytes(20 << 20)})
        assert path.stat().st_size < 1 << 20
        with pytest.raises(ReadError, match=r"unpacks to 2.* over the limit of 10,000,000"):
            read_document(path, ReadLimits(max_unpacked_bytes=10_000_000))
        with pytest.raises(ReadError, match=r"bytes of markup in .* over the limit"):
            read_document(
                repacked(
                    path,
                    {
                        "extra.xml": bytes(9 << 20),
                        "content.xml": bytes(9 << 20),
                        "META-INF/container.xml": bytes(9 << 20),
                    },
                ),
                ReadLimits(max_unpacked_bytes=60_000_000),
            )

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_sizes_that_are_not_true_give_no_more_than_they_say(self, tmp_path: Path, suffix: str) -> None:
        is_book = suffix == ".epub"  # of which only the parts that it names are looked at
        chapters = {"a.xhtml": "<p>x</p>"}
        path = epub(tmp_path / "a.epub", chapters) if is_book else hostile(tmp_path, suffix, "")
        repacked(path, {"extra.xml": b"<x>" + bytes(1 << 20), "content.xml": b"<x>" + bytes(1 << 20)})
        size = ((1 << 20) + 3).to_bytes(4, "little")
        data = path.read_bytes()
        assert data.count(size) >= 4  # before each part, and in the list at the end
        path.write_bytes(data.replace(size, (10).to_bytes(4, "little")))
        if is_book:
            assert read_document(path).text == "x"
        else:
            with pytest.raises(ReadError, match=r"is damaged in (?:extra|content)\.xml"):
                read_document(path)

    def test_what_is_said_once_and_stands_everywhere_is_refused(self, tmp_path: Path) -> None:
        limits = ReadLimits(max_unpacked_bytes=2_000_000)
        path = tmp_path / "a.xlsx"
        xlsxwriter = pytest.importorskip("xlsxwriter")  # which writes a text once, unlike openpyxl
        with xlsxwriter.Workbook(path) as book:
            sheet = book.add_worksheet()
            for number in range(200):
                sheet.write(number, 0, "x" * 30_000)
        with pytest.raises(ReadError, match="unpacks to more than 2,000,000 characters"):
            read_document(path, limits)
        cell = '<table:table-cell table:number-columns-repeated="900">{}</table:table-cell>'
        cell = cell.format("<text:p>ten digits</text:p>")
        row = f'<table:table-row table:number-rows-repeated="900">{cell}</table:table-row>'
        path = opendocument(tmp_path / "a.ods", "spreadsheet", f"<table:table>{row}</table:table>")
        with pytest.raises(ReadError, match="unpacks to more than 2,000,000 characters"):
            read_document(path, limits)
        (tmp_path / "a.csv").write_text("h" * 10_000 + ",b\n" + "1,2\n" * 300)
        errors: list[ReadError] = []
        assert list(read_files([tmp_path / "a.csv"], limits=limits, on_error=errors.append)) == []
        assert "unpacks to more than 2,000,000 characters" in str(errors[0])

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_deep_markup_and_damage_give_an_error(self, tmp_path: Path, suffix: str) -> None:
        deep = "<w:tbl><w:tr><w:tc>" * 20_000 + "</w:tc></w:tr></w:tbl>" * 20_000
        path = word(tmp_path / "a.docx", "<w:p/>")
        with zipfile.ZipFile(path) as archive:
            markup = archive.read("word/document.xml").decode()
        repacked(path, {"word/document.xml": markup.replace("<w:body>", f"<w:body>{deep}").encode()})
        with pytest.raises(ReadError, match=r"a\.docx"):
            read_document(path)
        path = hostile(tmp_path, suffix, "")
        data = path.read_bytes()
        for cut in (10, len(data) // 2, len(data) - 30):
            path.write_bytes(data[:cut])
            with pytest.raises(ReadError, match=rf"a\{suffix}"):
                read_document(path)


@pytest.mark.skipif(shutil.which("soffice") is None, reason="needs LibreOffice")
@pytest.mark.parametrize(("source", "target"), [("docx", "odt"), ("odt", "docx")])
def test_files_of_libreoffice(tmp_path: Path, source: str, target: str) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("Boats", 1)
    document.add_paragraph("A yawl has two masts.")
    document.add_paragraph("first", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for place, text in {(0, 0): "Boat", (0, 1): "Length", (1, 0): "Yawl", (1, 1): "48"}.items():
        table.cell(*place).text = text
    document.save(str(tmp_path / "a.docx"))

    def convert(file: Path, kind: str) -> Path:
        home = f"-env:UserInstallation=file://{tmp_path}/profile"
        command = [
            "soffice",
            home,
            "--headless",
            "--convert-to",
            kind,
            "--outdir",
            str(tmp_path / kind),
            str(file),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=240)
        return tmp_path / kind / f"a.{kind}"

    path = convert(tmp_path / "a.docx", "odt")
    if target == "docx":
        path = convert(path, "docx")
    assert read_document(path).text.split("\n\n") == [
        "# Boats",
        "A yawl has two masts.",
        "- first",
        "| Boat | Length |\n| --- | --- |\n| Yawl | 48 |",
    ]


def test_a_way_of_packing_that_is_unknown_is_no_password(tmp_path: Path) -> None:
    path = hostile(tmp_path, ".odt", "")
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] = 9  # Deflate64
            at = data.find(mark, at + 1)
    path.write_bytes(data)
    with pytest.raises(ReadError, match="cannot be unpacked"):
        read_document(path)


def test_a_book_without_text_says_what_was_left_out(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"holds no text. formulas without a saved result are left out: 1"):
        read_document(workbook(tmp_path / "a.xlsx", {"A": [["=1+1"]]}))


@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".xlsx"])
def test_a_picture_that_is_missing_costs_no_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".docx":
        word(path, "<w:p><w:r><w:t>Moored.</w:t></w:r></w:p>")
        part = "word/_rels/document.xml.rels"
    elif suffix == ".xlsx":
        workbook(path, {"A": [["Moored."]]})
        part = "xl/_rels/workbook.xml.rels"
    else:
        deck = pptx.Presentation()
        deck.slides.add_slide(deck.slide_layouts[5]).shapes.title.text = "Moored."
        deck.save(str(path))
        part = "ppt/slides/_rels/slide1.xml.rels"
    with zipfile.ZipFile(path) as archive:
        markup = archive.read(part).decode()
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"
    lost = f'<Relationship Id="rId77" Type="{kind}" Target="NULL"/></Relationships>'
    repacked(path, {part: markup.replace("</Relationships>", lost).encode()})
    assert "Moored." in read_document(path).text


@pytest.mark.parametrize("suffix", [".docx", ".odt", ".jsonl"])
def test_reading_ends_in_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".docx":
        word(path, "<w:p/>" * 99)
    elif suffix == ".odt":
        opendocument(path, "text", "<text:p>x</text:p>" * 99)
    else:
        path.write_text('{"text": "x"}\n' * 99)
    errors: list[ReadError] = []
    assert list(read_files([path], limits=ReadLimits(max_seconds=1e-9), on_error=errors.append)) == []
    assert "takes over 1e-09 seconds to read" in str(errors[0])
