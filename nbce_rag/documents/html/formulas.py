"""Formulas, powers and indexes in a line of text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

__all__ = ["formula_text", "lowered", "raised"]

_DEEPEST = 50
_LOW_DIGITS = str.maketrans("0123456789+-\u2212", "₀₁₂₃₄₅₆₇₈₉₊₋₋")
_ONE_WORD = re.compile(r"[+\u2212-]?[\w.,/]+")


def raised(text: str, before: str) -> str:
    """Raised text: 10^6, x^(n+1); but 2nd, and [3] for a note.

    Args:
        text: what is raised.
        before: the character before it; "" for none.
    """
    text = text.strip()
    if not text or not before.strip() or text[0] in "[(*\u2020\u2021" or (len(text) > 1 and text.isalpha()):
        return text
    return f"^{text}" if _ONE_WORD.fullmatch(text) else f"^({text})"


def lowered(text: str, before: str) -> str:
    """Lowered text: H₂O, x_i."""
    text = text.strip()
    if not text or not before.strip() or before in "/\u2044":  # the lower half of a fraction
        return text
    if re.fullmatch(r"[0-9+\u2212-]+", text):
        return text.translate(_LOW_DIGITS)
    return f"_{text}" if _ONE_WORD.fullmatch(text) else f"_({text})"


def formula_text(math: LexborNode) -> str:
    """A <math> element: what it says of itself (its text for readers, or its TeX), else its symbols."""
    alternative = math.attributes.get("alttext")
    if alternative:
        return alternative.strip()
    note = math.css_first('annotation[encoding="application/x-tex"]')
    return (note.text() if note is not None else _symbols(math, _DEEPEST)).strip()


def _symbols(node: LexborNode, depth: int) -> str:
    if not depth or node.tag in ("mi", "mn", "mtext", "ms"):
        return " ".join(node.text().split())
    if node.tag == "mo":
        sign = node.text().strip()
        if not sign or "\u2061" <= sign[0] <= "\u2064":  # signs that cannot be seen
            return ""
        return sign if sign in ("(", ")", "[", "]", "{", "}", "!") else f" {sign} "
    if node.tag in ("annotation", "annotation-xml"):
        return ""
    parts = []
    child = node.first_child
    while child is not None:
        if child.is_element_node:
            parts.append(_symbols(child, depth - 1))
        child = child.next
    return _arranged(node.tag or "", parts)


def _arranged(tag: str, parts: list[str]) -> str:
    if tag in ("msup", "mover") and len(parts) == 2:
        return parts[0] + raised(parts[1], parts[0][-1:])
    if tag in ("msub", "munder") and len(parts) == 2:
        return parts[0] + lowered(parts[1], parts[0][-1:])
    if tag in ("msubsup", "munderover") and len(parts) == 3:
        low = parts[0] + lowered(parts[1], parts[0][-1:])
        return low + raised(parts[2], low[-1:])
    if tag == "mfrac" and len(parts) == 2:
        return "/".join(
            part.strip() if _ONE_WORD.fullmatch(part.strip()) else f"({part.strip()})" for part in parts
        )
    if tag == "msqrt":
        return f"\u221a({''.join(parts).strip()})"
    return "".join(parts)
