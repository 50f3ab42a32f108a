"""`batch` and `abatch` of a chat model whose calls meet in one decoding batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from langchain_core.runnables.config import ContextThreadPoolExecutor, get_config_list

from nbce_rag import Answer, Answerer, Request

from .batching import AsyncGathering, Gathering, async_gathering, gathering

__all__ = ["abatch_together", "batch_together", "current", "current_async"]

_MOST = 32
"""Calls that wait for each other at most, each in a thread."""


def batch_together(
    model: Any,
    invoke: Callable[..., Any],
    inputs: Sequence[Any],
    config: Any,
    return_exceptions: bool,
    kwargs: Mapping[str, Any],
) -> list[Any]:
    """`Runnable.batch`, with groups of calls that are answered together."""
    configs = get_config_list(config, len(inputs))
    outputs: list[Any] = []
    size = _group_size(configs)
    for start in range(0, len(inputs), size):
        part = list(zip(inputs[start : start + size], configs[start : start + size], strict=True))
        group = Gathering(model, len(part), _batch)

        def call(pair: tuple[Any, Any], group: Gathering = group) -> Any:
            gathering.set(group)
            try:
                return invoke(pair[0], pair[1], **kwargs)
            except Exception as error:
                if return_exceptions:
                    return error
                raise
            finally:
                group.leave()

        if len(part) == 1:
            outputs.append(invoke_alone(invoke, *part[0], return_exceptions, kwargs))
            continue
        with ContextThreadPoolExecutor(max_workers=len(part)) as executor:
            outputs += executor.map(call, part)
    return outputs


def invoke_alone(
    invoke: Callable[..., Any],
    value: Any,
    config: Any,
    return_exceptions: bool,
    kwargs: Mapping[str, Any],
) -> Any:
    """One call without company."""
    try:
        return invoke(value, config, **kwargs)
    except Exception as error:
        if return_exceptions:
            return error
        raise


async def abatch_together(
    model: Any,
    ainvoke: Callable[..., Awaitable[Any]],
    inputs: Sequence[Any],
    config: Any,
    return_exceptions: bool,
    kwargs: Mapping[str, Any],
) -> list[Any]:
    """`Runnable.abatch`, with groups of calls that are answered together."""
    configs = get_config_list(config, len(inputs))
    outputs: list[Any] = []
    size = _group_size(configs)
    for start in range(0, len(inputs), size):
        part = list(zip(inputs[start : start + size], configs[start : start + size], strict=True))
        group = AsyncGathering(model, len(part), _abatch)

        async def call(value: Any, config: Any, group: AsyncGathering = group) -> Any:
            async_gathering.set(group)
            try:
                return await ainvoke(value, config, **kwargs)
            finally:
                group.leave()

        calls = [asyncio.ensure_future(call(*pair)) for pair in part]
        try:
            outputs += await asyncio.gather(*calls, return_exceptions=return_exceptions)
        finally:
            for one in calls:
                one.cancel()
    return outputs


def current(model: Any) -> Gathering | None:
    """The group of the running call of this model, to be asked once."""
    group = gathering.get()
    if group is None or group.owner is not model:
        return None
    gathering.set(None)
    return group


def current_async(model: Any) -> AsyncGathering | None:
    """The same for a coroutine."""
    group = async_gathering.get()
    if group is None or group.owner is not model:
        return None
    async_gathering.set(None)
    return group


def _batch(engine: Answerer, requests: list[Request]) -> list[Answer]:
    return engine.batch(requests)


async def _abatch(engine: Answerer, requests: list[Request]) -> list[Answer]:
    return await engine.abatch(requests)


def _group_size(configs: Sequence[Mapping[str, Any]]) -> int:
    limit = configs[0].get("max_concurrency") if configs else None
    return max(1, min(_MOST, limit or _MOST))
