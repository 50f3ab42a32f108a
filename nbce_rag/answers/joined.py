"""The answers to the parts of a question as one: a list, with evidence and citations in their places."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..evidence.conflict import Conflict
from ..evidence.evidence import Citation, Timings, TokenEvidence, Usage
from ..evidence.unsupported import UnsupportedReader
from ..passages import Passage
from .answer import Answer, Piece

__all__ = ["JoinedAnswer", "union_of"]


class JoinedAnswer:
    """One answer in the making, of the pieces of several that come side by side.

    Parts are shown one after the other: what comes of a later one waits. A list's number and what a token
    does not cover (the abstention of a part) stand in the text of the next token, so that the tokens' texts
    join to the answer.

    Args:
        question: the whole question.
        markers: what stands before the answer of each part.
        passages: those that each part is asked over.
    """

    def __init__(self, question: str, markers: Sequence[str], passages: Sequence[Sequence[Passage]]) -> None:
        self._question = question
        self._markers = markers
        self._passages, self._places = union_of(passages)
        self._waiting: list[list[Piece]] = [[] for _ in markers]
        self._part = 0  # that is shown
        self._text = ""
        self._offset: int | None = None  # where the text of this part begins
        self._tokens: list[TokenEvidence] = []
        self._covered = 0  # characters of the text that tokens have
        self._citations: list[Citation] = []
        self._reader = UnsupportedReader(self._passages)
        self._unsupported = 0  # words that were shown
        self._conflicts: list[Conflict] = []
        self._thought = ""
        self._thoughtful: int | None = None  # the part of the last thought
        self._answers: list[Answer] = []

    def push(self, part: int, piece: Piece) -> Iterator[Piece]:
        """The pieces that can be shown, now that one of a part has come."""
        self._waiting[part].append(piece)
        while self._part < len(self._waiting) and self._waiting[self._part]:
            yield self._shown(self._waiting[self._part].pop(0))

    def _shown(self, piece: Piece) -> Piece:
        text, thought = piece.text, piece.thought
        if self._offset is None and (text or piece.tokens or piece.answer):
            mark = ("\n" if self._part else "") + f"{self._markers[self._part]} "
            self._offset = len(self._text) + len(mark)
            text = mark + text
        if thought:
            if self._thoughtful not in (None, self._part):
                thought = "\n\n" + thought
            self._thoughtful = self._part
        self._text += text
        self._thought += thought
        tokens = tuple(map(self._placed, piece.tokens))
        self._tokens += tokens
        citations = tuple(map(self._moved, piece.citations))
        self._citations += citations
        if piece.answer is not None:
            self._take(piece.answer)
        answer = self._answer() if self._part == len(self._waiting) else None
        if answer is None:
            # A list of several answers is no short fact.
            absent = self._reader.push(self._text, citations, is_long=True) if citations else ()
            self._unsupported += len(absent)
        else:
            absent = answer.unsupported[self._unsupported :]
        return Piece(text, tokens, answer, thought, citations, absent)

    def _placed(self, token: TokenEvidence) -> TokenEvidence:
        """A token of the part that is shown, in the whole text and over all passages."""
        assert self._offset is not None
        start, end = self._offset + token.start, self._offset + token.end
        places = self._places[self._part]
        weights = [0.0] * len(self._passages)
        for place, weight in zip(places, token.weights, strict=True):
            weights[place] += weight
        given: list[float] = []
        if token.row_log_probs:
            given = [token.row_log_probs[0], *[-math.inf] * len(self._passages)]
            for place, log_prob in zip(places, token.row_log_probs[1:], strict=True):
                given[1 + place] = log_prob
        text = token.text
        if text:
            if self._covered < start:
                text, start = self._text[self._covered : start] + text, self._covered
            self._covered = end
        return replace(
            token, text=text, start=start, end=end, weights=tuple(weights), row_log_probs=tuple(given)
        )

    def _moved(self, citation: Citation) -> Citation:
        """A citation of the part that is shown, in the whole text and among all passages."""
        assert self._offset is not None
        places = self._places[self._part]
        return replace(
            citation,
            start=self._offset + citation.start,
            end=self._offset + citation.end,
            passage=places[citation.passage],
            others=tuple(replace(other, passage=places[other.passage]) for other in citation.others),
        )

    def _take(self, answer: Answer) -> None:
        """The part that is shown is whole; the next one is shown from now on."""
        places = self._places[self._part]
        self._conflicts += [conflict.placed(places) for conflict in answer.conflicts]
        self._answers.append(answer)
        self._part, self._offset = self._part + 1, None

    def _answer(self) -> Answer:
        answers = self._answers
        reasons = {answer.finish_reason for answer in answers}
        gains = [token.gain for token in self._tokens]
        notes = [note for answer in answers for note in answer.warnings]
        supports = [answer.support for answer in answers if answer.support is not None]
        return replace(
            answers[0],
            question=self._question,
            text=self._text,
            tokens=tuple(self._tokens),
            citations=tuple(self._citations),
            passages=self._known(),
            usage=_sum([answer.usage for answer in answers], self._places),
            timings=_together([answer.timings for answer in answers]),
            finish_reason=next((r for r in ("length", "stop") if r in reasons), "no_evidence"),
            grounding=sum(gains) / len(gains) if gains and self._passages else None,
            warnings=tuple(dict.fromkeys(notes)),
            thought=self._thought,
            parts=tuple(answers),
            conflicts=tuple(self._conflicts),
            request=None,
            support=min(supports) if len(supports) == len(answers) else None,
            support_numbers=None,
            spelling=None,
        )

    def _known(self) -> tuple[Passage, ...]:
        """The passages, with the best score and relevance that one has for any part."""
        passages = list(self._passages)
        for answer, places in zip(self._answers, self._places, strict=True):
            for passage, place in zip(answer.passages, places, strict=True):
                one = passages[place]
                passages[place] = replace(
                    one,
                    score=_largest(one.score, passage.score),
                    relevance=_largest(one.relevance, passage.relevance),
                )
        return tuple(passages)


def union_of(passages: Sequence[Sequence[Passage]]) -> tuple[list[Passage], list[list[int]]]:
    """All passages, each once, and where those of each part are among them."""
    first = passages[0]
    if all(list(other) == list(first) for other in passages):
        return list(first), [list(range(len(first)))] * len(passages)  # ids need not be unique here
    union: dict[tuple[str, str], Passage] = {}
    for passage in (passage for part in passages for passage in part):
        union.setdefault((passage.id, passage.text), passage)
    places = {key: place for place, key in enumerate(union)}
    return list(union.values()), [[places[p.id, p.text] for p in part] for part in passages]


def _sum(usages: Sequence[Usage], places: Sequence[Sequence[int]]) -> Usage:
    """Tokens of all parts. Rows of a kind stand together: without a passage, of passages, of sentences."""
    tokens: list[list[int]] = [[], [], []]
    members: list[list[tuple[int, ...]]] = [[], [], []]
    for usage, mine in zip(usages, places, strict=True):
        cuts = (0, 1, len(usage.row_tokens) - usage.sentence_rows, len(usage.row_tokens))
        for kind in range(3):
            part = slice(cuts[kind], cuts[kind + 1])
            tokens[kind] += usage.row_tokens[part]
            members[kind] += [tuple(mine[m] for m in row) for row in usage.row_passages[part]]
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        generated_tokens=sum(usage.generated_tokens for usage in usages),
        row_tokens=tuple(count for kind in tokens for count in kind),
        row_passages=tuple(row for kind in members for row in kind),
        sentence_rows=sum(usage.sentence_rows for usage in usages),
        thought_tokens=sum(usage.thought_tokens for usage in usages),
        row_steps=sum(usage.row_steps for usage in usages),
        slept_row_steps=sum(usage.slept_row_steps for usage in usages),
    )


def _together(timings: Sequence[Timings]) -> Timings:
    """Of parts that are read and decoded side by side: of each step the longest."""
    firsts = [one.first_token for one in timings if one.first_token is not None]
    return Timings(
        retrieve=None,
        prefill=max(one.prefill for one in timings),
        first_token=min(firsts, default=None),
        decode=max(one.decode for one in timings),
        total=max(one.total for one in timings),
    )


def _largest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
