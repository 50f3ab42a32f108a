"""Prompts of one's own: a place for each passage, none, or special tokens that count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nbce_rag.decoding.plan import plan_rows
from nbce_rag.engine.nbce import NBCE
from nbce_rag.errors import InputError
from nbce_rag.noncharacters import PASSAGES
from nbce_rag.passages import Passage
from nbce_rag.prompts.encoder import PromptEncoder
from nbce_rag.prompts.template import PromptTemplate

TEMPLATE = PromptTemplate("", "{heading}{text}\n\n", "{question}")
ADA, FISH = Passage("Run by Ada."), Passage("Fish.")


def rows(nbce: NBCE, text: str, *passages: Passage, **options: Any) -> list[str]:
    encoder = PromptEncoder(TEMPLATE, nbce.model.tokenizer, text=text)
    plan = plan_rows(encoder, "Who?", passages, nbce.options.updated(**options), nbce.model.window)
    return [nbce.model.tokenizer.decode([*row.context, *plan.suffix.ids]) for row in plan.rows]


@pytest.fixture
def nbce(make_nbce: Callable[..., NBCE]) -> NBCE:
    return make_nbce(max_tokens=4)


def test_each_passage_in_a_place_of_its_own(nbce: NBCE) -> None:
    text = f"A {PASSAGES}B {PASSAGES}Who?"
    assert rows(nbce, text, ADA, FISH) == [
        "<s>A B Who?",
        "<s>A Run by Ada.\n\nB Who?",
        "<s>A B Fish.\n\nWho?",
    ]
    joint = rows(nbce, text, ADA, FISH, passages_per_row=2)
    assert joint == ["<s>A B Who?", "<s>A Run by Ada.\n\nB Fish.\n\nWho?"]


def test_places_and_passages_have_to_agree(nbce: NBCE) -> None:
    assert rows(nbce, "Who?") == ["<s>Who?"]
    for text in ("Who?", f"{PASSAGES}{PASSAGES}{PASSAGES}Who?"):
        with pytest.raises(InputError, match="once for each"):
            rows(nbce, text, ADA, FISH)
    with pytest.raises(InputError, match="Nothing follows the passages"):
        rows(nbce, f"Who? {PASSAGES}", ADA)


def test_a_long_passage_is_split_in_its_place(make_nbce: Callable[..., NBCE]) -> None:
    long = Passage("The market opens at eight. " * 80)
    found = rows(make_nbce(max_tokens=4), f"A {PASSAGES}B {PASSAGES}Who?", ADA, long)
    assert len(found) > 3
    assert all(row.startswith("<s>A B The market") for row in found[2:])
    assert all(row.endswith("Who?") for row in found)


def test_special_tokens_count_only_in_trusted_prompts(nbce: NBCE) -> None:
    tokenizer = nbce.model.tokenizer
    [end], [bos] = tokenizer.encode("</s>"), tokenizer.bos_ids
    trusted = PromptEncoder(TEMPLATE, tokenizer, text="<s>Hi</s>Who?", trusted=True)
    assert end in trusted.suffix("Who?").ids
    assert (*trusted.prefix, *trusted.suffix("Who?").ids).count(bos) == 1
    plain = PromptEncoder(TEMPLATE, tokenizer, text="<s>Hi</s>Who?")
    assert end not in plain.suffix("Who?").ids
