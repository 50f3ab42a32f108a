"""Fixtures that all tests share: tiny models and tokenizers, no network, one thread."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from postgres_tools import place, postgres_server, postgres_url  # noqa: F401
from tiny_models import WITHOUT_BOS, build_model, build_tokenizer

# Busy machines are slow at random; no test here is about time.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Torch on one thread: the same sums in the same order, also on a busy machine."""
    import sys

    if "torch" in sys.modules:  # tests that never touch torch need not wait for it
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Puts <s> before every text; no chat template."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """The same with a chat template."""
    return build_tokenizer(chat=True)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_folder("llama")`: a folder by save_pretrained with model and tokenizer, made once."""
    made: dict[tuple[str, bool], Path] = {}

    def folder(family: str, *, chat: bool = False) -> Path:
        key = (family, chat)
        if key not in made:
            tokenizer = build_tokenizer(bos=family not in WITHOUT_BOS, chat=chat)
            path = tmp_path_factory.mktemp(f"{family}-chat" if chat else family)
            build_model(family, len(tokenizer)).save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[key] = path
        return made[key]

    return folder


@pytest.fixture(scope="session")
def tiny_loaded(tiny_folder: Callable[..., Path]) -> Callable[..., Any]:
    """`tiny_loaded("llama")`: a LoadedModel read from that folder in float32 on the CPU; do not change it."""
    from nbce_rag.models.transformers.loading import load_model

    loaded: dict[tuple[str, bool], Any] = {}

    def load(family: str, *, chat: bool = False) -> Any:
        import torch

        torch.set_num_threads(1)
        key = (family, chat)
        if key not in loaded:
            loaded[key] = load_model(tiny_folder(family, chat=chat), device="cpu", dtype="float32")
        return loaded[key]

    return load


@pytest.fixture
def make_nbce(tiny_loaded: Callable[..., Any]) -> Callable[..., Any]:
    """`make_nbce("llama", fusion="mean", ...)`: an engine of its own (and KV store) on the shared model."""
    from nbce_rag.engine.nbce import NBCE

    def make(family: str = "llama", *, chat: bool = False, **options: Any) -> NBCE:
        return NBCE(tiny_loaded(family, chat=chat), **options)

    return make
