"""The words of an answer that say something by themselves: numbers and names.

Names are told by their capital letter. Scripts that have none are read by their longer words, and those
without spaces by runs of characters.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set
from typing import Literal, TypeAlias

from .blocks import code_blocks
from .numerals import is_numeral
from .quantities import quantities
from .units import is_short
from .words import is_cjk, words

__all__ = ["StretchWords", "content_words", "is_function_word", "script_of", "skipped_spans"]

Script: TypeAlias = Literal["cased", "uncased", "cjk", "unspaced"]

_LONG_WORD = 6  # letters from which on a word of a script without capitals counts
_LONG_HANGUL = 3  # syllables
# Written without spaces: Thai, Lao, Tibetan, Myanmar, Khmer.
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]")
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7af]")
# Names of members in JSON are the schema's; code has names that are looked up by `identifiers`.
_MEMBER = re.compile(r'"[^"\n]*"(?=\s*:)')
_NUMBERED = re.compile(
    r"^[ \t]*[(\uff08]?\d{1,3}(?:[.)](?=[ \t]+\S)|[\u3001\uff09](?=\S))"
    r"|^[ \t#*_]*(?:Step|Schritt|Étape|Paso) \d+",
    re.MULTILINE,
)
_TABLE_HEAD = re.compile(r"^[ \t]*\|.*(?=\n[ \t]*\|[ \t:|-]+$)", re.MULTILINE)
# What a string of JSON writes for a character: of the line end in "Oslo\\nBergen" the n is no part of a word.
_ESCAPE = re.compile(r"\\(?:u[\da-fA-F]{4}|[nrtbf])")
_CODE_SPAN = re.compile(r"`[^`\n]*`")
_SENTENCE_END = re.compile(r"(?:\A|[.!?:\u2026\u061f\n])[\s\"'\u201c\u2018\u00ab(\[*_#>\u2022-]*\Z")
_ABBREVIATED = re.compile(r"(?<!\w)(?:[^\W\d_]|Dr|Mr|Mrs|Ms|St|Mt|Prof|No|Nr|Jr|Sr|vs|ca|cf|approx)\.\s*\Z")
_APOSTROPHE = re.compile("['\u2019]")
_NEGATED = re.compile("n['\u2019][tT]\\Z")  # Don't
# English, German, French, Spanish, Italian: what begins sentences, or has a capital by custom.
_FUNCTION_WORDS = """
a about according after all also although an and another any are as at based because been before both
but by can could did do does during each every few for from given had has have he hence her here his how
however i if in into is it its many may might more most much my neither no none nor not of on once one
only or other our over she should since so some such than that the their then there therefore these they
this those though through thus to under unlike until upon was we were what when where whether which
while who whom whose why will with within without would yes yet you your aber als am an auch auf aus bei
beim bis da dann das dem den der des die dies diese dieser ein eine einem einen einer er es für hat ich
ihr im in ist ja mit nach nein nicht oder sie sind so über um und von vor war waren was wenn wer wie wir
wird wo zu zum zur au aux avec ce ces cette dans de des du elle elles en est et il ils je la le les leur
l d mais ne non nous on ou oui par pas pour qu que qui sa se ses son sont sous sur un une vous al con
como cuando del desde el ella ellos en entre era es esta este esto fue ha hay la las lo los más no para
pero por que se según ser si sin sobre son su sus también un una y ya alla che chi da dal della delle di
e gli i il nel nella per più sono
"""
_FUNCTION = frozenset(_FUNCTION_WORDS.split())


def content_words(text: str) -> list[tuple[int, int]]:
    """The numbers and names of a text as (start, end) character spans, ordered and disjoint.

    A number has a digit or is the word for one, or is several of them ("three hundred"). A name has a capital
    letter and is no function word; a word that begins a sentence of a longer text may have its capital from
    there, so that it counts only where another capital or a number follows, or it has one elsewhere in the
    text too. In scripts without capitals every word of more than five letters (Korean: two syllables) counts,
    and in those without spaces every run of characters. Code, the names of members in JSON, the numbers of
    list items and steps and the heads of tables are left out.

    Args:
        text: an answer, of any length and in any script.
    """
    return _told(text, 0, len(text), not is_short(text), skipped_spans(text), frozenset())


def skipped_spans(text: str) -> list[tuple[int, int]]:
    """Code blocks and the heads of tables, in which no word counts, as (start, end) in characters."""
    heads = [match.span() for match in _TABLE_HEAD.finditer(text)]
    return [*((block.start, block.end) for block in code_blocks(text)), *heads]


def is_function_word(word: str) -> bool:
    """Whether a word holds sentences together and says nothing by itself: "the", "who", "des"."""
    return word.casefold() in _FUNCTION


class StretchWords:
    """The numbers and names of the stretches of a long answer, in their order, while it grows.

    They are those of `content_words`, but for what only the text behind a stretch tells: a word that begins
    a sentence counts if it has a capital elsewhere in the stretch or in those before it.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()

    def read(
        self, text: str, start: int, end: int, skipped: Iterable[tuple[int, int]] = ()
    ) -> list[tuple[int, int]]:
        """The words of the next stretch as (start, end) character spans.

        Args:
            text: the answer, at least up to the end of the stretch.
            start, end: the stretch, which cuts no word and stands behind those before it.
            skipped: what `skipped_spans` says of it.
        """
        spans = _told(text, start, end, True, skipped, self._names)
        self._names.update(text[begin:stop] for begin, stop in spans)
        return spans


