"""The evidence as a picture."""

from __future__ import annotations

import builtins
import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
from view_tools import an_answer

from nbce_rag.errors import InputError, MissingDependencyError
from nbce_rag.passages import Passage
from nbce_rag.view.figure import check_suffix, plot, to_bytes

pytest.importorskip("matplotlib")

PASSAGES = [Passage("A hinny.", id="h", title="Hinny"), Passage("A mule.", id="m", title="$x_1$ <mule>")]
ANSWER = an_answer("A mule is it", PASSAGES, [(0.25, 0.75), (0.0, 1.0)])


def test_the_heat_map_holds_the_weights_in_the_order_of_the_numbers() -> None:
    figure = ANSWER.plot()
    above, below = figure.axes[:2]
    grid = above.images[0].get_array()
    assert grid is not None
    assert grid.tolist() == [[0.75, 1.0, 1.0, 1.0], [0.25, 0.0, 0.0, 0.0]]  # the mule is cited, so it is [1]
    assert [label.get_text() for label in above.get_yticklabels()] == ["[1] $x_1$ <mule>", "[2] Hinny"]
    assert [label.get_text() for label in below.get_xticklabels()] == ["A", "mule", "is", "it"]


def test_a_line_of_entropy_for_each_row() -> None:
    below = plot(ANSWER).axes[1]
    lines = {line.get_label(): numbers(line) for line in below.get_lines()}
    assert lines["without a passage"] == [1.0] * 4
    assert lines["[1]"] == [1.2] * 4  # row 2 reads the passage that is number 1
    assert len(lines) == 3
    assert "by row" in below.get_ylabel()


def test_rows_of_one_passage_share_its_colour_and_rows_of_several_have_none() -> None:
    tokens = [replace(token, entropies=(1.0, 1.1, 1.2, 0.3, 2.0)) for token in ANSWER.tokens]
    usage = replace(ANSWER.usage, row_passages=((), (0,), (1,), (1,), (0, 1)))
    lines = plot(replace(ANSWER, tokens=tuple(tokens), usage=usage)).axes[1].get_lines()
    colours = {numbers(line)[0]: line.get_color() for line in lines}
    labels = [line.get_label() for line in lines if not str(line.get_label()).startswith("_")]
    assert labels == ["[1]", "without a passage"]
    assert colours[1.2] == colours[0.3] != colours[1.1]
    assert colours[2.0] == colours[1.1]


def test_without_the_rows_entropies_that_of_the_evidence_is_drawn() -> None:
    answer = an_answer("A mule", PASSAGES, [(0.5, 0.5), (0.0, 1.0)])
    tokens = tuple(type(t)(t.id, t.text, t.start, t.end, t.logprob, t.weights, t.gain) for t in answer.tokens)
    below = plot(replace(answer, tokens=tokens)).axes[1]
    (line,) = below.get_lines()
    assert numbers(line) == pytest.approx([math.log(2), 0.0])


@pytest.mark.parametrize(
    ("answer", "suffix"),
    [
        (ANSWER, ".svg"),
        (an_answer("", PASSAGES, [(1.0, 0.0)]), ".pdf"),
        (an_answer("Paris", [], [()]), ".png"),
        (an_answer("邬铁梅 $\\frac$ \x00 \n x", PASSAGES, [(0.4, 0.6)], question="$\\frac{"), ".png"),
        (an_answer("a " * 130, PASSAGES * 31, [(1 / 62,) * 62]), ".png"),
    ],
    ids=["two", "no tokens", "no passages", "odd text", "many"],
)
def test_every_answer_can_be_drawn(answer: Any, suffix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")  # no Chinese font on this machine
        data = to_bytes(plot(answer), suffix)
    assert data.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


def test_a_notebook_shows_it_without_pyplot() -> None:
    figure = plot(ANSWER)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_what_cannot_be_drawn_is_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    check_suffix(".png")
    check_suffix(".PDF")
    for suffix in ("", ".txt", ".html"):
        with pytest.raises(InputError, match=r"\.png"):
            check_suffix(suffix)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for act in (lambda: check_suffix(".png"), lambda: plot(ANSWER)):
        with pytest.raises(MissingDependencyError, match=r"nbce-rag\[plot\]"):
            act()


def numbers(line: Any) -> list[float]:
    return [float(value) for value in line.get_ydata()]
