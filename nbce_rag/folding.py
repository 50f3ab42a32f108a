"""One form for all ways of writing a word: what is indexed, asked and looked up in passages is folded alike.

Unicode's compatibility forms (NFKC) and case folding take ligatures, widths, ß and SS, and the Greek final
sigma together. What they would run together is set apart first: 10⁶ is not 106, 3½ not 31/2, and the number
of a footnote no part of the word before it. Marks follow the rules of their script:

- Latin and Greek lose them, and ø, æ, ł, ı and the like become what they are typed as without them.
- Cyrillic keeps letters of their own (й, ї, ќ), loses marks of stress, and has ё as е.
- Arabic and Hebrew lose vowel signs; forms of alef, yeh, kaf and heh that keyboards and countries write
  differently are one.
- Indic scripts keep their vowel signs, which are no ornament; Devanagari loses the nukta and has the
  chandrabindu as anusvara; letters that were once written with a joiner are taken apart.

Digits of all scripts are 0 to 9. What nobody sees (soft hyphens, zero-width characters, marks of direction)
is gone, and of a word that a hyphen breaks at the end of a line both parts and the whole are kept.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["INVISIBLE", "broken_words", "folded", "is_of_word"]

INVISIBLE: dict[int, str | None] = dict.fromkeys(
    (
        *(0x00AD, 0x034F, 0x061C, 0x0640, 0x070F, 0x180E, 0x2060, 0x3164, 0xFEFF, 0xFFA0),
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2061, 0x2070),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    )
)
"""Characters that nobody sees, as `str.translate` takes them out."""

_FRACTIONS = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅟"
_BEFORE: dict[int, str | None] = {
    **INVISIBLE,
    **{ord(c): f" {c}" for c in _FRACTIONS},
    **dict.fromkeys(map(ord, "©®℗℠™"), " "),
    0x2010: "-",
}
# With the letter before them, which marks may stand upon. What is of ASCII alone needs no folding here.
_FOREIGN = re.compile(r"[\x00-\x7f]?[^\x00-\x7f]+")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹]")
_RAISED = re.compile(r"(?:(?<=[^\W\d_]{3})|(?<=\d))(?=[⁰¹²³⁴-⁹])")
_SOFT_BREAK = re.compile("\u00ad[ \t]*\r?\n[ \t]*")
_HARD_BREAK = re.compile("-[ \t]*\r?\n[ \t]*")
_LONGEST_PART = 40  # of a word that is broken at the end of a line

_LETTERS = {
    "ø": "o",
    "ł": "l",
    "đ": "d",
    "ħ": "h",
    "ŧ": "t",
    "ı": "i",
    "ð": "d",
    "þ": "th",
    "æ": "ae",
    "œ": "oe",
    "ё": "е",
    "ѐ": "е",
    "ѝ": "и",
    **dict.fromkeys("أإآٱ", "ا"),
    **dict.fromkeys("ىی", "ي"),
    **dict.fromkeys("ةہە", "ه"),
    "ک": "ك",
    "\u093c": None,
    "\u0901": "\u0902",
    "ൺ": "ണ്",
    "ൻ": "ന്",
    "ർ": "ര്",
    "ൽ": "ല്",
    "ൾ": "ള്",
    "ൿ": "ക്",
    "ৎ": "ত্",
}
_MARKS = (
    range(0x0300, 0x0370),
    range(0x0591, 0x05C8),
    range(0x0610, 0x061B),
    range(0x064B, 0x0660),
    range(0x0670, 0x0671),
    range(0x06D6, 0x06EE),
    range(0x08D3, 0x0900),
    range(0x1AB0, 0x1B00),
    range(0x1DC0, 0x1E00),
    range(0x20D0, 0x2100),
    range(0xFE20, 0xFE30),
)


def is_of_word(character: str) -> bool:
    """Whether a character is part of words, rather than between them."""
    return character.isalnum() or unicodedata.category(character) in ("Mn", "Mc", "Co")


class _Folds(dict[int, str | None]):
    """What each character becomes; found out when it is first met."""

    def __missing__(self, code: int) -> str | None:
        self[code] = result = _fold(chr(code))
        return result


def folded(text: str) -> str:
    """A text with its words in one form; cases of ASCII, which SQLite folds itself, stay.

    >>> folded("straße  Ｆｅｒｒｙ ﬁne"), folded("ΟΔΟΣ") == folded("οδός")
    ('strasse  ferry fine', True)
    >>> folded("a fer-\\nry")
    'a fer-\\nry ferry'
    """
    if text.isascii():
        text = text.replace("\0", " ")
    else:
        if "\u00ad" in text:
            text = _SOFT_BREAK.sub("", text)
        if _SUPERSCRIPT.search(text):
            text = _RAISED.sub(" ", text)
        text = _FOREIGN.sub(_folded_run, text.replace("\0", " "))
    return " ".join([text, *broken_words(text)])


def broken_words(text: str) -> list[str]:
    """The words that a hyphen breaks at the end of a line, whole.

    >>> broken_words("the fer-\\nry of Tam-\\nsel")
    ['ferry', 'Tamsel']
    """
    return [word for match in _HARD_BREAK.finditer(text) if (word := _joined(text, match))]


def _folded_run(run: re.Match[str]) -> str:
    text = unicodedata.normalize("NFKC", run[0].translate(_BEFORE)).casefold()
    return unicodedata.normalize("NFC", text).translate(_folds)


def _joined(text: str, hyphen: re.Match[str]) -> str:
    """The word that a hyphen at a line's end breaks; "" where letters do not stand on both sides."""
    start, end = hyphen.span()
    while start and hyphen.start() - start < _LONGEST_PART and text[start - 1].isalpha():
        start -= 1
    while end < len(text) and end - hyphen.end() < _LONGEST_PART and text[end].isalpha():
        end += 1
    before, after = text[start : hyphen.start()], text[hyphen.end() : end]
    return before + after if before and after else ""


def _fold(character: str) -> str | None:
    if character in _LETTERS:
        return _LETTERS[character]
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Mn":
        return None if any(ord(character) in marks for marks in _MARKS) else character
    if not character.isascii() and not is_of_word(character):
        return " "  # SQLite, which knows an older Unicode, might not see the end of a word there
    if character.isascii() or not unicodedata.name(character, "").startswith(("LATIN", "GREEK")):
        return character
    letters = [c for c in unicodedata.normalize("NFD", character) if unicodedata.category(c) != "Mn"]
    return "".join(_LETTERS.get(letter) or letter for letter in letters)


_folds = _Folds()
