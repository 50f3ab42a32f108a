"""From which vectors a search chooses."""

from __future__ import annotations

from collections.abc import Sized
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choice"]

_NONE = np.empty(0, np.int64)


class Choice(NamedTuple):
    """Keys of passages that may be found.

    Attributes:
        keys: These alone, ascending; None: all.
        hidden: But for these, ascending; of all. A few that are left out are told sooner than all others.
    """

    keys: NDArray[np.int64] | None = None
    hidden: NDArray[np.int64] = _NONE

    def size_in(self, all_keys: Sized) -> int:
        """How many that is, of all."""
        return len(all_keys) - len(self.hidden) if self.keys is None else len(self.keys)

    def among(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some keys that may be found, in their order."""
        if self.keys is not None:
            return keys[np.isin(keys, self.keys)]
        return keys[~np.isin(keys, self.hidden)] if len(self.hidden) else keys
