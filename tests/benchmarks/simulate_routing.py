"""Which instance gets a question? A simulation of warm caches and of the time to the first token.

    python tests/benchmarks/simulate_routing.py [--instances 1 4 16 64] [--questions 20000] [--seed 1]

Many tenants have an index each; questions come at random times, of tenants and of passages some of which are
asked for far more often than others (Zipf). Each instance keeps the keys and values of the passages that it
used last and answers one question at a time. What a question lacks there is brought from a bucket or, without
one, read. Ways of choosing an instance:

    random      any
    index       by a hash of the tenant's index
    passages    by a hash of the best passage
    two         the less busy of the two instances that the hash of the best passage names
    bounded     the first one on a ring from that hash on whose queue is not much longer than the average

All instances together are as busy at every number of them (`--load`), so that rows can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
from bisect import bisect
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

WAYS = ("random", "index", "passages", "two", "bounded")
_BOUND = 1.25  # times the average queue
_ENDLESS = 60.0  # seconds; queues that long only grow


@dataclass(frozen=True)
class World:
    """What is simulated; seconds are those of one instance.

    Attributes:
        instances: how many.
        questions: asked in all; the first fifth warms up and is not counted.
        tenants: with an index each, Zipf by `tenant_skew`.
        passages: of each tenant, Zipf by `skew`.
        k: passages a question. They lie beside the best one, as neighbours in an index do.
        cached: passages that an instance keeps.
        read, bring: seconds that one passage takes that is not there: read anew, or brought from the bucket.
        base: seconds until the first token where all are there.
        answer: seconds from the first to the last token.
        load: share of the time that instances would be busy if every passage were there.
        seed: same seed, same figures.
    """

    instances: int = 16
    questions: int = 20_000
    tenants: int = 50
    tenant_skew: float = 0.9
    passages: int = 2_000
    skew: float = 1.0
    k: int = 8
    cached: int = 2_000
    read: float = 0.25
    bring: float = 0.05
    base: float = 0.3
    answer: float = 2.0
    load: float = 0.5
    seed: int = 1

    @property
    def rate(self) -> float:
        """Questions a second."""
        return self.load * self.instances / (self.base + self.answer)


@dataclass(frozen=True)
class Figures:
    """What came of it: the share of passages that were there; seconds to the first token, in the middle and
    of the slowest twentieth; the busiest instance's share of the questions, times the number of instances."""

    hits: float
    median: float
    slow: float
    crowding: float


def simulate(world: World, way: str, *, bucket: bool = False) -> Figures:
    """One run.

    Args:
        world: what is simulated.
        way: one of `WAYS`.
        bucket: whether what is missing is brought and not read, once somebody has read it.
    """
    dice = random.Random(world.seed)
    tenants, passages = _zipf(world.tenants, world.tenant_skew), _zipf(world.passages, world.skew)
    caches: list[OrderedDict[tuple[int, int], None]] = [OrderedDict() for _ in range(world.instances)]
    free_at = [0.0] * world.instances
    shared: set[tuple[int, int]] = set()
    counts = [0] * world.instances
    waits, hits, asked, now = [], 0, 0, 0.0
    for number in range(world.questions):
        now += dice.expovariate(world.rate)
        tenant, best = _drawn(dice, tenants), _drawn(dice, passages)
        wanted = [(tenant, (best + offset) % world.passages) for offset in range(world.k)]
        instance = _choose(world, way, dice, tenant, best, [max(end - now, 0.0) for end in free_at])
        cache = caches[instance]
        seconds = world.base
        is_counted = number >= world.questions // 5
        for passage in wanted:
            if passage in cache:
                cache.move_to_end(passage)
                hits += is_counted
            else:
                seconds += world.bring if bucket and passage in shared else world.read
                shared.add(passage)
                cache[passage] = None
                if len(cache) > world.cached:
                    cache.popitem(last=False)
        begin = max(now, free_at[instance])
        free_at[instance] = begin + seconds + world.answer
        if is_counted:
            asked += world.k
            waits.append(begin + seconds - now)
            counts[instance] += 1
    waits.sort()
    return Figures(
        hits=hits / asked,
        median=statistics.median(waits),
        slow=waits[int(0.95 * len(waits))],
        crowding=max(counts) * world.instances / sum(counts),
    )


def _choose(world: World, way: str, dice: random.Random, tenant: int, best: int, queues: list[float]) -> int:
    if way == "random":
        return dice.randrange(world.instances)
    if way == "index":
        return _hashed(f"{tenant}", world.instances)
    # Neighbours are found together: by a part of the index, so that they are kept together.
    place = f"{tenant} {best // (4 * world.k)}"
    first = _hashed(place, world.instances)
    if way == "passages":
        return first
    second = _hashed(f"{place} again", world.instances)
    if way == "two":
        return min((first, second), key=lambda instance: queues[instance])
    bound = _BOUND * sum(queues) / world.instances + world.base + world.answer
    ring = (instance % world.instances for instance in range(first, first + world.instances))
    return next((instance for instance in ring if queues[instance] <= bound), first)


def _hashed(text: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % count


def _zipf(count: int, skew: float) -> list[float]:
    """Sums of shares that fall with the rank."""
    return list(accumulate((rank + 1) ** -skew for rank in range(count)))


def _drawn(dice: random.Random, sums: list[float]) -> int:
    return min(bisect(sums, dice.random() * sums[-1]), len(sums) - 1)


def table(rows: list[dict[str, float | str]]) -> str:
    """Markdown."""
    lines = [
        "| instances | chosen by | there | first token, s: half, 1 in 20 | with a bucket | crowding |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['instances']} | {row['way']} | {row['hits']:.2f} | {_seconds(row['median'])}, "
        f"{_seconds(row['slow'])} | {_seconds(row['bucket_median'])}, {_seconds(row['bucket_slow'])} | "
        f"{row['crowding']:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _seconds(number: float | str) -> str:
    return f"{number:.1f}" if isinstance(number, float) and number < _ENDLESS else "grows"


def main(arguments: list[str] | None = None) -> list[dict[str, float | str]]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--cached", type=int, default=2_000, help="passages that an instance keeps")
    parser.add_argument("--load", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    rows: list[dict[str, float | str]] = []
    for instances in options.instances:
        world = World(
            instances, options.questions, cached=options.cached, load=options.load, seed=options.seed
        )
        for way in WAYS if instances > 1 else WAYS[:1]:
            alone, shared = simulate(world, way), simulate(world, way, bucket=True)
            rows.append(
                {"instances": instances, "way": way if instances > 1 else "any"}
                | {"hits": alone.hits, "median": alone.median, "slow": alone.slow}
                | {"bucket_median": shared.median, "bucket_slow": shared.slow, "crowding": alone.crowding}
            )
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
