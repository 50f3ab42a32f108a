"""Tables of values, e-mails, notebooks, markup, source code, and text under any name."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
import tracemalloc
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.documents.file_types import is_text
from nbce_rag.documents.folders import find_files, read_files
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import ReadError
from nbce_rag.noncharacters import strip_marks


def read(
    path: Path, content: str | bytes, **options: Any
) -> tuple[list[str], list[dict[str, Any]], list[str]]:
    """Texts and metadata of passages, and what went wrong."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    errors: list[ReadError] = []
    passages = [p for _, many in read_files([path], on_error=errors.append, **options) for p in many]
    return [p.text for p in passages], [dict(p.metadata) for p in passages], [str(error) for error in errors]


class TestCsv:
    def test_a_row_is_a_passage_with_the_names_of_its_columns(self, tmp_path: Path) -> None:
        texts, metadata, errors = read(
            tmp_path / "a.csv",
            'Boat,Length,Note\r\nYawl,48,"two, or ""more""\r\nmasts"\r\n\r\nKetch,,\r\nx,1,2,3\r\n',
        )
        assert texts == [
            'Boat: Yawl\nLength: 48\nNote: two, or "more"\r\nmasts',
            "Boat: Ketch",
            "Boat: x\nLength: 1\nNote: 2\n3",
        ]
        assert metadata == [{"row": 2}, {"row": 4}, {"row": 5}]
        assert errors == []

    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_any_delimiter(self, tmp_path: Path, delimiter: str) -> None:
        rows = [["name", "price, net"], ["a; b", "1,5"], ["c | d", "2,5"], ["e\tf", "x"]]
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter).writerows(rows)
        for name in ("a.csv", *(["a.tsv"] if delimiter == "\t" else [])):
            texts, _, _ = read(tmp_path / name, text.getvalue())
            assert texts[0] == "name: a; b\nprice, net: 1,5"
            assert len(texts) == 3

    @pytest.mark.parametrize("row", [";,", ",\x85;,"])
    def test_signs_within_cells_are_no_delimiter(self, tmp_path: Path, row: str) -> None:
        content = "a;b\n" + f"{row}\n" * 4
        assert read(tmp_path / "a.csv", content)[0] == ["b: ," if row == ";," else "a: ,\nb: ,"] * 4

    def test_the_line_by_which_excel_says_it(self, tmp_path: Path) -> None:
        assert read(tmp_path / "a.csv", "sep=;\r\na;b\r\n1,2;3,4\r\n")[0] == ["a: 1,2\nb: 3,4"]
        assert read(tmp_path / "a.csv", "sep=\t\r\na\tb\r\n1,2\t3,4\r\n")[0] == ["a: 1,2\nb: 3,4"]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
    def test_encodings(self, tmp_path: Path, encoding: str) -> None:
        texts, _, errors = read(tmp_path / "a.csv", "stadt,größe\nKöln,€ 5\n".encode(encoding))
        assert texts == ["stadt: Köln\ngröße: € 5"]
        assert [error.split(": ")[1] for error in errors] == (
            ["is not UTF-8, and is read as Windows-1252; save it as UTF-8."] if encoding == "cp1252" else []
        )

    @pytest.mark.parametrize(
        ("encoding", "text"),
        [
            ("cp1251", "имя;город\nАнна;Москва\nИван;Тверь\n"),
            ("cp1253", "όνομα;πόλη\nΆννα;Αθήνα\n"),
            ("cp932", "名前,町\n佐竹,東京\n田中,大阪と京都\n"),
            ("gb18030", "姓名,城市\n王伟,北京\n李娜,上海市\n"),
            ("cp949", "이름,도시\n김철수,서울\n이영희,부산\n"),
            ("cp1252", "namn;stad\nÅsa;Malmö\nBjörn;Västerås\n"),
            ("cp1252", "name,temp\nroom,20°C\nfee,£5\n"),
        ],
    )
    def test_encodings_that_must_be_guessed(self, tmp_path: Path, encoding: str, text: str) -> None:
        texts, _, errors = read(tmp_path / "a.csv", text.encode(encoding))
        head, *rows = (re.split("[,;]", line) for line in text.splitlines())
        assert texts == ["\n".join(f"{a}: {b}" for a, b in zip(head, row, strict=True)) for row in rows]
        assert f"is read as {encoding.replace('cp125', 'Windows-125')};" in errors[0]

    def test_a_row_of_many_cells_is_split_and_knows_what_it_is_of(self, tmp_path: Path) -> None:
        head = ",".join(f"column{n}" for n in range(2_000))
        path = tmp_path / "a.csv"
        path.write_text(f"{head}\n{','.join(['Yawl', *map(str, range(1_999))])}\n")
        ((_, passages),) = read_files([path])
        assert len(passages) > 10
        assert {p.title for p in passages} == {"Yawl"}
        assert {p.metadata["row"] for p in passages} == {2}

    def test_a_quote_that_never_ends_costs_the_rest_and_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nbce_rag.documents.formats.csv._LONGEST_LINE", 200_000)
        limit = csv.field_size_limit(200_000)
        try:
            texts, _, errors = read(tmp_path / "a.csv", 'a,b\n1,2\n"3,4\n' + "5,6\n" * 100_000)
        finally:
            csv.field_size_limit(limit)
        assert texts == ["a: 1\nb: 2"]
        assert "a.csv, after row 1: cannot be read on (field larger than" in errors[0]

    def test_a_quote_that_takes_in_the_rest_is_named(self, tmp_path: Path) -> None:
        texts, _, errors = read(tmp_path / "a.csv", 'a,b\n1,5" pipe\n2,"two\nlines"\n3,"x\n4,y\n')
        assert texts == ['a: 1\nb: 5" pipe', "a: 2\nb: two\nlines", "a: 3\nb: x\n4,y"]
        assert errors == [
            f"{tmp_path}/a.csv, row 4: holds a quote that never ends, and with it all rows below."
        ]
        assert read(tmp_path / "a.csv", 'a,b\n1,"two\nlines"\n')[2] == []

    @pytest.mark.parametrize(
        ("content", "first", "row"),
        [
            ("1,Ada,48.5\n2,Bob,50\n", "1\nAda\n48.5", 1),  # no head
            ("Ada;12,50\nBob;\nCyd;3,00\n", "Ada\n12,50", 1),
            ("town,2019,2020\nKiel,5,6\n", "town: Kiel\n2019: 5\n2020: 6", 2),  # years are names
            ("0,1,2\n7,8,9\n", "0: 7\n1: 8\n2: 9", 2),
            ("name,12\nAda,x\n", "name: Ada\n12: x", 2),
            ("Fleet\nof 2024\n\nboat,length\nyawl,48\n", "Fleet", 1),  # rows above the head
            ("Fleet,,\nboat,length\nyawl,48\n", "Fleet", 1),
            ("boat\nyawl\nketch\n", "boat: yawl", 2),  # one column
        ],
    )
    def test_which_row_names_the_columns(self, tmp_path: Path, content: str, first: str, row: int) -> None:
        texts, metadata, _ = read(tmp_path / "a.csv", content)
        assert (texts[0], metadata[0]) == (first, {"row": row})
        if first == "Fleet":
            assert texts[-1] == "boat: yawl\nlength: 48"

    def test_one_damaged_byte_costs_its_character(self, tmp_path: Path) -> None:
        content = "name,stadt\nZoë,Köln\nJörg,München\n".encode() + b"Bad\xff,x\n"
        texts, _, errors = read(tmp_path / "a.csv", content)
        assert texts == ["name: Zoë\nstadt: Köln", "name: Jörg\nstadt: München", "name: Bad\ufffd\nstadt: x"]
        assert errors == [f"{tmp_path}/a.csv: holds bytes that are not UTF-8; save it as UTF-8."]

    def test_what_is_no_text_is_named(self, tmp_path: Path) -> None:
        texts, _, errors = read(tmp_path / "a.csv", b"PK\x03\x04\x14\x00\x00\xff\xfe\x80" * 9)
        assert texts == []
        assert "a.csv: is not text" in errors[0]

    @pytest.mark.parametrize("content", ["", "\n\n", ",,\n,\n"])
    def test_an_empty_table_is_named(self, tmp_path: Path, content: str) -> None:
        assert "holds no text" in read(tmp_path / "a.csv", content)[2][0]

    def test_a_table_of_one_row_is_text(self, tmp_path: Path) -> None:
        assert read(tmp_path / "a.csv", "a,b\n")[0] == ["a\nb"]

    def test_long_files_take_memory_for_their_passages_only(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        with path.open("w") as file:
            file.write("a,b\n")
            file.writelines(f"{n},{'x' * 900}\n" for n in range(3_000))
        tracemalloc.start()
        count = sum(len(many) for _, many in read_files([path], count_tokens=lambda text: 1))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 3_000
        assert peak < 3.5 * path.stat().st_size

    @given(
        st.lists(st.lists(st.text(), min_size=2, max_size=3), min_size=1, max_size=5),
        st.sampled_from([",", ";", "\t", "|"]),
    )
    def test_every_cell_is_read_as_it_was_written(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], delimiter: str
    ) -> None:
        text = io.StringIO()
        head = [["first", "second", "third"]] * 2
        csv.writer(text, delimiter=delimiter).writerows([*head, *rows])
        content = text.getvalue().encode("utf-8", "replace").decode()
        path = tmp_path_factory.mktemp("csv") / "a.csv"
        path.write_text(content, newline="")
        with path.open(newline="") as file:
            again = list(csv.reader(file, delimiter=delimiter))[2:]
        expected = []
        for row in again:
            cells = [strip_marks(cell).replace("\0", "").strip() for cell in row]
            lines = [f"{name}: {cell}" for name, cell in zip(*head[:1], cells, strict=False) if cell]
            expected += ["\n".join(lines)] if lines else []
        passages = [p.text for _, many in read_files([path], count_tokens=lambda text: 1) for p in many]
        assert passages[1:] == expected


