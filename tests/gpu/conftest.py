"""Checkpoints of tiny models, and the pretended device."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from strict_device import StrictDevice
from strict_engine import Folder
from tiny_models import WITHOUT_BOS, build_model, build_tokenizer

from nbce_rag.engine.worker import Worker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            tokenizer = build_tokenizer(bos=family not in WITHOUT_BOS)
            made[family] = tmp_path_factory.mktemp(family)
            build_model(family, len(tokenizer)).save_pretrained(made[family])
            tokenizer.save_pretrained(made[family])
        return made[family]

    return make


@pytest.fixture(autouse=True)
def _device_where_answers_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real device is there for all threads; this one has to be told of a model's own."""
    work = Worker.work

    def there(worker: Worker, stop: threading.Event) -> None:
        device = StrictDevice.active
        with contextlib.nullcontext() if device is None else device.in_thread():
            work(worker, stop)

    monkeypatch.setattr(Worker, "work", there)
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # transformers loads in threads of its own


@pytest.fixture
def strict() -> Iterator[StrictDevice]:
    with StrictDevice(float64=False) as device:
        yield device
