"""Questions joined to one with several parts, and what its answer says to each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..answers.answer import Answer
from ..passages import Passage
from .data.questions import Question

__all__ = ["answer_to", "joined_passages", "joined_question"]

_MARKER = re.compile(r"\s*(?:\d+[.)]\s*)?")


def joined_question(questions: Sequence[Question]) -> str:
    """One question a line, numbered."""
    return "\n".join(
        f"{number}. {' '.join(question.text.split())}" for number, question in enumerate(questions, 1)
    )


def joined_passages(
    questions: Sequence[Question],
    contexts: Mapping[str, Sequence[Passage]],
    corpus: Mapping[str, Passage],
    k: int,
) -> list[Passage]:
    """k passages, or more if that many are gold: all gold ones, and the best found for each in turn.

    Args:
        questions: that are joined.
        contexts: what was found for each, by its id, best first.
        corpus: all passages by id, for gold ones that were not found.
        k: how many.

    Returns:
        In the order in which they were found, those that were not found last.
    """
    found: dict[str, Passage] = {}
    for rank in range(max(len(contexts[question.id]) for question in questions)):
        for question in questions:
            for passage in contexts[question.id][rank : rank + 1]:
                other = found.setdefault(passage.id, passage)
                if (passage.score or 0.0) > (other.score or 0.0):
                    found[passage.id] = passage
    gold = dict.fromkeys(id_ for question in questions for id_ in question.gold_ids)
    chosen = list(dict.fromkeys([*gold, *found]))[: max(k, len(gold))]
    order = {id_: place for place, id_ in enumerate(found)}
    chosen.sort(key=lambda id_: order.get(id_, len(order)))
    return [found[id_] if id_ in found else corpus[id_] for id_ in chosen]


def answer_to(answer: Answer, part: int, count: int) -> Answer:
    """What an answer says to one of its parts.

    The answer to the part, where each was asked apart; else the line that stands in its place if there is one
    line for each, and else all of it, so that a method that does not keep to lines loses nothing.

    Args:
        answer: to all parts.
        part: from 0.
        count: how many parts there are.
    """
    if len(answer.parts) == count:
        return answer.parts[part]
    lines = [match for match in re.finditer(r"[^\n]+", answer.text) if match[0].strip()]
    if len(lines) != count:
        return answer
    start, end = lines[part].span()
    start = _MARKER.match(answer.text, start, end).end()  # type: ignore[union-attr]
    citations = [
        replace(citation, start=citation.start - start, end=citation.end - start)
        for citation in answer.citations
        if start <= citation.start and citation.end <= end
    ]
    return replace(answer, text=answer.text[start:end], citations=tuple(citations), tokens=())
