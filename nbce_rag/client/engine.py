"""RemoteNBCE: an engine whose model is behind a server, with the methods of `NBCE`."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

from ..answers.answer import Answer, Piece
from ..answers.choices import ChoiceScores
from ..answers.comparison import Comparison
from ..answers.wire import VERSION, from_wire, to_wire
from ..engine.arguments import check_passages, check_question, passage_sequence
from ..errors import InputError, RemoteError, StreamError, UnsupportedError
from ..models.model import Can
from ..options import Options
from ..passages import Passage
from ..prompts.prompt import Prompt
from ..prompts.template import PromptTemplate, check_style
from ..request import Request
from ..values import shown
from .connection import Connection
from .description import EngineDescription
from .events import Event
from .failures import error_in
from .metadata import sendable, with_metadata

__all__ = ["RemoteModel", "RemoteNBCE", "RemoteTokenizer"]

_ENGINE = "/v1/engine"
_TOKENS = "/v1/engine/tokens"
_REQUESTS = "/v1/requests"


@dataclass(frozen=True)
class RemoteTokenizer:
    """The tokenizer of a server's model."""

    connection: Connection
    has_chat_template: bool

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of a text, without special tokens; the server makes them."""
        return tuple(self.connection.post(_TOKENS, {"text": text})["ids"])


@dataclass(frozen=True)
class RemoteModel:
    """What a server says of its model; see `nbce_rag.Model`."""

    name: str
    fingerprint: str
    window: int
    can: Can
    tokenizer: RemoteTokenizer


class RemoteNBCE:
    """The engine of a server that `nbce-rag serve` runs: what is asked here is answered there.

    It has the methods of `NBCE` for questions, with the same arguments, and gives the same answers with all
    their evidence. torch is not loaded here. Everything that is said of how a model is loaded belongs to the
    server. What an answer should be read with is in `Answer.warnings`; Python's own warnings stay there.

    Args:
        base_url: of the server, with or without `/v1`.
        api_key: a key of the server's, if it wants one.
        timeout: seconds without a byte after which a request is given up; a server at work on an answer sends
            one every 15. How long an answer may take is `max_seconds`.
        max_retries: how often a request is tried again that found no room or no connection.
        **options: defaults of every request, in place of the server's; see `nbce_rag.Options`.

    Raises:
        RemoteError: the server cannot be reached, or is none of this version.
        InputError: unknown or impossible options, or no URL.
        MissingDependencyError: httpx is not installed (extra `[client]`).

    Example:
        >>> nbce = RemoteNBCE("http://localhost:8000")                             # doctest: +SKIP
        >>> nbce.answer("Who runs the ferry?", ["The ferry is run by Ada."]).text  # doctest: +SKIP
        'Ada'
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float | None = None,
        max_retries: int = 2,
        **options: Any,
    ) -> None:
        Options().updated(**options)  # before a server is asked for nothing
        connection = Connection(base_url, api_key, timeout=timeout, max_retries=max_retries)
        self._connection = connection
        self._description = _described(connection)
        self.options = self._checked(self._description.options.updated(**options))
        about = self._description
        tokenizer = RemoteTokenizer(connection, about.has_chat_template)
        self.model = RemoteModel(about.model, about.fingerprint, about.window, about.can, tokenizer)

    @property
    def base_url(self) -> str:
        """Where the server is."""
        return self._connection.url

    @property
    def window(self) -> int:
        """The most tokens of a row, answer included."""
        return self._description.window

    @property
    def prompt(self) -> PromptTemplate:
        """The wording around passages and question."""
        return self._description.prompt(self.options.style)

    @property
    def has_own_prompt(self) -> bool:
        """Whether the wording is the server's own, so that `style` has no say in it."""
        return self._description.has_own_prompt

    def updated(self, *, window: int | None = None, **options: Any) -> Self:
        """Another engine of the same server, with what this one has where nothing else is given.

        Raises:
            UnsupportedError: another window, which is the server's.
            InputError: unknown or impossible options.
        """
        if window not in (None, self.window):
            raise UnsupportedError(
                f"A window of {window} beside base_url: the window is the server's, {self.window}; leave it "
                "out, or give it where the server is started."
            )
        other = copy.copy(self)
        other.options = self._checked(self.options.updated(**options))
        return other

    def request(
        self,
        question: str,
        passages: Iterable[Passage | str] = (),
        *,
        prompt: Prompt | None = None,
        **options: Any,
    ) -> Request:
        """A checked request, as `NBCE.request` makes it; a long document is split where the model is.

        Raises:
            InputError: an empty question, something that is no passage, or unknown or impossible options.
        """
        check_question(question, prompt)
        return Request(question, tuple(passage_sequence(passages)), self.options.updated(**options), prompt)

    def answer(self, question: str, passages: Iterable[Passage | str] = (), **options: Any) -> Answer:
        """Answer a question; errors as `NBCE.answer` and `RemoteNBCE` say."""
        return self.batch([self.request(question, passages, **options)])[0]

    async def aanswer(self, question: str, passages: Iterable[Passage | str] = (), **options: Any) -> Answer:
        """`answer` on an event loop. Cancelling it stops the work on the server."""
        return (await self.abatch([self.request(question, passages, **options)]))[0]

    def stream(
        self, question: str | Request, passages: Iterable[Passage | str] = (), **options: Any
    ) -> Iterator[Piece]:
        """Answer piece by piece; the last piece carries the `Answer`.

        Closing the iterator ends the request, and the server stops the work.
        """
        request = self._whole_request(question, passages, options)
        return (piece for _, piece in self.stream_batch([request]))

    async def astream(
        self, question: str | Request, passages: Iterable[Passage | str] = (), **options: Any
    ) -> AsyncGenerator[Piece, None]:
        """`stream` on an event loop."""
        request = self._whole_request(question, passages, options)
        async with aclosing(self.astream_batch([request])) as pieces:
            async for _, piece in pieces:
                yield piece

    def batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Answers to several requests, in their order; the server reads and decodes them together."""
        requests = self._several(requests)
        return _in_order(self._answers(requests, pieces=False), len(requests))

    async def abatch(self, requests: Iterable[Request]) -> list[Answer]:
        """`batch` on an event loop. Cancelling it stops the work on the server."""
        requests = self._several(requests)
        async with aclosing(self._aanswers(requests, pieces=False)) as pairs:
            return _in_order([pair async for pair in pairs], len(requests))

    def stream_batch(self, requests: Iterable[Request]) -> Iterator[tuple[int, Piece]]:
        """`batch`, piece by piece: (index of the request, piece)."""
        return self._answers(self._several(requests), pieces=True)

    def astream_batch(self, requests: Iterable[Request]) -> AsyncGenerator[tuple[int, Piece], None]:
        """`stream_batch` on an event loop."""
        return self._aanswers(self._several(requests), pieces=True)

    def compare(self, question: str, passages: Iterable[Passage | str], **options: Any) -> Comparison:
        """Let every passage answer for itself, and say who agrees with whom, as `NBCE.compare`."""
        request = self.request(question, passages, **options)
        return with_metadata(from_wire(Comparison, self._asked("compare", request)), [request])

    def score(
        self, question: str, passages: Iterable[Passage | str], choices: Sequence[str], **options: Any
    ) -> ChoiceScores:
        """Fused log-probs of given answers, as `NBCE.score`."""
        request = self.request(question, passages, **options)
        return from_wire(ChoiceScores, self._asked("score", request, choices=list(choices)))

    def rerank(
        self, question: str, passages: Iterable[Passage | str], k: int | None = None, **options: Any
    ) -> list[Passage]:
        """Passages by how much likelier they make the question, the best first, as `NBCE.rerank`."""
        request = self.request(question, passages, **options)
        best = [from_wire(Passage, one) for one in self._asked("rerank", request, k=k)]
        return with_metadata(best, [request])

    def attribute(
        self,
        question: str | Request,
        passages: Iterable[Passage | str] = (),
        text: str = "",
        **options: Any,
    ) -> Answer:
        """Whose words a text is that somebody else wrote, as `NBCE.attribute`."""
        request = self._whole_request(question, passages, options)
        answer = from_wire(Answer, self._asked("attribute", request, text=text))
        return with_metadata(answer, [request])

    def ablate(self, answer: Answer) -> Answer:
        """The answer with `Answer.ablation`, as `NBCE.ablate`; it goes to the server and comes back."""
        if answer.request is None:
            raise InputError(
                "This answer does not know its request, since it was copied, made by hand, or is one of "
                "several parts; ablate the answer that came from the engine."
            )
        requests = [answer.request]
        sent = to_wire(replace(sendable(answer), request=None))
        made = from_wire(Answer, self._asked("ablate", answer.request, answer=sent))
        return with_metadata(made, requests)

    def _whole_request(
        self, question: str | Request, passages: Iterable[Passage | str], options: Mapping[str, Any]
    ) -> Request:
        if not isinstance(question, Request):
            return self.request(question, passages, **options)
        if passages or options:
            raise InputError("A request has its passages and options already; give them to `request`.")
        check_passages(question.passages)
        return question

    def _several(self, requests: Iterable[Request]) -> list[Request]:
        several = list(requests)
        for request in several:
            if not isinstance(request, Request):
                raise InputError(f"{shown(request)} is no request; give RemoteNBCE.request(...).")
            check_passages(request.passages)
        return several

    def _asked(self, what: str, request: Request, **more: Any) -> Any:
        body = {"version": VERSION, "request": to_wire(sendable(request)), **more}
        return self._connection.post(f"{_REQUESTS}/{what}", body)["result"]

    def _answers(self, requests: list[Request], *, pieces: bool) -> Iterator[tuple[int, Piece]]:
        if not requests:
            return
        missing = set(range(len(requests)))
        with closing(self._connection.events(_REQUESTS, _body(requests, pieces))) as events:  # type: ignore[type-var]
            for event in events:
                place, piece = _piece(self.base_url, event, requests)
                if piece.answer is not None:
                    missing.discard(place)
                yield place, piece
                if not missing:
                    return
        self._end(missing)

    async def _aanswers(
        self, requests: list[Request], *, pieces: bool
    ) -> AsyncGenerator[tuple[int, Piece], None]:
        if not requests:
            return
        missing = set(range(len(requests)))
        async with aclosing(self._connection.aevents(_REQUESTS, _body(requests, pieces))) as events:  # type: ignore[type-var]
            async for event in events:
                place, piece = _piece(self.base_url, event, requests)
                if piece.answer is not None:
                    missing.discard(place)
                yield place, piece
                if not missing:
                    return
        self._end(missing)

    def _end(self, missing: set[int]) -> NoReturn:
        raise StreamError(
            f"The server at {self.base_url} ended without {len(missing)} of the answers; ask again."
        )

    def _checked(self, options: Options) -> Options:
        about = self._description
        check_style(options.style, about.prompt(None) if about.has_own_prompt else None)
        return options


def _described(connection: Connection) -> EngineDescription:
    value = connection.get(_ENGINE)
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise RemoteError(
            f"The server at {connection.url} speaks version {shown(version)} of requests, and this package "
            f"{VERSION}; install the same version of nbce-rag on both sides."
        )
    return from_wire(EngineDescription, value)


def _body(requests: Sequence[Request], pieces: bool) -> dict[str, Any]:
    return {
        "version": VERSION,
        "requests": [to_wire(sendable(request)) for request in requests],
        "stream": True,
        "pieces": pieces,
    }


def _piece(url: str, event: Event, requests: Sequence[Request]) -> tuple[int, Piece]:
    if event.kind == "error":
        raise error_in(url, event.data)
    if event.kind != "piece":
        raise StreamError(f"The server at {url} sends an event {event.kind!r}, which no answer has.")
    place = event.data["request"]
    piece = from_wire(Piece, event.data["piece"])
    if piece.answer is None:
        return place, piece
    return place, replace(piece, answer=with_metadata(piece.answer, [requests[place]]))


def _in_order(pairs: Iterable[tuple[int, Piece]], count: int) -> list[Answer]:
    answers = {place: piece.answer for place, piece in pairs if piece.answer is not None}
    return [answers[place] for place in range(count)]
