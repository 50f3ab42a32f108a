"""Tests of nbce_rag.errors: what is raised is caught as users catch it, and warnings point at their lines."""

from __future__ import annotations

import linecache
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from nbce_rag import errors
from nbce_rag.errors import InputError, InputTypeError, NbceError, NbceWarning, UnsupportedError, warn


def in_module(name: str, source: str) -> Callable[..., object]:
    """The function `run` of a module of this name, with `warn` and `contextmanager` in reach."""
    module = types.ModuleType(name)
    vars(module).update(warn=warn, contextmanager=contextmanager)
    exec(compile(source, f"/nowhere/{name}.py", "exec"), vars(module))
    run: Callable[..., object] = module.run
    return run


def run_in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.parametrize("name", [n for n in errors.__all__ if n.endswith("Error") and n != "NbceError"])
def test_every_error_is_caught_as_ours_and_as_a_built_in_one(name: str) -> None:
    kind: type[Exception] = getattr(errors, name)
    bases = set(kind.__mro__) - {kind, Exception, BaseException, object}
    assert NbceError in bases
    assert any(base.__module__ == "builtins" for base in bases)
    assert str(kind("what, and the way out")) == "what, and the way out"


def test_kinds_for_frameworks_are_those_that_they_expect() -> None:
    assert issubclass(InputTypeError, TypeError)
    assert issubclass(UnsupportedError, NotImplementedError)
    assert issubclass(InputTypeError, InputError)
    assert issubclass(UnsupportedError, InputError)


def test_a_warning_points_at_the_callers_line_however_deep_it_comes_from() -> None:
    inner = in_module("nbce_rag.index.inner", "def run(): warn('seen')")
    outer = in_module("langchain_nbce.outer", "def run(function): return function()")
    with pytest.warns(NbceWarning, match="seen") as caught:
        outer(inner)
    assert caught[0].filename == __file__
    assert "outer(inner)" in linecache.getline(__file__, caught[0].lineno)


def test_a_warning_in_a_block_or_a_loop_of_ours_points_at_the_block_or_the_loop() -> None:
    block = in_module(
        "nbce_rag.block", "@contextmanager\ndef run():\n    warn('entered')\n    yield\n    warn('left')\n"
    )
    loop = in_module("nbce_rag.loop", "def run():\n    warn('first')\n    yield 1\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with block():  # type: ignore[attr-defined]
            pass
        for _ in loop():  # type: ignore[attr-defined]
            pass
    assert [str(w.message) for w in caught] == ["entered", "left", "first"]
    assert {w.filename for w in caught} == {__file__}


def test_a_warning_under_a_callback_of_the_users_points_at_the_callback() -> None:
    inner = in_module("nbce_rag.inner", "def run(): warn('seen')")
    outer = in_module("nbce_rag.outer", "def run(function): return function()")

    def callback() -> object:
        return inner()

    with pytest.warns(NbceWarning) as caught:
        outer(callback)
    assert caught[0].lineno == callback.__code__.co_firstlineno + 1


def test_a_warning_with_nothing_outside_points_at_the_outermost_line() -> None:
    inner = in_module("nbce_rag.inner", "def run(): warn('seen')")
    with pytest.warns(NbceWarning, match="seen") as caught:
        run_in_a_thread(inner)
    assert caught[0].filename != __file__


def test_each_line_of_the_users_is_warned_once_and_other_texts_are_not_hidden() -> None:
    run = in_module("nbce_rag.twice", "def run(*texts):\n    for text in texts: warn(text)")

    def lines() -> Iterator[object]:
        yield run("a", "b")
        yield run("a")

    vars(sys.modules[__name__]).pop("__warningregistry__", None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            list(lines())
    assert [str(w.message) for w in caught] == ["a", "b", "a"]
