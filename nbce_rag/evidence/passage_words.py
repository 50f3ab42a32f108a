"""Whether a word stands in a passage, in whatever form: case, number, inflection, script."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ..folding import INVISIBLE, broken_words, folded
from .content_words import script_of
from .numerals import number_keys
from .quantities import quantities
from .words import fold, words

__all__ = ["PassageWords", "words_of"]

_BEGINNING = 4  # letters that words of one stem share at least
_HANGUL_BEGINNING = 2  # syllables
_ENDING = 3  # letters that an ending has at most
_GRAM = 3  # characters of a run in a script without spaces that are looked up together
_PARTS = re.compile(r"[^\W\d_]+|\d[\d.,]*\d|\d")
_JOINTS = re.compile("[-\u2010\u2011'\u2019_]")
_INITIALS = re.compile(r"(?:\b[^\W\d_]\.){2,}")
_CLOCK = re.compile(r"\b(\d{1,2}):(\d\d)\b")
# To (1914-18), with the first figures left out that are those of the number before.
_SHORTENED = re.compile(r"(\d{3,4})[-\u2010\u2011\u2013](\d{1,2})(?![\d-])")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa"})
_PLURALS = (
    ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"),
    ("shes", "sh"), ("s", ""),
)  # fmt: skip
# And, the, in, as, to, for, where they are written with the next word.
_PROCLITICS = re.compile(
    "(?:[\u0648\u0641]?(?:[\u0628\u0643\u0644]?\u0627\u0644|\u0644\u0644)|\u0648)(?=[\u0621-\u064a]{3})"
    "|[\u05d5\u05d4\u05d1\u05dc\u05de\u05e9\u05db]{1,2}(?=[\u05d0-\u05ea]{3})"
)
# Chinese and Japanese: what stands between the words that say something. Hiragana is mostly endings.
_PARTICLES = re.compile(
    "[的了是在和与與及或为為被把从從到由以而但也就都之其这這那有个個年月日号號第\u3041-\u3096]+"
)
_HAN_NUMBER = re.compile("[〇零一二三四五六七八九十百千万萬亿億两兩]+")


class PassageWords:
    """The words of one passage, to look others up in.

    A word stands in the passage if the passage has it whole, folded as in search (`nbce_rag.folding`: case,
    width, accents, what nobody sees, a hyphen at the end of a line); or in the plural or singular, or with
    or without what Arabic and Hebrew write in front of it; or has the same number in another form
    (`number_keys`, `quantities`); or a word with the same beginning and another ending; or all parts of it,
    where it is joined by hyphens or an apostrophe. "15" does not stand in "2015". Chinese and Japanese are
    looked up by pairs of characters, and scripts without spaces by groups of three, blanks in the passage
    apart.

    Args:
        text: the passage's text, and its title if that is to count.

    >>> PassageWords("Opened in 1,908 by the Tollivers; the 3rd sluice.").absent("1908")
    []
    """

    def __init__(self, text: str) -> None:
        self._keys: set[str] = set()
        self._numbers: set[str] = set()
        self._stems: dict[str, set[str]] = {}
        text = text.translate(INVISIBLE)
        whole = {text[start:end] for start, end in words(text)}.union(broken_words(text))
        whole.update(initials.replace(".", "") for initials in _INITIALS.findall(text))
        whole.update(f"{hours}.{minutes}" for hours, minutes in _CLOCK.findall(text))
        whole.update(_completed(*years) for years in _SHORTENED.findall(text))
        joined = {word for word in whole if not word.isalpha()}
        for part in whole.union(*(_JOINTS.split(word) + _PARTS.findall(word) for word in joined)):
            self._add(part)
        plain = fold(text)
        self._solid = "".join(plain.split())
        for match in _HAN_NUMBER.finditer(plain):
            self._numbers |= number_keys(match.group())
        for quantity in quantities(text):
            self._numbers |= quantity.keys

    def _add(self, word: str) -> None:
        self._numbers |= number_keys(word)
        for form in _forms(word):
            self._keys.add(form)
            if stem := _stem(form):
                self._stems.setdefault(stem, set()).add(form)

    def absent(self, word: str) -> list[tuple[int, int]]:
        """The (start, end) spans of a word that do not stand in the passage; none if it stands there.

        It is the whole word or nothing; of Chinese and Japanese characters in a run, those that are missing.
        """
        script = script_of(word)
        if keys := _quantity_keys(word):
            return [] if keys & self._numbers else [(0, len(word))]
        if script == "cjk":
            return self._absent_pairs(word)
        stands = self._holds_run(word) if script == "unspaced" else self._holds(word)
        return [] if stands else [(0, len(word))]

    def _holds(self, word: str) -> bool:
        if self._holds_whole(word):
            return True
        if years := _SHORTENED.fullmatch(word):
            return self._holds(years[1]) and (
                self._holds(_completed(*years.groups())) or self._holds(years[2])
            )
        parts = [part for part in _JOINTS.split(word) if part]
        if len(parts) > 1:
            # What is behind an apostrophe is an ending, or in front of it an article.
            long = [part for part in parts if len(part) > 1 or part.isdigit()]
            return bool(long) and all(self._holds(part) for part in long)
        pieces = _PARTS.findall(word)
        if len(pieces) < 2:
            return False
        # Of a number with a unit or an ending ("25kg", "1900s") the number must stand there.
        if pieces[0][0].isdigit() and len(pieces) == 2 and len(pieces[1]) <= _ENDING:
            return self._holds_whole(pieces[0])
        return all(self._holds_whole(piece) for piece in pieces)

    def _holds_whole(self, word: str) -> bool:
        if number_keys(word) & self._numbers:
            return True
        forms = _forms(word)
        return not self._keys.isdisjoint(forms) or any(
            _is_inflected(form, other) for form in forms for other in self._stems.get(_stem(form), ())
        )

    def _holds_run(self, word: str) -> bool:
        """Whether at least half of the characters of a run stand in the passage, three by three."""
        run = "".join(fold(word.translate(INVISIBLE)).split())
        if len(run) <= _GRAM:
            return run in self._solid
        held: set[int] = set()
        for at in range(len(run) - _GRAM + 1):
            if run[at : at + _GRAM] in self._solid:
                held.update(range(at, at + _GRAM))
        return 2 * len(held) >= len(run)

    def _absent_pairs(self, run: str) -> list[tuple[int, int]]:
        """Two or more characters side by side that stand in no pair of the passage, particles apart."""
        held = {at for match in _PARTICLES.finditer(run) for at in range(*match.span())}
        for match in _HAN_NUMBER.finditer(run):
            if number_keys(match.group()) & self._numbers:
                held.update(range(*match.span()))
        for at in range(len(run) - 1):
            if fold(run[at : at + 2]) in self._solid:
                held.update((at, at + 1))
        missing = "".join(" " if at in held else "x" for at in range(len(run)))
        return [match.span() for match in re.finditer("xx+", missing)]


@lru_cache(maxsize=64)
def words_of(text: str) -> PassageWords:
    """The words of a text; those of the last few are kept, since answers look into the same passages."""
    return PassageWords(text)


@lru_cache(maxsize=8192)
def _quantity_keys(word: str) -> frozenset[str]:
    """What a number of several words says; none for any other word."""
    return next((one.keys for one in quantities(word) if one.end - one.start == len(word)), frozenset())


@lru_cache(maxsize=8192)
def _forms(word: str) -> frozenset[str]:
    """A word as it is compared: as it is folded, without what joins its parts, and what else it may be."""
    key = word.casefold() if word.isascii() else folded(word).casefold()
    forms = {key} if key.isalnum() else {key, _JOINTS.sub("", key)}
    if word.isascii():
        if key.endswith("s"):
            forms.update(
                key.removesuffix(ending) + single
                for ending, single in _PLURALS
                if key.endswith(ending) and len(key) > len(ending) + 1
            )
    else:
        forms.add(folded(unicodedata.normalize("NFC", word).casefold().translate(_UMLAUTS)))
        if proclitics := _PROCLITICS.match(key):
            forms.add(key[proclitics.end() :])
    return frozenset(forms)


def _completed(first: str, last: str) -> str:
    """The number that `last` is short for: "1918" in 1914-18."""
    return first[: -len(last)] + last


def _stem(key: str) -> str:
    """What words of one stem begin with; "" for a word that has no other forms."""
    length = _HANGUL_BEGINNING if "\uac00" <= key[:1] <= "\ud7a3" else _BEGINNING
    if len(key) < length or (not key.isalpha() and any(char.isdigit() for char in key)):
        return ""
    return key[:length]


def _is_inflected(one: str, other: str) -> bool:
    """Whether two words that begin alike differ by an ending: "Germany" and "Germans", but not two names."""
    short, long = sorted((one, other), key=len)
    same = 0
    while same < len(short) and short[same] == long[same]:
        same += 1
    share = 2 / 3 if "\uac00" <= one[:1] <= "\ud7a3" else 3 / 4
    return len(short) - same <= 1 and len(long) - same <= _ENDING and same >= share * len(short)