def _told(
    text: str,
    start: int,
    end: int,
    is_long: bool,
    skipped: Iterable[tuple[int, int]],
    names: Set[str],
) -> list[tuple[int, int]]:
    """The numbers and names of text[start:end], which cuts no word, read with what stands before it.

    Args:
        text, start, end: the stretch.
        is_long: whether the text is no short fact.
        skipped: spans in which nothing counts, beside those that are told here.
        names: words that stand elsewhere with a capital of their own.
    """
    before = text[max(0, start - 40) : start]
    line = start - len(before) + len(before.rstrip(" \t"))
    skipped = [*skipped, *(match.span() for match in _NUMBERED.finditer(text, line, end))]
    skipped += [match.span() for each in (_MEMBER, _CODE_SPAN) for match in each.finditer(text, start, end)]
    spans, whole = _spans(text[start:end])
    spans = [(start + begin, start + stop) for begin, stop in spans]
    spans = [span for span in spans if not any(span[0] < stop and begin < span[1] for begin, stop in skipped)]
    result, initial = [], []
    for at, (begin, stop) in enumerate(spans):
        following = spans[at + 1] if at + 1 < len(spans) else (stop, stop)
        if begin - start in whole or _is_content(text, begin, stop, following, is_long):
            result.append((begin, stop))
        else:
            initial.append((begin, stop))
    own = {text[begin:stop] for begin, stop in result}
    result += [span for span in initial if (word := text[span[0] : span[1]]) in own or word in names]
    return sorted(result)


def script_of(word: str) -> Script:
    """How a word is written: with capitals, without, in Chinese or Japanese characters, or without spaces."""
    first = next((char for char in word if char.isalpha()), "")
    if is_cjk(first):
        return "cjk"
    if _UNSPACED.match(first):
        return "unspaced"
    return "cased" if first.lower() != first.upper() else "uncased"


def _spans(text: str) -> tuple[list[tuple[int, int]], frozenset[int]]:
    """The words of a text, numbers of several words as one, and where these begin."""
    numbers = quantities(text)
    result = [(one.start, one.end) for one in numbers]
    ends = [end for _, end in result]
    for start, end in _runs(text):
        # Of a run of characters a number may be the beginning only.
        at = bisect_right(ends, start)
        if at < len(numbers) and numbers[at].start <= start:
            start = numbers[at].end
        if start < end:
            result.append((start, end))
    return sorted(result), frozenset(one.start for one in numbers)


def _runs(text: str) -> Iterator[tuple[int, int]]:
    """The words of a text; Chinese and Japanese characters that stand together are one."""
    begun: tuple[int, int] | None = None
    escapes = {match.start() + 1: match.end() for match in _ESCAPE.finditer(text)}
    for start, end in words(text):
        start = max(start, escapes.get(start, 0))
        if start >= end or text.startswith("\\u", end):
            continue
        if begun is not None and is_cjk(text[start]) and begun[1] == start:
            begun = begun[0], end
            continue
        if begun is not None:
            yield begun
        begun = (start, end) if is_cjk(text[start]) else None
        if begun is None:
            yield start, end
    if begun is not None:
        yield begun


def _is_content(text: str, start: int, end: int, following: tuple[int, int], is_long: bool) -> bool:
    word = text[start:end]
    if is_numeral(word):
        return True
    script = script_of(word)
    if script != "cased":
        letters = sum(not unicodedata.category(char).startswith("M") for char in word)
        long = _LONG_HANGUL if _HANGUL.match(word) else _LONG_WORD
        return letters >= (2 if script in ("cjk", "unspaced") else long)
    if not _has_capital(word) or _NEGATED.search(word) or _APOSTROPHE.split(word.casefold())[0] in _FUNCTION:
        return False
    if len(word) == 1:
        return False  # an initial, a note of an outline
    if not is_long or not _begins_sentence(text, start):
        return True
    is_next = not text[end : following[0]].strip() and following[0] > end
    beyond = text[following[0] : following[1]] if is_next else ""
    return not word[1:].islower() or _has_capital(beyond) or is_numeral(beyond)


def _has_capital(word: str) -> bool:
    return any(char.isupper() or char.istitle() for char in word)


def _begins_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 40) : start]
    if start > 40 and not before.strip():
        return True
    return bool(_SENTENCE_END.search(before)) and not (before and _ABBREVIATED.search(before))
