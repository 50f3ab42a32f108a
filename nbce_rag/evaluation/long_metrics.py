"""Scores of answers that people read: several sentences, with code.

Such an answer has no gold text to be compared with. What is looked for are key strings, such as the name of
the function that a right answer cannot do without, and what goes wrong in long answers: names that no
passage has, and loops.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

__all__ = ["Keys", "groups_found", "identifiers", "names_in", "precision", "repetition", "word_count"]

Keys: TypeAlias = Sequence[Sequence[str]]
"""Groups of strings; a right answer holds one string of each group."""

_GRAM = 4
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
_NAME = re.compile(r"--[A-Za-z][\w-]*|[A-Za-z_]\w+", re.ASCII)
_SPAN = re.compile(r"`([^`\n]+)`")
_LOOKS_LIKE_CODE = re.compile(
    r"""--[A-Za-z][\w-]*                     # a flag
    | [A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+        # a dotted name
    | [A-Za-z]*_\w+                          # snake_case
    | [A-Za-z_]\w+(?=\()                     # a call
    | [A-Za-z_]\w+(?==[^\s=])                # an argument by name
    | [A-Z]?[a-z0-9]+[A-Z]\w*                # CamelCase
    | [A-Z]{2,}[a-z]{2}\w*                   # HTTPTransport, but not URLs
    """,
    re.ASCII | re.VERBOSE,
)


def groups_found(answer: str, keys: Keys) -> float:
    """Share of the groups of which the answer holds a string, in [0, 1]; 1 is an answer that counts.

    Strings are looked for as they stand, within words too, but without case, and any run of blanks and line
    ends is one blank.

    >>> groups_found("Set `Limits(max_connections=5)`.", [["limits"], ["keepalive", "max_connections"]])
    1.0

    Raises:
        ValueError: there are no groups.
    """
    if not keys:
        raise ValueError("There are no keys to look for.")
    text = _fold(answer)
    return sum(any(_fold(key) in text for key in group) for group in keys) / len(keys)


def identifiers(text: str) -> list[str]:
    """Names of code in a text, each once, in the order in which they stand.

    They are all names (two or more of A-Z, a-z, 0-9, _) in Markdown's code spans, and elsewhere those that
    look like code: flags, dotted names, snake_case, calls, arguments by name, CamelCase. A dotted name counts
    by its parts. Nor does all of a fenced block count: there are comments in it, and where a model leaves a
    fence open or begins with a closing one, prose.

    >>> identifiers("Call `client.get()` or HTTPTransport with retries=1 and --verbose.")
    ['client', 'get', 'HTTPTransport', 'retries', '--verbose']
    """
    spans = [span.span(1) for span in _SPAN.finditer(text)]
    spans += [look.span() for look in _LOOKS_LIKE_CODE.finditer(text)]
    return list(
        dict.fromkeys(
            name[0]
            for name in _NAME.finditer(text)
            if any(start <= name.start() and name.end() <= end for start, end in spans)
        )
    )


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Every name that stands in some texts, whether it looks like code or not."""
    return frozenset(name for text in texts for name in _NAME.findall(text))


def precision(names: Iterable[bool]) -> float | None:
    """Share of names that stand in the passages, in [0, 1]; None where there are no names.

    Args:
        names: for each of an answer's `identifiers` whether it is among the `names_in` the passages, with
            case and as a whole. A name that is not was made up, or comes from the model's memory.
    """
    stands = list(names)
    return sum(stands) / len(stands) if stands else None


def repetition(text: str) -> float:
    """Share of a text's runs of four words that stand earlier in it, in [0, 1); 0 for fewer than five words.

    Words are runs of letters and digits, without case; each Chinese or Japanese character is a word.
    """
    words = _WORD.findall(text.casefold())
    grams = [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]
    return (len(grams) - len(set(grams))) / len(grams) if grams else 0.0


def word_count(text: str) -> int:
    """Words as in `repetition`."""
    return len(_WORD.findall(text))


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())
