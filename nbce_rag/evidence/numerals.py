"""Numbers as texts write them: 1,000 and 1000, 3rd and third, seven and 7, IV and 4, 一九〇八 and 1908."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["SCALES", "is_numeral", "number_keys", "plain_number"]

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_FEW = {
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce",
}
_WORDS: dict[str, int] = {word: n for names in _FEW.values() for n, word in enumerate(names.split())}
_WORDS |= {word: n for names in (_ONES, _ORDINALS) for n, word in enumerate(names.split())}
_WORDS |= {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_WORDS |= {f"{word[:-1]}ieth": 10 * n for n, word in enumerate(_TENS, start=2)}
_WORDS |= {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12, "twice": 2}
# As words they are mostly something else: articles, pronouns, names of time and rank.
_AMBIGUOUS = frozenset({"un", "uno", "once", "one", "second", "first", "elf", "dos", "null"})

_ROMAN = re.compile(r"(?=[MDCLXVI]{2})M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}

_HAN_DIGITS = {char: n for n, char in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "兩": 2}
_HAN_PLACES = {"十": 10, "百": 100, "千": 1000}
SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
"""Chinese and Japanese units that are counted in thousands of themselves, and stand behind figures too."""
_HAN = frozenset([*_HAN_DIGITS, *_HAN_PLACES, *SCALES])

_FIGURES = re.compile(r"\d+(?:[.,\u066b\u066c'\u2019\u202f\u2009\u00a0 ]\d+)*")
_GROUPS = re.compile(r"\d{1,3}(?:(?P<sign>\D)\d{3})(?:(?P=sign)\d{3})*")
_SUFFIX = re.compile(r"(?:st|nd|rd|th|s|er|ème|e|º|ª)?")


def is_numeral(word: str) -> bool:
    """Whether a word is a number: it has a digit, or is the word for one, and for nothing else.

    >>> [is_numeral(word) for word in ("1,000", "3rd", "seven", "twenty-one", "second", "IV")]
    [True, True, True, True, False, False]
    """
    folded = unicodedata.normalize("NFKC", word).casefold()
    return any(char.isdecimal() for char in folded) or (
        folded not in _AMBIGUOUS and _spelled(folded) is not None
    )


@lru_cache(maxsize=8192)
def number_keys(word: str) -> frozenset[str]:
    """What a word says as a number, in figures; none for a word that is no number, two for "1.317".

    Two words are the same number if they share one.

    >>> sorted(number_keys("1.317")), sorted(number_keys("Seventh")), sorted(number_keys("XIV"))
    (['1.317', '1317'], ['7'], ['14'])
    """
    plain = word
    if word.isascii():
        if word.isalpha() and not word.isupper():  # most words are neither figures nor Roman
            value = _WORDS.get(word.casefold())
            return frozenset() if value is None else frozenset([str(value)])
    else:
        plain = "".join(
            str(unicodedata.decimal(char)) if char.isdecimal() else char
            for char in unicodedata.normalize("NFKC", word)
        )
    folded = plain.casefold()
    if figures := _FIGURES.match(folded):
        return _in_figures(figures.group()) if _SUFFIX.fullmatch(folded, figures.end()) else frozenset()
    value = _spelled(folded)
    if value is None and _ROMAN.fullmatch(plain):
        value = _roman(plain)
    if value is None and plain and _HAN.issuperset(plain):
        value = _han(plain)
    return frozenset() if value is None else frozenset([str(value)])


def _in_figures(figures: str) -> frozenset[str]:
    """Figures without what sets off thousands, a point before decimals, and no zeros that say nothing."""
    keys = set()
    if figures.isdecimal() or _GROUPS.fullmatch(figures):
        keys.add(plain_number(re.sub(r"\D", "", figures)))
    if not figures.isdecimal():
        *whole, decimals = re.split(r"\D", figures)
        signs = re.findall(r"\D", figures)
        # A sign that stands once, or another than those before, may be a decimal one.
        if len(whole) == 1 or (signs[-1] not in signs[:-1] and all(len(part) == 3 for part in whole[1:])):
            keys.add(plain_number(f"{''.join(whole)}.{decimals}"))
    return frozenset(keys)


def plain_number(figures: str) -> str:
    """Figures with at most a decimal point, without zeros that say nothing: "007.50" is "7.5"."""
    whole, _, decimals = figures.partition(".")
    decimals = decimals.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")


def _spelled(folded: str) -> int | None:
    """The number that a word, or two joined by a hyphen ("twenty-one"), stands for."""
    if folded in _WORDS:
        return _WORDS[folded]
    tens, _, ones = folded.partition("-")
    if tens in _TENS and 0 < _WORDS.get(ones, 0) < 10:
        return _WORDS[tens] + _WORDS[ones]
    return None


def _roman(word: str) -> int:
    values = [_ROMAN_VALUES[char] for char in word]
    return sum(
        -one if one < following else one for one, following in zip(values, [*values[1:], 0], strict=True)
    )


def _han(word: str) -> int:
    if all(char in _HAN_DIGITS for char in word):
        return int("".join(str(_HAN_DIGITS[char]) for char in word))
    total, part, digit = 0, 0, 0
    for char in word:
        if char in SCALES:
            scale = SCALES[char]
            # 万 counts what stands right before it, 亿 all that does.
            counted = part + digit if scale == 10**4 else total + part + digit
            total, part, digit = (total if scale == 10**4 else 0) + max(counted, 1) * scale, 0, 0
        elif char in _HAN_PLACES:
            part, digit = part + max(digit, 1) * _HAN_PLACES[char], 0
        else:
            digit = _HAN_DIGITS[char]
    return total + part + digit