class TestMails:
    def make(self, **bodies: str) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = "The ferry – café"
        mail["From"] = "Ada Venn <ada@example.org>"
        mail["To"] = "bob@example.org"
        mail["Date"] = "Wed, 01 May 2024 09:00:00 +0200"
        if "plain" in bodies:
            mail.set_content(bodies["plain"])
        if "html" in bodies:
            (mail.add_alternative if "plain" in bodies else mail.set_content)(bodies["html"], subtype="html")
        return mail

    def test_the_plain_body_comes_first_and_attachments_are_named(self, tmp_path: Path) -> None:
        mail = self.make(plain="It leaves at nine.\n\nAda", html="<p>no</p>")
        mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="plan.pdf")
        texts, metadata, errors = read(tmp_path / "a.eml", mail.as_bytes())
        assert texts == [
            "Subject: The ferry – café\nFrom: Ada Venn <ada@example.org>\nTo: bob@example.org\n"
            "Date: Wed, 01 May 2024 09:00:00 +0200\n\nIt leaves at nine.\n\nAda\n\nAttachments: plan.pdf"
        ]
        assert metadata == [
            {
                "from": "Ada Venn <ada@example.org>",
                "date": "2024-05-01T09:00:00+02:00",
                "subject": "The ferry – café",
            }
        ]
        assert errors == [f"{tmp_path}/a.eml: attachments are not read: plan.pdf."]
        assert read_document(tmp_path / "a.eml").title == "The ferry – café"

    def test_the_html_body_is_read_where_there_is_no_other(self, tmp_path: Path) -> None:
        texts, _, _ = read(
            tmp_path / "a.eml", self.make(html="<p>It <b>leaves</b> – at nine.</p>").as_bytes()
        )
        assert "leaves" in texts[0]
        assert "at nine." in texts[0]
        assert "<p>" not in texts[0]

    @pytest.mark.parametrize(
        "content",
        [
            b"From: a\nSubject: =?utf-8?b?broken\nContent-Type: text/plain; charset=no-such\n\ncaf\xe9 opens",
            b'\n\nSubject: x\nDate: never\nFrom: "a <b\n\nhello opens',
            b"Subject: x\nContent-Type: multipart/mixed; boundary=B\n\n--B\n\nopens\n",
        ],
    )
    def test_malformed_ones_are_read(self, tmp_path: Path, content: bytes) -> None:
        texts, _, _ = read(tmp_path / "a.eml", content)
        assert "opens" in texts[0]

    def test_all_texts_and_forwarded_mails_are_read_and_the_rest_is_named(self, tmp_path: Path) -> None:
        parts = (
            "Content-Type: text/plain\n\nBefore the picture.",
            "Content-Type: image/png; name=p.png\nContent-Disposition: inline; filename=p.png\n\nx",
            "Content-Type: text/plain\n\nAfter the picture.",
            "Content-Type: application/pdf\nContent-Disposition: inline; filename=plan.pdf\n\nx",
            "Content-Type: message/rfc822\n\nFrom: b@x\nSubject: Older\n\nForwarded.",
            "Content-Type: application/ms-tnef; name=winmail.dat\n\nx",
            "Content-Type: audio/mpeg\n\nx",
        )
        body = "".join(f"\n--B\n{part}" for part in parts)
        mail = f"From: a@x\nCc: c@x\nContent-Type: multipart/mixed; boundary=B\n{body}\n--B--\n"
        texts, _, errors = read(tmp_path / "a.eml", mail)
        assert texts == [
            "From: a@x\nCc: c@x\n\nBefore the picture.\n\nAfter the picture.\n\n"
            "Subject: Older\nFrom: b@x\n\nForwarded.\n\nAttachments: plan.pdf, winmail.dat, audio/mpeg"
        ]
        assert errors == [f"{tmp_path}/a.eml: attachments are not read: plan.pdf, winmail.dat, audio/mpeg."]

    def test_html_is_read_where_the_plain_body_is_blank(self, tmp_path: Path) -> None:
        mail = self.make(plain=" \n", html="<p>It leaves at nine.")
        assert "It leaves at nine." in read(tmp_path / "a.eml", mail.as_bytes())[0][0]

    @pytest.mark.parametrize(
        ("declared", "data", "text"),
        [
            ("; charset=gb2312", "朱镕基楼".encode("gbk"), "朱镕基楼"),
            ("; charset=iso-8859-1", b"5 \x80", "5 €"),
            ("; charset=iso-8859-1", "café".encode(), "café"),
            ("; charset=gb2312", "港".encode("gbk") + b"\xff", "港\ufffd"),
            ("", b"caf\xe9", "café"),
            ("; charset=unknown-8bit", "café".encode(), "café"),
        ],
    )
    def test_encodings_as_programs_of_mail_mean_them(
        self, tmp_path: Path, declared: str, data: bytes, text: str
    ) -> None:
        head = f"Subject: x\nContent-Type: text/plain{declared}\n\n".encode()
        assert read(tmp_path / "a.eml", head + data)[0] == [f"Subject: x\n\n{text}"]

    def test_what_is_no_mail_and_what_nests_without_end_is_named(self, tmp_path: Path) -> None:
        assert "is not an e-mail" in read(tmp_path / "a.eml", "just text")[2][0]
        nested = "".join(
            f"Subject: x\nContent-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(5_000)
        )
        start = time.perf_counter()
        texts, _, errors = read(tmp_path / "b.eml", nested)
        assert texts or errors
        assert time.perf_counter() - start < 20


