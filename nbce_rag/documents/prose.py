"""Whether a text is sentences, or code, lists and tables, from which no sentence can be taken out."""

from __future__ import annotations

import re

__all__ = ["is_prose"]

_MARKED_SHARE = 0.25
"""Most of a text's characters that may stand in lines of code, lists, tables and headings."""

_CODE_BLOCK = re.compile(r"^\s*(?:```|~~~|>>> |\.\. [\w-]+::)", re.MULTILINE)
_MARKED_LINE = re.compile(
    r"""^\s*(?: [-*+>|\#] | \d{1,3}[.)]\s | :[\w ]+: )  # an item, a quotation, a table, a heading, a field
    | ^(?:[ ]{4,}|\t)\S                                # indented
    | [|{};]\s*$ | \w\([^()]*\)\s*[:;]?\s*$            # a statement, a call
    """,
    re.VERBOSE,
)


def is_prose(text: str) -> bool:
    """Whether a text is sentences: no block of code, and at most a quarter of it in marked lines.

    Marked lines are list items, quotations, table rows, headings, indented lines and lines that end like
    statements, as Markdown, reStructuredText and source code have them.

    >>> is_prose("The ferry leaves at nine. It is run by Ada.")
    True
    >>> is_prose("Pass it on:\\n\\n```python\\nclient = Client(http2=True)\\n```")
    False
    """
    if _CODE_BLOCK.search(text):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    marked = sum(len(line.strip()) for line in lines if _MARKED_LINE.search(line))
    return marked <= _MARKED_SHARE * sum(len(line.strip()) for line in lines)
