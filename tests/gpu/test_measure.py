"""The measurements that need a GPU, without one: they run, on the CPU and by a GPU's rules."""

from __future__ import annotations

import json
from pathlib import Path

import measure
import pytest
from strict_device import StrictDevice, is_supported

PARTS = ("machine", "steps", "first_token", "small_step", "memory", "loading", "demands")


def check(results: dict[str, object], written: Path) -> None:
    assert set(results) == set(PARTS)
    assert not [part for part in results.values() if isinstance(part, str)]  # what went wrong
    assert json.loads((written / "gpu.json").read_text()) == results
    tiers = ("device", "pinned", "files", "device_sentences", "pinned_sentences", "files_sentences")
    first_token, memory = results["first_token"], results["memory"]
    assert isinstance(first_token, dict)
    assert isinstance(memory, dict)
    assert all(first_token[tier] > 0 for tier in tiers)
    assert memory["recording_failed"] == []


def test_on_the_cpu(tmp_path: Path) -> None:
    words = ["--tiny", "--device", "cpu", "--out", str(tmp_path), "--only", *PARTS]
    check(measure.main(words), tmp_path)


@pytest.mark.skipif(not is_supported(), reason="this torch cannot make a device out of Python")
def test_by_the_rules_of_a_gpu(tmp_path: Path) -> None:
    with StrictDevice():
        words = ["--tiny", "--device", "strict", "--out", str(tmp_path), "--only", *PARTS]
        results = measure.main(words)
    check(results, tmp_path)
    assert results["memory"]["MB_held_by_the_store"] > 0
    assert results["loading"]["device"] == "strict:0"


def test_what_is_late_is_left_out_and_what_is_asked_for_is_said(tmp_path: Path) -> None:
    words = ["--tiny", "--device", "cpu", "--out", str(tmp_path), "--seconds", "-1", "--only", *PARTS]
    results = measure.main(words)
    assert results["steps"] == "no time left"
    assert "TypeError" in results["demands"]
