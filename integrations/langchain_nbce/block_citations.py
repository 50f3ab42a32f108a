"""Citations of an answer in the blocks of a message whose text stands in several of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.messages.content import Citation

__all__ = ["cited_blocks", "uncited_blocks"]

Block: TypeAlias = str | dict[str, Any]


def cited_blocks(content: Sequence[Any], cited: Sequence[Citation]) -> list[Block]:
    """Blocks with the annotations of each text in them, counted from the text's own beginning.

    Args:
        content: blocks, in the form of any provider.
        cited: citations of the joined texts.
    """
    blocks: list[Block] = []
    start = 0
    for block in content:
        text = block if isinstance(block, str) else block.get("text") if block.get("type") == "text" else None
        if not isinstance(text, str):
            blocks.append(block)
            continue
        end = start + len(text)
        inside = [
            Citation(
                **{
                    **one,
                    "start_index": max(one["start_index"], start) - start,
                    "end_index": min(one["end_index"], end) - start,
                }
            )
            for one in cited
            if one["start_index"] < end and one["end_index"] > start
        ]
        start = end
        own = {"type": "text", "text": text} if isinstance(block, str) else block
        annotations = [*(own.get("annotations") or []), *inside]
        blocks.append({**own, "annotations": annotations} if inside else block)
    return blocks


def uncited_blocks(content: Sequence[Any]) -> list[Block]:
    """The reverse of `cited_blocks`: blocks without the annotations that it puts there."""
    blocks: list[Block] = []
    for block in content:
        annotations = block.get("annotations") if isinstance(block, Mapping) else None
        if isinstance(annotations, list) and any(map(_is_ours, annotations)):
            others = [one for one in annotations if not _is_ours(one)]
            rest = {name: value for name, value in block.items() if name != "annotations"}
            block = {**rest, "annotations": others} if others else rest
        blocks.append(block)
    return blocks


def _is_ours(annotation: Any) -> bool:
    extras = annotation.get("extras") if isinstance(annotation, Mapping) else None
    return isinstance(extras, Mapping) and "passage_id" in extras
