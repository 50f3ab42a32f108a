"""What a number of passages and of users takes: arithmetic, before anything is bought or loaded.

Memory of weights and rows is that of `nbce_rag.models.description`, which reads a model's configuration and
nothing else. Sizes of keys and values follow from it; those of the index are the tables of SQLite as they
were measured, and the vectors in FAISS's files. How fast a machine is no arithmetic tells; `nbce-rag bench`
does.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..checks import COUNT, Range
from ..decoding.sentences import MOST_ROWS
from ..files import expand_home
from ..kv.folder import DEFAULT_DISK_BYTES
from ..models.description import ModelDescription, describe_model

__all__ = ["CapacityPlan", "Workload", "index_bytes", "plan_capacity"]

_SHARE = 0.9  # of the free memory, at most, as for questions
_STORE_BYTES = 1 << 30  # of keys and values in memory, by default
_WORDING = 12  # tokens of a context beside the passage: the template's, the title's
_OTHER = 50  # tokens of the question and the wording behind the passage
_SENTENCE = 25  # tokens
_FURTHER_ROWS = MOST_ROWS + 1  # of sentences, and the best passages together
_FILE_BYTES = 1500  # the header of a context's file
_STATE_BYTES = 1 << 20  # of states a token; contexts of more are read again instead of stored

# Of the index: measured with passages of 300 and 900 bytes.
_PAGE = 8192
_TABLES = 100_000
_PASSAGE_BYTES = 320
_TEXT_FACTOR = 1.9  # the text, and its words
_TEXT_BYTES = 4  # a token
_FILE_FROM = 4_096  # vectors, below which SQLite alone has them
_CODES_FROM = 200_000  # vectors, from which on FAISS keeps a byte a number

_RANGES = {
    "passages": Range(0, whole=True),
    "passage_tokens": COUNT,
    "users": COUNT,
    "questions_per_hour": Range(0, above=True),
    "answer_tokens": COUNT,
    "k": COUNT,
    "seconds": Range(0, above=True),
    "dimension": COUNT,
}


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a service.

    Attributes:
        passages: in the index.
        passage_tokens: of each.
        users: at work at the same time.
        questions_per_hour: of each of them.
        answer_tokens: of an answer.
        k: passages a question.
        seconds: that an answer may take, from the question to its last token.
        dimension: of the embedder's vectors.
        sentences: whether keys and values of sentences are read ahead too.

    Raises:
        InputError: a number out of range.
    """

    passages: int = 10_000
    passage_tokens: int = 200
    users: int = 1
    questions_per_hour: float = 12.0
    answer_tokens: int = 120
    k: int = 8
    seconds: float = 20.0
    dimension: int = 384
    sentences: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in _RANGES:
                _RANGES[field.name].check(field.name, getattr(self, field.name))

    @property
    def rows(self) -> int:
        """Rows of a question at most, as the default rule reads them: none, each passage, further ones."""
        return 1 + self.k + _FURTHER_ROWS

    @property
    def row_tokens(self) -> int:
        """Tokens of a row, answer included."""
        return _WORDING + self.passage_tokens + _OTHER + self.answer_tokens

    @property
    def questions_per_second(self) -> float:
        return self.users * self.questions_per_hour / 3600

    @property
    def answers_at_once(self) -> int:
        """Answers under way on average (Little's law), at least one."""
        return max(1, math.ceil(self.questions_per_second * self.seconds))

    @property
    def contexts(self) -> tuple[tuple[int, int], ...]:
        """(how many, tokens) of the contexts of a passage: its own, and those of its sentences."""
        own = (1, _WORDING + self.passage_tokens)
        rows = min(MOST_ROWS, self.passage_tokens // _SENTENCE)
        if not self.sentences or rows < 2:
            return (own,)
        return own, (rows, _WORDING + math.ceil(self.passage_tokens / rows))


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """What a workload takes; None where only loading the model would tell.

    Attributes:
        workload, model: for which.
        weight_bytes: of the model in memory, in each instance.
        answer_bytes: of the rows of one answer at most.
        passage_kv_bytes: of the keys and values of one passage, its sentences with it.
        kv_bytes: of the folder with those of all passages.
        index_bytes: of the index on disk.
        vector_bytes: of the vectors that a search looks at, mapped into memory.
        usable_bytes: of the free memory of this machine.
        answers_per_instance: answers at once that fit into it; 0 where not one does.
        tokens_per_second: that answers need, in all.
        read_tokens_per_second: to be read for questions where keys and values are stored, and where not.
        instances: how many are needed, by memory, and by speed where that is given.
        notes: what to know.
    """

    workload: Workload
    model: ModelDescription
    weight_bytes: int
    answer_bytes: int | None
    passage_kv_bytes: int | None
    kv_bytes: int | None
    index_bytes: int
    vector_bytes: int
    usable_bytes: int
    answers_per_instance: int | None
    tokens_per_second: float
    read_tokens_per_second: tuple[float, float]
    instances: int | None
    notes: tuple[str, ...]


def plan_capacity(
    workload: Workload,
    model: str | os.PathLike[str] | None = None,
    *,
    backend: str | None = None,
    tokens_per_second: float | None = None,
    **options: Any,
) -> CapacityPlan:
    """What a workload takes with a model, of which no weights are loaded.

    Args:
        workload: what is asked.
        model: hub id, folder or GGUF file; None is the packaged default.
        backend: "llama.cpp" counts the weights of a GGUF file as they lie there; None does where it is
            installed.
        tokens_per_second: of one instance, all its answers together, as measured.
        **options: as for `describe_model`.

    Raises:
        InputError: a number out of range, or an unknown dtype or device.
        ModelError: nothing there, or no language model.
    """
    if tokens_per_second is not None:
        Range(0, above=True).check("tokens_per_second", tokens_per_second)
    described = describe_model(model, rows=workload.rows, tokens=workload.row_tokens, **options)
    weights, notes = _weights(described, model, backend)
    answer = None if described.needed_bytes is None else described.needed_bytes - described.weight_bytes
    passage = _passage_kv_bytes(described, workload)
    kv = None if passage is None else workload.passages * passage
    usable = round(_SHARE * described.free_bytes)
    fitting = None
    if answer is not None:
        store = min(_STORE_BYTES, kv or 0)
        fitting = max(0, (usable - weights - store) // answer)
    instances, needed = None, workload.questions_per_second * workload.answer_tokens
    if fitting:
        instances = math.ceil(workload.answers_at_once / fitting)
        if tokens_per_second is not None:
            instances = max(instances, math.ceil(needed / tokens_per_second))
    return CapacityPlan(
        workload=workload,
        model=described,
        weight_bytes=weights,
        answer_bytes=answer,
        passage_kv_bytes=passage,
        kv_bytes=kv,
        index_bytes=index_bytes(workload),
        vector_bytes=_vector_bytes(workload),
        usable_bytes=usable,
        answers_per_instance=fitting,
        tokens_per_second=needed,
        read_tokens_per_second=_reading(workload),
        instances=instances,
        notes=(*notes, *_notes(workload, described, fitting, kv, tokens_per_second)),
    )


def index_bytes(workload: Workload) -> int:
    """About the bytes of the index on disk: passages, words and vectors in SQLite, and FAISS's file."""
    vector = 4 * workload.dimension + 16
    # As many to a page of SQLite as fit whole; a longer one takes pages of its own.
    stored = _PAGE // (_PAGE // vector) if vector <= _PAGE else _PAGE * math.ceil(vector / _PAGE)
    text = _TEXT_BYTES * workload.passage_tokens
    passage = _PASSAGE_BYTES + round(_TEXT_FACTOR * text) + stored
    file = _vector_bytes(workload) if workload.passages >= _FILE_FROM else 0
    return _TABLES + workload.passages * passage + file


def _vector_bytes(workload: Workload) -> int:
    number = 4 if workload.passages < _CODES_FROM else 1
    return workload.passages * (number * workload.dimension + 8)


def _passage_kv_bytes(model: ModelDescription, workload: Workload) -> int | None:
    total = 0
    for count, tokens in workload.contexts:
        size = model.context_bytes(tokens)
        if size is None:
            return None
        if (model.state_bytes or 0) <= _STATE_BYTES * tokens:
            total += count * (size + _FILE_BYTES)
    return total


def _reading(workload: Workload) -> tuple[float, float]:
    """Tokens a second with what is stored, and without."""
    behind = workload.rows * _OTHER
    before = workload.k * (_WORDING + workload.passage_tokens) + _FURTHER_ROWS * (_WORDING + _SENTENCE)
    return workload.questions_per_second * behind, workload.questions_per_second * (behind + before)


def _weights(
    model: ModelDescription, name: str | os.PathLike[str] | None, backend: str | None
) -> tuple[int, list[str]]:
    file = Path(expand_home(name)) if name is not None else None
    if file is None or file.suffix != ".gguf" or not file.is_file():
        return model.weight_bytes, []
    packed = file.stat().st_size
    if backend == "llama.cpp" or (backend is None and importlib.util.find_spec("llama_cpp") is not None):
        return packed, ["Weights are counted as they lie in the file, which llama.cpp reads (backend)."]
    return model.weight_bytes, [f"llama.cpp would keep the weights packed: {packed / 1e9:.1f} GB."]


def _notes(
    workload: Workload,
    model: ModelDescription,
    fitting: int | None,
    kv: int | None,
    tokens_per_second: float | None,
) -> list[str]:
    notes = []
    if model.reason:
        notes.append(f"The model is refused: {model.reason}")
    if workload.row_tokens > model.window:
        notes.append(
            f"A row of {workload.row_tokens:,} tokens is longer than the model's window of {model.window:,}; "
            "passages would be split."
        )
    if fitting == 0:
        notes.append(
            "Not one answer fits into the free memory here; take a smaller model, dtype bfloat16, fewer or "
            "shorter passages, or a larger machine."
        )
    if kv is not None and kv > DEFAULT_DISK_BYTES:
        notes.append(
            f"Keys and values of all passages are more than a folder holds by default "
            f"({DEFAULT_DISK_BYTES / 1e9:.1f} GB): `nbce-rag index --kv --kv-max-bytes SIZE`, or keep those "
            "that are used, which is what a folder does at its limit."
        )
    if tokens_per_second is None:
        notes.append(
            "Instances are counted by memory alone; `nbce-rag bench` measures tokens a second, which "
            "--tokens-per-second takes."
        )
    return notes
