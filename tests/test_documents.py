from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from pdf_maker import make_pdf
from pypdf import PdfReader, PdfWriter
from selectolax.lexbor import SelectolaxError

from nbce_rag.documents.document import Document
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import ReadError


def read(folder: Path, name: str, content: str | bytes) -> Document:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "A.TXT"])
def test_text_formats_are_read_as_they_stand(tmp_path: Path, name: str) -> None:
    assert read(tmp_path, name, "One\r\n\r\nTwo\u2028é\n").text == "One\r\n\r\nTwo\u2028é\n"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.html"])
def test_passage_marks_are_taken_out_of_text_and_title(tmp_path: Path, name: str) -> None:
    markup = (
        "<title>Ti\ufdd0tle</title><p>on\ufdd1e</p>"
        if name == "a.html"
        else "# Ti\ufdd0tle\n\non\ufdd2\ufdd3e"
    )
    document = read(tmp_path, name, markup)
    assert "one" in document.text
    assert not any("\ufdd0" <= c <= "\ufdd3" for c in document.text + (document.title or ""))
    assert document.title == (None if name in ("a.txt", "a.rst") else "Title")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.txt", "a.html"])
def test_unicode_encodings_are_told_apart(tmp_path: Path, name: str, encoding: str) -> None:
    assert read(tmp_path, name, "naïve 你好 👍".encode(encoding)).text == "naïve 你好 👍"


def test_big_endian_utf16_with_a_mark_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "a.txt", b"\xfe\xff" + "é".encode("utf-16-be")).text == "é"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("café".encode("latin-1"), r"a\.txt: is not UTF-8 at byte 3; save it as UTF-8"),
        ("ascii".encode("utf-16-le"), "holds NUL characters"),
        (b"\xff\xfea", "is not UTF-16 at byte"),
        (b"", "holds no text"),
        ("\ufeff \n\u3000".encode(), "holds no text"),
        ("\ufdd0".encode(), "holds no text"),
    ],
)
def test_text_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        read(tmp_path, "a.txt", data)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("intro\n\n## The *first* heading ##\n\n# Second", "The *first* heading"),
        ("Title\n=====\n", "Title"),
        ("Sub title\n---\n", "Sub title"),
        ("```\n# a comment\n```\n# Real", "Real"),
        ("---\ntitle: 'Front'\ndate: 1\n---\n# Body", "Front"),
        ("---\ndate: 1\n---\n# Body", "Body"),
        ("---\n\nNo front matter", None),
        ("#hashtag\n\n- item\n-\n", None),
        ("#\nno heading", None),
        ("| a |\n---\n- item\n---\n", None),
    ],
)
def test_the_first_heading_is_the_title_of_markdown(tmp_path: Path, text: str, title: str | None) -> None:
    assert read(tmp_path, "a.md", text).title == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Title\n=====\n\ntext", "Title"),
        ("=====\nTitle\n=====\n\ntext", "Title"),
        (".. note\n\nTitle here\n~~~~~~~~~~\n", "Title here"),
        ("Too long for its line\n===\n", None),
        ("just text\n", None),
    ],
)
def test_the_first_section_is_the_title_of_restructuredtext(
    tmp_path: Path, text: str, title: str | None
) -> None:
    assert read(tmp_path, "a.rst", text).title == title


HTML = """<!DOCTYPE html><html><head><title> The
 title </title><style>p {color: red}</style></head>
<body><nav><a href="/">Home</a></nav><!-- a comment -->
<h1>Head<b>ing</b></h1><p>One  <i>two</i>
three&nbsp;&amp; four.<br>Next line.</p><div>Five<p>six</p>seven</div>
<script>var x = "<p>no</p>";</script><p hidden>secret</p>
<table><tr><th>Name</th><th>Age</th></tr><tr><td>Ann</td><td>7</td></tr></table>
<ul><li>first</li><li>second</li></ul><pre>  def f():
    pass
</pre><footer>All rights reserved</footer></body></html>"""


def test_html_gives_what_a_reader_sees(tmp_path: Path) -> None:
    document = read(tmp_path, "a.html", HTML)
    assert document.title == "The title"
    assert document.text.split("\n\n") == [
        "Heading",
        "One two three & four.\nNext line.",
        "Five",
        "six",
        "seven",
        "| Name | Age |\n| --- | --- |\n| Ann | 7 |",
        "- first\n- second",
        "```\n  def f():\n    pass\n```",
    ]


