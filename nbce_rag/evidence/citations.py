"""From evidence for tokens to citations of words.

Tokens are the model's units, not the reader's: a name may be four of them, and two of these may be led
by different passages. So evidence is gathered by word first, and a citation is a run of whole words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import InputError
from .evidence import Citation, TokenEvidence, leading
from .words import words

__all__ = ["cite"]

_AFTER = frozenset("%‰°′″℃℉€£¥$₹")
_BEFORE = frozenset("€£¥$₹+\u2212")
_OPENED_BY = {
    ")": "(", "]": "[", "}": "{", "”": "“", "’": "‘", "»": "«", "›": "‹", '"': '"',
    "）": "（", "】": "【", "」": "「", "』": "『", "》": "《", "〉": "〈",
}  # fmt: skip


def cite(
    text: str,
    tokens: Sequence[TokenEvidence],
    passage_ids: Sequence[str],
    threshold: float = 0.5,
) -> tuple[Citation, ...]:
    """The citations of an answer, from the evidence for its tokens.

    A word's evidence is the mean of the weights of the tokens that overlap it, each counted by the
    number of characters it shares with the word. The word cites its leading passage if that passage
    has at least `threshold` of the evidence; on a tie, the passage that comes first. Neighbouring words
    with the same passage are one citation, with the whitespace and punctuation between them; a word
    that cites another passage, or none, ends it. Signs that are attached to a cited word (percent,
    degree, currency) and the closing half of a bracket or quotation within it belong to the citation.

    Args:
        text: The answer.
        tokens: Its tokens, whose spans are in `text`, ordered. Their `weights` are over `passage_ids`.
        passage_ids: Ids of the passages. Evidence for passages that share an id is added up.
        threshold: Least share of the evidence for which a word is cited, in [0, 1]. Above 0.5 no word
            can be claimed by two passages equally.

    Returns:
        Citations, ordered by start, disjoint, and inside of `text`. `share` is the mean of the passage's
        evidence over the words, counted by their characters.

    Raises:
        InputError: `threshold` is not in [0, 1], or a token's weights and `passage_ids` differ in number.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"the citation threshold is {threshold}; give a share from 0 to 1, such as 0.5")
    for token in tokens:
        if len(token.weights) != len(passage_ids):
            raise InputError(
                f"token {token.text!r} has {len(token.weights)} weights for {len(passage_ids)} passages; "
                "give the passages that the answer was decoded with, in their order"
            )
    if not passage_ids:
        return ()

    ids = list(dict.fromkeys(passage_ids))
    spans = words(text)
    citations: list[Citation] = []
    run: list[tuple[int, int, float]] = []
    leader = -1

    def close(stop: int) -> None:
        if run:
            start = citations[-1].end if citations else 0
            citations.append(_citation(text, run, ids[leader], start, stop))
            run.clear()

    for (start, end), evidence in zip(spans, _by_word(spans, tokens, passage_ids, ids), strict=True):
        best = leading(evidence) if evidence else -1
        if best < 0 or evidence[best] < threshold:
            best = -1
        if best != leader:
            close(start)
            leader = best
        if best >= 0:
            run.append((start, end, evidence[best]))
    close(len(text))
    return tuple(citations)


def _by_word(
    spans: Sequence[tuple[int, int]],
    tokens: Sequence[TokenEvidence],
    passage_ids: Sequence[str],
    ids: Sequence[str],
) -> list[list[float]]:
    """For each word its evidence over `ids`; [] for a word that no token overlaps."""
    result: list[list[float]] = []
    first = 0
    for start, end in spans:
        while first < len(tokens) and tokens[first].end <= start:
            first += 1
        covered = 0
        sums = [0.0] * len(passage_ids)
        at = first
        while at < len(tokens) and tokens[at].start < end:
            token = tokens[at]
            at += 1
            overlap = min(end, token.end) - max(start, token.start)
            if overlap > 0:
                covered += overlap
                sums = [total + overlap * weight for total, weight in zip(sums, token.weights, strict=True)]
        evidence = dict.fromkeys(ids, 0.0)
        for id_, total in zip(passage_ids, sums, strict=True):
            evidence[id_] += total
        result.append([total / covered for total in evidence.values()] if covered else [])
    return result


def _citation(
    text: str, run: Sequence[tuple[int, int, float]], passage_id: str, floor: int, ceiling: int
) -> Citation:
    """One citation of the (start, end, evidence) of its words, grown over attached signs.

    It stays in [floor, ceiling), which other citations and words end and begin at.
    """
    share = math.fsum((end - start) * evidence for start, end, evidence in run)
    share /= sum(end - start for start, end, _ in run)
    start, end = run[0][0], run[-1][1]
    while start > floor and text[start - 1] in _BEFORE:
        start -= 1
    while end < ceiling and (text[end] in _AFTER or _closes(text[start:end], text[end])):
        end += 1
    return Citation(start=start, end=end, passage_id=passage_id, share=min(share, 1.0))


def _closes(inside: str, char: str) -> bool:
    """Whether `char` is the closing half of a bracket or quotation that was opened in `inside`."""
    opener = _OPENED_BY.get(char)
    if opener is None:
        return False
    if opener == char:
        return inside.count(char) % 2 == 1
    return inside.count(opener) > inside.count(char)
