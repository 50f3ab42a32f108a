"""An answer that is shown while it comes."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import pytest
from view_tools import Page, a_citation, an_answer

from nbce_rag import show
from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.live import notebook as live
from nbce_rag.passages import Passage

PASSAGES = [Passage("A hinny.", id="h", title="Hinny"), Passage("A mule.", id="m", title="Mule")]
ANSWER = an_answer("A <mule> is it", PASSAGES, [(0.1, 0.9)])
PIECES = [
    *(Piece(token.text, (token,), None) for token in ANSWER.tokens[:-1]),
    Piece(ANSWER.tokens[-1].text, ANSWER.tokens[-1:], ANSWER),
]


class Notebook:
    """What a notebook's output shows, one after the other."""

    def __init__(self) -> None:
        self.shown: list[Any] = []

    def update(self, content: Any) -> None:
        self.shown.append(content)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    pytest.importorskip("IPython")
    made = Notebook()
    clock = itertools.count()
    monkeypatch.setattr(live, "_display", lambda: made)
    monkeypatch.setattr("nbce_rag.live.notebook.monotonic", lambda: float(next(clock)))
    return made


def test_the_text_grows_in_one_output_and_becomes_the_answer(notebook: Notebook) -> None:
    assert show(iter(PIECES)) is ANSWER
    *growing, last = notebook.shown
    assert last is ANSWER
    texts = [Page(part.data).all("p", "nbce-answer")[0][1] for part in growing]
    assert texts == ["A …", "A <mule> …", "A <mule> is …"]
    (span,) = Page(growing[-1].data).all("span", "nbce-t")
    assert span[0]["class"] == "nbce-t nbce-c1"  # the second passage leads, and is the first cited
    assert span[0]["title"].startswith("[1]: 90% of the evidence, 2nd of 2 found")


def test_a_number_is_shown_when_its_citation_is_certain(notebook: Notebook) -> None:
    first, second, third, *rest = PIECES
    cited = replace(second, citations=(a_citation(ANSWER.text, 0, 8, 1, "m"),))
    assert show([first, cited, third, *rest]) is ANSWER
    texts = [Page(part.data).all("p", "nbce-answer")[0][1] for part in notebook.shown[:-1]]
    assert texts == ["A …", "A <mule>[1] …", "A <mule>[1] is …"]


def test_a_thought_is_said_to_be_had(notebook: Notebook) -> None:
    show([Piece("", (), None, "Who"), Piece("", (), None, "?"), *PIECES])
    waiting = [Page(part.data).text for part in notebook.shown[:2]]
    assert all("thinking …" in text and "Who" not in text for text in waiting)
    assert notebook.shown[-1] is ANSWER


def test_updates_are_no_more_than_can_be_seen(notebook: Notebook, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("nbce_rag.live.notebook.monotonic", lambda: 0.04 * next(clock))
    many = [Piece("a", (), None)] * 100
    show([*many, PIECES[-1]])
    assert 30 <= len(notebook.shown) <= 42


def test_pieces_without_tokens_or_passages(notebook: Notebook) -> None:
    plain = an_answer("Paris it is", [], [()])
    pieces = [Piece(token.text, (token,), None) for token in plain.tokens]
    assert show([Piece("", (), None), *pieces, Piece("", (), plain)]) is plain
    assert Page(notebook.shown[-2].data).all("p", "nbce-answer")[0][1] == "Paris it is …"


def test_a_stream_that_breaks_off_is_an_error_and_leaves_its_text(notebook: Notebook) -> None:
    with pytest.raises(RuntimeError, match="without an answer"):
        show(PIECES[:2])
    assert "mule" in notebook.shown[-1].data


def test_elsewhere_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(PIECES) is ANSWER
    assert capsys.readouterr().out.rstrip() == str(ANSWER)


def test_without_ipython_it_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert isinstance(show(PIECES), Answer)
    assert "A <mule> is it[1]" in capsys.readouterr().out


def test_a_kernel_gets_an_output_that_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    IPython = pytest.importorskip("IPython")
    import IPython.display as shown

    calls: list[Any] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: type("Shell", (), {"kernel": object()})())

    def display(content: Any, **how: Any) -> Notebook:
        calls.append((content, how))
        return Notebook()

    monkeypatch.setattr(shown, "display", display)
    assert show(PIECES) is ANSWER
    ((content, how),) = calls
    assert how == {"display_id": True}
    assert "reading" in Page(content.data).text
