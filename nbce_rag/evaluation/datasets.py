"""Questions with known answers, and the passages that hold them, from the formats in use."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..passages import Passage
from .records import read_records

__all__ = ["Dataset", "Question", "load_dataset", "read_passages", "read_questions"]

_SUFFIXES = (".gz", ".jsonl", ".json", "-questions")


@dataclass(frozen=True)
class Question:
    """A question whose answer is known.

    Attributes:
        id: unique in its dataset.
        text: the question.
        answers: right answers, any of which will do; empty for a question that the passages do not answer.
        gold_ids: ids of the passages that hold the answer.
        wrong_answers: answers that are known to be wrong and stand in some passage.
        contexts: passages that came with the question, best first; empty where a corpus is searched.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...] = ()
    contexts: tuple[Passage, ...] = ()
    wrong_answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Questions and the passages that are searched for them.

    Attributes:
        name: the questions file's name without its endings.
        questions: in the order in which they are asked.
        passages: the corpus by id.
        own_contexts: whether each question is asked over the passages that came with it, unsearched.
    """

    name: str
    questions: tuple[Question, ...]
    passages: Mapping[str, Passage]
    own_contexts: bool = False

    def sample(self, limit: int | None = None, *, seed: int = 0, half: int | None = None) -> Dataset:
        """Questions in random order, the first `limit` of them, and of these every other one.

        The same seed gives the same questions in the same order, and a smaller limit the first of them.

        Args:
            limit: how many at most, None for all.
            seed: of the order.
            half: 1 or 2 for one of two halves of the sample that have no question in common (one to tune
                on, one to report), None for both.

        Raises:
            InputError: limit < 1, another half, or no question is left.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit={limit} must be at least 1; leave it out to ask all questions.")
        if half not in (None, 1, 2):
            raise InputError(f"half={half!r} must be 1 or 2; leave it out to ask both.")
        order = list(self.questions)
        random.Random(seed).shuffle(order)
        chosen = order[:limit]
        if half is not None:
            chosen = chosen[half - 1 :: 2]
        if not chosen:
            raise InputError(f"No question is left of {len(self.questions)} with limit={limit}, half={half}.")
        return replace(self, questions=tuple(chosen))

    @property
    def sha256(self) -> str:
        """Hash over questions, answers, gold ids and passages: changes when any of them does."""
        digest = hashlib.sha256()
        for question in self.questions:
            contexts = [passage.id for passage in question.contexts]
            _add(digest, question.id, question.text, question.answers, question.gold_ids, contexts)
        for id_ in sorted(self.passages):
            passage = self.passages[id_]
            _add(digest, id_, passage.title, passage.text, passage.score)
        return digest.hexdigest()


def load_dataset(passages: str | os.PathLike[str] | None, questions: str | os.PathLike[str]) -> Dataset:
    """Read questions and their corpus.

    Questions are jsonl with `question`, `answers`, `gold_ids` (and `id`), jsonl with `question`,
    `answers`, `ctxs`, or SQuAD-format JSON; passages are jsonl with `text` (and `id`, `title`) or SQuAD
    format. Either may be gzipped.

    Args:
        passages: the corpus. None takes the paragraphs of a SQuAD file as corpus, or asks each question
            over its own `ctxs` in their order.
        questions: the questions.

    Raises:
        ReadError: a file cannot be read.
        InputError: a file has another format, or lacks what is needed; the message names the line.
    """
    asked, paragraphs = read_questions(questions)
    name = Path(questions).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    if passages is None and paragraphs:
        return Dataset(name, tuple(asked), {passage.id: passage for passage in paragraphs})
    if passages is None:
        return _over_own_contexts(name, asked, questions)
    corpus = read_passages(passages)
    known = _by_id(corpus, passages)
    by_text = {passage.text: passage.id for passage in reversed(corpus)}
    found: list[Question] = []
    for question in asked:
        # Passages that came with the questions have names of their own; their text tells which they are.
        given = {passage.id: passage.text for passage in question.contexts or paragraphs}
        gold = []
        for id_ in question.gold_ids:
            same_name = id_ in known and given.get(id_, known[id_].text) == known[id_].text
            here = id_ if same_name else by_text.get(given.get(id_, ""))
            if here is None:
                raise InputError(f"{question.id}: gold passage {id_!r} is not in {os.fspath(passages)}.")
            gold.append(here)
        found.append(replace(question, gold_ids=tuple(dict.fromkeys(gold)), contexts=()))
    return Dataset(name, tuple(found), known)


