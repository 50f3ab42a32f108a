"""The words of passages and of queries, for SQLite's FTS5 and its BM25.

FTS5 lives in the same transaction as everything else and takes single additions and removals, which an
index of words in memory (bm25s) does not. Its tokenizer knows no words of scripts that are written without
spaces: their characters are taken one by one, and a query asks for pairs of them. `folding` gives both sides
words in one form.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from ...folding import folded, is_of_word

__all__ = ["TOKENIZER", "index_text", "match_expression", "terms_of"]

TOKENIZER = "porter unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc'"
"""For FTS5: marks that are left belong to their words."""

# Han, kana, hangul syllables, Thai, Lao, Burmese, Khmer: scripts that do not set words apart by spaces,
# or, as Korean, glue endings to them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(f"([{_UNSPACED}])")
_RUNS = re.compile(f"[{_UNSPACED}]+|[^\\s{_UNSPACED}]+")
_MOST_TERMS = 1000


def index_text(text: str) -> str:
    """Text as FTS5 is given it."""
    text = folded(text)
    return text if text.isascii() else _CHARACTER.sub(r" \1 ", text)


def match_expression(query: str) -> str | None:
    """A query of FTS5 that asks for any of its first 1,000 words; None where there is none."""
    return " OR ".join(itertools.islice(dict.fromkeys(terms_of(query)), _MOST_TERMS)) or None


def terms_of(text: str) -> Iterator[str]:
    """The words of a text as FTS5 is asked for them, in quotation marks; of unspaced scripts, pairs."""
    for word in _RUNS.findall("".join(c if is_of_word(c) else " " for c in folded(text))):
        if not _CHARACTER.match(word) or len(word) == 1:
            yield f'"{word}"'
        else:
            yield from (f'"{a} {b}"' for a, b in itertools.pairwise(word))
