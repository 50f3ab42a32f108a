"""Which passages stand in which row, and what a row's evidence says about its passages.

NBCE proper has one row per passage. Rows may also hold several passages (`passages_per_row`), all of
them (`joint_row`), or a part of one that is longer than the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..documents.splitting import split_text
from ..errors import ContextLengthError, InputError
from ..options import Options
from ..passages import Passage
from ..prompts.encoder import PromptEncoder, Suffix
from .turn import thought_room

__all__ = ["Row", "RowPlan", "best_place", "filled_scores", "passage_ids", "plan_rows", "shared_row"]

_RANK_STEP = 0.1

_MOST = 1e6  # of a score: no scale goes as far, and fusion rules divide by numbers below 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row before it is read.

    Attributes:
        context: token ids of prefix + passages.
        members: indexes of the passages in it; empty in row 0.
        score: the best retrieval score among them, or None if one is unknown.
        rank: the best place among them in the retrieval, from 1, or None if one is unknown.
        is_extract: whether it reads sentences of several passages that have rows besides.
    """

    context: tuple[int, ...]
    members: tuple[int, ...]
    score: float | None = None
    rank: int | None = None
    is_extract: bool = False


@dataclass(frozen=True)
class RowPlan:
    """The rows of one question: row 0 without a passage, then the passage rows.

    Attributes:
        rows: n + 1 rows.
        suffix: what all of them end with.
        passages: number of passages.
        warnings: what a person should be told about the layout.
        sentences: how many rows, the last ones, hold sentences of passages that have rows already.
    """

    rows: tuple[Row, ...]
    suffix: Suffix
    passages: int
    warnings: tuple[str, ...]
    sentences: int = 0

    @property
    def row_tokens(self) -> tuple[int, ...]:
        """Prompt tokens of each row."""
        return tuple(len(row.context) + len(self.suffix.ids) for row in self.rows)

    def with_row(self, row: Row) -> RowPlan:
        """This plan with one more row behind its own."""
        return replace(self, rows=(*self.rows, row))

    def with_sentences(self, rows: Sequence[Row]) -> RowPlan:
        """This plan with rows of sentences behind its own."""
        return replace(self, rows=(*self.rows, *rows), sentences=self.sentences + len(rows))

    def scores(self) -> Tensor | None:
        """[1, n] retrieval scores, unknown ones filled in; None if neither scores nor ranks are known."""
        scores = filled_scores(self.rows[1:])
        return None if scores is None else torch.tensor([scores]).clamp(-_MOST, _MOST)

    def joint(self) -> Tensor | None:
        """[1, n] 1 for the row that reads all passages beside rows that do not; None without one."""
        whole = [len(row.members) == self.passages and not row.is_extract for row in self.rows[1:]]
        return torch.tensor([whole]).float() if any(whole) and not all(whole) else None

    def extract(self) -> Tensor | None:
        """[1, n] 1 for the row that reads sentences of several passages; None without one."""
        extract = [row.is_extract for row in self.rows[1:]]
        return torch.tensor([extract]).float() if any(extract) else None

    @property
    def is_shared(self) -> bool:
        """Whether some row holds several passages."""
        return any(len(row.members) > 1 for row in self.rows)

    def share(self, evidence: Sequence[float], holders: Sequence[int] = ()) -> tuple[float, ...]:
        """Evidence over n passage rows into weights over the passages, with the same sum.

        The weight of a row with several passages goes to those of them that hold what is said, and to all
        where none does; in proportion to the weight of the rows that hold one of them alone, and in equal
        parts where there are none.

        Args:
            evidence: over the passage rows.
            holders: passages that hold what is said, by number (`nbce_rag.decoding.holders`).
        """
        alone = [0.0] * self.passages
        for row, weight in zip(self.rows[1:], evidence, strict=True):
            if len(row.members) == 1:
                alone[row.members[0]] += weight
        shared = list(alone)
        for row, weight in zip(self.rows[1:], evidence, strict=True):
            if len(row.members) > 1:
                members = [member for member in row.members if member in holders] or row.members
                total = sum(alone[m] for m in members)
                for member in members:
                    part = alone[member] / total if total > 0 else 1 / len(members)
                    shared[member] += weight * part
        return tuple(shared)

    def best(self, values: Sequence[float]) -> list[float]:
        """Values over n passage rows into the best over each passage's rows, its own ones if it has any."""
        found: list[list[float]] = [[] for _ in range(self.passages)]
        joint: list[list[float]] = [[] for _ in range(self.passages)]
        for row, value in zip(self.rows[1:], values, strict=True):
            for member in row.members:
                (found if len(row.members) == 1 else joint)[member].append(value)
        return [max(own or others) for own, others in zip(found, joint, strict=True)]

    def best_alone(self, values: Sequence[float]) -> list[float]:
        """Values over n passage rows into the best over each passage's own rows; -inf where it has none."""
        best = [-math.inf] * self.passages
        for row, value in zip(self.rows[1:], values, strict=True):
            if len(row.members) == 1:
                best[row.members[0]] = max(best[row.members[0]], value)
        return best


