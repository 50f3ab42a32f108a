"""The logits processor as vLLM loads it (entry point `vllm.logits_processors`); imports vLLM."""

from __future__ import annotations

from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor as V1LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2LogitsProcessor

from .gang import GangMixin
from .host import check_host, is_off
from .processor import ProcessorMixin

__all__ = ["GroupProcessor"]


class GroupProcessor(ProcessorMixin, V1LogitsProcessor, V2LogitsProcessor):  # type: ignore[misc]
    """Fuses the rows of groups. Each of vLLM's runners refuses what is not of its own class: it is of both.

    Raises:
        InputError: the server was started as groups cannot be answered.
        MissingDependencyError: another version of vLLM.
    """

    def __init__(self, vllm_config: Any, *parts: Any) -> None:
        if not is_off():
            check_host(vllm_config, GangMixin)
        super().__init__(vllm_config, *parts)
