"""Published peers as fusion rules, for comparison in one program: one peer a module, by whose name it goes.

They live here and not among the rules that users choose from: each is what its paper states, with the
paper's numbers, and none is recommended. Symbols as in `nbce_rag.fusion`. A module's `RULE` is its rule.

Importing this package loads no peer.
"""

from __future__ import annotations

from pkgutil import iter_modules
from typing import TYPE_CHECKING

from ....fusion.registry import RuleRegistry

if TYPE_CHECKING:
    from ..peer import Peer

__all__ = ["PEERS"]

PEERS: RuleRegistry[Peer] = RuleRegistry(
    __name__, {module.name: f"{module.name}.RULE" for module in iter_modules(__path__)}
)