def notebook(*cells: dict[str, Any], **more: Any) -> str:
    return json.dumps(
        {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, **more}
    )


class TestNotebooks:
    def test_cells_with_what_they_printed(self, tmp_path: Path) -> None:
        picture = {
            "output_type": "display_data",
            "data": {"image/png": "iVBOR" * 99, "text/plain": "<Figure>"},
        }
        cells = (
            {
                "cell_type": "markdown",
                "source": ["# Boats\n", "\n", f"Text. ![](data:image/png;base64,{'A' * 200})"],
            },
            {
                "cell_type": "code",
                "source": "print(1)",
                "outputs": [
                    {"output_type": "stream", "text": ["1\n", "\x1b[31mred\x1b[0m\n"]},
                    picture,
                    {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["..."]},
                ],
            },
            {"cell_type": "code", "source": "", "outputs": None},
        )
        path = tmp_path / "a.ipynb"
        _, metadata, errors = read(path, notebook(*cells), max_tokens=20, overlap=0)
        document = read_document(path)
        assert document.title == "Boats"
        assert document.text == (
            "# Boats\n\nText. ![](data:image/png)\n\n```python\nprint(1)\n```\n\n```\n1\nred\n```\n\n"
            "```\n<Figure>\n```\n\n```\nValueError: no\n```"
        )
        assert errors == []
        assert metadata[0] == {"cell": 1}
        assert metadata[-1] == {"cell": 2}

    def test_old_ones_and_fences_within_fences(self, tmp_path: Path) -> None:
        cell = {
            "cell_type": "code",
            "input": 's = """```"""',
            "outputs": [{"output_type": "pyout", "text": "x"}],
        }
        (tmp_path / "a.ipynb").write_text(json.dumps({"worksheets": [{"cells": [cell]}]}))
        assert read_document(tmp_path / "a.ipynb").text == '````\ns = """```"""\n````\n\n```\nx\n```'

    def test_lines_that_are_written_over_and_results_that_are_markup(self, tmp_path: Path) -> None:
        outputs = [
            {"output_type": "stream", "text": "10%\r50%\r100%\r\ndone\r\n"},
            {"output_type": "display_data", "data": {"text/markdown": ["**bold**"], "image/png": "iVBOR"}},
            {"output_type": "display_data", "data": {"image/png": "iVBOR"}},
        ]
        (tmp_path / "a.ipynb").write_text(notebook({"cell_type": "code", "source": "", "outputs": outputs}))
        assert read_document(tmp_path / "a.ipynb").text == "```\n100%\r\ndone\r\n```\n\n```\n**bold**\n```"

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            "{}",
            '{"cells": 3}',
            '{"cells": [3]}',
            '{"worksheets": {"a": 1}}',
            '{"worksheets": [3]}',
            "[" * 100_000,
        ],
    )
    def test_what_is_none_is_named(self, tmp_path: Path, content: str) -> None:
        texts, _, errors = read(tmp_path / "a.ipynb", content)
        assert texts == []
        assert "a.ipynb: " in errors[0]


