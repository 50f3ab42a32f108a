"""Instances of vLLM that are killed in the middle of answers: some of tests/benchmarks/chaos_vllm.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import chaos_vllm


def test_every_answer_is_right_or_an_error_that_says_what_failed() -> None:
    counts, faults = chaos_vllm.chaos(4, seed=3)
    assert faults == []
    assert counts["answers"] > 10
    assert counts["kills"] >= 1
