"""Files that office programs would have made, made by the libraries that write them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

__all__ = ["epub", "repacked", "word", "workbook"]


def word(path: Path, markup: str = "", title: str = "") -> Path:
    """A Word document whose body is this markup; elements of Word without their prefix `w:`."""
    import docx
    from docx.oxml import parse_xml

    document = docx.Document()
    document.core_properties.title = title
    body = document.element.body
    root = parse_xml(
        '<w:body xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
        'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"{markup}</w:body>"
    )
    for element in list(root):
        body.insert(len(body) - 1, element)
    document.save(str(path))
    return path


def workbook(path: Path, sheets: Mapping[str, list[list[Any]]], title: str = "") -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    book.properties.title = title
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def repacked(path: Path, changes: Mapping[str, bytes | None]) -> Path:
    """A zip file with parts that are changed, added, or (None) left out."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts.update({name: data for name, data in changes.items() if data is not None})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            if changes.get(name, b"") is not None:
                archive.writestr(name, data)
    return path


def epub(path: Path, chapters: Mapping[str, str], title: str = "The Log", **more: str) -> Path:
    """An e-book of pages in this order; `more` are other parts, by their names without a suffix."""
    items = "".join(
        f'<item id="c{n}" href="text/{name}" media-type="application/xhtml+xml"/>'
        for n, name in enumerate(chapters)
    )
    refs = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    ncx = more.get("ncx", "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OEBPS/content.opf",
            '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
            f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata><manifest>'
            f'<item id="n" href="toc.ncx" media-type="application/x-dtbncx+xml"/>{items}</manifest>'
            f"<spine>{refs}</spine></package>",
        )
        if ncx:
            archive.writestr("OEBPS/toc.ncx", ncx)
        for name, page in reversed(list(chapters.items())):
            archive.writestr(f"OEBPS/text/{name}", page)
    return path


DATES = [datetime(2024, 5, 1), date(2024, 5, 2), datetime(2024, 5, 1, 13, 30), time(9, 15)]