class TestText:
    @pytest.mark.parametrize(
        ("name", "content", "encoding"),
        [
            ("a.py", "#!/usr/bin/python\n# -*- coding: latin-1 -*-\n# Grüße für 5 €\n", "cp1252"),
            ("a.rb", "# encoding: koi8-r\n# привет\n", "koi8-r"),
            ("a.c", "/* vim: set fileencoding=gbk : */ /* 中文注释 */\n", "gb18030"),
            ("a.xml", '<?xml version="1.0" encoding="iso-8859-1"?><a>Zürich</a>', "cp1252"),
            ("a.css", '@charset "windows-1252"; /* größe */', "cp1252"),
            ("a.tex", "\\documentclass{x}\n\\usepackage[latin1]{inputenc}\nMünchen", "cp1252"),
        ],
    )
    def test_encodings_that_a_text_declares(
        self, tmp_path: Path, name: str, content: str, encoding: str
    ) -> None:
        (tmp_path / name).write_bytes(content.encode(encoding))
        assert read_document(tmp_path / name).text == content
        (tmp_path / name).write_text(content)  # what is UTF-8 is, whatever it says
        assert read_document(tmp_path / name).text == content

    @pytest.mark.parametrize(
        "data",
        [
            b"caf\xe9",
            b"# coding: no-such\ncaf\xe9",
            b"x\n\n# coding: latin-1\ncaf\xe9",
            b"# coding: utf-16\ncaf\xe9  ",
        ],
    )
    def test_what_declares_nothing_is_named(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a.py").write_bytes(data)
        with pytest.raises(ReadError, match="is not UTF-8 at byte"):
            read_document(tmp_path / "a.py")

    @pytest.mark.parametrize(
        ("name", "content", "title"),
        [
            ("a.adoc", "= The plan\n\ntext", "The plan"),
            ("a.org", "#+TITLE: The plan\n* One", "The plan"),
            ("a.org", "* The plan\ntext", "The plan"),
            ("a.tex", "\\documentclass{x}\n\\title{The plan}\n", "The plan"),
            ("a.markdown", "# The plan", "The plan"),
            ("a.mdx", "import x\n\n# The plan", "The plan"),
            ("a.log", "nothing", None),
            ("README", "nothing", None),
            ("Makefile", "all:\n\techo é\n", None),
            ("a.py", "def f():\n    return 1\n", None),
            ("a.unheard-of", "\x1b[31mred\x1b[0m 你好\n", None),
        ],
    )
    def test_text_is_read_as_it_stands(
        self, tmp_path: Path, name: str, content: str, title: str | None
    ) -> None:
        (tmp_path / name).write_text(content)
        document = read_document(tmp_path / name)
        assert (document.text, document.title) == (content, title)

    def test_folders_give_what_is_text_and_name_the_rest(self, tmp_path: Path) -> None:
        for name in (
            "README",
            "a.py",
            "b.unheard-of",
            "picture.svg",
            "key.pem",
            "a.txt~",
            "~$a.docx",
            ".hidden.py",
        ):
            (tmp_path / name).write_text("some text")
        (tmp_path / "program").write_bytes(b"\x7fELF\0\0")
        (tmp_path / "empty").write_bytes(b"")
        (tmp_path / "legacy.c").write_bytes(b"// caf\xe9, a comment of some length\n")
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / "pipe")
        others: list[str] = []
        files = list(find_files([tmp_path], lambda path, reason: None, lambda path: others.append(path.name)))
        assert [path.name for path in files] == ["README", "a.py", "b.unheard-of", "legacy.c"]
        pipe = ["pipe"] if hasattr(os, "mkfifo") else []
        assert sorted(others) == sorted(["a.txt~", "empty", "key.pem", "picture.svg", "program", *pipe])
        with pytest.raises(ReadError, match=r"legacy\.c: is not UTF-8 at byte 6"):
            read_document(tmp_path / "legacy.c")

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (b"", False),
            (b"text", True),
            ("你好".encode() * 4_000, True),  # a character is cut in two at the end of what is looked at
            ("你好".encode("utf-16"), True),
            (b"\xff\xfe\0\0", False),
            ("Привет, мир, ".encode("cp1251"), False),
            ("Grüße aus Köln".encode("latin-1"), True),
            (b"a\0b", False),
            (bytes(range(1, 256)), False),
        ],
    )
    def test_what_looks_like_text(self, data: bytes, expected: bool) -> None:
        assert is_text(data) is expected

    @given(st.binary(min_size=200, max_size=400))
    def test_random_bytes_are_no_text(self, data: bytes) -> None:
        if is_text(data):
            assert b"\0" not in data


def test_formats_whose_packages_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbce_rag.documents import readers
    from nbce_rag.errors import MissingDependencyError

    monkeypatch.setattr(readers, "find_spec", lambda name: None)
    (tmp_path / "a.docx").write_bytes(b"PK")
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(
        MissingDependencyError, match=r"a\.docx: reading \.docx needs .*nbce-rag\[documents\]"
    ):
        read_document(tmp_path / "a.docx")
    others: list[Path] = []
    assert [p.name for p in find_files([tmp_path], lambda *_: None, others.append)] == ["b.txt"]
    assert [p.name for p in others] == ["a.docx"]
    assert {".docx", ".pptx", ".xlsx", ".odt", ".epub"} <= set(readers.lacking_packages())
    errors: list[ReadError] = []
    assert list(read_files([tmp_path / "a.docx"], on_error=errors.append)) == []
    assert "nbce-rag[documents]" in str(errors[0])
