"""Cells of a context that its sequences hold, counted, so that there is room before llama.cpp is asked."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Held", "Run"]


class Run:
    """Cells that were filled together and may be shared.

    Attributes:
        tokens: how many cells.
        holders: sequences that hold them; nobody's are free.
    """

    __slots__ = ("holders", "tokens")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.holders = 1


class Held:
    """The cells of one sequence, in runs from its first token to its last.

    A sequence that was copied shares its runs with the copy, and writes new ones. All of this is counting:
    the methods give what the number of filled cells changes by.
    """

    __slots__ = ("_runs",)

    def __init__(self, runs: Sequence[tuple[Run, int]] = ()) -> None:
        self._runs = list(runs)  # and how many tokens of each are this sequence's

    def grow(self, tokens: int) -> int:
        """So many tokens more."""
        if tokens and self._runs and self._is_private(-1):
            run, own = self._runs[-1]
            run.tokens += tokens
            self._runs[-1] = (run, own + tokens)
        elif tokens:
            self._runs.append((Run(tokens), tokens))
        return tokens

    def cut(self, tokens: int) -> int:
        """So many tokens fewer, from the end."""
        freed = 0
        while tokens:
            run, own = self._runs[-1]
            part = min(tokens, own)
            tokens -= part
            if part == own:
                self._runs.pop()
                freed += _leave(run)
                continue
            if self._is_private(-1):  # of a run that others hold too, all cells stay theirs
                run.tokens -= part
                freed -= part
            self._runs[-1] = (run, own - part)
        return freed

    def clear(self) -> int:
        """No tokens any more."""
        freed = sum(_leave(run) for run, _ in self._runs)
        self._runs.clear()
        return freed

    def copied(self) -> Held:
        """The cells of a copy, which fills none by itself."""
        for run, _ in self._runs:
            run.holders += 1
        return Held(self._runs)

    def _is_private(self, place: int) -> bool:
        run, own = self._runs[place]
        return run.holders == 1 and run.tokens == own


def _leave(run: Run) -> int:
    run.holders -= 1
    return 0 if run.holders else -run.tokens
