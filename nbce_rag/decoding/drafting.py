"""Drafts by prompt lookup: answers over passages copy from them.

The last tokens of the answer are looked up in the passage that leads, and what follows there is drafted.
The decoder reads a draft in one forward pass of all rows and keeps of it what it would have chosen
anyway (after Apoorv Saxena's prompt lookup decoding; speculative decoding is arXiv 2211.17192).
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["PromptLookup"]

_LONGEST_MATCH = 4
_FIRST_DRAFT = 2


class PromptLookup:
    """Drafts for one answer, as long as they have proved right lately.

    A drafted token costs about as much arithmetic as a decoded one and is worth it only where it is
    accepted, so a draft that is accepted whole makes the next one twice as long, and one that is
    rejected outright makes the next steps go without.

    Args:
        contexts: token ids of each passage row's context.
        most: longest draft, >= 1.
    """

    def __init__(self, contexts: Sequence[Sequence[int]], most: int) -> None:
        self._contexts = contexts
        self._most = most
        self._size = min(_FIRST_DRAFT, most)
        self._pause = 0  # steps to go without a draft
        self._failures = 0  # in a row
        self._trusted = False

    def draft(self, answer: Sequence[int], leading: int, room: int) -> tuple[int, ...]:
        """Tokens that may follow.

        Args:
            answer: token ids of the answer so far.
            leading: index of the passage row with the most evidence.
            room: most tokens that may be drafted.

        Returns:
            At most `room` tokens; none where nothing matches.
        """
        if self._pause:
            self._pause -= 1
            return ()
        context = self._contexts[leading]
        size = min(self._size, room)
        for n in range(min(_LONGEST_MATCH, len(answer)), 0, -1):
            places = _find(context, answer[-n:])
            # One token is little to go by, unless drafts are right and it stands in the passage only once.
            if places and (n > 1 or (self._trusted and len(places) == 1)):
                return tuple(context[places[-1] : places[-1] + size]) if size > 0 else ()
        return ()

    def judge(self, drafted: int, accepted: int) -> None:
        """Tell how many tokens of the last draft were right."""
        self._trusted = accepted == drafted
        if self._trusted:
            self._size = min(2 * self._size, self._most)
            self._failures = 0
        elif accepted:
            self._size = max(1, min(accepted + 1, self._most))
            self._failures = 0
        else:
            self._failures += 1
            self._size = min(_FIRST_DRAFT, self._most)
            self._pause = 2 ** min(self._failures, 4) - 1


def _find(context: Sequence[int], ngram: Sequence[int]) -> list[int]:
    """Where something follows the n-gram in the context: indexes of the first token behind it."""
    n, wanted = len(ngram), list(ngram)
    last = wanted[-1]
    return [
        end + 1
        for end in range(n - 1, len(context) - 1)
        if context[end] == last and list(context[end + 1 - n : end + 1]) == wanted
    ]
