"""Blocks of text - paragraphs, headings, tables, items of lists - put together as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["join_blocks"]


def join_blocks(blocks: Iterable[tuple[bool, str]]) -> str:
    """Blocks with a blank line between them, items of one list without.

    A list whose first item is indented moves to the left: lines of four spaces would be code.

    Args:
        blocks: Of each whether it is an item of a list, and its text.

    >>> join_blocks([(False, "Boats:"), (True, "- yawl"), (True, "- ketch"), (False, "End.")])
    'Boats:\\n\\n- yawl\\n- ketch\\n\\nEnd.'
    """
    parts: list[str] = []
    was_item, indent = False, 0
    for is_item, block in blocks:
        if is_item and not was_item:
            indent = len(block) - len(block.lstrip(" "))
        if is_item:
            block = block[min(indent, len(block) - len(block.lstrip(" "))) :]
        parts += ["\n" if is_item and was_item else "\n\n", block]
        was_item = is_item
    return "".join(parts[1:])
