"""The vLLM that this runs in: whether it is of the right version, and started as it has to be."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InputError, MissingDependencyError

__all__ = ["SCHEDULER", "VLLM", "check_hooks", "check_host", "check_version", "is_off", "vllm_version"]

VLLM = "0.32"
"""The minor version of vLLM that this is written for. Its scheduler is not public, so that another one is
refused, and not tried."""

SCHEDULER = "nbce_rag.vllm_plugin.scheduler.GangScheduler"
"""What `--scheduler-cls` has to name."""

_OFF = "NBCE_VLLM"


def is_off() -> bool:
    """Whether this server shall answer no groups (NBCE_VLLM=off), though the plugin is installed."""
    return os.environ.get(_OFF, "") == "off"


def vllm_version() -> str:
    """The version of vLLM here, "" without one."""
    try:
        import vllm
    except ImportError:
        return ""
    return str(vllm.__version__)


def check_version() -> None:
    """Refuse another vLLM than the one that this is written for.

    Raises:
        MissingDependencyError: it is not `VLLM`.
    """
    version = vllm_version()
    if not version.startswith(VLLM + "."):
        raise MissingDependencyError(
            f"nbce-rag's plugin is written for vLLM {VLLM}, and here is {version or 'none'}: "
            f"pip install 'vllm=={VLLM}.*', or start the server with {_OFF}=off, which answers no groups."
        )


def check_hooks(scheduler: type, names: tuple[str, ...]) -> None:
    """Refuse a scheduler that lacks a method which is overridden.

    Args:
        scheduler: vLLM's class.
        names: of the methods.

    Raises:
        MissingDependencyError: one is not there.
    """
    if missing := [name for name in names if not callable(getattr(scheduler, name, None))]:
        raise MissingDependencyError(
            f"{scheduler.__name__} of vLLM {vllm_version()} has no {', '.join(missing)}, on which groups "
            f"depend: pip install 'vllm=={VLLM}.*'"
        )


def check_host(config: Any, scheduler: type) -> None:
    """Refuse to start where groups could not be answered.

    Args:
        config: vLLM's `VllmConfig`.
        scheduler: what its scheduler has to be derived from.

    Raises:
        MissingDependencyError: another version of vLLM.
        InputError: an argument of the server that has to be another.
    """
    check_version()
    way_out = f"or start the server with {_OFF}=off, which answers no groups."
    there = config.scheduler_config.get_scheduler_cls()
    if not (isinstance(there, type) and issubclass(there, scheduler)):
        raise InputError(
            "The rows of a group stay in step only under nbce-rag's scheduler: give --scheduler-cls "
            f"{SCHEDULER}, {way_out}"
        )
    mode = config.model_config.logprobs_mode
    if mode != "processed_logprobs":
        raise InputError(
            f"--logprobs-mode {mode} would not bring back what is told of a token: give processed_logprobs, "
            + way_out
        )
    if config.speculative_config is not None:
        raise InputError("Groups know nothing of speculative decoding: leave it off, " + way_out)
    if getattr(config.parallel_config, "enable_batch_sharded_sampling", None):
        raise InputError(
            "With --enable-batch-sharded-sampling no process sees all rows of a group: leave it off, "
            + way_out
        )
    if getattr(config, "kv_transfer_config", None) is not None:
        raise InputError(
            "A KV connector may bring the whole prompt of a row, which then has nothing to wait with: leave "
            f"out --kv-transfer-config, {way_out}"
        )
    scheduling = config.scheduler_config
    if scheduling.policy != "fcfs":
        raise InputError(
            f"--scheduling-policy {scheduling.policy} may take memory from one row of a group: use fcfs, "
            + way_out
        )
    if not scheduling.enable_chunked_prefill:
        raise InputError(
            "Without chunked prefill no row can wait for the others of its group: leave it on, " + way_out
        )
