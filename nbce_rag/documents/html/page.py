"""Markup into documents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import ReadError
from ...noncharacters import strip_marks
from ..data_uris import without_data
from ..document import Document, clean_title
from ..limits import ReadLimits
from .blocks import block_text
from .walk import page_blocks

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

__all__ = ["read_markup"]

_CHUNK = 1 << 12
_HARMLESS = 1 << 12  # characters
_DEEPEST = 1000
_MOST_ATTRIBUTES = 500
# Elements that need not be ended, or that the parser itself keeps from nesting, are not counted.
_UNCOUNTED = (
    "(?:area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr|p|li|dt|dd|td|th|tr|thead|tbody|tfoot"
    "|colgroup|caption|option|optgroup|rt|rp|button|select|textarea|script|style|title|iframe|h[1-6]|html|head|body|a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)"
)
_OPEN = re.compile(rf"<(?!{_UNCOUNTED}[\s/>])[a-z][^\s/>]*+(?:[^<>/]|/(?!>))*+>", re.I)
_CLOSE = re.compile(rf"</(?!{_UNCOUNTED}[\s/>])[a-z]", re.I)
_STYLE = "(?:a|b|big|code|em|font|i|nobr|s|small|strike|strong|tt|u)"
_OPEN_STYLE = re.compile(rf"<{_STYLE}(?:[\s/][^<>]*+)?>", re.I)
_CLOSE_STYLE = re.compile(rf"</{_STYLE}(?=[\s/>])", re.I)
_LONG_TAG = re.compile(r"<([a-z][^\s/<>]*+)[^<>]{4000,}+>", re.I)
_CLOSED = re.compile(
    r"<(title|script|style|iframe|textarea|noscript|xmp|div|span|p|td|th|a)((?:\s[^<>]*)?)/>", re.I
)


def read_markup(name: str, markup: str, limits: ReadLimits) -> Document:
    """The text and title of a page of HTML or XHTML.

    Blocks stand between blank lines; items of lists have dashes or their numbers, tables are pipe tables,
    code is fenced. What is deleted, the page's navigation and footer, and what nothing could ever show are
    left out; panels behind buttons and tabs, and texts for readers that see no pictures, are not.

    Args:
        name: What it is called in errors: its path, or a place within a file.
        markup: The page, or a part of one.
        limits: `max_depth` and `max_seconds` count.

    Raises:
        ReadError: It is over one of the limits, or the parser rejects it.
    """
    from selectolax.lexbor import LexborHTMLParser, SelectolaxError

    markup = _flattened(name, markup, limits)
    if markup[:1024].lstrip("\ufeff \t\r\n").startswith("<?xml"):
        # XML may end an element where it begins; HTML would take all that follows into it.
        markup = _CLOSED.sub(r"<\1\2></\1>", markup)
    try:
        tree = LexborHTMLParser(markup)
    except (SelectolaxError, ValueError, RuntimeError) as error:
        raise ReadError(f"{name}: is not HTML that can be read ({error}).") from error
    text = without_data(strip_marks(block_text(page_blocks(tree, name, limits))))
    return Document(text, clean_title(_title(tree)))


def _flattened(name: str, markup: str, limits: ReadLimits) -> str:
    """Markup that the parser takes time in proportion for.

    Depth, told roughly by counting begins and ends, and tags with very many attributes would take it
    quadratic time. As browsers do, but all at once, elements that nest too deep become paragraphs.

    Raises:
        ReadError: It nests deeper than `max_depth`.
    """
    if len(markup) < _HARMLESS:
        return markup
    if _depth(markup, _OPEN, _CLOSE, name, limits) > _DEEPEST:
        markup = _CLOSE.sub("<!", _OPEN.sub("<p>", markup))  # what is left of an end is a comment
    if _depth(markup, _OPEN_STYLE, _CLOSE_STYLE, name, limits) > _DEEPEST:
        markup = _CLOSE_STYLE.sub("<!", _OPEN_STYLE.sub("", markup))
    return _LONG_TAG.sub(_without_attributes, markup)


def _depth(
    markup: str, opening: re.Pattern[str], closing: re.Pattern[str], name: str, limits: ReadLimits
) -> int:
    depth = deepest = 0
    for start in range(0, len(markup), _CHUNK):
        depth += sum(1 for _ in opening.finditer(markup, start, start + _CHUNK))
        depth = max(depth - sum(1 for _ in closing.finditer(markup, start, start + _CHUNK)), 0)
        deepest = max(deepest, depth)
    if deepest > limits.max_depth:
        raise ReadError(f"{name}: nests elements more than {limits.max_depth:,} levels deep.")
    return deepest


def _without_attributes(tag: re.Match[str]) -> str:
    return tag.group() if tag.group().count("=") < _MOST_ATTRIBUTES else f"<{tag[1]}>"


def _title(tree: LexborHTMLParser) -> str | None:
    for title in tree.css("title"):
        parent = title.parent
        if parent is None or parent.tag not in ("svg", "g", "symbol"):
            return title.text()
    heading = tree.css_first("h1")
    return heading.text() if heading is not None else None