def _over_own_contexts(name: str, asked: Sequence[Question], path: str | os.PathLike[str]) -> Dataset:
    corpus: dict[str, Passage] = {}
    found: list[Question] = []
    for question in asked:
        if not question.contexts:
            raise InputError(
                f"{question.id}: {os.fspath(path)} holds no passages for it; give a passages file."
            )
        # In some files the ids count the passages of each question; these get the question's id before.
        names = {
            p.id: p.id if _same(corpus.get(p.id), p) else f"{question.id}:{p.id}" for p in question.contexts
        }
        if lost := sorted(set(question.gold_ids) - set(names)):
            raise InputError(f"{question.id}: gold passage {lost[0]!r} is not among its passages.")
        contexts: dict[str, Passage] = {}
        for passage in question.contexts:
            contexts.setdefault(names[passage.id], replace(passage, id=names[passage.id]))
        corpus |= contexts
        gold = tuple(dict.fromkeys(names[id_] for id_ in question.gold_ids))
        found.append(replace(question, gold_ids=gold, contexts=tuple(contexts.values())))
    return Dataset(name, tuple(found), corpus, own_contexts=True)


def _same(known: Passage | None, passage: Passage) -> bool:
    return known is None or known.content_hash == passage.content_hash


def read_passages(path: str | os.PathLike[str]) -> list[Passage]:
    """Passages of a jsonl(.gz) or SQuAD-format file; errors as in `load_dataset`."""
    records = read_records(path)
    if isinstance(records, Mapping):
        passages = _squad(records, path)[1]
    else:
        passages = [_passage(record, f"{os.fspath(path)}, line {line}") for line, record in records]
    if not passages:
        raise InputError(f"{os.fspath(path)} holds no passages.")
    return passages


def read_questions(path: str | os.PathLike[str]) -> tuple[list[Question], list[Passage]]:
    """(questions, paragraphs that SQuAD-format files hold); errors as in `load_dataset`."""
    records = read_records(path)
    paragraphs: list[Passage] = []
    if isinstance(records, Mapping):
        questions, paragraphs = _squad(records, path)
    else:
        questions = [_question(record, line, f"{os.fspath(path)}, line {line}") for line, record in records]
    if not questions:
        raise InputError(f"{os.fspath(path)} holds no questions.")
    _by_id(questions, path)
    return questions, paragraphs


def _question(record: Mapping[str, Any], line: int, where: str) -> Question:
    text, answers = record.get("question"), record.get("answers", record.get("answer"))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: `question` must be a text that is not empty.")
    contexts: list[Passage] = []
    gold = list(record.get("gold_ids") or ())
    if record.get("ctxs"):
        given = record["ctxs"]
        contexts = [_passage(ctx, f"{where}, ctxs[{i}]") for i, ctx in enumerate(given)]
        scores = [passage.score for passage in contexts]
        # Anything but a cosine would drown what else a rule knows.
        if any(score is None or not -1 <= score <= 1 for score in scores):
            contexts = [replace(passage, score=None) for passage in contexts]
        mark = "isgold" if any("isgold" in ctx for ctx in given) else "hasanswer"
        gold = gold or [
            p.id for p, ctx in zip(contexts, given, strict=True) if ctx.get(mark, ctx.get("has_answer"))
        ]
    id_ = record.get("id", record.get("question_id"))
    return Question(
        id=f"q{line}" if id_ is None else str(id_),
        text=text,
        answers=_answers(answers, where),
        gold_ids=tuple(map(str, gold)),
        contexts=tuple(contexts),
    )


def _answers(given: Any, where: str) -> tuple[str, ...]:
    answers = [given] if isinstance(given, str) else given
    if not isinstance(answers, Sequence) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: `answers` must be a list of texts (empty where there is no answer).")
    return tuple(dict.fromkeys(answer for answer in answers if answer.strip()))


def _passage(record: Mapping[str, Any], where: str) -> Passage:
    text = record.get("text", record.get("contents"))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: `text` must be a text that is not empty.")
    id_, title, score = (record.get(name) for name in ("id", "title", "score"))
    try:
        number = None if score is None else float(score)
    except (TypeError, ValueError):
        number = None
    return Passage(text, id="" if id_ is None else str(id_), title=title or None, score=number)


def _squad(record: Mapping[str, Any], path: str | os.PathLike[str]) -> tuple[list[Question], list[Passage]]:
    questions: list[Question] = []
    passages: dict[str, Passage] = {}
    try:
        for article in record["data"]:
            for paragraph in article["paragraphs"]:
                passage = Passage(paragraph["context"], title=article.get("title") or None)
                passages[passage.id] = passage
                for asked in paragraph["qas"]:
                    impossible = bool(asked.get("is_impossible"))
                    answers = [] if impossible else [answer["text"] for answer in asked["answers"]]
                    questions.append(
                        Question(
                            id=str(asked["id"]),
                            text=asked["question"],
                            answers=_answers(answers, f"{os.fspath(path)}, question {asked['id']}"),
                            gold_ids=() if impossible else (passage.id,),
                        )
                    )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{os.fspath(path)} is neither jsonl nor SQuAD-format JSON (data > paragraphs > context, qas)."
        ) from error
    return questions, list(passages.values())


def _by_id(items: Iterable[Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        if item.id in found:
            raise InputError(f"{os.fspath(path)}: the id {item.id!r} comes twice.")
        found[item.id] = item
    return found


def _add(digest: Any, *values: Any) -> None:
    digest.update(json.dumps(values, ensure_ascii=True).encode() + b"\n")
