"""`make lowest` tries the lower bounds that pyproject.toml has, and not others."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

packaging = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINES = (ROOT / "tests" / "lowest.txt").read_text(encoding="utf-8").splitlines()
PINS = dict(line.split("==") for line in LINES if "==" in line and not line.startswith("#"))


def bounds(*extras: str) -> dict[str, object]:
    """Ranges of what extras of the package need, by name."""
    lines = [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    needed = [packaging.Requirement(line) for line in lines]
    return {one.name: one.specifier for one in needed}


@pytest.mark.parametrize("name", ["langchain-core", "llama-index-core"])
def test_it_tries_the_lower_bounds(name: str) -> None:
    assert f">={PINS[name]}" in str(bounds("langchain", "llama-index")[name]).split(",")


def test_what_stands_on_them_is_in_the_ranges_of_the_tests() -> None:
    ranges = bounds("langchain", "llama-index", "dev")
    assert all(PINS[name] in ranges[name] for name in PINS.keys() & ranges.keys())  # type: ignore[operator]
