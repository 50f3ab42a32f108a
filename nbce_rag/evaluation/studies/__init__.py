"""Studies: how answers change with one thing, as a table and a picture. `nbce-rag study NAME`.

Importing this package loads nothing heavy; a study is loaded when it is run.
"""

from __future__ import annotations

__all__ = ["STUDIES"]

STUDIES: dict[str, str] = {
    "passages": "answers against the number of passages that are read",
    "position": "answers against the rank of the gold passage",
    "irrelevant": "who abstains when no passage holds the answer",
    "long": "answers of several sentences, with code (questions with keys)",
    "conflict": "passages that contradict each other (RAMDocs)",
    "sweep": "answers against each number of the fusion rules",
    "kv8": "stored keys and values in 8 bits against exact ones",
}
"""Names of the studies, which are modules of this package, and what they ask."""
