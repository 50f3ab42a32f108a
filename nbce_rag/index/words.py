"""The words of passages and of queries, whatever looks them up.

Of scripts that are written without spaces, no words are known: passages have their characters one by one, and
queries ask for pairs of them. `folding` gives both sides words in one form.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator

from ..folding import folded, is_of_word

__all__ = ["is_unspaced", "query_terms", "spaced", "term_counts", "terms_of"]

# Han, kana, hangul syllables, Thai, Lao, Burmese, Khmer: scripts that do not set words apart by spaces,
# or, as Korean, glue endings to them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_CHARACTER = re.compile(f"([{_UNSPACED}])")
_RUNS = re.compile(f"[{_UNSPACED}]+|[^\\s{_UNSPACED}]+")
_MOST_TERMS = 1000


def is_unspaced(term: str) -> bool:
    """Whether a term is of a script without spaces: one character, or two that have to follow each other."""
    return _CHARACTER.match(term) is not None


def spaced(text: str) -> str:
    """A text that has been folded, with each character of unspaced scripts as a word of its own."""
    return text if text.isascii() else _CHARACTER.sub(r" \1 ", text)


def query_terms(query: str) -> list[str]:
    """The first 1,000 different terms of a query, in their order."""
    return list(itertools.islice(dict.fromkeys(terms_of(query)), _MOST_TERMS))


def terms_of(text: str) -> Iterator[str]:
    """The words that a text asks for; of unspaced scripts, pairs of characters."""
    for word in _RUNS.findall(_words(text)):
        if not is_unspaced(word) or len(word) == 1:
            yield word
        else:
            yield from (f"{a}{b}" for a, b in itertools.pairwise(word))


def term_counts(*texts: str | None) -> tuple[Counter[str], int]:
    """How often each term that can be asked for stands in texts, and how many words they have.

    Of unspaced scripts, characters and pairs of neighbours both are terms; only characters count as words.
    Letters are small.
    """
    counts: Counter[str] = Counter()
    size = 0
    for text in texts:
        words = spaced(_words(text or "")).lower().split()
        counts.update(words)
        size += len(words)
        if not (text or "").isascii():
            pairs = itertools.pairwise(words)
            counts.update(f"{a}{b}" for a, b in pairs if is_unspaced(a) and is_unspaced(b))
    return counts, size


def _words(text: str) -> str:
    return "".join(c if is_of_word(c) else " " for c in folded(text))
