"""Everything that a server keeps beside what it serves: keys, turns, figures, and how it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from ..answers.answer import Piece
from ..files import cache_dir
from ..options import Options
from ..request import Request
from .access import NOBODY_ELSE, Caller, may_read
from .admission import Admission, Place, Rates
from .ask import Ask
from .drain import Drain
from .hosts import HostCheck
from .jobs import Jobs
from .metrics import Metrics
from .record import CURRENT, RequestRecord
from .served import Opening
from .settings import ServerSettings
from .signatures import Signer
from .state_metrics import state_of
from .uploads import Uploads

__all__ = ["Entry", "Operation", "prompt_tokens"]

_T = TypeVar("_T")
_K = 8  # passages of a search that does not say how many
_PASSAGE_TOKENS = 200  # of a passage that is yet to be found


class Operation:
    """The policy of a server that runs (`nbce_rag.server.policy.Policy`).

    Args:
        settings: what it is told.

    Attributes:
        keys, hosts, rates, admission, drain, metrics, signer, uploads, jobs: see their modules.
        under_way: requests that are being answered.

    Raises:
        InputError: the keys file cannot be used.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.keys = settings.key_file()
        self.hosts = HostCheck(settings)
        self.metrics = Metrics()
        self.rates = Rates()
        self.admission = Admission(settings.limits, self.metrics.reject)
        self.drain = Drain()
        self.signer = Signer(settings.link_secret)
        self.uploads = Uploads(settings.files or cache_dir() / "files", settings.limits)
        self.jobs = Jobs(settings.limits)
        self.under_way = 0

    def follow(self, opening: Opening) -> None:
        """Shows the state of what is served, once it is, among the metrics."""
        self.metrics.add(state_of(self.admission, opening))

    def may_read(self, caller: Caller | None, index: str) -> bool:
        """Whether a caller may know of an index; who was let in without being asked for a key may not."""
        return caller is not None and may_read(caller, index)

    def allowed(self, caller: Caller | None, ask: Ask) -> Ask:
        """The question with the defaults of its key, cut to what the key and the server allow.

        Raises:
            ServerError: too many or too long documents, too long a message, or too many passages (400).
        """
        caller, limits = caller or NOBODY_ELSE, self.settings.limits
        limits.check_items(len(ask.messages), "messages")
        limits.check_items(len(ask.tools), "tools")
        for name in ("stop", "bad_words"):  # each is looked for at every token
            if isinstance(texts := ask.options.get(name), list | tuple):
                limits.check_items(len(texts), name)
        for place, message in enumerate(ask.messages):
            lengths = [len(part if isinstance(part, str) else part.text) for part in message.parts]
            limits.check_text(sum(lengths), f"messages[{place}]")
        documents = ask.documents or ()
        limits.check_documents([len(document.text) for document in documents])
        k = ask.search.get("k", self.settings.search.get("k", _K)) if ask.indexes else 0
        if isinstance(k, int):  # what else it is, the search says better
            limits.check_rows(k + len(documents))
        options = {**caller.options, **ask.options}
        most = min(limits.max_tokens, caller.max_tokens or limits.max_tokens)
        notes = list(ask.notes)
        for name in ("max_tokens", "max_thought_tokens"):
            default = self.settings.options.get(name, getattr(Options, name))
            wish = options.get(name, default)
            if isinstance(wish, int) and wish > most:
                options[name] = most
                if name in ask.options:
                    notes.append(f"{name}={wish} was lowered to {most}, the most that is allowed here.")
        seconds = options.get("max_seconds")
        if not isinstance(seconds, int | float) or seconds > limits.max_seconds:
            options["max_seconds"] = limits.max_seconds
        return replace(ask, options=options, notes=tuple(notes))

    @asynccontextmanager
    async def place(
        self, caller: Caller | None, request: Request, ask: Ask | None = None
    ) -> AsyncIterator[Entry]:
        """A place among the questions, at once, or the error of there being none.

        Raises:
            ServerError: 400, the request is over a limit; 429, the queue is full; 503, the server is ending.
        """
        self.drain.check()
        caller, limits = caller or NOBODY_ELSE, self.settings.limits
        limits.check_text(len(request.question), "question")
        limits.check_documents([len(passage.text) for passage in request.passages])
        limits.check_rows(len(request.passages), "documents")
        if ask is not None and (record := CURRENT.get()) is not None:
            record.indexes = ask.indexes
        with self.admission.place(caller, prompt_tokens(request, ask)) as place:
            yield Entry(place, self.drain)

    def check_text(self, characters: int, param: str) -> None:
        """Raises ServerError (400) when a text of a request is too long."""
        self.settings.limits.check_text(characters, param)

    @asynccontextmanager
    async def reading(self, caller: Caller | None, texts: Sequence[str]) -> AsyncIterator[Entry]:
        """A turn, waited for, for texts that are read without a question.

        Raises:
            ServerError: 429, the queue is full; 503, the server is ending.
        """
        self.drain.check()
        with self.admission.place(caller or NOBODY_ELSE, sum(map(_tokens, texts))) as place:
            entry = Entry(place, self.drain)
            await entry.watch(entry.turn())
            yield entry

    @asynccontextmanager
    async def admitted(self, caller: Caller | None, request: Request) -> AsyncIterator[Entry]:
        """`place`, and the turn waited for."""
        async with self.place(caller, request) as entry:
            await entry.watch(entry.turn())
            yield entry

    def observe(self, caller: Caller | None, event: object) -> None:
        """Notes the answer in the record of the request under way."""
        record = CURRENT.get()
        if record is not None and isinstance(event, Piece) and event.answer is not None:
            record.note_answer(event.answer)

    def begin(self, record: RequestRecord) -> None:
        """A request has come."""
        self.under_way += 1
        self.metrics.begin()

    def finish(self, record: RequestRecord) -> None:
        """A request is over."""
        self.under_way -= 1
        self.metrics.observe(record)


class Entry:
    """A question's place, from which it is driven at the end of the server."""

    def __init__(self, place: Place, drain: Drain) -> None:
        self._place = place
        self._drain = drain

    async def turn(self) -> None:
        """Waits for its turn."""
        await self._place.turn()
        if (record := CURRENT.get()) is not None:
            record.queue = self._place.waited

    async def watch(self, work: Awaitable[_T]) -> _T:
        """What the work gives; it is broken off when the server's time to end is over.

        Raises:
            ServerError: it was (503).
        """
        return await self._drain.watch(work)


def prompt_tokens(request: Request, ask: Ask | None = None) -> int:
    """About how many tokens a question's prompts have over all rows, also those that are yet to be found."""
    question = _tokens(request.question)
    searched = _whole(ask.search.get("k", _K)) if ask is not None and ask.indexes else 0
    rows = 1 + len(request.passages) + searched
    return (
        sum(_tokens(passage.text) for passage in request.passages)
        + searched * _PASSAGE_TOKENS
        + rows * question
    )


def _tokens(text: str) -> int:
    """A quarter of its bytes, which holds roughly in any language."""
    return len(text.encode("utf-8", "replace")) // 4


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
