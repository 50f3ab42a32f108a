"""Groups and single requests at random, over any scheduler that keeps groups: a trial of gang scheduling.

The scheduler may be vLLM's own (`tests/vllm_engine`), or `FakeScheduler` here, which admits, holds, preempts
and frees requests in the order in which vLLM 0.32 does, and calls what `GangMixin` overrides where vLLM does.
What a worker would see is known by `Trial`: which requests choose a token in a step, and that all rows of a
group do so in the same steps or none.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

from nbce_rag.models.vllm.wire import GROUP, ROWS
from nbce_rag.vllm_plugin.gang import GangMixin

__all__ = ["Bench", "FakeBench", "FakeScheduler", "Layout", "Scheduled", "Trial"]

STOP = 7
"""Token that ends a request."""


class Clock:
    """Stands for the module `time`, so that no trial waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True, slots=True)
class Layout:
    """An engine: requests at once, tokens a step, blocks of memory, and how many steps are in flight."""

    slots: int
    budget: int
    blocks: int
    depth: int = 1
    is_async: bool = False
    has_windows: bool = False
    block: int = 16
    window: int = 4096


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A step: of each request the tokens that were computed before, and that are now; and what the scheduler
    itself says."""

    rows: Mapping[str, tuple[int, int]]
    output: Any


class Bench(Protocol):
    """A scheduler as a trial drives it."""

    @property
    def gangs(self) -> GangMixin: ...

    def add(
        self, id: str, prompt: Sequence[int], max_tokens: int, arguments: dict[str, Any] | None
    ) -> None: ...
    def abort(self, ids: Sequence[str]) -> None: ...
    def has_requests(self) -> bool: ...
    def schedule(self) -> Scheduled: ...
    def update(self, step: Scheduled, tokens: Mapping[str, int]) -> list[tuple[str, str]]:
        """Requests that ended, and why: "stop", "length" or what the scheduler says of an abort."""


@dataclass
class _Group:
    size: int
    max_tokens: int
    is_cut: bool = False  # somebody aborts it, or a row never comes


class Trial:
    """One engine, some groups and some single requests, all of it at random.

    Args:
        seed: of the dice.
        clock: what the scheduler takes for the time.
    """

    def __init__(self, seed: int, clock: Clock, *, depth: int = 1, is_async: bool = False) -> None:
        self.dice = dice = random.Random(seed)
        self.clock = clock
        slots = dice.choice([12, 16, 33, 64])
        self.layout = Layout(
            slots=slots,
            budget=max(slots, dice.choice([32, 64, 128, 512, 2048])),
            blocks=dice.choice([220, 400, 800, 4000]),
            depth=depth,
            is_async=is_async,
            has_windows=dice.random() < 0.3,
        )
        self.groups: dict[str, _Group] = {}
        self.group_of: dict[str, str] = {}
        self.prompts: dict[str, list[int]] = {}
        self.stops: dict[str, int] = {}  # place of the token that ends a group or a request
        self.written: dict[str, list[int]] = {}
        self.ends: dict[str, str] = {}
        self.torn: set[str] = set()
        self.steps = 0
        self._events: list[tuple[int, str, Any]] = []
        passages = [[dice.randint(100, 999) for _ in range(dice.randint(5, 150))] for _ in range(12)]
        for number in range(dice.randint(1, 6)):
            self._plan_group(f"g{number}", passages)
        for number in range(dice.randint(0, 12)):
            prompt = [dice.randint(100, 999) for _ in range(dice.randint(1, 600))]
            self._events.append(
                (dice.randint(0, 80), "add", (f"p{number}", prompt, dice.randint(1, 60), None))
            )
        self._events.sort(key=lambda event: event[0])

    def _plan_group(self, id: str, passages: Sequence[list[int]]) -> None:
        dice, size, most = self.dice, self.dice.choice([1, 2, 3, 5, 11]), self.dice.randint(1, 40)
        begins = dice.randint(0, 60)
        question = [dice.randint(1000, 1100) for _ in range(dice.randint(2, 20))]
        group = self.groups[id] = _Group(size, most)
        if dice.random() < 0.5:
            self.stops[id] = dice.randint(0, most)
        rows = list(range(size))
        luck = dice.random()
        if luck < 0.08 and size > 1:
            rows.pop()
            group.is_cut = True
        elif luck < 0.18:
            self._events.append(
                (begins + dice.randint(1, 60), "abort", [f"{id}-{dice.randrange(size)}-0123abcd"])
            )
            group.is_cut = True
        elif luck < 0.26:
            self._events.append(
                (begins + dice.randint(1, 60), "abort", [f"{id}-{row}-0123abcd" for row in rows])
            )
            group.is_cut = True
        for row in rows:
            prompt = [2, *(dice.choice(passages) if row else []), *question]
            late = dice.choice([0, 0, 0, 1, 2, 5])
            arguments = {GROUP: id, ROWS: size}
            self._events.append((begins + late, "add", (f"{id}-{row}-0123abcd", prompt, most, arguments)))

    def run(self, bench: Bench) -> None:
        """Drive the scheduler until nothing is left."""
        flying: deque[tuple[Scheduled, dict[str, int]]] = deque()
        while self._events or bench.has_requests() or flying:
            while self._events and self._events[0][0] <= self.steps:
                self._happen(bench, *self._events.pop(0)[1:])
            if bench.has_requests():
                step = bench.schedule()
                flying.append((step, self._work(step)))
            while flying and (len(flying) >= self.layout.depth or not bench.has_requests()):
                step, tokens = flying.popleft()
                for id, reason in bench.update(step, tokens):
                    self.ends[id] = reason
            self.steps += 1
            self.clock.now += 0.01
            assert self.steps < 20_000, f"it hangs: {[vars(gang) for gang in bench.gangs.gangs.values()]}"
        self._check(bench)

    def _happen(self, bench: Bench, kind: str, what: Any) -> None:
        if kind == "abort":
            bench.abort([id for id in what if id in self.prompts])
            for id in what:
                self.ends.setdefault(id, "the client")
            return
        id, prompt, most, arguments = what
        self.prompts[id], self.written[id] = prompt, []
        if arguments is not None:
            self.group_of[id] = arguments[GROUP]
        bench.add(id, prompt, most, arguments)

    def _work(self, step: Scheduled) -> dict[str, int]:
        """What a worker makes of a step: a token of each request that has read all it knows."""
        tokens: dict[str, int] = {}
        choosing: dict[str, list[str]] = {}
        for id, (computed, new) in step.rows.items():
            if computed + new < len(self.prompts[id]) + len(self.written[id]):
                continue
            key, place = self.group_of.get(id, id), len(self.written[id])
            tokens[id] = STOP if place >= self.stops.get(key, math.inf) else 10 + hash((key, place)) % 1000
            if key in self.groups:
                choosing.setdefault(key, []).append(id)
        for key, ids in choosing.items():
            if len(ids) != self.groups[key].size or len({len(self.written[id]) for id in ids}) != 1:
                self.torn.add(key)
        for id, token in tokens.items():
            self.written[id].append(token)
        return tokens

    def _check(self, bench: Bench) -> None:
        assert not self.torn, f"rows of {self.torn} took a step without the others"
        assert bench.gangs.counts.torn == 0
        assert not bench.gangs.gangs
        for id in self.prompts:
            assert id in self.ends, f"{id} never ended"
            if id not in self.group_of:
                assert self.ends[id] in ("stop", "length"), (id, self.ends[id])
        for key, group in self.groups.items():
            if group.is_cut:
                continue
            rows = [id for id, other in self.group_of.items() if other == key]
            assert len({tuple(self.written[id]) for id in rows}) == 1, key
            reasons = {self.ends[id] for id in rows}
            assert reasons <= {"stop", "length"} or self._is_too_much(key, reasons), (key, reasons)

    def _is_too_much(self, key: str, reasons: Iterable[str]) -> bool:
        """Whether a group is more than the engine has, and was refused for it."""
        return all("the group needs" in reason for reason in reasons)


@dataclass(eq=False)
class FakeRequest:
    """Stands for vLLM's `Request`."""

    request_id: str
    prompt: Sequence[int]
    max_tokens: int
    sampling_params: Any
    written: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_output_placeholders: int = 0
    flying: int = 0  # steps of it that have not come back
    stale: int = 0  # of these, from before it was preempted
    is_prefill_chunk: bool = True
    state: str = "waiting"

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.written)

    num_tokens_with_spec = num_tokens


