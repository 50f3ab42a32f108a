"""What is filled in upon a page: fields of forms, and texts typed on it. They are no part of its own text."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pypdfium2 import PdfPage

__all__ = ["page_fields"]

_MOST = 10_000  # annotations of a page
_PASSWORD = 1 << 13  # the flag of a field that hides what is typed
_CONTROLS = re.compile("[\\s\x00-\x1f\x7f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]+")


def page_fields(page: PdfPage) -> list[str]:
    """A line for each field with a value, `name: value`, and for each text that was typed upon the page.

    A field is called by what its form shows for it, if that is told, else by its name. Boxes that are not
    ticked, passwords and comments are left out.
    """
    import pypdfium2.raw as pdfium

    lines: list[str] = []
    for index in range(min(pdfium.FPDFPage_GetAnnotCount(page.raw), _MOST)):
        annotation = pdfium.FPDFPage_GetAnnot(page.raw, index)
        if not annotation:
            continue
        try:
            lines += _lines(page, annotation)
        finally:
            pdfium.FPDFPage_CloseAnnot(annotation)
    return list(dict.fromkeys(lines))  # one field may stand in several places


def _lines(page: PdfPage, annotation: Any) -> Iterator[str]:
    import pypdfium2.raw as pdfium

    kind = pdfium.FPDFAnnot_GetSubtype(annotation)
    unseen = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
    if pdfium.FPDFAnnot_GetFlags(annotation) & unseen:
        return
    if kind == pdfium.FPDF_ANNOT_FREETEXT:
        text = _string(lambda *out: pdfium.FPDFAnnot_GetStringValue(annotation, b"Contents", *out))
        if text:
            yield text
    if kind != pdfium.FPDF_ANNOT_WIDGET or page.formenv is None:
        return
    form = page.formenv.raw
    field = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    if pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation) & _PASSWORD:
        return
    value = ""
    if field in (pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON):
        if pdfium.FPDFAnnot_IsChecked(form, annotation):
            value = _string(lambda *out: pdfium.FPDFAnnot_GetFormFieldExportValue(form, annotation, *out))
    elif field in (
        pdfium.FPDF_FORMFIELD_TEXTFIELD,
        pdfium.FPDF_FORMFIELD_COMBOBOX,
        pdfium.FPDF_FORMFIELD_LISTBOX,
    ):
        value = _string(lambda *out: pdfium.FPDFAnnot_GetFormFieldValue(form, annotation, *out))
    if value:
        name = _string(lambda *out: pdfium.FPDFAnnot_GetFormFieldAlternateName(form, annotation, *out))
        name = name or _string(lambda *out: pdfium.FPDFAnnot_GetFormFieldName(form, annotation, *out))
        yield f"{name}: {value}" if name else value


def _string(function: Callable[[Any, int], int]) -> str:
    """What a function of PDFium writes into a buffer as UTF-16, on one line."""
    import pypdfium2.raw as pdfium

    size = function(None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    function(ctypes.cast(buffer, ctypes.POINTER(pdfium.FPDF_WCHAR)), size)
    return _CONTROLS.sub(" ", buffer.raw[: size - 2].decode("utf-16-le", "replace")).strip()
