"""E-mails: the head, the text as plain text or else as HTML, the names of what is attached."""

from __future__ import annotations

from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from ...errors import ReadError
from ...noncharacters import strip_marks
from ..archives import readable
from ..data_uris import without_data
from ..document import Document, document_of
from ..html.page import read_markup
from ..limits import ReadLimits
from . import html

__all__ = ["DOCUMENTS", "VERSION"]

VERSION = 1 + html.VERSION  # of bodies in HTML

_KIND = "an e-mail"


def _read_eml(path: Path, data: bytes, limits: ReadLimits) -> Document:
    with readable(path, _KIND):
        message = BytesParser(EmailMessage, policy=policy.default).parsebytes(data.lstrip())
        subject, sender, date = (_head(message, name) for name in ("Subject", "From", "Date"))
        if not (sender or date or subject):
            raise ReadError(f"{path}: is not an e-mail: it has no sender, date or subject.")
        head = [("Subject", subject), ("From", sender), ("To", _head(message, "To")), ("Date", date)]
        lines = "\n".join(f"{name}: {value}" for name, value in head if value)
        body = _body(path, message, limits)
        attached = _attached(message)
    names = f"Attachments: {', '.join(attached)}" if attached else ""
    text = "\n\n".join(filter(None, [lines, body, names]))
    metadata = {"from": sender, "date": _iso(date), "subject": subject}
    gaps = [f"attachments are not read: {', '.join(attached)}."] if attached else []
    return document_of([(text, {name: value for name, value in metadata.items() if value})], subject, gaps)


def _head(message: EmailMessage, name: str) -> str:
    try:
        value = message.get(name)
    except Exception:  # the parser of heads fails at some that are malformed
        value = next((value for key, value in message.raw_items() if key.lower() == name.lower()), None)
    return strip_marks(" ".join(str(value or "").split()))


def _body(path: Path, message: EmailMessage, limits: ReadLimits) -> str:
    """The plain body, or else that of HTML."""
    part: Any = message.get_body(("plain", "html"))
    if part is None:
        return ""
    if part.get_content_type() == "text/html":
        return read_markup(str(path), _content(part), limits).text
    return without_data("\n".join(line.rstrip() for line in _content(part).splitlines()).strip())


def _content(part: Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    try:
        return data.decode(part.get_content_charset("utf-8"))
    except (LookupError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")


def _attached(message: EmailMessage) -> list[str]:
    """Names of attachments; what shows within the body is none."""
    names = []
    for part in message.walk():
        name = part.get_filename()
        if name and part.get_content_disposition() != "inline":
            names.append(strip_marks(" ".join(name.split())))
    return names


def _iso(date: str) -> str:
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError, OverflowError):
        return date


DOCUMENTS = {".eml": _read_eml}