class FakeMemory:
    """Stands for the manager of blocks, and for their pool. Blocks of earlier prompts stay known."""

    def __init__(self, layout: Layout) -> None:
        self.block, self.block_pool = layout.block, self
        self.num_gpu_blocks = layout.blocks
        self.taken: dict[str, int] = {}
        self.known: set[tuple[int, ...]] = set()

    def get_num_free_blocks(self) -> int:
        return self.num_gpu_blocks - 1 - sum(self.taken.values())

    def get_block_ids(self, request_id: str) -> tuple[list[int], ...]:
        return ([0] * self.taken.get(request_id, 0),)

    def truncate_computed_blocks(self, blocks: Any, tokens: int) -> Any:
        assert tokens % self.block == 0
        return blocks

    def allocate(self, request: FakeRequest, tokens: int) -> bool:
        need = -(-tokens // self.block) - self.taken.get(request.request_id, 0)
        if need > self.get_num_free_blocks():
            return False
        self.taken[request.request_id] = self.taken.get(request.request_id, 0) + max(need, 0)
        return True

    def hit(self, request: FakeRequest) -> int:
        ids, tokens = tuple(request.prompt), 0
        while tokens + self.block < len(ids) and ids[: tokens + self.block] in self.known:
            tokens += self.block
        return tokens


class FakeScheduler:
    """Stands for vLLM's `Scheduler`, or `AsyncScheduler`; see the module."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.running: list[FakeRequest] = []
        self.waiting: list[FakeRequest] = []
        self.requests: dict[str, FakeRequest] = {}
        self.kv_cache_manager = FakeMemory(layout)
        self.kv_cache_config = SimpleNamespace(kv_cache_groups=[None])
        self.block_size = layout.block
        self.max_num_active_reqs = layout.slots
        self.max_num_scheduled_tokens = layout.budget
        self.max_model_len = layout.window
        self.ended: list[tuple[FakeRequest, str]] = []

    def has_requests(self) -> bool:
        return bool(self.requests or self.ended)

    def add_request(self, request: FakeRequest) -> None:
        self.requests[request.request_id] = request
        self.waiting.append(request)

    def finish_requests(self, ids: Iterable[str], reason: str) -> list[FakeRequest]:
        found = [self.requests[id] for id in ids if id in self.requests]
        for request in found:
            (self.running if request in self.running else self.waiting).remove(request)
            request.state = reason
            self._free_request(request)
        return found

    def _free_request(self, request: FakeRequest) -> None:
        memory = self.kv_cache_manager
        for end in range(memory.block, len(request.prompt) + 1, memory.block):
            memory.known.add(tuple(request.prompt[:end]))
        memory.taken.pop(request.request_id, None)
        del self.requests[request.request_id]

    def _preempt_request(self, request: FakeRequest) -> None:
        self.kv_cache_manager.taken.pop(request.request_id, None)
        request.num_computed_tokens = request.num_output_placeholders = 0
        request.state, request.stale = "preempted", request.flying
        self.waiting.insert(0, request)

    def _handle_blocked_waiting_request(self, request: FakeRequest) -> bool:
        return True

    def _reserve_prefill_lookahead(self, request: FakeRequest, computed: int, new: int) -> int:
        return new

    def _get_local_prefix_cache_hit(self, request: FakeRequest) -> tuple[Any, int, int, bool]:
        return None, self.kv_cache_manager.hit(request), 0, False

    def schedule(self) -> Any:
        budget = self.max_num_scheduled_tokens
        scheduled: dict[str, tuple[int, int]] = {}
        was_preempted = False
        place = 0
        while place < len(self.running) and budget > 0:
            request = self.running[place]
            ahead = request.num_output_placeholders
            if ahead and request.num_computed_tokens + 2 - ahead >= len(request.prompt) + request.max_tokens:
                place += 1
                continue
            new = min(request.num_tokens + ahead - request.num_computed_tokens, budget)
            new = self._reserve_prefill_lookahead(request, request.num_computed_tokens, new)
            if new == 0:
                place += 1
                continue
            while not (fits := self.kv_cache_manager.allocate(request, request.num_computed_tokens + new)):
                victim = self.running.pop()
                self._preempt_request(victim)
                was_preempted = True
                if victim is request:
                    break
            if not fits:
                break
            scheduled[request.request_id] = (request.num_computed_tokens, new)
            budget -= new
            place += 1
        skipped: list[FakeRequest] = []
        while not was_preempted and budget > 0 and self.waiting:
            if len(self.running) >= self.max_num_active_reqs:
                break
            request = self.waiting[0]
            if not self._handle_blocked_waiting_request(request) or request.stale:
                skipped.append(self.waiting.pop(0))
                continue
            hit = self._get_local_prefix_cache_hit(request)[1]
            new = self._reserve_prefill_lookahead(request, hit, min(request.num_tokens - hit, budget))
            if new == 0 or not self.kv_cache_manager.allocate(request, hit + new):
                break
            self.running.append(self.waiting.pop(0))
            request.state, request.num_computed_tokens = "running", hit
            scheduled[request.request_id] = (hit, new)
            budget -= new
        self.waiting[:0] = skipped
        for id, (_, new) in scheduled.items():
            request = self.requests[id]
            request.num_computed_tokens += new
            request.flying += 1
            request.is_prefill_chunk = request.num_computed_tokens < (
                request.num_tokens + request.num_output_placeholders
            )
            if self.layout.is_async and not request.is_prefill_chunk:
                request.num_output_placeholders += 1
        return SimpleNamespace(
            num_scheduled_tokens={id: new for id, (_, new) in scheduled.items()},
            total_num_scheduled_tokens=sum(new for _, new in scheduled.values()),
            rows=scheduled,
        )

    def update_from_output(self, output: Any, tokens: Mapping[str, int]) -> list[tuple[str, str]]:
        ends = []
        for id in output.rows:
            request = self.requests.get(id)
            if request is None:
                continue
            request.flying -= 1
            is_stale = request.stale > 0
            request.stale -= is_stale
            if id not in tokens:
                continue
            request.written.append(tokens[id])
            if self.layout.is_async and not is_stale:
                request.num_output_placeholders -= 1
            if tokens[id] == STOP or len(request.written) >= request.max_tokens:
                (self.running if request in self.running else self.waiting).remove(request)
                request.state = "stop" if tokens[id] == STOP else "length"
                self._free_request(request)
                ends.append((id, request.state))
        return ends


class FakeGangs(GangMixin, FakeScheduler):
    """The same, with groups."""

    def _abort(self, requests: list[Any]) -> list[Any]:
        return self.finish_requests([request.request_id for request in requests], "abort")

    def _tell(self, outputs: Any, request: Any, reason: str) -> None:
        outputs.append((request.request_id, reason))


class FakeBench:
    """A `Bench` over `FakeScheduler`."""

    def __init__(self, layout: Layout) -> None:
        self.gangs = FakeGangs(layout)

    def add(self, id: str, prompt: Sequence[int], max_tokens: int, arguments: dict[str, Any] | None) -> None:
        params = SimpleNamespace(extra_args=arguments)
        self.gangs.add_request(FakeRequest(id, prompt, max_tokens, params))

    def abort(self, ids: Sequence[str]) -> None:
        self.gangs.finish_requests(ids, "abort")

    def has_requests(self) -> bool:
        return self.gangs.has_requests()

    def schedule(self) -> Scheduled:
        output = self.gangs.schedule()
        return Scheduled(output.rows, output)

    def update(self, step: Scheduled, tokens: Mapping[str, int]) -> list[tuple[str, str]]:
        ends: list[tuple[str, str]] = self.gangs.update_from_output(step.output, tokens)
        return ends
