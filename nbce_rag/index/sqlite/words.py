"""Words as SQLite's FTS5 is given them and asked for them.

FTS5 lives in the same transaction as everything else and takes single additions and removals, which an
index of words in memory (bm25s) does not. Its tokenizer knows no words of scripts that are written without
spaces: their characters are taken one by one, and pairs of them are phrases.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...folding import folded
from ..words import is_unspaced, spaced

__all__ = ["TOKENIZER", "index_text", "match_expression"]

TOKENIZER = "porter unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc'"
"""For FTS5: marks that are left belong to their words."""


def index_text(text: str) -> str:
    """Text as FTS5 is given it."""
    return spaced(folded(text))


def match_expression(terms: Iterable[str]) -> str:
    """An expression of FTS5 for any of these terms (`words.query_terms`); at least one is needed."""
    return " OR ".join(f'"{" ".join(term)}"' if is_unspaced(term) else f'"{term}"' for term in terms)
