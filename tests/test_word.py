"""Word documents: headings, lists, tables, notes, boxes, changes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from office_files import repacked, word

from nbce_rag.documents.limits import ReadLimits
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import ReadError

docx = pytest.importorskip("docx")


def run(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def paragraph(content: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr>{content}</w:p>"


def read(path: Path, markup: str) -> str:
    return read_document(word(path / "a.docx", markup)).text


def test_headings_lists_and_tables(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Boats", 0)
    document.add_heading("Kinds", 1)
    document.add_paragraph("There are many.")
    document.add_paragraph("yawl", style="List Bullet")
    document.add_paragraph("ketch", style="List Bullet")
    document.add_paragraph("one", style="List Number")
    document.add_paragraph("two", style="List Number")
    table = document.add_table(rows=2, cols=2)
    for place, text in {(0, 0): "Boat", (0, 1): "Length", (1, 0): "Yawl|a"}.items():
        table.cell(*place).text = text
    document.add_paragraph("End.")
    document.save(str(tmp_path / "a.docx"))
    read = read_document(tmp_path / "a.docx")
    assert read.text.split("\n\n") == [
        "# Boats",
        "# Kinds",
        "There are many.",
        "- yawl\n- ketch\n1. one\n2. two",
        "| Boat | Length |\n| --- | --- |\n| Yawl\\|a |  |",
        "End.",
    ]
    assert read.title == "Boats"


def test_the_title_is_that_of_the_properties(tmp_path: Path) -> None:
    heading = paragraph(run("A heading"), '<w:pStyle w:val="Heading2"/>')
    assert read_document(word(tmp_path / "a.docx", heading, title="The plan")).title == "The plan"
    assert read_document(word(tmp_path / "b.docx", heading)).title == "A heading"


def test_inserted_text_stays_and_deleted_text_goes(tmp_path: Path) -> None:
    markup = paragraph(
        run("The boat ")
        + f"<w:ins>{run('sails ')}</w:ins>"
        + "<w:del><w:r><w:delText>sinks</w:delText></w:r></w:del>"
        + f"<w:moveFrom>{run('twice ')}</w:moveFrom><w:moveTo>{run('on')}</w:moveTo>"
    )
    row = "<w:tr>{}<w:tc><w:p>{}</w:p></w:tc><w:tc><w:p>{}</w:p></w:tc></w:tr>"
    table = "".join(
        (
            row.format("", run("A"), run("B")),
            row.format("<w:trPr><w:del/></w:trPr>", run("c"), run("d")),
            row.format("<w:trPr><w:ins/></w:trPr>", run("e"), run("f")),
        )
    )
    assert read(tmp_path, f"{markup}<w:tbl>{table}</w:tbl>") == (
        "The boat sails on\n\n| A | B |\n| --- | --- |\n| e | f |"
    )


def test_merged_cells(tmp_path: Path) -> None:
    def cell(text: str, properties: str = "") -> str:
        return f"<w:tc><w:tcPr>{properties}</w:tcPr><w:p>{run(text)}</w:p></w:tc>"

    rows = (
        cell("Region", '<w:gridSpan w:val="2"/>') + cell("Sum"),
        cell("North", '<w:vMerge w:val="restart"/>') + cell("a") + cell("1"),
        cell("", "<w:vMerge/>") + cell("b") + cell("2"),
    )
    assert read(tmp_path, f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>") == (
        "| Region |  | Sum |\n| --- | --- | --- |\n| North | a | 1 |\n| North | b | 2 |"
    )


def test_text_boxes_links_fields_maths_and_controls(tmp_path: Path) -> None:
    box = f"<w:txbxContent>{paragraph(run('In the box.'))}</w:txbxContent>"
    pages = (
        paragraph(
            run("See ")
            + f"<w:hyperlink>{run('the page')}</w:hyperlink>"
            + "<w:r><w:instrText>PAGE</w:instrText></w:r>"
            + f"<w:fldSimple>{run(' 7')}</w:fldSimple>"
            + "<m:oMath><m:r><m:t> x=1</m:t></m:r></m:oMath>"
        ),
        f"<w:sdt><w:sdtContent>{paragraph(run('Controlled.'))}</w:sdtContent></w:sdt>",
        paragraph(
            run("Around.")
            + "<w:r><mc:AlternateContent>"
            + f'<mc:Choice Requires="wps"><w:drawing>{box}</w:drawing></mc:Choice>'
            + f"<mc:Fallback><w:pict>{box}</w:pict></mc:Fallback></mc:AlternateContent></w:r>"
        ),
    )
    assert read(tmp_path, "".join(pages)).split("\n\n") == [
        "See the page 7 x=1",
        "Controlled.",
        "Around.",
        "In the box.",
    ]


def test_raised_numbers_hidden_text_and_breaks(tmp_path: Path) -> None:
    raised = '<w:vertAlign w:val="superscript"/>'
    markup = paragraph(
        run("3 × 10")
        + run("6", raised)
        + run(" litres")
        + run("th", raised)
        + run("secret", "<w:vanish/>")
        + run(", open", '<w:vanish w:val="0"/>')
        + "<w:r><w:br/><w:t>next</w:t><w:tab/><w:t>co</w:t><w:softHyphen/><w:t>op</w:t></w:r>"
    )
    assert read(tmp_path, markup) == "3 × 10^6 litresth, open\nnext\tcoop"


def test_a_frame_around_paragraphs_is_no_table(tmp_path: Path) -> None:
    cell = f"<w:tc>{paragraph(run('One.'))}{paragraph(run('Two.'))}</w:tc>"
    assert read(tmp_path, f"<w:tbl><w:tr>{cell}</w:tr></w:tbl>") == "One.\n\nTwo."


def test_a_table_within_a_cell_is_flat(tmp_path: Path) -> None:
    def table(*rows: str) -> str:
        return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>"

    def cell(text: str, more: str = "") -> str:
        return f"<w:tc>{more}<w:p>{run(text)}</w:p></w:tc>"

    inner = table(cell("a") + cell("1"), cell("b") + cell("2"))
    assert read(tmp_path, table(cell("X") + cell("Y"), cell("x") + cell("then", inner))) == (
        "| X | Y |\n| --- | --- |\n| x | a; 1<br>b; 2<br>then |"
    )


def with_footnotes(path: Path, notes: str) -> Path:
    """A Word document with this part of footnotes."""
    relation = (
        '<Relationship Id="rIdNotes" Target="footnotes.xml" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/footnotes"/></Relationships>'
    )
    relations = docx.Document(str(path)).part.rels.xml.decode().replace("</Relationships>", relation)
    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    return repacked(
        path,
        {
            "word/footnotes.xml": f'<w:footnotes xmlns:w="{w}">{notes}</w:footnotes>'.encode(),
            "word/_rels/document.xml.rels": relations.encode(),
        },
    )


def test_footnotes_stand_at_the_end(tmp_path: Path) -> None:
    path = word(tmp_path / "a.docx", paragraph(run("Said.") + '<w:r><w:footnoteReference w:id="2"/></w:r>'))
    notes = (
        '<w:footnote w:id="-1"><w:p/></w:footnote>'
        f'<w:footnote w:id="2">{paragraph(run(" By Ada."))}</w:footnote>'
    )
    assert read_document(with_footnotes(path, notes)).text == "Said.[^1]\n\n[^1]: By Ada."


def test_notes_that_refer_to_themselves_end(tmp_path: Path) -> None:
    mark = '<w:r><w:footnoteReference w:id="2"/></w:r>'
    path = word(tmp_path / "a.docx", paragraph(run("Said.") + mark))
    note = f'<w:footnote w:id="2">{paragraph(run("See") + mark)}</w:footnote>'
    assert read_document(with_footnotes(path, note)).text == "Said.[^1]\n\n[^1]: See"


def test_many_notes_take_time_in_proportion(tmp_path: Path) -> None:
    marks = "".join(paragraph(f'<w:r><w:footnoteReference w:id="{n}"/></w:r>') for n in range(3_000))
    notes = (f'<w:footnote w:id="{n}">{paragraph(run(f"Note {n}."))}</w:footnote>' for n in range(3_000))
    path = with_footnotes(word(tmp_path / "a.docx", marks), "".join(notes))
    start = time.perf_counter()
    text = read_document(path).text
    assert time.perf_counter() - start < 10
    assert "\n\n[^3000]: Note 2999." in text


def test_boxes_within_boxes_are_read_once(tmp_path: Path) -> None:
    markup = run("innermost")
    for depth in range(40):
        box = f"<w:txbxContent><w:p>{markup}</w:p></w:txbxContent>"
        choice = f"<mc:Choice><w:drawing>{box}</w:drawing></mc:Choice>"
        fallback = "<mc:Fallback><w:pict><w:txbxContent/></w:pict></mc:Fallback>"
        shape = f"<mc:AlternateContent>{choice}{fallback}</mc:AlternateContent>" if depth == 3 else ""
        markup = f"<w:r>{shape or f'<w:drawing>{box}</w:drawing>'}</w:r>"
    assert read(tmp_path, f"<w:p>{run('outside')}{markup}</w:p>") == "outside\n\ninnermost"


def test_a_merged_cell_that_stands_in_many_rows_has_limits(tmp_path: Path) -> None:
    def row(cell: str, merge: str) -> str:
        merged = f"<w:tc><w:tcPr><w:vMerge{merge}/></w:tcPr>{paragraph(run(cell))}</w:tc>"
        return f"<w:tr>{merged}<w:tc>{paragraph(run('x'))}</w:tc></w:tr>"

    rows = row("long " * 4_000, ' w:val="restart"') + row("", "") * 300
    path = word(tmp_path / "a.docx", f"<w:tbl>{rows}</w:tbl>")
    with pytest.raises(ReadError, match="unpacks to more than 4,000,000 characters"):
        read_document(path, ReadLimits(max_unpacked_bytes=4_000_000))


def test_contents_comments_and_running_heads_are_left_out(tmp_path: Path) -> None:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Running head"
    document.sections[0].footer.paragraphs[0].text = "Running foot"
    document.styles.add_style("toc 1", docx.enum.style.WD_STYLE_TYPE.PARAGRAPH)
    document.add_paragraph("Kinds ... 3", style="toc 1")
    said = document.add_paragraph("Text.")
    document.add_comment(said.runs, text="A remark.", author="Ada")
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx").text == "Text."


NUMBERED = """<w:abstractNum w:abstractNumId="90">
<w:lvl w:ilvl="0"><w:start w:val="2"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1"/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2"/></w:lvl>
<w:lvl w:ilvl="2"><w:start w:val="3"/><w:numFmt w:val="lowerRoman"/><w:lvlText w:val="(%3)"/></w:lvl>
</w:abstractNum>"""


def test_numbers_are_those_that_word_shows(tmp_path: Path) -> None:
    document = docx.Document()
    root = document.part.numbering_part.element
    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    declared = docx.oxml.parse_xml(
        f'<w:numbering xmlns:w="{w}">{NUMBERED}<w:num w:numId="91"><w:abstractNumId w:val="90"/></w:num>'
        "</w:numbering>"
    )
    root.insert(0, declared[0])
    root.append(declared[-1])

    def add(text: str, level: int, style: str | None = None) -> None:
        properties = document.add_paragraph(text, style=style)._p.get_or_add_pPr()
        numbers = properties.get_or_add_numPr()
        numbers.get_or_add_ilvl().val = level
        numbers.get_or_add_numId().val = 91

    add("Scope", 0, "Heading 1")
    add("Boats", 1, "Heading 2")
    add("Yawls", 1, "Heading 2")
    add("small ones", 2)
    add("large ones", 2)
    add("Crew", 0, "Heading 1")
    add("Pay", 1, "Heading 2")
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx").text.split("\n\n") == [
        "# 2 Scope",
        "## 2.1 Boats",
        "## 2.2 Yawls",
        "(iii) small ones\n(iv) large ones",
        "# 3 Crew",
        "## 3.1 Pay",
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"", "is damaged or not a Word document"),
        (b"PK\x03\x04 broken", "is damaged or not a Word document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "is encrypted, or in a format of before 2007"),
    ],
)
def test_what_is_no_document_is_named(tmp_path: Path, damage: bytes, message: str) -> None:
    (tmp_path / "a.docx").write_bytes(damage)
    with pytest.raises(ReadError, match=message):
        read_document(tmp_path / "a.docx")


def test_a_workbook_under_another_name_is_named(tmp_path: Path) -> None:
    from office_files import workbook

    workbook(tmp_path / "a.xlsx", {"A": [["x"]]}).rename(tmp_path / "a.docx")
    with pytest.raises(ReadError, match=r"a\.docx: is not a Word document"):
        read_document(tmp_path / "a.docx")
