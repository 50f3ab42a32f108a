"""Locks and threads in a process that was forked: the threads are gone there, the locks may be held."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Renewable", "renew_in_children"]


class Renewable(Protocol):
    """What can go on in a child process, once it has new locks and no threads."""

    def renew(self) -> None:
        """Called in a child process, before anything else there."""


_objects: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """From now on, `renew` of this object is called in each child process that is forked."""
    _objects.add(renewable)


def _renew() -> None:
    for renewable in list(_objects):
        renewable.renew()


if hasattr(os, "register_at_fork"):  # where processes can be forked
    os.register_at_fork(after_in_child=_renew)
