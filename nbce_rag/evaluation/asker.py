"""Puts questions to methods, a batch at a time, and makes one line of the log of each answer."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from ..answers.answer import Answer
from ..engine.jobs import NO_PASSAGES
from ..engine.nbce import NBCE
from ..errors import ContextLengthError, NbceWarning
from ..evidence.identifiers import identifiers, names_in
from ..evidence.passage_evidence import cited_by_number
from ..evidence.unsupported import count_cited_words
from ..models.transformers.rope import why_not
from ..passages import Passage, whole_text
from ..prompts.template import Style
from ..request import Request
from .data.dataset import Dataset
from .data.questions import Question
from .joined import answer_to, joined_passages, joined_question
from .log import Row
from .methods.long_context import LongContext
from .methods.method import Exchange, Method, RequestFields

__all__ = ["Asker"]


@dataclass(eq=False)
class _Course:
    """One question, or several that are joined to one, on its way through one method."""

    questions: Sequence[Question]
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
        # Conflicts change no answer, and are measured by themselves.
        self._options: RequestFields = {"max_tokens": max_tokens, "style": style, "conflicts": False}
        self._places = {question.id: place for place, question in enumerate(data.questions)}
        self._engines: dict[tuple[str, float], LongContext] = {}

    def unavailable(self, method: Method) -> str | None:
        """Why this model cannot do this method, or None."""
        return why_not(self._nbce.model) if method.rope else None

    def ask(self, pairs: Sequence[tuple[Question, Method]]) -> list[Row]:
        """One line of the log for each question and method of a batch, in their order."""
        groups = {(self._start(*pair), pair[1].name): pair[1] for pair in pairs}
        courses = [self._course(start, method) for (start, _), method in groups.items()]
        start, since = time.perf_counter(), 0.0
        while running := [course for course in courses if not course.is_over]:
            replies = iter(self._replies(running))
            until = time.perf_counter() - start
            for course in running:
                course.take([next(replies) for _ in course.requests], since, until)
            since = until
        return [
            self._line(course, part, len(courses))
            for course in courses
            for part in range(len(course.questions))
        ]

    def _start(self, question: Question, method: Method) -> int:
        """Where the questions begin that are joined with this one."""
        place = self._places[question.id]
        return place - place % method.joined

    def _course(self, start: int, method: Method) -> _Course:
        questions = self._data.questions[start : start + method.joined]
        gold = [self._data.passages[id_] for id_ in dict.fromkeys(i for q in questions for i in q.gold_ids)]
        if method.joined == 1:
            text, contexts = questions[0].text, self._contexts[questions[0].id]
        else:
            text = joined_question(questions)
            k = max(len(self._contexts[question.id]) for question in questions)
            contexts = joined_passages(questions, self._contexts, self._data.passages, k)
        exchange = method.ask(text, contexts, gold)
        return _Course(questions, method, exchange, next(exchange))

    def _line(self, course: _Course, part: int, batch: int) -> Row:
        line = _line(course, part, batch)
        question = course.questions[part]
        if question.keys:
            gold = (self._data.passages[id_] for id_ in question.gold_ids)
            texts = [whole_text(passage) for passage in (*self._contexts[question.id], *gold)]
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
            (self._engine(course.method), self._request(course, request))
            for course in courses
            for request in course.requests
        ]
        together = iter(_batch(self._nbce, [request for engine, request in requests if engine is self._nbce]))
        return [
            next(together) if engine is self._nbce else _batch(engine, [request])[0]
            for engine, request in requests
        ]

    def _request(self, course: _Course, fields: RequestFields) -> Request:
        """A request; one that answers several questions at once has room for all answers."""
        request, count = self._nbce.request(**fields, **self._options), len(course.questions)
        if count == 1 or self._nbce.in_parts(request).parts:
            return request
        return replace(
            request, options=request.options.updated(max_tokens=count * request.options.max_tokens)
        )

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


def _line(course: _Course, part: int, batch: int) -> Row:
    question, answer, count = course.questions[part], course.answer, len(course.questions)
    if answer is not None and count > 1:
        answer = answer_to(answer, part, count)
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
        "cited_most": [],
        "rows": None,
        "grounding": None,
        "prompt_tokens": 0,
        "cached_tokens": 0,
        "seconds": course.seconds / batch / count,
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
    most = sorted(cited, key=lambda id_: -cited[id_])
    first_token = course.answers[-1].timings.first_token
    if course.method.layout == "apart":  # nothing of a ranking can be shown before all of it is there
        first_token = course.seconds - course.seconds_before
    is_cut = answer.finish_reason == "length"
    cited_words = count_cited_words(answer.text, answer.citations, answer.passages, is_cut)
    notes = dict.fromkeys(warning for part in course.answers for warning in part.warnings)
    return line | {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "leading": most[0] if most else None,
        "cited": list(cited),
        "cited_words": cited_words._asdict(),
        "cited_most": most,
        "rows": sum(len(part.usage.row_tokens) for part in course.answers),
        "grounding": answer.grounding,
        "prompt_tokens": sum(part.usage.prompt_tokens for part in course.answers) // count,
        "cached_tokens": sum(part.usage.cached_tokens for part in course.answers) // count,
        "ttft_s": None if first_token is None else course.seconds_before + first_token,
        "warnings": [note for note in notes if note != NO_PASSAGES],
    }


def _answer_to_ablate(course: _Course) -> Answer | None:
    """The answer, where one request to the engine itself gave it, over one passage a row."""
    answer = course.answer
    if (
        answer is None
        or len(course.questions) > 1
        or course.answers != [answer]
        or course.method.rope
        or answer.usage.thought_tokens
    ):
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
