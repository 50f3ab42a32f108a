"""What is served: one engine and its indexes, loaded in a thread while the port listens already."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..engine.option_groups import by_group
from ..engine.rag import Rag
from ..engine.scheduler import Load
from ..errors import InputError
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..engine.nbce import NBCE
    from ..index import PassageIndex

__all__ = ["PLAIN", "Opening", "Served", "load_of", "model_id"]

PLAIN = "nbce"
"""The model id without retrieval; that of an index is `nbce-<index>`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Served:
    """An engine with its indexes, by name. May be used from several threads.

    Args:
        nbce: the engine.
        indexes: open indexes by the names under which they are served: letters, digits, `.`, `_` and `-`,
            since a name is part of model ids and addresses.
        search: defaults of every search.
        reranker: see `ServerSettings`.

    Raises:
        InputError: a name that cannot be served, or impossible options of a search.
    """

    def __init__(
        self,
        nbce: NBCE,
        indexes: Mapping[str, PassageIndex] | None = None,
        *,
        search: Mapping[str, Any] | None = None,
        reranker: Any = None,
    ) -> None:
        self.nbce = nbce
        self.rags: dict[str, Rag] = {}
        self.reranker = reranker
        for name, index in (indexes or {}).items():
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"An index cannot be served as {name!r}: use up to 64 letters, digits, '.', '_' and '-'."
                )
            self.rags[name] = Rag(index, nbce, **(search or {}))
        self._stack = ExitStack()

    @classmethod
    def open(cls, settings: ServerSettings) -> Served:
        """Opens the indexes and loads the model, which takes a while. `close` it.

        Raises:
            NbceError: what `PassageIndex.open` and `NBCE.from_pretrained` raise.
        """
        from ..engine.nbce import NBCE
        from ..index import PassageIndex

        by_group(settings.search, "search")
        with ExitStack() as stack:
            indexes = {
                name: stack.enter_context(PassageIndex.open(path)) for name, path in settings.indexes.items()
            }
            for index in indexes.values():
                _ = index.embedder.dimension  # loads it, before the model, which is larger
            nbce = NBCE.from_pretrained(settings.model, **settings.opening, **settings.options)
            served = cls(nbce, indexes, search=settings.search, reranker=settings.reranker)
            served._stack = stack.pop_all()
            if nbce.kv_store is not None:
                served._stack.callback(nbce.kv_store.close)
        return served

    @property
    def indexes(self) -> dict[str, PassageIndex]:
        """The indexes by name."""
        return {name: rag.index for name, rag in self.rags.items()}

    def close(self) -> None:
        """Lets go of what `open` opened. Doing it twice does no harm."""
        self._stack.close()


def load_of(served: Served) -> Load:
    """How busy the engine is: questions running and waiting, their rows, tokens of prompts that wait."""
    return served.nbce.scheduler.load


def model_id(index: str | None) -> str:
    """Name of the model that answers from an index, or of the plain one."""
    return PLAIN if index is None else f"{PLAIN}-{index}"


class Opening:
    """What is being opened, in a thread of its own.

    Attributes:
        served: what is open; None before.
        error: what it failed with; None as long as it has not.
    """

    def __init__(self, settings: ServerSettings, served: Served | None = None) -> None:
        self.served = served
        self.error: Exception | None = None
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._is_owner = served is None

    @property
    def is_done(self) -> bool:
        """Whether it is open or has failed."""
        return self.served is not None or self.error is not None

    def start(self) -> None:
        """Begins, unless there is something open already. Returns at once."""
        if self.served is None:
            self._thread = threading.Thread(target=self._open, name="nbce-opening", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Waits for what has begun and lets go of it; what was given from outside stays open."""
        if self._thread is not None:
            self._thread.join()
        if self._is_owner and self.served is not None:
            self.served.close()

    def _open(self) -> None:
        try:
            self.served = Served.open(self._settings)
        except Exception as error:
            self.error = error
