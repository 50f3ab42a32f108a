"""E-mails: the head, the texts, plain or else of HTML, forwarded mails, the names of what is attached."""

from __future__ import annotations

from collections.abc import Callable
from email import policy
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.utils import parsedate_to_datetime
from pathlib import Path

from ...errors import ReadError
from ...noncharacters import strip_marks
from ..archives import readable
from ..charsets import decode_declared
from ..data_uris import without_data
from ..document import Document, document_of
from ..html.page import read_markup
from ..limits import Deadline, ReadLimits
from . import html

__all__ = ["DOCUMENTS", "VERSION"]

VERSION = 1 + html.VERSION  # of bodies in HTML

_KIND = "an e-mail"
_UNKNOWN = "windows-1252"  # what mails that declare nothing are written in, if not in UTF-8
_TEXTS = ("text/plain", "text/html")


def _read_eml(path: Path, data: bytes, limits: ReadLimits) -> Document:
    with readable(path, _KIND):
        message = BytesParser(EmailMessage, policy=policy.default).parsebytes(data.lstrip())
        subject, sender, date = (_head(message, name) for name in ("Subject", "From", "Date"))
        if not (sender or date or subject):
            raise ReadError(f"{path}: is not an e-mail: it has no sender, date or subject.")
        mail = _Mail(path, limits)
        text = mail.text(message)
    metadata = {"from": sender, "date": _iso(date), "subject": subject}
    gaps = [f"attachments are not read: {', '.join(mail.attached)}."] if mail.attached else []
    return document_of([(text, {name: value for name, value in metadata.items() if value})], subject, gaps)


class _Mail:
    """Takes a mail apart.

    Attributes:
        attached: Names of what is attached, or its types where it has none. Pictures that show within the
            text are not.
    """

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        self.attached: list[str] = []
        self._path = path
        self._limits = limits
        self._deadline = Deadline(path, limits)

    def text(self, message: Message) -> str:
        """The head of a mail, what it says, and what is attached to it."""
        head = ((name, _head(message, name)) for name in ("Subject", "From", "To", "Cc", "Date"))
        lines = "\n".join(f"{name}: {value}" for name, value in head if value)
        before = len(self.attached)
        body = self._body(message)
        names = self.attached[before:]
        attached = f"Attachments: {', '.join(names)}" if names else ""
        return "\n\n".join(filter(None, [lines, body, attached]))

    def _body(self, part: Message, is_related: bool = False) -> str:
        """The texts of a part; what is no text is noted."""
        self._deadline.check()
        kind = _kind(part)
        if kind == "message/rfc822" and part.is_multipart():
            return "\n\n".join(self.text(inner) for inner in _parts(part))
        if kind == "multipart/alternative":
            return self._alternative(_parts(part))
        if part.is_multipart():
            is_related = kind == "multipart/related"
            return "\n\n".join(filter(None, (self._body(inner, is_related) for inner in _parts(part))))
        if _is_attached(part):
            self.attached.append(_name(part))
        elif kind in _TEXTS:
            return self._content(part, kind)
        elif not (is_related or kind.startswith("image/")):
            self.attached.append(_name(part))
        return ""

    def _alternative(self, parts: list[Message]) -> str:
        """The plainest of several forms that has a text. What is attached to the others is noted."""
        text = ""
        for part in sorted(parts, key=lambda part: _kind(part) != "text/plain"):
            if text:
                self.attached += map(_name, filter(_is_attached, part.walk()))
            elif part.is_multipart() or _kind(part) in _TEXTS:
                text = self._body(part)
        return text

    def _content(self, part: Message, kind: str) -> str:
        text = _decoded(part)
        if kind == "text/html":
            return read_markup(str(self._path), text, self._limits).text
        return without_data("\n".join(line.rstrip() for line in text.splitlines()).strip())


def _parts(part: Message) -> list[Message]:
    payload = part.get_payload()
    return [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []


def _head(message: Message, name: str) -> str:
    try:
        value = message.get(name)
    except Exception:  # the parser of heads fails at some that are malformed
        value = next((value for key, value in message.raw_items() if key.lower() == name.lower()), None)
    return strip_marks(" ".join(str(value or "").split()))


def _kind(part: Message) -> str:
    return _told(part.get_content_type) or "text/plain"


def _name(part: Message) -> str:
    """The name of what is attached, or its type."""
    return strip_marks(" ".join(_told(part.get_filename).split())) or _kind(part)


def _is_attached(part: Message) -> bool:
    return _told(part.get_content_disposition) == "attachment"


def _told(get: Callable[[], str | None]) -> str:
    """What a head says; "" where it is malformed, as in `_head`."""
    try:
        return get() or ""
    except Exception:
        return ""


def _decoded(part: Message) -> str:
    """The text of a part in the encoding that it declares, else in UTF-8, else as well as can be."""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    declared = _told(part.get_content_charset)
    for name, errors in ((declared, "strict"), ("utf-8", "strict"), (declared, "replace")):
        if name and (text := decode_declared(data, name, errors)) is not None:
            return text
    return data.decode(_UNKNOWN, "replace")


def _iso(date: str) -> str:
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError, OverflowError):
        return date


DOCUMENTS = {".eml": _read_eml}
