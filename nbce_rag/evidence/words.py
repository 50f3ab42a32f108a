"""The words of a text, in any script, and texts as they are compared."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["fold", "is_cjk", "sized_words", "word_count", "words"]

# Scripts written without spaces, of which one character is a word or a syllable: Han with its iteration
# mark and zero, Hiragana, Katakana (full and half width). Korean has spaces between its words.
_CJK = re.compile(
    "[\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_JOIN_LETTERS = frozenset("'\u2019\uff07-\u2010\u2011")
# Point and comma, the Arabic separators, and the no-break and thin spaces that set off thousands.
_JOIN_DIGITS = frozenset(".,\u066b\u066c\u00a0\u2009\u202f")
# Soft hyphen and the joiners: they have no width and stand inside of words, as combining marks do.
_INVISIBLE = frozenset("\u00ad\u200c\u200d")

# A word in the alphabet of `_kind`.
_WORD = re.compile("cm*|[wd](?:[wdm]|j(?=[wd])|(?<=d)n(?=d))*")


def words(text: str) -> list[tuple[int, int]]:
    """The words of a text as (start, end) character spans, ordered and disjoint.

    A word is a run of letters, digits and underscores. Apostrophes and hyphens between letters, and
    decimal points and thousands separators between digits, are part of it ("don't", "twenty-one",
    "1,317.5"), and so are the combining marks that many scripts write vowels with. A Chinese or
    Japanese character is a word of its own.
    """
    return [match.span() for match in _WORD.finditer(text.translate(_KINDS))]


def sized_words(text: str) -> list[tuple[int, int, float]]:
    """The words of a text as (start, end, size): 0.5 for a Chinese or Japanese character, else 1.

    Two such characters are about a word of other scripts, so that lengths compare.
    """
    return [(start, end, 0.5 if _CJK.match(text, start) else 1.0) for start, end in words(text)]


def word_count(text: str) -> float:
    """How many words a text has, a Chinese or Japanese character counting half."""
    return sum(size for _, _, size in sized_words(text))


def fold(text: str) -> str:
    """A text as it is compared: NFKC (full-width digits equal plain ones), case folded, runs of white
    space as one space, none around it."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def is_cjk(char: str) -> bool:
    """Whether a character is Chinese or Japanese, and so a word of its own."""
    return bool(_CJK.match(char))


class _Kinds(dict[int, str]):
    """The kinds of characters by their code points, each told once: texts have few different ones."""

    def __missing__(self, code: int) -> str:
        self[code] = kind = _kind(chr(code))
        return kind


_KINDS = _Kinds()


def _kind(char: str) -> str:
    """What a character is: c(jk), w(ord), d(igit), m(ark), j(oins letters), n(umber separator), or space."""
    if char in _JOIN_LETTERS:
        return "j"
    if char in _JOIN_DIGITS:
        return "n"
    if _CJK.match(char):
        return "c"
    if char.isdecimal():
        return "d"
    if char.isalnum() or char == "_":
        return "w"
    # Python's \w leaves marks out, which would cut Hindi or decomposed accents at every vowel.
    return "m" if char in _INVISIBLE or unicodedata.category(char).startswith("M") else " "
