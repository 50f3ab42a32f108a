"""The words of passages and of queries, for SQLite's FTS5 and its BM25.

FTS5 lives in the same transaction as everything else and takes single additions and removals, which an
index of words in memory (bm25s) does not. Its tokenizer knows no words of scripts that are written without
spaces: their characters are taken one by one, and a query asks for pairs of them.
"""

from __future__ import annotations

import itertools
import re

__all__ = ["index_text", "match_expression"]

# Han, kana, hangul syllables, Thai, Lao, Burmese, Khmer: scripts that do not set words apart by spaces,
# or, as Korean, glue endings to them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_CHARACTER = re.compile(f"([{_UNSPACED}])")
_WORD = re.compile(f"[{_UNSPACED}]+|[^\\W{_UNSPACED}]+")


def index_text(text: str) -> str:
    """Text as FTS5 is given it."""
    return _CHARACTER.sub(r" \1 ", text.replace("\0", " "))


def match_expression(query: str) -> str | None:
    """A query of FTS5 that asks for any of the words; None where there is none."""
    terms: dict[str, None] = {}
    for word in _WORD.findall(query.replace("\0", " ")):
        if not _CHARACTER.match(word) or len(word) == 1:
            terms[f'"{word}"'] = None
        else:
            terms.update((f'"{a} {b}"', None) for a, b in itertools.pairwise(word))
    return " OR ".join(terms) or None
