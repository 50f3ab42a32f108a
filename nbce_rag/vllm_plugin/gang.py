"""Gang scheduling: the rows of a group start together, take every step together, and end together.

vLLM schedules requests one by one. Left to itself, it would let one row of a group begin before the others
have arrived or have read their prompts, or take memory from one of them. So here a group is admitted whole,
once all of its rows are there and there is room for them up to their last token; a row reads its prompt but
for the last token, and waits; and when all rows wait there, each step has one token of each of them.

`GangMixin` goes before a scheduler of vLLM's, and changes what it does for rows of groups in a few methods
that vLLM keeps apart (`nbce_rag.vllm_plugin.hooks`). It imports no vLLM.
"""

from __future__ import annotations

import copy
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.vllm.wire import GROUP, ROWS
from .hooks import Scheduler
from .member import ROW

__all__ = ["Gang", "GangCounts", "GangMixin", "row_of"]

_JOIN_SECONDS = 20.0  # that a group waits for missing rows
_PATIENCE = 1.0  # seconds for which a group may be overtaken by single requests
_IDLE_SECONDS = 0.005  # between two looks, while groups wait for rows and nothing else is to be done
_REMEMBERED = 4096  # groups that were ended; what comes late of them is ended at once


@dataclass(eq=False)
class Gang:
    """A group in the scheduler.

    Attributes:
        id: of the group.
        size: rows that it has.
        born: when its first row came, by `time.monotonic`.
        members: requests by row; what has no place under a negative number.
        is_admitted: whether there is room for all rows, which is then theirs.
        is_ready: whether all rows have one token to read, so that this step is theirs.
        steps: that they have taken.
        fault: why the group is to end, or None.
    """

    id: str
    size: int
    born: float
    members: dict[int, Any] = field(default_factory=dict)
    is_admitted: bool = False
    is_ready: bool = False
    steps: int = 0
    fault: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all rows are here."""
        return len(self.members) == self.size


@dataclass
class GangCounts:
    """What happened to groups so far."""

    admitted: int = 0
    torn: int = 0


class GangMixin(Scheduler):
    """Groups over a scheduler of vLLM's; a derived class says how requests are aborted (`_abort`, `_tell`).

    Attributes:
        gangs: the groups that are here, the oldest first.
        counts: what happened to groups so far.
        join_seconds: that a group waits for missing rows.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gangs: dict[str, Gang] = {}
        self.counts = GangCounts()
        self.join_seconds = _JOIN_SECONDS
        self._gang_of: dict[str, Gang] = {}  # by id of the request
        self._past: OrderedDict[str, None] = OrderedDict()  # groups that were ended
        self._faults: list[tuple[Any, str]] = []  # requests that were aborted, and why
        self._running_ids: set[str] = set()
        self._slots = 0  # that admitted rows have yet to take
        self._blocks: int | None = None  # the same of blocks, once somebody asks in this step
        self._overtaken = False  # whether a group has waited for too long

    # What depends on vLLM's own classes.

    def _abort(self, requests: list[Any]) -> list[Any]:
        """End requests; those that had not ended."""
        raise NotImplementedError

    def _tell(self, outputs: Any, request: Any, reason: str) -> None:
        """Add to a step's outputs that a request was aborted."""
        raise NotImplementedError

    # Rows come and go.

    def add_request(self, request: Any) -> None:
        params = request.sampling_params
        arguments = (params.extra_args or {}) if params is not None else {}
        if GROUP in arguments and request.request_id not in self.requests:
            self._register(request, arguments)
        super().add_request(request)

    def _register(self, request: Any, arguments: Mapping[str, Any]) -> None:
        id, size = str(arguments[GROUP]), int(arguments[ROWS])
        row = row_of(request.request_id, arguments)
        # The worker is told by a copy: others may have the same arguments.
        request.sampling_params = copy.copy(request.sampling_params)
        request.sampling_params.extra_args = {**arguments, ROW: row}
        gang = self.gangs.get(id)
        if gang is None:
            gang = self.gangs[id] = Gang(id, size, time.monotonic())
        if id in self._past:
            gang.fault = "the group has ended"
        elif gang.is_admitted or gang.size != size or row in gang.members or not 0 <= row < size:
            gang.fault = f"row {row} of {size} does not belong to the group's {gang.size} rows"
        elif request.num_prompt_tokens < 2:
            gang.fault = f"row {row} has fewer than two tokens"
        gang.members[row if gang.fault is None else min((0, *gang.members)) - 1] = request
        self._gang_of[request.request_id] = gang

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        gang = self._gang_of.pop(request.request_id, None)
        if gang is not None:
            gang.members = {row: other for row, other in gang.members.items() if other is not request}
            if not gang.members:
                self.gangs.pop(gang.id, None)
            elif gang.fault is None:
                gang.fault = "a row left the group"  # the others follow before the next step
        return super()._free_request(request, *args, **kwargs)

    def _end_faulty(self) -> None:
        """End the groups that cannot go on."""
        now = time.monotonic()
        for gang in list(self.gangs.values()):
            if gang.fault is None and not gang.is_complete and now - gang.born > self.join_seconds:
                gang.fault = f"{len(gang.members)} of {gang.size} rows after {self.join_seconds:g} s"
            if gang.fault is None:
                continue
            self._past[gang.id] = None
            while len(self._past) > _REMEMBERED:
                self._past.popitem(last=False)
            self._faults += [(request, gang.fault) for request in self._abort(list(gang.members.values()))]

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().update_from_output(*args, **kwargs)
        for request, reason in self._faults:
            self._tell(outputs, request, reason)
        self._faults = []
        return outputs

    # Room.

    def _need(self, request: Any) -> int:
        """Blocks that a row takes at most."""
        tokens: int = min(request.num_prompt_tokens + request.max_tokens, self.max_model_len)
        return -(-tokens // self.block_size) * len(self.kv_cache_config.kv_cache_groups)

    def _held(self, request: Any) -> int:
        """Blocks that a row has."""
        if request.request_id not in self._running_ids:
            return 0
        blocks: Sequence[Sequence[int]] = self.kv_cache_manager.get_block_ids(request.request_id)
        return sum(map(len, blocks))

    def _promised(self) -> int:
        """Blocks that admitted rows have yet to take. Within a step this only grows, on the safe side."""
        if self._blocks is None:
            rows = [row for gang in self.gangs.values() if gang.is_admitted for row in gang.members.values()]
            self._blocks = sum(max(0, self._need(row) - self._held(row)) for row in rows)
        return self._blocks

    def _admit(self, gang: Gang) -> bool:
        """Let a complete group in, if there is room for all of it; then that is its own."""
        rows = list(gang.members.values())
        pool = self.kv_cache_manager.block_pool
        need = sum(map(self._need, rows))
        limits = {row.max_tokens for row in rows}
        longest = max(row.num_prompt_tokens for row in rows) + max(limits)
        most = min(self.max_num_active_reqs, self.max_num_scheduled_tokens)
        if need >= pool.num_gpu_blocks or gang.size > most:
            gang.fault = (
                f"the group needs {need} blocks of {pool.num_gpu_blocks - 1} and {gang.size} slots of {most}"
            )
        elif len(limits) > 1 or longest > self.max_model_len:
            gang.fault = (
                f"rows of a group have one max_tokens, and the longest has {self.max_model_len} tokens with "
                "it at most"
            )
        if gang.fault is not None:
            return False
        if pool.get_num_free_blocks() - self._promised() < need:
            return False
        if len(self.running) + self._slots + gang.size > self.max_num_active_reqs:
            return False
        gang.is_admitted = True
        self._slots += gang.size
        self._blocks = self._promised() + need
        self.counts.admitted += 1
        return True

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        gang = self._gang_of.get(request.request_id)
        if gang is None:
            if self._overtaken or len(self.running) + self._slots >= self.max_num_active_reqs:
                return False
            return super()._handle_blocked_waiting_request(request)
        if not super()._handle_blocked_waiting_request(request):
            return False
        if gang.fault is not None or not gang.is_complete:
            return False
        return gang.is_admitted or self._admit(gang)

    # Steps.

    def _get_local_prefix_cache_hit(self, request: Any) -> Any:
        blocks, tokens, boundary, diverged = super()._get_local_prefix_cache_hit(request)
        if request.request_id in self._gang_of and 0 < tokens >= request.num_tokens - 1:
            # Of the prompt but for its last token something must be left to read, or the row could not begin.
            tokens = (tokens - 1) // self.block_size * self.block_size
            blocks = self.kv_cache_manager.truncate_computed_blocks(blocks, tokens)
        return blocks, tokens, boundary, diverged

    def _reserve_prefill_lookahead(self, request: Any, computed: int, new: int) -> int:
        new = super()._reserve_prefill_lookahead(request, computed, new)
        gang = self._gang_of.get(request.request_id)
        if gang is None or gang.is_ready:
            return new
        if gang.fault is not None:
            return 0
        last: int = request.num_tokens + request.num_output_placeholders - 1
        return max(0, min(new, last - computed))

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self._end_faulty()
        self._running_ids = {request.request_id for request in self.running}
        self._blocks, self._slots, self._overtaken = None, 0, False
        now = time.monotonic()
        for gang in self.gangs.values():
            rows = gang.members.values()
            gang.is_ready = gang.is_admitted and gang.is_complete and all(map(self._stands, rows))
            if gang.is_admitted:
                self._slots += sum(row.request_id not in self._running_ids for row in rows)
            elif gang.is_complete and now - gang.born > _PATIENCE:
                self._overtaken = True
        if self.gangs:
            # First come those that answer: tokens of the step and memory are theirs before anybody's, and who
            # has to give memory back stands last.
            self.running.sort(key=self._rank)
        output = super().schedule(*args, **kwargs)
        self._count_steps(output)
        if self.gangs and output.total_num_scheduled_tokens == 0:
            time.sleep(_IDLE_SECONDS)
        return output

    def _stands(self, request: Any) -> bool:
        """Whether a row has one token to read."""
        known = request.num_tokens_with_spec + request.num_output_placeholders
        return request.request_id in self._running_ids and known - request.num_computed_tokens == 1

    def _rank(self, request: Any) -> float:
        gang = self._gang_of.get(request.request_id)
        return gang.born if gang is not None and (gang.is_ready or gang.steps) else math.inf

    def _count_steps(self, output: Any) -> None:
        """Count the steps of groups, and end those of which some rows take a step without the others."""
        if not self._gang_of:
            return
        stepping: dict[str, int] = {}
        for id in output.num_scheduled_tokens:
            gang = self._gang_of.get(id)
            if gang is not None and not self.requests[id].is_prefill_chunk:
                stepping[gang.id] = stepping.get(gang.id, 0) + 1
        for id, count in stepping.items():
            gang = self.gangs[id]
            if count == gang.size:
                gang.steps += 1
            else:
                self.counts.torn += 1
                gang.fault = f"{count} of {gang.size} rows took a step"

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        gang = self._gang_of.get(request.request_id)
        if gang is not None:
            gang.is_ready = False
        super()._preempt_request(request, *args, **kwargs)


def row_of(request_id: str, arguments: Mapping[str, Any]) -> int:
    """Which row of its group a request is; -1 where nobody says.

    Of one call with a list of prompts vLLM makes requests whose ids end in the number of the prompt and eight
    letters: cmpl-ID-3-0123abcd.
    """
    if ROW in arguments:
        return int(arguments[ROW])
    parts = request_id.rsplit("-", 2)
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else -1
