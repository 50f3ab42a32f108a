"""Questions with known answers, and the passages that hold them."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...checks import Range
from ...embedding.resolve import EmbedderLike
from ...embedding.sentence_transformer import DEFAULT_EMBEDDER
from ...errors import InputError
from ...passages import Passage
from .corpus import holding, is_documents, passages_by_file, read_documents
from .questions import Question, index_by_id, read_passages, read_questions

__all__ = ["Dataset", "load_dataset"]

_LIMIT = Range(1, whole=True, note="or leave it out to ask all questions")
_SUFFIXES = (".gz", ".jsonl", ".json", "-questions")


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
        if limit is not None:
            _LIMIT.check("limit", limit)
        if half not in (None, 1, 2):
            raise InputError(f"half={half!r} must be 1 or 2; leave it out to ask both.")
        order = list(self.questions)
        random.Random(seed).shuffle(order)
        sample = order[:limit]
        if half is not None:
            sample = sample[half - 1 :: 2]
        if not sample:
            raise InputError(f"No question is left of {len(self.questions)} with limit={limit}, half={half}.")
        return replace(self, questions=tuple(sample))

    @property
    def sha256(self) -> str:
        """Hash over questions, answers, gold ids and passages: changes when any of them does."""
        digest = hashlib.sha256()
        for question in self.questions:
            contexts = [passage.id for passage in question.contexts]
            digest.update(_bytes(question.id, question.text, question.answers, question.gold_ids, contexts))
            if question.keys:
                digest.update(_bytes(question.keys))
        for id_ in sorted(self.passages):
            passage = self.passages[id_]
            digest.update(_bytes(id_, passage.title, passage.text, passage.score))
        return digest.hexdigest()


def load_dataset(
    passages: str | os.PathLike[str] | None,
    questions: str | os.PathLike[str],
    embedder: EmbedderLike = DEFAULT_EMBEDDER,
) -> Dataset:
    """Read questions and their corpus.

    Questions are jsonl with `question`, `answers`, `gold_ids` (and `id`), jsonl with `question`,
    `answers`, `ctxs`, jsonl of RAMDocs, or SQuAD-format JSON; passages are jsonl with `text` (and `id`,
    `title`), SQuAD format, or documents: a folder, or a file that is no JSON. Any JSON may be gzipped.

    Questions that want a long answer have `keys`, groups of strings of which the answer must hold one each,
    beside `answers` or in their place. Questions that the passages do not answer have no answers, or
    `"answerable": false`, beside which answers do not count.

    Documents are split for the embedder, as `nbce-rag index` does. A question's `gold_sources`, `gold` or
    `gold_ids` may then name files, by path within the folder or by name; it means those passages of the file
    that hold an answer, or strings of most of the groups of `keys`, and all of them where none does.

    Args:
        passages: the corpus. None takes the paragraphs of a SQuAD file as corpus, or asks each question
            over its own `ctxs` or `documents` in their order.
        questions: the questions.
        embedder: as in `PassageIndex.create`; nothing but documents is split for it, or loads it.

    Raises:
        ReadError: a file cannot be read.
        InputError: a file has another format, or lacks what is needed; the message names the line.
    """
    raw, paragraphs = read_questions(questions)
    name = Path(questions).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    if passages is None and paragraphs:
        return Dataset(name, tuple(raw), {passage.id: passage for passage in paragraphs})
    if passages is None:
        return _over_own_contexts(name, raw, questions)
    corpus = read_documents(passages, embedder) if is_documents(passages) else read_passages(passages)
    by_id = index_by_id(corpus, passages)
    by_text = {passage.text: passage.id for passage in reversed(corpus)}
    by_file = passages_by_file(corpus) if is_documents(passages) else {}
    linked: list[Question] = []
    for question in raw:
        # Passages that came with the questions have names of their own; their text tells which they are.
        texts = {passage.id: passage.text for passage in question.contexts or paragraphs}
        gold: list[str] = []
        for id_ in question.gold_ids:
            same_name = id_ in by_id and texts.get(id_, by_id[id_].text) == by_id[id_].text
            here = id_ if same_name else by_text.get(texts.get(id_, ""))
            if here is not None:
                gold.append(here)
            elif id_ in by_file:
                gold += [passage.id for passage in holding(by_file[id_], question.answers, question.keys)]
            else:
                raise InputError(f"{question.id}: gold passage {id_!r} is not in {os.fspath(passages)}.")
        linked.append(replace(question, gold_ids=tuple(dict.fromkeys(gold)), contexts=()))
    return Dataset(name, tuple(linked), by_id)


def _over_own_contexts(name: str, raw: Sequence[Question], path: str | os.PathLike[str]) -> Dataset:
    corpus: dict[str, Passage] = {}
    questions: list[Question] = []
    for question in raw:
        if not question.contexts:
            raise InputError(
                f"{question.id}: {os.fspath(path)} holds no passages for it; give a passages file."
            )
        # In some files the ids count the passages of each question; these get the question's id before.
        names = {
            p.id: p.id if _same(corpus.get(p.id), p) else f"{question.id}:{p.id}" for p in question.contexts
        }
        if strays := sorted(set(question.gold_ids) - set(names)):
            raise InputError(f"{question.id}: gold passage {strays[0]!r} is not among its passages.")
        contexts: dict[str, Passage] = {}
        for passage in question.contexts:
            contexts.setdefault(names[passage.id], replace(passage, id=names[passage.id]))
        corpus |= contexts
        gold = tuple(dict.fromkeys(names[id_] for id_ in question.gold_ids))
        questions.append(replace(question, gold_ids=gold, contexts=tuple(contexts.values())))
    return Dataset(name, tuple(questions), corpus, own_contexts=True)


def _same(other: Passage | None, passage: Passage) -> bool:
    return other is None or other.content_hash == passage.content_hash


def _bytes(*values: object) -> bytes:
    return json.dumps(values, ensure_ascii=True).encode() + b"\n"
