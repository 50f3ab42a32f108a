"""Models onto the pretended device: weights without a copy on the way, GGUF files, what keys depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_tools import write_gguf
from strict_device import StrictDevice, is_supported
from strict_engine import PASSAGES, QUESTION, Folder, assert_same, engine
from tiny_models import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from nbce_rag.models.transformers import check, loading
from nbce_rag.models.transformers.verdicts import Verdict

pytestmark = pytest.mark.skipif(not is_supported(), reason="this torch cannot make a device out of Python")


@pytest.fixture
def read_to(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where transformers put the weights of each model that it read."""
    devices: list[str] = []
    read: Any = AutoModelForCausalLM.from_pretrained

    def watched(*arguments: Any, **options: Any) -> Any:
        result = read(*arguments, **options)
        devices.append(result[0].device.type)
        return result

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", watched)
    return devices


def test_weights_are_read_straight_to_the_device(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, read_to: list[str]
) -> None:
    pytest.importorskip("accelerate")
    expected = engine(folder("llama"), "cpu").answer(QUESTION, PASSAGES)
    with StrictDevice(float64=False):
        assert_same(engine(folder("llama"), "strict").answer(QUESTION, PASSAGES), expected)
        monkeypatch.setattr(loading, "find_spec", lambda name: None)  # without accelerate, by a copy
        assert_same(engine(folder("llama"), "strict").answer(QUESTION, PASSAGES), expected)
    assert read_to == ["cpu", "strict", "cpu"]


def test_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_to: list[str]) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    monkeypatch.setenv("NBCE_CACHE", str(tmp_path / "cache"))
    tokenizer = build_tokenizer()
    path = write_gguf(tmp_path / "tiny.gguf", build_model("llama", len(tokenizer)), tokenizer)
    expected = engine(path, "cpu").answer(QUESTION, PASSAGES)
    with StrictDevice(float64=False):
        assert_same(engine(path, "strict").answer(QUESTION, PASSAGES), expected)
    assert read_to == ["cpu", "cpu", "strict"]  # unpacked once, in the dtype that is asked for


def test_what_a_context_depends_on_is_in_its_key(folder: Folder) -> None:
    def fingerprint(device: str, **options: Any) -> str:
        loaded = loading.load_model(folder("llama"), device=device, dtype="float32", check=False, **options)
        return loaded.fingerprint

    plain = fingerprint("cpu")
    assert fingerprint("cpu", attn_implementation="sdpa") == plain
    with StrictDevice(float64=False):
        others = [fingerprint("strict"), fingerprint("strict", attn_implementation="eager")]
    others.append(fingerprint("cpu", attn_implementation="eager"))
    assert len({plain, *others}) == 4


def test_contexts_of_a_device_are_not_those_of_the_processor(folder: Folder) -> None:
    with StrictDevice(float64=False):
        loaded = loading.load_model(folder("llama"), device="strict", dtype="float32", check=False)
        assert loaded.staging is not None
        assert loaded.staging.device == loaded.device == torch.device("strict", 0)
    assert loading.load_model(folder("llama"), device="cpu", check=False).staging is None


def test_bands_are_not_vouched_for_where_there_are_none(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model without a twin is judged where it is; the verdict is read on other devices too."""
    monkeypatch.setattr(check, "twins", lambda model, layout: iter(()))

    def verdict(device: str) -> Verdict:
        loaded: Any = loading.load_model(folder("llama"), device=device, dtype="float32", check=False)
        return check.judge(loaded)

    on_cpu = verdict("cpu")
    with StrictDevice(float64=False):
        there = verdict("strict")
    assert on_cpu.right
    assert on_cpu.banded
    assert there.right
    assert not there.banded
