"""The simulation of instances: what must hold whatever its numbers are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_PATH = Path(__file__).parent / "benchmarks" / "simulate_routing.py"


@pytest.fixture(scope="module")
def routing() -> Any:
    spec = importlib.util.spec_from_file_location("simulate_routing", _PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_routing"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["simulate_routing"]


def test_the_same_seed_gives_the_same_figures(routing: Any) -> None:
    world = routing.World(4, 1000)
    for way in routing.WAYS:
        assert routing.simulate(world, way) == routing.simulate(world, way)
    assert routing.simulate(world, "two") != routing.simulate(routing.World(4, 1000, seed=2), "two")


def test_one_instance_is_one_instance(routing: Any) -> None:
    """Whatever chooses it: the same figures, and no crowding."""
    for bucket in (False, True):
        figures = [routing.simulate(routing.World(1, 600), way, bucket=bucket) for way in routing.WAYS]
        assert len({(one.hits, one.median, one.slow) for one in figures[1:]}) == 1
        assert all(one.crowding == 1 for one in figures)


def test_hashing_keeps_caches_warmer_than_chance(routing: Any) -> None:
    world = routing.World(8, 3000)
    hits = {way: routing.simulate(world, way).hits for way in routing.WAYS}
    assert all(hits[way] > hits["random"] for way in routing.WAYS[1:])
    assert hits["passages"] >= hits["two"]  # a passage is in one cache, not in two
    crowding = {way: routing.simulate(world, way).crowding for way in routing.WAYS}
    assert crowding["index"] > crowding["bounded"] >= 1


def test_caches_that_hold_everything_miss_once(routing: Any) -> None:
    world = routing.World(2, 4000, tenants=1, passages=50, cached=100)
    assert all(routing.simulate(world, way).hits == 1.0 for way in ("index", "random"))
    assert routing.simulate(routing.World(2, 500, cached=0), "index").hits == 0.0


def test_a_bucket_never_slows_down(routing: Any) -> None:
    world = routing.World(4, 2000)
    for way in routing.WAYS:
        alone, shared = routing.simulate(world, way), routing.simulate(world, way, bucket=True)
        assert shared.median <= alone.median
        if way != "two" and way != "bounded":  # these choose by queues, which are shorter then
            assert shared.hits == alone.hits


def test_the_table_has_a_line_for_each(
    routing: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = routing.main(
        ["--instances", "1", "2", "--questions", "300", "--json", str(tmp_path / "rows.json")]
    )
    assert len(rows) == 1 + len(routing.WAYS)
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)
    assert (tmp_path / "rows.json").stat().st_size > 100
