"""Whether a question asks for a fact by way of another: "the mayor of the town where Ada was born".

Such a fact and the one on the way to it mostly stand in two passages. Told by form alone, in English and
Chinese: at least two relations, words that tie one thing to another ("of", "whose", "'s", "的"), or a
comparison of two things. In other languages no question is taken for one.
"""

from __future__ import annotations

import re

__all__ = ["is_nested"]

_RELATIONS = 2
_ENGLISH = re.compile(
    r"\b(?P<asks>who|whom|whose|where|which|that)\b|\b(?:of|by)\b|\w['\u2019]s\b", re.IGNORECASE
)
# What a question word is the first word behind: "In which town", "By whom".
_OPENING = re.compile(r"\W*(?:(?:in|on|at|to|from|of|for|by|with|and|the)\W+)?", re.IGNORECASE)
_CHINESE = re.compile(r"的(?=.*[^\s的是?？吗呢])|所(?=\w)")
_COMPARISON = re.compile(
    r"\b(?:first|earlier|later|older|younger|more|less|fewer|larger|bigger|smaller|higher|taller|longer|shorter"
    r"|closer|nearer|faster)\b.*\bor\b|\b(?:both|same)\b.+\b(?:and|as)\b|比.+更|还是.+更",
    re.IGNORECASE,
)


def is_nested(question: str) -> bool:
    """Whether the form of a question says that it takes two facts.

    >>> is_nested("Who is the mayor of the town where Ada was born?")
    True
    >>> is_nested("Who is the mayor of Brill?")
    False
    """
    if _COMPARISON.search(question):
        return True
    relations = [match for match in _ENGLISH.finditer(question) if not _opens(question, match)]
    return len(relations) >= _RELATIONS or len(_CHINESE.findall(question)) >= _RELATIONS


def _opens(question: str, relation: re.Match[str]) -> bool:
    """Whether a relation is the question word that a question begins with."""
    return bool(relation["asks"]) and _OPENING.fullmatch(question, 0, relation.start()) is not None
