"""Makes small PDF files for tests, in pure Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def make_pdf(*pages: str, title: str | None = None) -> bytes:
    """A PDF with one line of ASCII text on each page; an empty string makes a page without text."""
    contents = [f"BT /F1 12 Tf 72 720 Td ({page}) Tj ET" if page else "" for page in pages]
    return pdf_of(*contents, info=f"/Title ({title})" if title else "")


def lines_pdf(*pages: Sequence[tuple[float, float, str]], **options: Any) -> bytes:
    """A PDF of lines: left, bottom and text of each, in points."""
    return pdf_of(
        *(
            f"BT /F1 12 Tf {' '.join(f'1 0 0 1 {x} {y} Tm ({text}) Tj' for x, y, text in page)} ET"
            for page in pages
        ),
        **options,
    )


def pdf_of(
    *contents: str | bytes, info: str = "", letters: Mapping[int, str] | None = None, stream: str = ""
) -> bytes:
    """A PDF of pages that are drawn by these operators, in Helvetica.

    Args:
        contents: What draws each page; /F1 is the font.
        info: Entries of its dictionary of information.
        letters: What codes of characters mean, beside those of ASCII, which mean themselves.
        stream: More entries for the dictionaries of the contents.
    """
    kids = " ".join(f"{5 + 2 * i} 0 R" for i in range(len(contents)))
    to_unicode = "/ToUnicode 4 0 R" if letters else ""
    meanings = {code: chr(code) for code in range(32, 127)} | dict(letters or {})
    entries = "\n".join(f"<{code:02x}> <{text.encode('utf-16-be').hex()}>" for code, text in meanings.items())
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def\n"
        "1 begincodespacerange <00> <ff> endcodespacerange\n"
        f"{len(meanings)} beginbfchar\n{entries}\nendbfchar\n"
        "endcmap CMapName currentdict /CMap defineresource pop end end"
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica {to_unicode} >>".encode(),
        f"<< /Length {len(cmap)} >>\nstream\n{cmap}\nendstream".encode(),
    ]
    for i, content in enumerate(contents):
        data = content if isinstance(content, bytes) else content.encode("latin-1")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {6 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(f"<< /Length {len(data)} {stream} >>\nstream\n".encode() + data + b"\nendstream")
    objects.append(f"<< {info} >>".encode("latin-1"))
    data = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = (
        f"trailer\n<< /Size {size} /Root 1 0 R /Info {len(objects)} 0 R >>\nstartxref\n{len(data)}\n%%EOF\n"
    )
    return data + f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()
