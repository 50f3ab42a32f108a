"""What a published peer is: a fusion rule, and how its passages are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ...fusion import FusionRule

__all__ = ["Peer"]


class Peer(FusionRule):
    """Base of the peers, which are dataclasses as rules are.

    Attributes:
        layout: "rows" has each passage in a row of its own, "together" all in one row.
    """

    layout: Literal["rows", "together"] = "rows"

    def options(self) -> Mapping[str, Any]:
        """Further options of the requests, which follow from the peer's numbers."""
        return {}
