"""Which passages hold the words of an answer, told token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..options import Options
from ..passages import Passage
from ..prompts.encoder import PromptEncoder
from .plan import RowPlan, passage_ids

__all__ = ["Holders", "holders_of"]


class Holders:
    """Of the passages of a row that reads several, those that hold what the answer says.

    They are the passages in which the longest run of tokens stands that ends with the last one: of a name
    that two passages begin alike, the one that goes on as the answer does.

    Args:
        passages: token ids of each passage.
    """

    def __init__(self, passages: Sequence[Sequence[int]]) -> None:
        self._passages = passages
        self._places: list[dict[int, list[int]]] = []  # of each token
        for ids in passages:
            places: dict[int, list[int]] = defaultdict(list)
            for place, token in enumerate(ids):
                places[token].append(place)
            self._places.append(places)
        self._runs: list[dict[int, int]] = [{} for _ in passages]  # lengths, by the place where a run ends

    def push(self, token: int) -> tuple[int, ...]:
        """One more token of the answer: the passages that hold it; none where no passage does."""
        for number, places in enumerate(self._places):
            before = self._runs[number]
            self._runs[number] = {place: before.get(place - 1, 0) + 1 for place in places.get(token, ())}
        longest = [max(runs.values(), default=0) for runs in self._runs]
        most = max(longest, default=0)
        return tuple(number for number, length in enumerate(longest) if most and length == most)


def holders_of(
    encoder: PromptEncoder, plan: RowPlan, passages: Sequence[Passage], options: Options
) -> Holders | None:
    """For the passages of a plan; None where every row holds one of them, whose evidence is its own."""
    if not plan.is_shared:
        return None
    count = len(passages)
    return Holders([passage_ids(encoder, p, index, count, options) for index, p in enumerate(passages)])
