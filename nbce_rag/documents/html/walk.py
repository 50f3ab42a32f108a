"""A page as text: one walk through its tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ...errors import ReadError
from ..limits import Deadline, ReadLimits, Room
from .blocks import Block, Writer
from .formulas import formula_text, lowered, raised
from .tables import Cell, Table
from .visibility import Visibility

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["page_blocks"]

_DROPPED_TAGS = """
    head title script style template nav svg iframe object canvas audio video select textarea datalist del s
    strike rt rp rtc noframes noembed
    """
_BLOCK_TAGS = """
    address article aside blockquote body caption center dd details dialog div dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend main noscript optgroup p search section
    summary
    """
_DROPPED = frozenset(_DROPPED_TAGS.split())
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_LISTS = frozenset(["ul", "menu", "dir"])
_CODE = frozenset(["pre", "listing", "xmp", "plaintext"])
_CELLS = frozenset(["td", "th"])
_PARTS = frozenset(["main", "article", "section", "blockquote", "aside", "figure", "details", "dialog"])
"""A footer within one is the part's own; others are the page's."""
_DEEPEST_TABLE = 8
_MOST_COLUMNS = 1000  # of a cell, as in browsers
_MOST_DIGITS = 10
_STRIDE = 4096  # nodes between looks at the clock

_Attributes: TypeAlias = "dict[str, str | None]"


def page_blocks(tree: LexborHTMLParser, name: str, limits: ReadLimits) -> list[Block]:
    """What a reader of a page sees, in the order in which it stands there.

    Args:
        tree: the page.
        name: what the page is called in errors.
        limits: `max_depth` and `max_seconds` count.

    Raises:
        ReadError: it nests deeper, or takes longer.
    """
    return _Walk(tree, name, limits).blocks()


class _Walk:
    def __init__(self, tree: LexborHTMLParser, name: str, limits: ReadLimits) -> None:
        self._tree = tree
        self._name = name
        self._limits = limits
        self._room = Room(name, limits)  # for cells that stand in several places
        self._visibility = Visibility(tree)
        self._out = Writer()
        self._outer: list[Writer] = []  # those around the cells that are open
        self._tables: list[Table | None] = []  # None for one too deep, whose cells are paragraphs
        self._shifted: list[int] = []  # where raised and lowered text that is open began in its line
        self._parts = 0
        self._code = 0

    def blocks(self) -> list[Block]:
        deadline = Deadline(self._name, self._limits)
        path: list[tuple[LexborNode, str]] = []  # a stack of our own: pages nest deeper than Python goes
        node = self._tree.root
        count = 0
        while node is not None or path:
            if node is None:
                node, tag = path.pop()
                self._leave(node, tag)
                node = node.next
                continue
            count += 1
            if not count % _STRIDE:
                deadline.check()
            tag = node.tag or ""
            if tag == "-text":
                self._out.words(node.text_content or "")
            elif tag[:1] not in "-!" and self._enter(node, tag):
                path.append((node, tag))
                if len(path) > self._limits.max_depth:
                    raise ReadError(
                        f"{self._name}: nests elements more than {self._limits.max_depth:,} levels deep."
                    )
                node = node.first_child
                continue
            node = node.next
        self._out.end()
        return self._out.blocks

    def _enter(self, node: LexborNode, tag: str) -> bool:
        """Begins an element; False leaves it out, with all that it holds."""
        if tag in _DROPPED or (tag == "footer" and not self._parts):
            return False
        attributes = node.attributes
        if attributes and self._visibility.is_never_shown(node, tag, attributes):
            return False
        out = self._out
        if tag in _BLOCKS:
            out.end()
            self._parts += tag in _PARTS
        elif tag in _LISTS or tag in ("ol", "dl"):
            first = _number(attributes.get("start"))
            out.open_list((1 if first is None else first) if tag == "ol" else None)
        elif tag == "li":
            out.item(_number(attributes.get("value")))
        elif tag == "br":
            out.line_end()
        elif tag in _CODE:
            self._code += 1
            if self._code == 1:
                out.open_code()
        elif tag in ("sup", "sub"):
            self._shifted.append(len(out.line))
        elif tag == "a":
            if node.prev is not None and node.prev.tag == "a":
                out.space()
        elif tag == "img":
            if out.line and out.line[-1][-1].isalnum():
                out.space()
            self._say(attributes.get("alt"))
            return False
        elif tag == "math":
            self._say(formula_text(node))
            return False
        elif tag == "button" or "-" in tag:
            out.space()
        else:
            return self._enter_table(tag, attributes)
        return True

    def _enter_table(self, tag: str, attributes: _Attributes) -> bool:
        if tag == "table":
            self._out.end()
            is_layout = attributes.get("role") in ("presentation", "none")
            self._tables.append(Table(self._room, is_layout) if len(self._tables) < _DEEPEST_TABLE else None)
        elif tag in _CELLS or tag == "tr":
            table = self._tables[-1] if self._tables else None
            if table is None:
                self._out.end()
            elif tag == "tr":
                table.rows.append([])
            else:
                columns, rows = _number(attributes.get("colspan")), _number(attributes.get("rowspan"))
                cell = Cell(
                    is_head=tag == "th",
                    columns=min(max(columns or 1, 1), _MOST_COLUMNS),
                    rows=1 if rows is None else max(rows, 0),
                )
                if not table.rows:
                    table.rows.append([])
                table.rows[-1].append(cell)
                self._outer.append(self._out)
                self._out = Writer()
                self._out.blocks = cell.blocks
        return True

    def _leave(self, node: LexborNode, tag: str) -> None:
        out = self._out
        if tag in _BLOCKS:
            out.end()
            self._parts -= tag in _PARTS
        elif tag in _LISTS or tag in ("ol", "dl"):
            out.close_list()
        elif tag == "li":
            out.end()
        elif tag in _CODE:
            self._code -= 1
            if not self._code:
                out.close_code(_language(node))
        elif tag in ("sup", "sub"):
            self._shift(self._shifted.pop(), tag)
        elif tag == "button" or "-" in tag:
            out.space()
        elif self._tables:
            self._leave_table(tag)

    def _leave_table(self, tag: str) -> None:
        table = self._tables[-1]
        if tag == "table":
            self._out.end()
            self._tables.pop()
            for block in table.blocks() if table is not None else ():
                if block.kind == "table":
                    self._out.add(block.text, "table")
                else:
                    self._out.blocks.append(block)
        elif tag in _CELLS or tag == "tr":
            self._out.end()
            if table is not None and tag != "tr":
                self._out = self._outer.pop()
        elif tag == "thead" and table is not None:
            table.head_rows = len(table.rows)

    def _say(self, text: str | None) -> None:
        """Words that stand for a picture or a formula, apart from those around them."""
        if text and not text.lstrip().startswith("data:"):
            self._out.words(text.strip())

    def _shift(self, begin: int, tag: str) -> None:
        line = self._out.line
        text = "".join(line[begin:])
        before = line[begin - 1][-1] if 0 < begin <= len(line) else ""
        del line[begin:]
        if text := (raised if tag == "sup" else lowered)(text, before):
            line.append(text)


def _number(value: str | None) -> int | None:
    """A whole number; those that are too large for any list or table are none."""
    try:
        return int(value) if value and len(value) < _MOST_DIGITS else None
    except ValueError:
        return None


def _language(code: LexborNode) -> str:
    """The language that a block of code is said to be in, by its class or that of the <code> within."""
    for node in (code, code.first_child):
        for name in ((node.attributes.get("class") or "") if node is not None else "").split():
            for prefix in ("language-", "lang-", "highlight-source-"):
                if name.startswith(prefix):
                    return name.removeprefix(prefix)
    return ""
