"""What answers requests, wherever its model is: the part of `NBCE` that the adapters call."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from ..answers.answer import Answer, Piece
from ..models.model import Can
from ..options import Options
from ..passages import Passage
from ..prompts.template import PromptTemplate
from ..request import Request

__all__ = ["AnswerModel", "AnswerTokenizer", "Answerer"]


class AnswerTokenizer(Protocol):
    """What is known of a tokenizer."""

    @property
    def has_chat_template(self) -> bool: ...

    def encode(self, text: str) -> Sequence[int]:
        """Ids of a text, without special tokens."""
        ...


class AnswerModel(Protocol):
    """What is known of a model; see `nbce_rag.Model`."""

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def can(self) -> Can: ...
    @property
    def tokenizer(self) -> AnswerTokenizer: ...


@runtime_checkable
class Answerer(Protocol):
    """An engine: `NBCE`, whose model is in this process, or `RemoteNBCE`, whose model is behind a server.

    Attributes:
        options: defaults of every request.
        model: what is known of the model.
        window: the most tokens of a row, answer included.
        prompt: the wording around passages and question.
    """

    options: Options

    @property
    def model(self) -> AnswerModel: ...
    @property
    def window(self) -> int: ...
    @property
    def prompt(self) -> PromptTemplate: ...

    def updated(self, *, window: int | None = None, **options: Any) -> Self:
        """Another engine with what this one has where nothing else is given."""
        ...

    def batch(self, requests: Iterable[Request]) -> list[Answer]:
        """Answers to several requests, in their order."""
        ...

    async def abatch(self, requests: Iterable[Request]) -> list[Answer]: ...

    def stream(self, question: Request) -> Iterator[Piece]:
        """Piece by piece; the last one carries the answer, and closing the iterator stops the work."""
        ...

    def astream(self, question: Request) -> AsyncGenerator[Piece, None]: ...

    def stream_batch(self, requests: Iterable[Request]) -> Iterator[tuple[int, Piece]]: ...

    def astream_batch(self, requests: Iterable[Request]) -> AsyncGenerator[tuple[int, Piece], None]: ...

    def rerank(
        self, question: str, passages: Iterable[Passage | str], k: int | None = None, **options: Any
    ) -> list[Passage]:
        """Passages by how much likelier they make the question, the best first."""
        ...

    def attribute(self, question: Request, *, text: str = "") -> Answer:
        """Whose words a text is."""
        ...

    def ablate(self, answer: Answer) -> Answer:
        """The answer with what becomes of its likelihood without each passage."""
        ...
