"""Whether a text is sentences, or code, lists and tables, from which no sentence can be taken out."""

from __future__ import annotations

import re

__all__ = ["is_prose"]

_MARKED_SHARE = 0.25
"""Most of a text's characters that may stand in lines of code, lists, tables and headings."""

_CODE_BLOCK = re.compile(r"^\s*(?:```|~~~|>>> |\.\. [\w-]+::)", re.MULTILINE)
_MARKED_LINE = re.compile(
    r"""^\s*(?: [-*+]\s | >\s | \| | \#{1,6}\s | \d{1,3}[.)]\s | :[\w ]+: )  # item, quote, table, heading
    | [|{}]\s*$ | [=(){}\[\]].*;\s*$ | ^\s*[\w.]+\([^()]*\)\s*[:;]?\s*$  # a table, a statement, a call
    """,
    re.VERBOSE,
)
_INDENTED = re.compile(r"^(?: {4,}|\t)\S")
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u2019\u201d)]*\s*$")


def is_prose(text: str) -> bool:
    """Whether a text is sentences: no block of code, and at most a quarter of it in marked lines.

    Marked lines are list items, quotations, table rows, headings, lines that end like statements, and lines
    that are indented, unless one of them ends a sentence; as Markdown, reStructuredText and source code have
    them, and as paragraphs of a book do not.

    >>> is_prose("The ferry leaves at nine. It is run by Ada.")
    True
    >>> is_prose("Pass it on:\\n\\n```python\\nclient = Client(http2=True)\\n```")
    False
    """
    if _CODE_BLOCK.search(text):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    # Sentences among the indented lines are paragraphs, as a page of a book has them.
    is_book = any(_INDENTED.match(line) and _SENTENCE_END.search(line) for line in lines)
    marked = sum(
        len(line.strip())
        for line in lines
        if _MARKED_LINE.search(line) or (_INDENTED.match(line) and not is_book)
    )
    return marked <= _MARKED_SHARE * sum(len(line.strip()) for line in lines)
