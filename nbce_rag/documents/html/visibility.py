"""What of a page no reader can ever see."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

__all__ = ["Visibility"]

_CONCEALING_STYLE = re.compile(
    r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))\b", re.I
)
_PANELS = frozenset(["tabpanel", "region", "dialog", "alertdialog", "menu", "group"])
_REFERENCES = (
    "aria-controls",
    "aria-describedby",
    "for",
    "data-target",
    "data-bs-target",
    "data-tab",
    "data-panel",
    "href",
    "popovertarget",
)
_INLINE = frozenset(["a", "abbr", "b", "em", "font", "i", "small", "span", "strong"])
_NEAR = 40  # nodes that are looked through for a control


class Visibility:
    """Tells text that is folded away, which a button or tab brings up, from text that is never shown."""

    def __init__(self, tree: LexborHTMLParser) -> None:
        self._tree = tree
        self._references: set[str] | None = None

    def is_never_shown(self, node: LexborNode, tag: str, attributes: Mapping[str, str | None]) -> bool:
        """Whether an element is hidden, and nothing on the page is there to show it."""
        if _is_concealed(attributes):
            return not self._can_be_shown(node, tag, attributes)
        # Drawn for the eye beside what says the same: icons, the glyphs of a formula.
        return attributes.get("aria-hidden") == "true" and tag in _INLINE

    def _can_be_shown(self, node: LexborNode, tag: str, attributes: Mapping[str, str | None]) -> bool:
        if attributes.get("role") in _PANELS or "popover" in attributes:
            return True
        if (name := attributes.get("id")) and name in self._referred():
            return True
        return tag not in _INLINE and tag != "p" and _follows_control(node)

    def _referred(self) -> set[str]:
        """Ids that something on the page refers to, as the button of a panel does."""
        if self._references is None:
            selector = ",".join(f'[{name}^="#"]' if name == "href" else f"[{name}]" for name in _REFERENCES)
            self._references = {
                reference.removeprefix("#")
                for node in self._tree.css(selector)
                for name in _REFERENCES
                for reference in (node.attributes.get(name) or "").split()
            }
        return self._references


def _is_concealed(attributes: Mapping[str, str | None]) -> bool:
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    return bool((style := attributes.get("style")) and _CONCEALING_STYLE.search(style))


def _follows_control(node: LexborNode) -> bool:
    """Whether the element before, other concealed ones left out, is or holds a button."""
    before = node.prev
    for _ in range(_NEAR):
        if before is None:
            return False
        if before.is_element_node and not _is_concealed(before.attributes):
            return any(map(_is_control, islice(before.traverse(), _NEAR)))
        before = before.prev
    return False


def _is_control(node: LexborNode) -> bool:
    if node.tag in ("button", "summary", "label"):
        return True
    attributes = node.attributes
    return (
        "aria-expanded" in attributes
        or "onclick" in attributes
        or attributes.get("role") in ("button", "tab")
    )
