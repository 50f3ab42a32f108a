"""Plain text, Markdown and reStructuredText, as they stand but for the data of pictures within them."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import ReadError
from ...noncharacters import strip_marks
from ..charsets import decode_declared
from ..data_uris import without_data
from ..document import Document, clean_title, decode_text
from ..limits import ReadLimits

__all__ = ["DOCUMENTS", "text_of"]

_DECLARED_WITHIN = 4096
# The line of Python, Emacs and Vim; XML; CSS; LaTeX.
_DECLARATION = re.compile(
    rb"""\A(?:[^\n]*\n)?[^\n]*coding[:=][ \t]*([\w.-]+) | \A\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)
    | \A@charset\s"([\w.-]+)" | \\usepackage\[([\w-]+)\]\{inputenc\}""",
    re.VERBOSE,
)


def text_of(path: Path, data: bytes) -> str:
    """A text as it stands, but for the data of pictures: in UTF-8 or UTF-16, or as it says of itself.

    Raises:
        ReadError: As in `decode_text`.
    """
    text: str | None
    try:
        text = decode_text(path, data)
    except ReadError:
        declaration = _DECLARATION.search(data, 0, _DECLARED_WITHIN)
        name = next(filter(None, declaration.groups())).decode() if declaration else ""
        # What can be read byte by byte is no UTF-16.
        text = None if name.lower().startswith("utf") else decode_declared(data, name)
        if not text or "\0" in text:
            raise
    return without_data(strip_marks(text))


def _read_plain(path: Path, data: bytes, limits: ReadLimits) -> Document:
    return Document(text_of(path, data))


def _read_markdown(path: Path, data: bytes, limits: ReadLimits) -> Document:
    text = text_of(path, data)
    return Document(text, clean_title(_markdown_title(text.splitlines())))


def _markdown_title(lines: list[str]) -> str | None:
    """The title in the front matter, or the first heading that is not in a code block."""
    body = 0
    if lines and lines[0].rstrip() == "---" and "---" in (tail := [line.rstrip() for line in lines[1:]]):
        body = tail.index("---") + 2
        for line in lines[1 : body - 1]:
            if line.startswith("title:"):
                return line.removeprefix("title:").strip().strip("\"'")
    fence, previous = "", ""
    for line in lines[body:]:
        stripped = line.strip()
        if fence:
            fence = "" if stripped.startswith(fence) else fence
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[:3]
        elif heading := re.match(r" {0,3}#{1,6}[ \t]+(?=\S)", line):
            return line[heading.end() :].rstrip().rstrip("#")
        elif previous and previous[0] not in "-+*>|#" and re.fullmatch("={2,}|-{2,}", stripped):
            return previous
        previous = stripped
    return None


def _read_rst(path: Path, data: bytes, limits: ReadLimits) -> Document:
    text = text_of(path, data)
    previous = ""
    for line in map(str.rstrip, text.splitlines()):
        # Section titles are underlined by one repeated punctuation mark, at least as long as they are.
        is_rule = len(line) > 1 and len(set(line)) == 1 and not line[0].isalnum() and not line[0].isspace()
        if is_rule and previous and len(line) >= len(previous):
            return Document(text, clean_title(previous))
        previous = "" if is_rule else line.strip()
    return Document(text)


DOCUMENTS = {".txt": _read_plain, ".md": _read_markdown, ".rst": _read_rst}
