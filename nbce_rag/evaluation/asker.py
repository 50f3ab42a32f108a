"""Puts questions to methods, a batch at a time, and makes one line of the log of each answer."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ..answers.answer import Answer
from ..engine.generation import NO_PASSAGES
from ..engine.nbce import NBCE
from ..errors import ContextLengthError, NbceWarning
from ..evidence.identifiers import identifiers, names_in
from ..evidence.passage_evidence import cited_by_number
from ..evidence.unsupported import count_cited_words
from ..models.transformers.rope import why_not
from ..passages import Passage
from ..prompts.template import Style
from ..request import Request
from .data.dataset import Dataset
from .data.questions import Question
from .log import Row
from .methods.long_context import LongContext
from .methods.method import Exchange, Method, RequestFields

__all__ = ["Asker"]


@dataclass(eq=False)
class _Course:
    """One question on its way through one method."""

    question: Question
    method: Method
    exchange: Exchange
    requests: list[RequestFields] = field(default_factory=list)  # that have no answer yet
    answers: list[Answer] = field(default_factory=list)
    answer: Answer | None = None
    error: str | None = None
    seconds_before: float = 0.0  # until the last of the requests was made
    seconds: float = 0.0

    def take(self, replies: Sequence[Answer | ContextLengthError], since: float, until: float) -> None:
        """Replies to the requests, and the seconds from the start of the batch in which they came."""
        self.seconds_before, self.seconds = since, until
        answers = [reply for reply in replies if isinstance(reply, Answer)]
        self.answers += answers
        if len(answers) < len(replies):
            self.error = next(str(reply) for reply in replies if not isinstance(reply, Answer))
            self.exchange.close()
            return
        try:
            self.requests = self.exchange.send(answers)
        except StopIteration as end:
            self.answer = end.value

    @property
    def is_over(self) -> bool:
        return self.answer is not None or self.error is not None


class Asker:
    """Asks questions of one data set over what was retrieved for them.

    Args:
        nbce: the engine.
        data: questions and passages.
        contexts: the passages that were retrieved for each question, by its id.
        max_tokens: most tokens of an answer.
        style: of the wording, see `nbce_rag.options.Options`.
        ablate: whether lines say how far an answer rests on the gold passages, and on what it cites.
    """

    def __init__(
        self,
        nbce: NBCE,
        data: Dataset,
        contexts: Mapping[str, Sequence[Passage]],
        max_tokens: int,
        style: Style | None,
        ablate: bool = False,
    ) -> None:
        self._nbce, self._data, self._contexts = nbce, data, contexts
        self._ablate = ablate
        self._options: RequestFields = {"max_tokens": max_tokens, "style": style}
        self._engines: dict[tuple[str, float], LongContext] = {}

    def unavailable(self, method: Method) -> str | None:
        """Why this model cannot do this method, or None."""
        return why_not(self._nbce.model) if method.rope else None

    def ask(self, pairs: Sequence[tuple[Question, Method]]) -> list[Row]:
        """One line of the log for each question and method of a batch, in their order."""
        courses = []
        for question, method in pairs:
            gold = [self._data.passages[id_] for id_ in question.gold_ids]
            exchange = method.ask(question.text, self._contexts[question.id], gold)
            courses.append(_Course(question, method, exchange, next(exchange)))
        start, since = time.perf_counter(), 0.0
        while running := [course for course in courses if not course.is_over]:
            replies = iter(self._replies(running))
            until = time.perf_counter() - start
            for course in running:
                course.take([next(replies) for _ in course.requests], since, until)
            since = until
        return [self._line(course, len(courses)) for course in courses]

    def _line(self, course: _Course, batch: int) -> Row:
        line = _line(course, batch)
        question = course.question
        if question.keys:
            gold = (self._data.passages[id_] for id_ in question.gold_ids)
            texts = [f"{p.title or ''}\n{p.text}" for p in (*self._contexts[question.id], *gold)]
            names = names_in(texts)
            line["keys"] = [list(group) for group in question.keys]
            # With what the passages say of them, so that the log alone is enough to score again.
            line["identifiers"] = {name: name in names for name in identifiers(line["answer"])}
        if self._ablate and (answer := _answer_to_ablate(course)) is not None:
            line |= _ablation(self._nbce.ablate(answer), question)
        return line

    def _replies(self, courses: Sequence[_Course]) -> list[Answer | ContextLengthError]:
        """Replies to all requests, in order."""
        requests = [
            (self._engine(course.method), self._nbce.request(**request, **self._options))
            for course in courses
            for request in course.requests
        ]
        together = iter(_batch(self._nbce, [request for engine, request in requests if engine is self._nbce]))
        return [
            next(together) if engine is self._nbce else _batch(engine, [request])[0]
            for engine, request in requests
        ]

    def _engine(self, method: Method) -> NBCE | LongContext:
        if not method.rope:
            return self._nbce
        key = (method.rope, method.factor)
        if key not in self._engines:
            self._engines[key] = LongContext(self._nbce, *key)
        return self._engines[key]


def _batch(engine: NBCE | LongContext, requests: Sequence[Request]) -> list[Answer | ContextLengthError]:
    """Answers, and errors in place of those whose passages do not fit."""
    try:
        with warnings.catch_warnings():
            # What they say is in the answers, and goes into the log.
            warnings.simplefilter("ignore", NbceWarning)
            return list(engine.batch(requests))
    except ContextLengthError as error:
        # Raised before anything is computed, so that looking for the culprit costs nothing.
        if len(requests) == 1:
            return [error]
        middle = len(requests) // 2
        return _batch(engine, requests[:middle]) + _batch(engine, requests[middle:])


def _line(course: _Course, batch: int) -> Row:
    question, answer = course.question, course.answer
    line: Row = {
        "type": "answer",
        "method": course.method.name,
        "question_id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "gold_ids": list(question.gold_ids),
        "answer": "",
        "finish_reason": "does_not_fit",
        "leading": None,
        "cited": [],
        "grounding": None,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "seconds": course.seconds / batch,
        "ttft_s": None,
        "batch": batch,
        "error": course.error,
        "warnings": [],
    }
    if question.wrong_answers:
        line["wrong_answers"] = list(question.wrong_answers)
    if answer is None:
        return line
    cited = {answer.passages[e.passage].id: e.support for e in cited_by_number(answer.passage_evidence)}
    first_token = course.answers[-1].timings.first_token
    if course.method.layout == "apart":  # nothing of a ranking can be shown before all of it is there
        first_token = course.seconds - course.seconds_before
    cited_words = count_cited_words(answer.text, answer.citations, answer.passages)
    notes = dict.fromkeys(warning for part in course.answers for warning in part.warnings)
    return line | {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "leading": max(cited, key=cited.__getitem__) if cited else None,
        "cited": list(cited),
        "cited_words": cited_words._asdict(),
        "grounding": answer.grounding,
        "prompt_tokens": sum(part.usage.prompt_tokens for part in course.answers),
        "cached_tokens": sum(part.usage.cached_tokens for part in course.answers),
        "ttft_s": None if first_token is None else course.seconds_before + first_token,
        "warnings": [note for note in notes if note != NO_PASSAGES],
    }


def _answer_to_ablate(course: _Course) -> Answer | None:
    """The answer, where one request to the engine itself gave it, over one passage a row."""
    answer = course.answer
    if answer is None or course.answers != [answer] or course.method.rope or answer.thought:
        return None
    most = max(map(len, answer.usage.row_passages), default=0)
    return answer if answer.tokens and answer.passages and most == 1 else None


def _ablation(answer: Answer, question: Question) -> Row:
    """Nats that the answer loses without a gold passage that was read, on average, and `sufficiency`."""
    assert answer.ablation is not None
    gold = [
        necessity
        for passage, necessity in zip(answer.passages, answer.ablation.necessity, strict=True)
        if passage.id in question.gold_ids and math.isfinite(necessity)
    ]
    sufficiency = answer.ablation.sufficiency
    return {
        "necessity": fmean(gold) if gold else None,
        "sufficiency": None if sufficiency is None or not math.isfinite(sufficiency) else sufficiency,
    }
