"""Which architectures are read as rows, and how: a table that `make matrix` writes, each of them tried.

Tiny models of every architecture are read in rows of unequal length and compared with plain passes (see
`tests/models/matrix.py`); what came of it is in `families.json` beside this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["TABLE", "WAYS", "Families", "Family", "families"]

TABLE = Path(__file__).with_name("families.json")
"""The table, as `Families.to_dict` has it."""

WAYS: Mapping[str, str] = {
    "rows": "all rows in one pass",
    "steps": "all rows in one pass, token by token",
    "groups": "rows of equal length in one pass",
    "refused": "not at all",
    "wrong": "wrongly",
    "crash": "not at all, with an error that is not ours",
}
"""How rows are read, by the names that the table has for it; the last two are in no table that ships."""


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        name: its model type, as configs have it; behind a comma what is particular in a variant of it.
        architecture: the class in transformers; "" where it could not be built.
        way: one of `WAYS`.
        keeps: what its layers keep of a context, in words; "" where it is not read.
        reason: why it is not read; "" where it is.
    """

    name: str
    architecture: str
    way: str
    keeps: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Families:
    """The table.

    Attributes:
        transformers: the version that it was made with; others may differ.
        families: by name.
    """

    transformers: str
    families: Mapping[str, Family]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "transformers": self.transformers,
            "families": [asdict(family) for family in self.families.values()],
        }


@cache
def families() -> Families:
    """The table that comes with the package."""
    data = json.loads(TABLE.read_text(encoding="utf-8"))
    listed = [Family(**family) for family in data["families"]]
    return Families(data["transformers"], {family.name: family for family in listed})