def test_html_without_a_title_takes_its_heading_and_not_that_of_a_drawing(tmp_path: Path) -> None:
    markup = "<svg><title>icon</title></svg><h1>Real</h1><p>text</p>"
    assert read(tmp_path, "a.htm", markup).title == "Real"
    assert read(tmp_path, "b.htm", "<p>text</p>").title is None


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("iso-8859-1", "windows-1252"), ("shift_jis", "shift_jis"), ("utf-16", "utf-8"), ("no-such", "utf-8")],
)
def test_html_may_declare_its_encoding_and_be_wrong(tmp_path: Path, declared: str, encoding: str) -> None:
    text = "日本" if encoding in ("shift_jis", "utf-8") else "don’t €"
    markup = f'<meta charset="{declared}"><p>{text}</p>'
    assert read(tmp_path, "a.html", markup.encode(encoding)).text == text


def test_html_in_an_undeclared_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="is not UTF-8"):
        read(tmp_path, "a.html", "<p>café</p>".encode("latin-1"))


def test_html_may_nest_deeper_than_the_stack(tmp_path: Path) -> None:
    assert read(tmp_path, "a.html", "<div>" * 3000 + "deep").text == "deep"


def test_html_without_visible_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="holds no text"):
        read(tmp_path, "a.html", "<title>only</title><script>x</script>")


def test_pdf_gives_text_title_and_pages(tmp_path: Path) -> None:
    document = read(tmp_path, "a.pdf", make_pdf("Page one.", "", "Page three.", title="A report"))
    assert document.title == "A report"
    assert document.text == "Page one.\f\fPage three."
    pages = [document.page(i) for i, character in enumerate(document.text) if character != "\f"]
    assert pages == [1] * len("Page one.") + [3] * len("Page three.")


def test_each_character_of_a_pdf_is_on_its_page(tmp_path: Path) -> None:
    document = read(tmp_path, "a.pdf", make_pdf("One.", "Two.", "Three."))
    pages = [document.page(i) for i in range(len(document.text))]
    # A page takes the form feed that ends it.
    assert pages == [1] * 5 + [2] * 5 + [3] * 6


def test_documents_without_pages_know_no_page() -> None:
    assert Document("text").page(2) is None


def encrypted(password: str) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(make_pdf("Secret words."))))
    # Ciphers that are newer need one more package.
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def test_an_encrypted_pdf_is_named_unless_its_password_is_empty(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"a\.pdf: is encrypted; remove its password"):
        read(tmp_path, "a.pdf", encrypted("user"))
    assert read(tmp_path, "b.pdf", encrypted("")).text == "Secret words."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not a PDF"),
        (b"not a pdf at all", "is not a PDF"),
        (make_pdf("One.")[:200], "is not a PDF"),
        (make_pdf("", ""), "holds no text. Its pages are images"),
    ],
)
def test_a_pdf_that_cannot_be_used_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        read(tmp_path, "a.pdf", data)


@pytest.mark.parametrize(("name", "content"), [("a.doc", "text"), ("a.png", "text"), ("README", "te\0xt")])
def test_other_types_of_file_are_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(ReadError, match=rf"{name}: cannot read files of type .* text and code of any kind"):
        read(tmp_path, name, content)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="does not exist"):
        read_document(tmp_path / "no.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ReadError, match="is not a regular file"):
        read_document(tmp_path / "folder.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ReadError, match="is not a regular file"):
        read_document(tmp_path / "pipe.txt")


def test_html_that_the_parser_rejects_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It takes in nearly everything, so the rejection is made up.
    def reject(*arguments: object) -> None:
        raise SelectolaxError("unexpected [")

    monkeypatch.setattr("selectolax.lexbor.LexborHTMLParser", reject)
    with pytest.raises(ReadError, match=r"a\.html: is not HTML that can be read \(unexpected \["):
        read(tmp_path, "a.html", "<p>text</p>")


def test_a_path_that_is_not_there_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no such file"):
        read_document(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.rst"])
@pytest.mark.parametrize(
    ("before", "data", "after"),
    [
        ("# Dock\n\n![dock](", "data:image/png;base64," + "RCCC/+9x" * 30_000 + "==", ")\n\nThe key hangs."),
        ('<img src="', "data:image/svg+xml,%3Csvg%20" + "x%22" * 99, '"> and on'),
        ("[1]: ", "data:image/gif;charset=x;base64," + ("Q" * 76 + "\n") * 9 + "Q" * 40, "\n\nSome words."),
    ],
)
def test_data_of_pictures_is_no_text(tmp_path: Path, name: str, before: str, data: str, after: str) -> None:
    kind = data.partition(",")[0].partition(";")[0]
    assert read(tmp_path, name, before + data + after).text == before + kind + after


@pytest.mark.parametrize(
    "text",
    [
        "data: one, two",
        "`data:text/plain;base64,SGVsbG8=`",
        "data:" * 99,
        "metadata:x,y",
        f"{{data:t,{'x.y' * 30}}}",
    ],
)
def test_what_only_speaks_of_data_is_text(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, "a.md", text).text == text
