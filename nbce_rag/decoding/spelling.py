"""The tokens of a text that is there already, and the characters of it that each stands for.

The model reads the text as it would have written it: without white space around it, and with special tokens
that it spells made harmless. What is shown and cited is the text itself, to the character.
"""

from __future__ import annotations

from ..errors import InputError
from ..evidence.spelling import Spelling
from ..prompts.encoder import PromptEncoder
from ..prompts.tokenizer import Tokenizer
from ..values import shown
from .detokenizer import TextBuilder

__all__ = ["spell"]

_LOOKAHEAD = 32  # characters by which one text may be ahead of the other where they differ
_SURE = 3  # equal characters that say that both go on alike


def spell(encoder: PromptEncoder, tokenizer: Tokenizer, text: str) -> Spelling:
    """A text as the tokens of an answer.

    Args:
        encoder: the prompt that it follows.
        tokenizer: the model's.
        text: what somebody wrote.

    Raises:
        InputError: there is nothing in it that the model reads.
    """
    inner = text.strip()
    if not inner:
        raise InputError(f"The text {shown(text)} is empty; give one with words in it.")
    written = encoder.answer_text(text)
    ids, ends = _ends(tokenizer, written)
    before = len(text) - len(text.lstrip())
    lead = len(written) - len(written.lstrip())
    places = [before] * lead + [before + place for place in _places(written[lead:], inner)]
    spans: list[tuple[int, int]] = []
    start, last = before, (0, 0)
    for end in ends:
        if (place := places[end]) > start:
            start, last = place, (start, place)
        spans.append(last)
    if start == before:
        raise InputError(f"The text {shown(text)} has no characters that the model reads.")
    # White space around the text belongs to the tokens beside it.
    whole = [
        (0 if first == before else first, len(text) if stop == start else stop) if stop else (0, 0)
        for first, stop in spans
    ]
    return Spelling(ids, tuple(whole))


def _ends(tokenizer: Tokenizer, written: str) -> tuple[tuple[int, ...], list[int]]:
    """Ids of a text, and the place in it where each of them ends."""
    encoded = tokenizer.encode_with_offsets(written)
    if encoded is None:
        ids = tokenizer.encode(written)
        builder = TextBuilder(tokenizer, skip_specials=False)
        for token in ids:
            builder.push(token)
        builder.finish()
        lead = len(written) - len(written.lstrip())
        places = [lead + place for place in _places(builder.text, written[lead:])]
        ends = [places[builder.span(place)[1]] for place in range(len(ids))]
        return ids, [*ends[:-1], len(written)]  # U+FFFD at the end may be written, and no half character
    ids, offsets = encoded
    ends = []
    for place, (start, end) in enumerate(offsets):
        following = offsets[place + 1][0] if place + 1 < len(offsets) else end
        # A token ends where the next one begins, unless both spell one character.
        ends.append(min(following if start < following < end else end, len(written)))
    return ids, ends


def _places(one: str, other: str) -> list[int]:
    """For each place in a text, and its end, the place in another one that differs from it here and there."""
    places: list[int] = []
    at = 0
    while len(places) < len(one):
        place = len(places)
        if one[place] != other[at : at + 1] and (skipped := _skipped(one, place, other, at)):
            places += [at] * skipped[0]
            at += skipped[1]
        else:
            places.append(at)
            at = min(at + 1, len(other))
    return [*places, at]


def _skipped(one: str, place: int, other: str, at: int) -> tuple[int, int] | None:
    """The fewest characters of two texts behind which they go on alike; None if that is not soon."""
    for total in range(1, 2 * _LOOKAHEAD):
        for mine in range(max(0, total - _LOOKAHEAD), min(total, _LOOKAHEAD) + 1):
            first, second = place + mine, at + total - mine
            rest, others = one[first : first + _SURE], other[second : second + _SURE]
            size = min(len(rest), len(others))
            if size and rest[:size] == others[:size]:
                return mine, total - mine
    return None
