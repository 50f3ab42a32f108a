"""The answers that vLLM writes for one caller: their steps, as they come over the wire."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass

from ...errors import StreamError
from ...prompts.tokenizer import Tokenizer
from ..model import GroupRequest, Rows, Step
from .group import Group, GroupReader, group_of
from .loop import submit
from .rows import VllmRows
from .servers import Instance, Servers

__all__ = ["VllmDecoder"]

_PATIENCE = 0.1  # seconds without a token until the caller may look after other things


@dataclass(eq=False)
class _Question:
    """A question that is answered.

    Attributes:
        group: what vLLM gets.
        request: which is under way; None until it is sent.
        steps: that were drawn.
        is_over: whether no more of them comes.
    """

    group: Group
    request: Future[None] | None = None
    steps: int = 0
    is_over: bool = False


class VllmDecoder:
    """A `nbce_rag.models.model.Decoder`. Each question is one request, whose steps wait here until they are
    drawn; where its instance fails it is asked again, and goes on where it was.

    Args:
        servers: who are asked.
        name: that they know the model by.
        tokenizer: the model's.
        eos_ids: tokens that end an answer.
    """

    def __init__(self, servers: Servers, name: str, tokenizer: Tokenizer, eos_ids: frozenset[int]) -> None:
        self._servers, self._name, self._tokenizer, self._eos_ids = servers, name, tokenizer, eos_ids
        self._changed = threading.Condition()
        self._news: deque[Step | tuple[int, Exception | None]] = deque()  # (question, how it ended)
        self._questions: dict[int, _Question] = {}
        self._active: dict[int, None] = {}
        self._errors: dict[int, Exception] = {}
        self._count = 0

    def add(self, rows: Rows, requests: Sequence[GroupRequest]) -> range:
        """See `nbce_rag.models.model.JoinableDecoder.add`; they are sent with the next step."""
        assert isinstance(rows, VllmRows)
        groups = [
            group_of(
                self._name,
                request,
                rows.prompts(request.rows),
                rows.place(request.rows),
                self._tokenizer,
                self._eos_ids,
            )
            for request in requests
        ]
        questions = range(self._count, self._count + len(groups))
        self._count = questions.stop
        self._questions.update(zip(questions, map(_Question, groups), strict=True))
        self._active.update(dict.fromkeys(questions))
        return questions

    @property
    def active(self) -> list[int]:
        """See `nbce_rag.models.model.Decoder.active`."""
        return list(self._active)

    @property
    def errors(self) -> Mapping[int, Exception]:
        """See `nbce_rag.models.model.Decoder.errors`."""
        return self._errors

    def step(self) -> list[Step]:
        """What has come since the last time, or after a tenth of a second nothing."""
        self._errors = {}
        for number in self.active:
            question = self._questions[number]
            if question.request is None:
                question.request = submit(self._answer(number, question.group))
            elif question.is_over:  # whoever draws has not seen an end in its tokens
                self._fail(number, StreamError("vLLM ended an answer before it was whole; ask again."))
        with self._changed:
            if not self._news and self._active:
                self._changed.wait(_PATIENCE)
            news = list(self._news)
            self._news.clear()
        steps = []
        for one in news:
            if isinstance(one, Step):
                if one.question in self._active:
                    self._questions[one.question].steps += 1
                    steps.append(one)
            elif one[0] not in self._active:
                continue
            elif one[1] is None:
                self._questions[one[0]].is_over = True
            else:
                self._fail(one[0], one[1])
        return [step for step in steps if step.question in self._active]

    def finish(self, question: int) -> None:
        """No more tokens for this question; vLLM frees its rows."""
        self._active.pop(question, None)
        one = self._questions.get(question)
        if one is not None and one.request is not None:
            one.request.cancel()

    def forget(self, question: int) -> None:
        """Nothing more will be asked about this question."""
        self.finish(question)
        self._questions.pop(question, None)

    def dropped(self, question: int) -> int:
        """None: vLLM reads all rows to the end."""
        return 0

    def row_steps(self, question: int) -> tuple[int, int]:
        """Steps of rows behind the first token; none sleeps."""
        one = self._questions[question]
        return max(one.steps - 1, 0) * len(one.group.prompts), 0

    def _fail(self, question: int, error: Exception) -> None:
        self._errors[question] = error
        self.finish(question)

    async def _answer(self, question: int, group: Group) -> None:
        """Asks, in the loop's thread, until the answer is whole or nobody can give it."""
        shown: list[int] = []

        async def ask(instance: Instance) -> None:
            reader = GroupReader(group, question)
            place = 0
            async with aclosing(self._servers.events(instance, group.body())) as events:
                async for event in events:
                    for step in reader.push(event):
                        self._show(step, place, shown)
                        place += 1
            reader.check_whole()

        try:
            await self._servers.run(group.place, ask)
        except Exception as error:
            self._tell((question, error))
        else:
            self._tell((question, None))

    def _show(self, step: Step, place: int, shown: list[int]) -> None:
        """Hands a step on, or finds it to be one that was shown before an instance failed.

        Raises:
            StreamError: it is another one.
        """
        if place == len(shown):
            shown.append(step.token)
            self._tell(step)
        elif shown[place] != step.token:
            raise StreamError(
                "An instance of vLLM failed in the middle of an answer, and another one wrote a different "
                f"token {place + 1}, so that it cannot be gone on with; ask again. Instances agree in "
                "float32, and mostly in bfloat16."
            )

    def _tell(self, news: Step | tuple[int, Exception | None]) -> None:
        with self._changed:
            self._news.append(news)
            self._changed.notify()
