"""Passages and a question of exact lengths, made from nothing but a seed.

The question is the beginning of a sentence in one of the passages, so that a language model goes on by
quoting that passage, as answers over passages often do.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..errors import InputError
from ..passages import Passage
from ..prompts.template import PromptTemplate
from ..prompts.tokenizer import Tokenizer

__all__ = ["TEMPLATE", "Workload", "make_workload"]

TEMPLATE = PromptTemplate(prefix="", passage="{text}\n\n", suffix="{question}")

_PLACES = (
    "harbour",
    "mill",
    "bridge",
    "tower",
    "market",
    "chapel",
    "quarry",
    "orchard",
    "lighthouse",
    "ferry",
    "school",
    "garden",
)
_NAMES = (
    "Ingrid",
    "Tomas",
    "Maren",
    "Oleg",
    "Petra",
    "Silas",
    "Wanda",
    "Jonas",
    "Edith",
    "Ruben",
    "Clara",
    "Viktor",
)
_THINGS = (
    "timber",
    "salt",
    "wool",
    "honey",
    "copper",
    "barley",
    "glass",
    "rope",
    "linen",
    "candles",
    "slate",
    "cider",
)
_DEEDS = (
    "built",
    "painted",
    "bought",
    "repaired",
    "surveyed",
    "opened",
    "closed",
    "moved",
    "rented",
    "flooded",
    "sold",
    "mapped",
)


@dataclass(frozen=True)
class Workload:
    """What is asked.

    Attributes:
        passages: passages of equal length in tokens.
        question: the beginning of a sentence in the middle passage.
    """

    passages: tuple[Passage, ...]
    question: str


def make_workload(
    tokenizer: Tokenizer, *, passages: int, passage_tokens: int, question_tokens: int, seed: int = 0
) -> Workload:
    """Passages of `passage_tokens` tokens, a question of about `question_tokens`.

    Args:
        tokenizer: counts the tokens.
        passages: how many.
        passage_tokens: tokens of each, at least twice the question's.
        question_tokens: tokens of the question.
        seed: another seed, other sentences.

    Raises:
        InputError: lengths that do not go together.
    """
    if min(passages, question_tokens) < 1 or passage_tokens < 2 * question_tokens:
        raise InputError(
            f"passages={passages}, passage_tokens={passage_tokens}, question_tokens={question_tokens}: "
            "give at least one of each, and passages at least twice as long as the question."
        )
    rng = random.Random(seed)
    texts = []
    for number in range(passages):
        text = ""
        while len(tokenizer.encode(text)) < passage_tokens + 8:
            text += _sentence(rng, number) + " "
        texts.append(_cut(tokenizer, text, passage_tokens))
    source = texts[passages // 2]
    # From the beginning of the passage: what follows is half of it away from its end at least.
    return Workload(tuple(Passage(text) for text in texts), _cut(tokenizer, source, question_tokens))


def _sentence(rng: random.Random, number: int) -> str:
    return (
        f"In {rng.randint(1700, 1999)} {rng.choice(_NAMES)} {rng.choice(_DEEDS)} the {rng.choice(_PLACES)} "
        f"of district {number} for {rng.randint(2, 99)} barrels of {rng.choice(_THINGS)}, and "
        f"{rng.choice(_NAMES)} {rng.choice(_DEEDS)} it again {rng.randint(2, 30)} years later."
    )


def _cut(tokenizer: Tokenizer, text: str, tokens: int) -> str:
    return tokenizer.decode(tokenizer.encode(text)[:tokens])
