"""Every option is checked when it is set, and the message says which, what, and what would do."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from nbce_rag.errors import InputError
from nbce_rag.fusion import Fused, MinEntropy, Posterior
from nbce_rag.options import Options

IMPOSSIBLE: list[tuple[str, Any]] = [
    *[("max_tokens", value) for value in (0, -1, 1.5, 8.0, "8", None, True, math.inf)],
    *[("temperature", value) for value in (-0.1, math.nan, math.inf, "hot", None)],
    *[("top_k", value) for value in (-1, 2.5, True, None)],
    *[("top_p", value) for value in (0, -0.1, 1.01, math.nan, True)],
    *[("min_p", value) for value in (-0.01, 1.01, math.nan)],
    *[("repetition_penalty", value) for value in (0, -1.0, math.inf)],
    *[("no_repeat_ngram_size", value) for value in (-1, 0.5, False)],
    *[("passages_per_row", value) for value in (0, -2, 1.5)],
    *[("refusal_threshold", value) for value in (0, -0.1, 1.1)],
    *[("citation_threshold", value) for value in (0, -0.1, 1.1)],
    *[("stop", value) for value in ("\n", ("a", ""), (1,), None, 5, [None])],
    *[("bad_words", value) for value in ("bad", [""], [b"bad"], None, 5)],
    *[("abstain_below", value) for value in (math.nan, -math.inf, "low", True)],
    *[("seed", value) for value in ("7", 1.5, True, 2**64, -(2**63) - 1)],
    *[("abstention", value) for value in (None, 3)],
    *[("answer_without_context", value) for value in (None, 1, "yes")],
    *[("joint_row", value) for value in (1, "yes", None)],
    *[("order_labels", value) for value in (1, "yes", None)],
    *[("parts", value) for value in (1, "yes", None)],
    *[("relevance", value) for value in (1, "yes", None)],
    *[("entropies", value) for value in (1, "yes", None)],
    *[("max_seconds", value) for value in (0, -1.0, math.nan, math.inf, True, "9")],
    *[("top_logprobs", value) for value in (-1, 0.5, True)],
    *[("prompt_lookup_num_tokens", value) for value in (-1, 0.5, True)],
    *[("sleep", value) for value in (1, "yes", None)],
    *[("conflicts", value) for value in (0, "no", None)],
    *[("drop_rows_after", value) for value in (-1, 0.5, True)],
    *[("regex", value) for value in (5, b"a+")],
    *[("json_schema", value) for value in (5, ["type"], True)],
    *[("style", value) for value in ("wide", 1, True)],
    *[("thinking", value) for value in (1, 0, "on", "")],
    *[("max_thought_tokens", value) for value in (-1, 1.5, True, "8", math.nan)],
    *[("chat_template_kwargs", value) for value in ("thinking", [1], {1: 2}, {"a": {1, 2}}, {"a": math.nan})],
    *[("chat_template_kwargs", {name: 1}) for name in ("messages", "tools", "tokenize", "bos_token")],
]

POSSIBLE: list[tuple[str, Any]] = [
    *[("max_tokens", value) for value in (1, 10_000)],
    *[("temperature", value) for value in (0, 0.0, 1, 2.5)],
    *[("top_k", value) for value in (0, 1, 300_000)],
    *[("top_p", value) for value in (1, 1.0, 1e-6)],
    *[("min_p", value) for value in (0, 1, 0.5)],
    *[("repetition_penalty", value) for value in (0.5, 1, 2)],
    *[("no_repeat_ngram_size", value) for value in (0, 3)],
    *[("passages_per_row", value) for value in (1, 40)],
    *[("refusal_threshold", value) for value in (1e-9, 1)],
    *[("citation_threshold", value) for value in (1e-9, 1)],
    *[("stop", value) for value in ((), ("\n", "。"))],
    *[("bad_words", value) for value in ((), ("bad",))],
    *[("abstain_below", value) for value in (None, 0, -3.5)],
    *[("seed", value) for value in (None, 0, -1, 2**64 - 1, -(2**63))],
    *[("regex", value) for value in (None, "[a-z]+")],
    *[("json_schema", value) for value in (None, {"type": "object"}, '{"type": "object"}')],
    *[("style", value) for value in (None, "short", "long")],
    *[
        ("chat_template_kwargs", value)
        for value in (None, {}, {"enable_thinking": False, "x": ["a", {"b": 1}]})
    ],
]


@pytest.mark.parametrize(("name", "value"), IMPOSSIBLE)
def test_impossible_values(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        Options(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}={value!r} ")
    assert len(message) > len(f"{name}={value!r} ") + 10  # and what would do
    with pytest.raises(InputError, match=name):
        Options().updated(**{name: value})


@pytest.mark.parametrize(("name", "value"), POSSIBLE)
def test_possible_values(name: str, value: Any) -> None:
    assert getattr(Options(**{name: value}), name) == value
    assert getattr(Options().updated(**{name: value}), name) == value


def test_every_option_is_tried_here() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert {name for name, _ in IMPOSSIBLE} | {"fusion"} == names


def test_the_range_is_in_the_message() -> None:
    with pytest.raises(InputError, match=r"top_p=1\.5 is out of range; use a number in \(0, 1\]"):
        Options(top_p=1.5)
    with pytest.raises(InputError, match=r"max_tokens=0 .* a whole number >= 1"):
        Options(max_tokens=0)


def test_sequences_become_tuples() -> None:
    options = Options(stop=["\n"], bad_words=(word for word in ["a", "b"]))  # type: ignore[arg-type]
    assert options.stop == ("\n",)
    assert options.bad_words == ("a", "b")


def test_schema_and_regex_exclude_each_other() -> None:
    with pytest.raises(InputError, match="exclude each other"):
        Options(json_schema={"type": "object"}, regex="a")
    assert Options(regex="a").updated(regex=None, json_schema={}).json_schema == {}


@pytest.mark.parametrize("name", ["max_token", "Fusion", "beta", ""])
def test_unknown_options(name: str) -> None:
    with pytest.raises(InputError, match="Unknown option") as caught:
        Options().updated(**{name: 1, "top_k": 5})
    assert name in str(caught.value)
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Options))


def test_updating_leaves_the_original_alone() -> None:
    options = Options(top_k=5, stop=("x",))
    changed = options.updated(top_k=7)
    assert (options.top_k, changed.top_k, changed.stop) == (5, 7, ("x",))
    assert options.updated() is options
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.top_k = 1  # type: ignore[misc]


def test_options_take_names_only() -> None:
    with pytest.raises(TypeError):
        Options("mean")  # type: ignore[call-arg]


def test_fusion_is_resolved() -> None:
    assert isinstance(Options().rule, Posterior)
    assert isinstance(Options(fusion="min-entropy").rule, MinEntropy)
    rule = MinEntropy(beta=0.5)
    assert Options(fusion=rule).rule is rule
    assert Options(fusion=rule).updated(top_k=1).rule is rule


def test_a_rule_of_ones_own() -> None:
    class First:
        def fuse(self, log_probs: Any, state: Any) -> Fused:
            return Fused(log_probs[:, 1], log_probs[:, 1:, 0].softmax(-1))

    rule = First()
    assert Options(fusion=rule).rule is rule


@pytest.mark.parametrize("fusion", ["best", "", "Posterior", Posterior, None, 3])
def test_unknown_rules(fusion: Any) -> None:
    with pytest.raises(InputError, match="posterior"):
        Options(fusion=fusion)


def test_the_default_abstention_is_a_sentence() -> None:
    assert Options().abstention.endswith(".")
    assert Options(abstention="Nothing found.").abstention == "Nothing found."


def test_names_that_rendering_needs_are_named() -> None:
    with pytest.raises(
        InputError, match="must not hold add_generation_prompt, messages: rendering sets that"
    ):
        Options(
            chat_template_kwargs={"messages": [], "enable_thinking": True, "add_generation_prompt": False}
        )


def test_what_a_chat_template_may_look_at_is_a_copy() -> None:
    given: dict[str, Any] = {"documents_of": {"a": [1]}}
    options = Options(chat_template_kwargs=given)
    given["documents_of"]["a"].append(2)
    assert options.chat_template_kwargs == {"documents_of": {"a": [1]}}
