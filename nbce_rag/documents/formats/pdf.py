"""PDF, page by page."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from ...errors import ReadError
from ...noncharacters import strip_marks
from ..document import Document, clean_title
from ..limits import ReadLimits

__all__ = ["DOCUMENTS"]


def _read_pdf(path: Path, data: bytes, limits: ReadLimits) -> Document:
    from pypdf import PasswordType, PdfReader
    from pypdf.errors import DependencyError

    # What is wrong with a file is said once, in the error; pypdf would also log each attempt to mend it.
    logging.getLogger("pypdf").setLevel(logging.ERROR)

    try:
        pdf = PdfReader(io.BytesIO(data))
        # Many files are encrypted with an empty password only to forbid printing.
        if pdf.is_encrypted and pdf.decrypt("") == PasswordType.NOT_DECRYPTED:
            raise ReadError(f"{path}: is encrypted; remove its password, with qpdf --decrypt for example.")
        pages = [strip_marks(page.extract_text()) for page in pdf.pages]
        title = pdf.metadata.title if pdf.metadata else None
    except ReadError:
        raise
    except DependencyError as error:
        raise ReadError(f"{path}: is encrypted, and {error}; pip install cryptography.") from error
    except Exception as error:  # damaged files make pypdf raise nearly every kind
        raise ReadError(
            f"{path}: is not a PDF that can be read ({type(error).__name__}: {error})."
        ) from error
    if not "".join(pages).strip():
        raise ReadError(
            f"{path}: holds no text. Its pages are images: run text recognition on it first, with ocrmypdf "
            "for example."
        )
    starts = [0]
    for page_text in pages:
        starts.append(starts[-1] + len(page_text) + 1)
    return Document("\f".join(pages), clean_title(title), tuple(starts[:-1]))


DOCUMENTS = {".pdf": _read_pdf}
