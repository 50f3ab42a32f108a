"""A corpus that is documents: a folder or file, split into passages, and what "the gold file" means then."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...documents.folders import read_files
from ...embedding.resolve import EmbedderLike, resolve_embedder
from ...errors import InputError
from ...files import expand_home
from ...index.window import window_of
from ...passages import Passage
from ..long_metrics import Keys, groups_found
from ..metrics import answer_found, is_cjk

__all__ = ["holding", "holds", "is_documents", "passages_by_file", "read_documents"]

_RECORDS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


def is_documents(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of documents to split, not of records that are passages already."""
    return Path(expand_home(path)).is_dir() or not os.fspath(path).lower().endswith((*_RECORDS, ".gz"))


def read_documents(path: str | os.PathLike[str], embedder: EmbedderLike) -> list[Passage]:
    """Passages of a folder or file of documents, split for an embedder as an index splits them.

    Their `source` is the path within the folder, so that ids do not depend on where the folder lies.

    Raises:
        InputError: there is nothing to read.
    """
    whole = Path(expand_home(path))
    corpus: list[Passage] = []
    for file, passages in read_files([whole], **window_of(resolve_embedder(embedder))._asdict()):
        source = file.relative_to(whole if whole.is_dir() else whole.parent).as_posix()
        for passage in passages:
            is_derived = replace(passage, id="").id == passage.id
            corpus.append(replace(passage, source=source, id="" if is_derived else passage.id))
    if not corpus:
        raise InputError(f"{os.fspath(path)} holds no passages.")
    return corpus


def passages_by_file(passages: Sequence[Passage]) -> dict[str, list[Passage]]:
    """Passages by the path and, where it is the only one of that name, by the name of their file."""
    paths: dict[str, list[Passage]] = {}
    for passage in passages:
        paths.setdefault(passage.source or "", []).append(passage)
    names: dict[str, list[str]] = {}
    for path in paths:
        names.setdefault(PurePosixPath(path).name, []).append(path)
    return {name: paths[same[0]] for name, same in names.items() if len(same) == 1} | paths


def holding(passages: Sequence[Passage], answers: Sequence[str], keys: Keys = ()) -> list[Passage]:
    """Those that hold an answer, or with keys strings of most of the groups; all of them if none does."""
    if keys:
        shares = [groups_found(passage.text, keys) for passage in passages]
        return [p for p, share in zip(passages, shares, strict=True) if share == max(shares)]
    return [passage for passage in passages if holds(passage, answers)] or list(passages)


def holds(passage: Passage, answers: Sequence[str]) -> bool:
    """Whether an answer stands in a passage."""
    return answer_found(passage.text, answers, characters=is_cjk(*answers))
