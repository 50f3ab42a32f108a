"""Words as a tsvector, and passages ranked by BM25 over it.

The terms are ours (`words.term_counts`), of no language: PostgreSQL's own parser knows no words of scripts
that set none apart, and its ranks (ts_rank) do not tell a rare word from a common one. `terms` counts the
passages of each, so that BM25 needs to read only those that have a word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..words import term_counts
from .conditions import Sql
from .database import Database

__all__ = ["WordRows", "term_vector"]

_K1, _B = 1.2, 0.75  # as SQLite's
_LEAST = 1e-6  # of a word that most passages have
_LONGEST = 400  # characters of a term; PostgreSQL takes 2 KB
_MOST = 900_000  # bytes of a tsvector, which takes 1 MiB
_POSITIONS = 255  # of a term, which a tsvector keeps
_ENOUGH = 8  # times as many as are asked for, to rank
_CANDIDATES = 2_000  # passages of the rarer words of a query, of which the common ones are only scored


def term_vector(title: str | None, text: str) -> tuple[str, int]:
    """The terms of a passage as a tsvector is written, and how many words it has.

    Where a term stands is of no use here; it has as many places as it comes often.
    """
    counts, words = term_counts(title, text)
    parts: list[str] = []
    size = 0
    for term, count in counts.items():
        count = min(count, _POSITIONS)
        part = f"{_quoted(term)}:{','.join(map(str, range(1, count + 1)))}"
        size += 4 * len(term) + 2 * count + 4
        if size > _MOST:  # a whole book in one passage
            break
        parts.append(part)
    return " ".join(parts), words


class WordRows(Database):
    """Questions about words. All of this has to be called inside `read()` or `write()`."""

    def count_words(self, term: str, limit: int) -> int:
        """How many passages have a term, counted up to a limit."""
        return min(sum(self._counts([term]).values()), limit)

    def ranked_by_words(self, terms: Sequence[str], depth: int, choice: Sql) -> list[int]:
        """Keys of passages that have any of these terms, of those that meet `choice`, the best first.

        The terms are looked up from the rarest on, for as long as few passages have one; those that have only
        the others, which are common, are looked at where that was too few.
        """
        counts = sorted(self._counts(terms).items(), key=lambda pair: (pair[1], pair[0]))
        if not counts:
            return []
        total, words = self._rows("SELECT passages, words FROM state")[0]
        weights = {
            term: max(math.log((total - count + 0.5) / (count + 0.5)), _LEAST) for term, count in counts
        }
        rare: list[str] = []
        size = 0
        for term, count in counts:
            if size >= _ENOUGH * depth and size + count > _CANDIDATES:
                break
            rare.append(term)
            size += count
        keys = self._scored(rare, weights, words / max(total, 1), depth, choice)
        if len(keys) < depth and len(rare) < len(counts):
            keys = self._scored(list(weights), weights, words / max(total, 1), depth, choice)
        return keys

    def _counts(self, terms: Sequence[str]) -> dict[str, int]:
        short = {term.lower()[:_LONGEST] for term in terms}
        return dict(self._rows("SELECT term, passages FROM terms WHERE term = ANY(%s)", (list(short),)))

    def _scored(
        self, terms: list[str], weights: dict[str, float], mean: float, depth: int, choice: Sql
    ) -> list[int]:
        query = (
            "SELECT p.key FROM passages p CROSS JOIN LATERAL unnest(p.terms) AS t(lexeme, places, classes) "
            "JOIN unnest(%s::text[], %s::float8[]) AS q(term, weight) ON q.term = t.lexeme "
            f"WHERE p.terms @@ %s::tsquery AND {choice.text} GROUP BY p.key "
            f"ORDER BY sum(q.weight * cardinality(t.places) * {_K1 + 1} / (cardinality(t.places) + "
            f"{_K1} * ({1 - _B} + {_B} * p.words / %s::float8))) DESC, p.key LIMIT %s"
        )
        asked = " | ".join(map(_quoted, terms))
        values = [list(weights), list(weights.values()), asked, *choice.values, max(mean, 1e-9), depth]
        return [row[0] for row in self._asked(query, values)]


def _quoted(term: str) -> str:
    text = term[:_LONGEST].replace("\\", "\\\\").replace("'", "''")
    return f"'{text}'"
