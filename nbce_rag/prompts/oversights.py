"""Signs in a prompt that contexts were meant to be in it and are not, or not as contexts."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["oversights"]

# What `str` and `repr` make of LangChain's documents and of LlamaIndex's nodes.
_OBJECT = re.compile(
    r"\bDocument\((?:id|metadata|page_content)=|\b(?:NodeWithScore\(node|TextNode\(id_)="
    r"|^Node ID: \S+\s*\nText: ",
    re.MULTILINE,
)
_PLACE = re.compile(r"\{(?:context|contexts|context_str|documents)\}")


def oversights(texts: Iterable[str]) -> list[str]:
    """Sentences for the reader of an answer, about what was likely forgotten.

    Args:
        texts: what a model is to read beside its passages.
    """
    notes = []
    texts = list(texts)
    if any(map(_OBJECT.search, texts)):
        notes.append(
            "Documents stand in the prompt as their repr and are read as one text, neither apart nor cited: "
            "format them with format_passages, or give them as contexts."
        )
    if match := next(filter(None, map(_PLACE.search, texts)), None):
        notes.append(
            f"The place {match[0]} of the prompt was not filled in: give it a value, or leave it out and "
            "give contexts to the call."
        )
    return notes
