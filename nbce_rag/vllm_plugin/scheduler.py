"""The scheduler that vLLM is started with (`--scheduler-cls`); imports vLLM."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

from ..errors import InputError
from .gang import GangMixin
from .hooks import HOOKS
from .host import check_hooks, check_version

__all__ = ["GangScheduler", "PlainGangScheduler"]

_log = init_logger("vllm.nbce_rag")


class _Gangs(GangMixin):
    """What of gang scheduling depends on vLLM's classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        check_version()
        check_hooks(Scheduler, HOOKS)
        super().__init__(*args, **kwargs)
        if getattr(self, "need_mamba_block_aligned_split", False):
            raise InputError(
                "This model keeps states at the ends of blocks, where no row of a group can wait for the "
                "others: give --no-enable-prefix-caching."
            )

    def _abort(self, requests: list[Any]) -> list[Any]:
        ids = [request.request_id for request in requests]
        aborted: list[Any] = self.finish_requests(ids, RequestStatus.FINISHED_ABORTED)  # type: ignore[attr-defined]
        return aborted

    def _tell(self, outputs: Any, request: Any, reason: str) -> None:
        _log.warning("%s was aborted: %s", request.request_id, reason)
        of_client = outputs.setdefault(request.client_index, EngineCoreOutputs())
        of_client.outputs = [
            *(of_client.outputs or ()),
            EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason=request.get_finished_reason(),
                stop_reason=f"nbce: {reason}",
                events=request.take_events(),
                trace_headers=request.trace_headers,
            ),
        ]


class PlainGangScheduler(_Gangs, Scheduler):  # type: ignore[misc]
    """For engines that decide each step once the last one is known, as on a CPU."""


class GangScheduler(_Gangs, AsyncScheduler):  # type: ignore[misc]
    """Keeps the rows of groups in step; `PlainGangScheduler` where the engine is not asynchronous."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        config = kwargs["vllm_config"] if "vllm_config" in kwargs else args[0]
        if config.scheduler_config.async_scheduling:
            return super().__new__(cls)
        return PlainGangScheduler(*args, **kwargs)