def filled_scores(items: Sequence[Row] | Sequence[Passage]) -> list[float] | None:
    """A retrieval score for each row or passage; None if neither a score nor a rank is known of any.

    One without score gets the best known one (0 if none is) less 0.1 ln(rank), which makes its share of the
    default rule's prior go with 1 / rank; without rank, the mean of the others.
    """
    top = max((item.score for item in items if item.score is not None), default=0.0)
    scores = [
        top - _RANK_STEP * math.log(item.rank) if item.score is None and item.rank is not None else item.score
        for item in items
    ]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    return [mean if score is None else score for score in scores]


def plan_rows(
    encoder: PromptEncoder, question: str, passages: Sequence[Passage], options: Options, window: int
) -> RowPlan:
    """Lay a question and its passages out in rows that fit the window.

    A passage that is too long for a row of its own is split into overlapping windows, with a warning
    that names it. Passages that are to share a row are never cut.

    Args:
        encoder: prompt wording and tokenizer.
        question: the question.
        passages: any number of them, in order.
        options: passages_per_row, joint_row, order_labels and those of length are used.
        window: most tokens a row may hold, answer included.

    Raises:
        InputError: an empty question or an empty passage, or no place for the passages in the prompt.
        ContextLengthError: the question leaves no room for passages and answer, or passages that are to
            share a row do not fit into it.
    """
    encoder.check_places(len(passages))
    suffix = encoder.suffix(question)
    if not suffix.ids:
        raise InputError("Nothing follows the passages in the prompt; end it with the question.")
    thought = thought_room(encoder, options, window)
    fixed = len(encoder.prefix) + len(suffix.ids) + max(options.max_tokens, len(encoder.refusal)) + thought
    if fixed > window:
        with_thought = f", with its thought {options.max_tokens + thought}" if thought else ""
        raise ContextLengthError(
            f"The question takes {len(suffix.ids)} tokens and the answer may take {options.max_tokens}"
            f"{with_thought}; with the prompt's {len(encoder.prefix)} that is more than the model's window "
            f"of {window}. Shorten the question or lower max_tokens"
            f"{' or max_thought_tokens' if thought else ''}."
        )
    room = window - fixed
    warnings: list[str] = []
    ids = [passage_ids(encoder, p, i, len(passages), options) for i, p in enumerate(passages)]
    rows = [Row(encoder.prefix, ())]
    if options.passages_per_row == 1:
        for index, passage in enumerate(passages):
            if len(ids[index]) <= room:
                rows.append(Row(encoder.context({index: ids[index]}), (index,), passage.score, passage.rank))
                continue
            windows = _windows(encoder, passage, index, len(passages), options, room)
            warnings.append(
                f"Passage {passage.id!r} has {len(ids[index])} tokens and a row has room for {room}; it is "
                f"read in {len(windows)} overlapping windows."
            )
            rows += [
                Row(encoder.context({index: part}), (index,), passage.score, passage.rank) for part in windows
            ]
    else:
        for start in range(0, len(passages), options.passages_per_row):
            members = range(start, min(start + options.passages_per_row, len(passages)))
            rows.append(_shared_row(encoder, passages, ids, members, room))
    if options.joint_row and options.passages_per_row < len(passages):
        try:
            rows.append(_shared_row(encoder, passages, ids, range(len(passages)), room))
        except ContextLengthError as error:
            warnings.append(f"No joint row: {error}")
    return RowPlan(tuple(rows), suffix, len(passages), tuple(warnings))


