"""Questions and passages from files of records: jsonl, lists with `ctxs`, SQuAD format, RAMDocs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...errors import InputError
from ...passages import Passage
from ..metrics import normalise
from .records import Record, read_records

__all__ = ["Question", "index_by_id", "read_passages", "read_questions"]

_Item = TypeVar("_Item", "Question", Passage)


@dataclass(frozen=True)
class Question:
    """A question whose answer is known.

    Attributes:
        id: unique in its dataset.
        text: the question.
        answers: right answers, any of which will do; empty for a question that the passages do not answer.
        gold_ids: ids of the passages that hold the answer, or that a question without one is about.
        wrong_answers: answers that are known to be wrong and stand in some passage.
        keys: groups of strings; a long answer is right when it holds one of each group, and `answers` may
            then be empty. Empty for a question that has a short answer, or none.
        contexts: passages that came with the question, best first; empty where a corpus is searched.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    gold_ids: tuple[str, ...] = ()
    contexts: tuple[Passage, ...] = ()
    wrong_answers: tuple[str, ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()


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
    index_by_id(questions, path)
    return questions, paragraphs


def _question(record: Record, line: int, where: str) -> Question:
    text: object = record.get("question")
    answerable = record.get("answerable", True)
    if not isinstance(answerable, bool):
        raise InputError(f"{where}: `answerable` must be true or false, got {answerable!r}.")
    keys = _keys(record.get("keys"), where) if answerable else ()
    answers = record.get("answers", record.get("answer", () if keys else None)) if answerable else ()
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: `question` must be a text that is not empty.")
    if isinstance(record.get("documents"), list) and "gold_answers" in record:
        return _ramdocs(record, line, where)
    contexts: list[Passage] = []
    gold = [
        *(record.get("gold_ids") or record.get("gold") or ()),
        *_sources(record.get("gold_sources"), where),
    ]
    if record.get("ctxs"):
        raw = record["ctxs"]
        contexts = [_passage(ctx, f"{where}, ctxs[{i}]") for i, ctx in enumerate(raw)]
        scores = [passage.score for passage in contexts]
        # Anything but a cosine would drown what else a rule knows.
        if any(score is None or not -1 <= score <= 1 for score in scores):
            contexts = [replace(passage, score=None) for passage in contexts]
        mark = "isgold" if any("isgold" in ctx for ctx in raw) else "hasanswer"
        gold = gold or [
            p.id for p, ctx in zip(contexts, raw, strict=True) if ctx.get(mark, ctx.get("has_answer"))
        ]
    id_ = record.get("id", record.get("question_id"))
    return Question(
        id=f"q{line}" if id_ is None else str(id_),
        text=text,
        answers=_answers(answers, where),
        gold_ids=tuple(map(str, gold)),
        contexts=tuple(contexts),
        keys=keys,
    )


def _ramdocs(record: Record, line: int, where: str) -> Question:
    """A question of RAMDocs (arXiv 2504.13079), with documents some of which are wrong.

    The documents are shuffled, always alike: in the file the right ones come first. Their `type` and
    `answer` go into the passages' metadata. A wrong answer that is also a right one does not count.
    """
    right = _answers(record["gold_answers"], where)
    right_ones = {normalise(answer) for answer in right}
    wrong = _answers(record.get("wrong_answers") or [], where)
    documents = list(record["documents"])
    random.Random(str(record["question"])).shuffle(documents)
    contexts = [
        replace(
            _passage(document, f"{where}, documents[{i}]"),
            metadata={name: document.get(name) for name in ("type", "answer")},
        )
        for i, document in enumerate(documents)
    ]
    return Question(
        id=str(record.get("id", f"q{line}")),
        text=record["question"],
        answers=right,
        gold_ids=tuple(p.id for p in contexts if p.metadata["type"] == "correct"),
        contexts=tuple(contexts),
        wrong_answers=tuple(answer for answer in wrong if normalise(answer) not in right_ones),
    )


def _answers(value: object, where: str) -> tuple[str, ...]:
    answers = [value] if isinstance(value, str) else value
    if not isinstance(answers, Sequence) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: `answers` must be a list of texts (empty where there is no answer).")
    return tuple(dict.fromkeys(answer for answer in answers if answer.strip()))


def _keys(value: object, where: str) -> tuple[tuple[str, ...], ...]:
    if value is None:
        return ()
    groups: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(group, list) and group and all(map(_is_text, group)) for group in groups):
        raise InputError(
            f"{where}: `keys` must be a list of groups, each a list of texts one of which must stand in the "
            'answer: [["Limits"], ["max_connections", "max_keepalive"]].'
        )
    return tuple(tuple(dict.fromkeys(group)) for group in groups)


def _sources(value: object, where: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(_is_text, value)):
        raise InputError(
            f'{where}: `gold_sources` must be a list of files of the corpus, such as ["ssl.md"].'
        )
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _passage(record: Record, where: str) -> Passage:
    text = record.get("text", record.get("contents"))
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: `text` must be a text that is not empty.")
    id_, title, score = (record.get(name) for name in ("id", "title", "score"))
    try:
        number = None if score is None else float(score)
    except (TypeError, ValueError):
        number = None
    return Passage(text, id="" if id_ is None else str(id_), title=title or None, score=number)


def _squad(record: Record, path: str | os.PathLike[str]) -> tuple[list[Question], list[Passage]]:
    questions: list[Question] = []
    passages: dict[str, Passage] = {}
    try:
        for article in record["data"]:
            for paragraph in article["paragraphs"]:
                passage = Passage(paragraph["context"], title=article.get("title") or None)
                passages[passage.id] = passage
                for entry in paragraph["qas"]:
                    impossible = bool(entry.get("is_impossible"))
                    answers = [] if impossible else [answer["text"] for answer in entry["answers"]]
                    questions.append(
                        Question(
                            id=str(entry["id"]),
                            text=entry["question"],
                            answers=_answers(answers, f"{os.fspath(path)}, question {entry['id']}"),
                            gold_ids=() if impossible else (passage.id,),
                        )
                    )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{os.fspath(path)} is neither jsonl nor SQuAD-format JSON (data > paragraphs > context, qas)."
        ) from error
    return questions, list(passages.values())


def index_by_id(items: Iterable[_Item], path: str | os.PathLike[str]) -> dict[str, _Item]:
    """Items by their `id`; InputError if one comes twice."""
    index: dict[str, _Item] = {}
    for item in items:
        if item.id in index:
            raise InputError(f"{os.fspath(path)}: the id {item.id!r} comes twice.")
        index[item.id] = item
    return index
