"""What is noted of a request while it is answered: one record becomes a line of the log, and metrics."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..answers.answer import Answer

__all__ = ["CURRENT", "RequestRecord"]


@dataclass(slots=True)
class RequestRecord:
    """A request under way. Times are seconds; what did not take place is None.

    Attributes:
        request_id: As the client sees it.
        method: Of HTTP.
        endpoint: The pattern of the route, never the path that was asked for, which may hold anything.
        caller: Name of the key.
        status: Of HTTP; 0 before it is known.
        indexes: That were asked.
        is_cancelled: Whether the client left before the end.
        error: What went wrong, by the name of its kind.
        queue, retrieve, prefill, first_token, decode: Parts of the time. The first token counts from where
            the turn came.
        rows, prompt_tokens, cached_tokens, generated_tokens: What was read and written.
        finish_reason: Of the answer.
        grounding: Of the answer, in nats a token.
        question, text: Contents; they are logged only where the server was told to.
        begun: By `time.monotonic`.
        seconds: In all, once it is over.
    """

    request_id: str
    method: str = "GET"
    endpoint: str = "other"
    caller: str | None = None
    status: int = 0
    indexes: tuple[str, ...] = ()
    is_cancelled: bool = False
    error: str | None = None
    queue: float | None = None
    retrieve: float | None = None
    prefill: float | None = None
    first_token: float | None = None
    decode: float | None = None
    rows: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None
    finish_reason: str | None = None
    grounding: float | None = None
    question: str | None = None
    text: str | None = None
    begun: float = field(default_factory=lambda: time.monotonic())
    seconds: float = 0.0

    @property
    def abstained(self) -> bool:
        """Whether the answer is that the passages do not say."""
        return self.finish_reason == "no_evidence"

    def note_answer(self, answer: Answer) -> None:
        """What is noted of an answer."""
        usage, timings = answer.usage, answer.timings
        self.retrieve, self.prefill = timings.retrieve, timings.prefill
        self.first_token, self.decode = timings.first_token, timings.decode
        self.rows = len(usage.row_tokens)
        self.prompt_tokens, self.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        self.generated_tokens = usage.generated_tokens
        self.finish_reason, self.grounding = answer.finish_reason, answer.grounding
        self.question, self.text = answer.question, answer.text


CURRENT: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)
"""The record of the request that is being answered here."""
