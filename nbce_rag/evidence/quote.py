"""Where a passage says word for word what is cited from it: in its text, in its source, on which page."""

from __future__ import annotations

from typing import NamedTuple

from ..passages import Passage
from .evidence import Citation, Support

__all__ = ["Quote", "page_of", "quote_of"]

# What our readers and LlamaIndex's write; where there is a label it is what is printed on the page.
_PAGES = ("page_label", "page")


class Quote(NamedTuple):
    """Where a cited stretch stands word for word.

    Attributes:
        start: First character in `Passage.text`.
        end: One past the last one there.
        source_start, source_end: The same in the text of the passage's source; None where the passage does
            not say where it stands there.
        page: Page of the source, as the passage's metadata name it: of a passage over several pages the one
            that it begins on. None where there are no pages.
    """

    start: int
    end: int
    source_start: int | None
    source_end: int | None
    page: int | str | None


def quote_of(support: Citation | Support, passage: Passage) -> Quote | None:
    """Where a passage holds what it is cited for; None where it does not hold it word for word.

    Args:
        support: a citation, of which the leading passage counts, or one of its `supports`.
        passage: the passage that it names.
    """
    if support.quote_start is None or support.quote_end is None:
        return None
    start, end = int(support.quote_start), int(support.quote_end)
    begin = passage.start
    if begin is None or (passage.end is not None and passage.end - begin != len(passage.text)):
        return Quote(start, end, None, None, page_of(passage))
    return Quote(start, end, begin + start, begin + end, page_of(passage))


def page_of(passage: Passage) -> int | str | None:
    """The page that a passage begins on, by its metadata; None where they name none."""
    for name in _PAGES:
        page = passage.metadata.get(name)
        if isinstance(page, int | str) and not isinstance(page, bool) and page != "":
            return page
    return None
