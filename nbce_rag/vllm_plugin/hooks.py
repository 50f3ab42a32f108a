"""What is known here of the scheduler of vLLM, which is not public: what to look at for another version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["HOOKS", "Scheduler"]

HOOKS = (
    "add_request",
    "finish_requests",
    "schedule",
    "update_from_output",
    "_free_request",
    "_get_local_prefix_cache_hit",
    "_handle_blocked_waiting_request",
    "_preempt_request",
    "_reserve_prefill_lookahead",
)
"""Methods of vLLM's scheduler that are overridden or called."""

if TYPE_CHECKING:

    class Scheduler:
        """What is used of `vllm.v1.core.sched.scheduler.Scheduler`."""

        running: list[Any]
        requests: dict[str, Any]
        kv_cache_manager: Any
        kv_cache_config: Any
        block_size: int
        max_num_active_reqs: int
        max_num_scheduled_tokens: int
        max_model_len: int

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def add_request(self, request: Any) -> None: ...
        def schedule(self, *args: Any, **kwargs: Any) -> Any: ...
        def update_from_output(self, *args: Any, **kwargs: Any) -> Any: ...
        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _get_local_prefix_cache_hit(self, request: Any) -> Any: ...
        def _handle_blocked_waiting_request(self, request: Any) -> bool: ...
        def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None: ...
        def _reserve_prefill_lookahead(self, request: Any, computed: int, new: int) -> int: ...

else:
    Scheduler = object