def passage_ids(
    encoder: PromptEncoder,
    passage: Passage,
    index: int,
    count: int,
    options: Options,
    text: str | None = None,
) -> tuple[int, ...]:
    """Token ids of one of `count` passages, or of a part of its text, as the options word it.

    Raises:
        InputError: an empty passage.
    """
    text = passage.text if text is None else text
    if not text.strip():
        raise InputError(f"Passage {passage.id!r} (number {index + 1}) is empty; leave it out.")
    title = passage.title
    if options.order_labels:
        label = f"Part {index + 1} of {count}"
        title = f"{title} ({label})" if title else label
    return encoder.passage_ids(title, text, passage.source, passage.id)


def _windows(
    encoder: PromptEncoder, passage: Passage, index: int, count: int, options: Options, room: int
) -> list[tuple[int, ...]]:
    """Token ids of overlapping parts of a long passage, each within the room."""
    # What heading and wording take, measured on the shortest text there is.
    around = len(passage_ids(encoder, passage, index, count, options, ".")) + 1
    size = room - around
    if size < 8:
        raise ContextLengthError(
            f"Passage {passage.id!r} leaves room for {max(size, 0)} tokens of its text beside its heading, "
            "the question and the answer; shorten the question or the title, or lower max_tokens."
        )
    while True:
        spans = split_text(
            passage.text, max_tokens=size, overlap=min(size // 4, 64), count_tokens=encoder.count
        )
        parts = [
            passage_ids(encoder, passage, index, count, options, passage.text[start:end])
            for start, end in spans
        ]
        longest = max(map(len, parts))
        if longest <= room:
            return parts
        if size == 1:  # a single character may have many tokens, a ligature that is written out for example
            raise ContextLengthError(
                f"Passage {passage.id!r} has a character that takes more tokens than the {room} there is "
                "room for; shorten the question or the title, or lower max_tokens."
            )
        # Tokens of a sum may differ from the sum of tokens; go down until they fit.
        size = max(1, size - (longest - room))


def shared_row(
    encoder: PromptEncoder, passages: Sequence[Passage], members: Sequence[int], options: Options, room: int
) -> Row:
    """One row of some passages.

    Raises:
        ContextLengthError: they take more than `room` tokens.
    """
    ids = [
        passage_ids(encoder, passage, place, len(passages), options) if place in members else ()
        for place, passage in enumerate(passages)
    ]
    return _shared_row(encoder, passages, ids, members, room)


def _shared_row(
    encoder: PromptEncoder,
    passages: Sequence[Passage],
    ids: Sequence[tuple[int, ...]],
    members: Sequence[int],
    room: int,
) -> Row:
    taken = sum(len(ids[member]) for member in members)
    if taken > room:
        raise ContextLengthError(
            f"{len(members)} passages take {taken} tokens together and a row has room for {room}. Use "
            "fewer passages per row; with passages_per_row=1 each only has to fit by itself."
        )
    score, rank = best_place([passages[member] for member in members])
    return Row(encoder.context({member: ids[member] for member in members}), tuple(members), score, rank)


def best_place(passages: Sequence[Passage]) -> tuple[float | None, int | None]:
    """Of passages that share a row, the best score and the best rank, each None where it is of one."""
    scores = [passage.score for passage in passages if passage.score is not None]
    ranks = [passage.rank for passage in passages if passage.rank is not None]
    score = max(scores) if len(scores) == len(passages) else None
    return score, min(ranks) if len(ranks) == len(passages) else None
