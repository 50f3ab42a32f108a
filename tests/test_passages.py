from __future__ import annotations

import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.passages import Passage


def test_the_same_content_gets_the_same_id_again() -> None:
    assert Passage("a", title="t", source="s", start=3).id == Passage("a", title="t", source="s", start=3).id
    # Pinned: indexes on disk hold these ids, so a change of the rule orphans them.
    assert Passage("a", title="t", source="s", start=3).id == "831a66db60417350bd58"


@pytest.mark.parametrize("change", [{"text": "b"}, {"title": "u"}, {"source": "r"}, {"start": 4}])
def test_the_id_tells_texts_titles_sources_and_places_apart(change: dict[str, Any]) -> None:
    passage = Passage("a", title="t", source="s", start=3)
    assert replace(passage, id="", **change).id != passage.id


def test_the_id_does_not_depend_on_what_retrieval_adds() -> None:
    assert Passage("a", score=0.5, relevance=1.0, metadata={"k": 1}, end=1).id == Passage("a").id


def test_an_id_that_is_given_is_kept() -> None:
    assert Passage("a", id="mine").id == "mine"
    assert replace(Passage("a", id="mine"), score=0.5).id == "mine"


def test_the_content_hash_is_over_title_and_text_alone() -> None:
    assert Passage("a", title="t", source="s", id="x").content_hash == Passage("a", title="t").content_hash
    assert Passage("a").content_hash == Passage("a", title="").content_hash
    assert len(Passage("a").content_hash) == 64


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_content_hashes_are_equal_only_for_equal_title_and_text(a: str, b: str, c: str, d: str) -> None:
    same = Passage(a, title=b).content_hash == Passage(c, title=d).content_hash
    assert same == ((a, b) == (c, d))


def test_title_and_text_do_not_run_together_in_the_hash() -> None:
    assert Passage("bc", title="a").content_hash != Passage("c", title="ab").content_hash


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"title": 3}, "'odd': title must be str or None, got 3"),
        ({"source": 3}, "'odd': source must be str or None, got 3"),
        ({"start": "3"}, "'odd': start must be int or None, got '3'"),
        ({"start": True}, "'odd': start must be int or None, got True"),
        ({"end": 3.0}, "'odd': end must be int or None, got 3.0"),
        ({"metadata": [1]}, "metadata must be a mapping"),
        ({"score": "0.5"}, "score must be a number"),
        ({"score": True}, "score must be a number"),
        ({"text": None}, "text must be a string"),
    ],
)
def test_what_is_no_passage_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Passage(**{"text": "a", "id": "odd", **fields})


def test_subclasses_and_numpy_become_pythons_own() -> None:
    class Kind(StrEnum):
        A = "a.txt"

    text, number = np.str_("cats"), np.int64(3)
    passage = Passage(text, text, text, Kind.A, number, number, score=np.float32(0.5))  # type: ignore[arg-type]
    assert passage == Passage("cats", "cats", "cats", "a.txt", 3, 3, score=0.5)
    assert {type(value) for value in (passage.text, passage.id, passage.title, passage.source)} == {str}
    assert (type(passage.start), type(passage.end), type(passage.score)) == (int, int, float)
    assert Passage("a", score=np.float64("nan")).score is Passage("a", score=-np.inf).score is None
    assert Passage("a", source=PurePosixPath("b") / "c").source == "b/c"  # type: ignore[arg-type]


def test_a_lone_surrogate_can_be_hashed() -> None:
    assert Passage("\ud800").content_hash != Passage("\ud801").content_hash


def test_passages_are_immutable_hashable_and_can_be_pickled() -> None:
    passage = Passage("a", metadata={"page": 1})
    with pytest.raises(FrozenInstanceError):
        passage.text = "b"  # type: ignore[misc]
    assert {passage, Passage("a", metadata={"page": 1})} == {passage}
    assert pickle.loads(pickle.dumps(passage)) == passage


@pytest.mark.parametrize("field", ["text", "id"])
def test_what_is_not_a_string_is_refused(field: str) -> None:
    arguments: dict[str, Any] = {"text": "a", field: 7}
    with pytest.raises(InputError, match=f"{field} must be a string, got int"):
        Passage(**arguments)


def test_reading_and_splitting_import_nothing_heavy() -> None:
    heavy = "{'torch', 'faiss', 'transformers', 'numpy', 'selectolax', 'pypdfium2'}"
    code = f"import sys, nbce_rag.documents.folders; assert not {heavy} & set(sys.modules), set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
