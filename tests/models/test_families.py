"""One architecture of each kind, tried anew, and the table of all of them."""

from __future__ import annotations

from pathlib import Path

import matrix
import pytest
import torch
import transformers
from families import ABSENT, VARIANTS, build_family, model_types
from matrix import judge
from matrix_table import PAGE, family_of, markdown, with_table

from nbce_rag.errors import ModelError
from nbce_rag.models.families import WAYS, families
from nbce_rag.models.transformers.rows import CachedRows

ONE_OF_EACH = (
    "llama",
    "gpt2",  # positions learned
    "bloom",  # positions as a bias
    "gemma3_text",  # windows
    "gpt_oss",  # sinks
    "llama4_text",  # chunks
    "phi3, past its original window",  # frequencies by the longest row
    "mixtral",  # experts
    "deepseek_v3",  # latent keys
    "deepseek_v32",  # and an index of them
    "gemma3n_text",  # shared keys
    "gemma4_text",  # and heads of unequal size
    "qwen3_5",  # a delta rule
    "lfm2",  # convolutions
    "granitemoehybrid",  # Mamba 2
    "jamba",  # Mamba 1
    "mamba2",  # no attention
    "minimax",  # a cache of its own
    "roberta",  # positions that begin elsewhere
    "bart",  # positions by the cache
    "recurrent_gemma",  # states in modules
    "xlm",  # no cache
)


@pytest.fixture(autouse=True)
def _verdicts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What loading has found out before is not asked."""
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_is_read_as_the_table_says(name: str) -> None:
    if transformers.__version__ != families().transformers:
        pytest.skip("the table was made with another transformers")
    verdict = judge(name)
    tried, listed = family_of(verdict), families().families[name]
    assert (tried.way, tried.keeps) == (listed.way, listed.keeps), verdict


def test_nothing_is_wrong_and_most_is_read() -> None:
    table = families()
    kinds = [family for family in table.families.values() if family.name not in VARIANTS]
    assert {family.way for family in table.families.values()} <= WAYS.keys() - {"wrong", "crash"}
    for family in table.families.values():
        assert bool(family.reason) == (family.way == "refused"), family
        assert bool(family.keeps) == (family.way != "refused"), family
    assert sum(family.way != "refused" for family in kinds) >= 165


def test_every_family_of_transformers_is_in_the_table() -> None:
    if transformers.__version__ != families().transformers:
        pytest.skip("the table was made with another transformers")
    assert list(families().families) == [*model_types(), *VARIANTS]
    assert ABSENT.keys() <= set(model_types())


def test_the_docs_show_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, families()) == page
    assert all(f"`{name}`" in markdown(families()) for name in model_types())


def test_the_same_model_each_time() -> None:
    one, other = build_family("qwen3_5"), build_family("qwen3_5")
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


# The witness sees what it should.


def test_rows_that_are_wrong_are_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rewind = CachedRows.rewind

    def too_far(rows: CachedRows, tokens: int, some: object = None) -> None:
        rewind(rows, tokens + 1)

    monkeypatch.setattr(CachedRows, "rewind", too_far)
    verdict = judge("llama")
    assert verdict.outcome == "wrong"
    assert verdict.error is not None
    assert verdict.error > 0.03
    assert verdict.reason.startswith("a step after a rejected draft")


def test_what_is_refused_and_what_crashes_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*args: object, **options: object) -> None:
        raise ModelError("'x' (llama) is recurrent. Use another.")

    def crashes(*args: object, **options: object) -> None:
        raise KeyError("head_dim")

    monkeypatch.setattr(matrix, "load_model", refuses)
    verdict = judge("llama")
    assert (verdict.outcome, verdict.reason) == ("refused", "is recurrent")
    monkeypatch.setattr(matrix, "load_model", crashes)
    verdict = judge("llama")
    assert verdict.outcome == "crash"
    assert "KeyError" in verdict.reason
    assert family_of(verdict).way == "crash"


def test_a_context_that_changes_nothing_is_no_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(name: str) -> object:
        model = build_family(name)
        for parameter in model.parameters():
            parameter.data *= 1e-3
        return model

    monkeypatch.setattr(matrix, "build_family", deaf)
    verdict = judge("llama")
    assert verdict.outcome == "crash"
    assert "nothing is seen" in verdict.reason
