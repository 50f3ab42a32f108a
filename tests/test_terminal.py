from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from view_tools import a_citation

from nbce_rag.answers.answer import Answer, Piece
from nbce_rag.errors import StreamError
from nbce_rag.evidence.evidence import Support, Timings, Usage
from nbce_rag.live.terminal import _tail, stream
from nbce_rag.passages import Passage
from nbce_rag.view.labels import clean, one_line
from nbce_rag.view.plain import render

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MULE = Passage(
    "Mules are sterile.", id="m", title="Mules", source="docs/mule.md", start=120, end=560, score=0.71
)
HINNY = Passage("A hinny has a horse as its father.", id="h", source="docs/hinny.md", score=0.6)
OTHER = Passage("Nothing of it.", id="o", title="Other")


def an_answer(text: str = "", **changes: Any) -> Answer:
    text = text or "A mule is sterile. Hinnies too."
    values: dict[str, Any] = {
        "question": "Who?",
        "text": text,
        "tokens": (),
        "citations": (a_citation(text, 2, 17, 1, "m", 0.9), a_citation(text, 19, 30, 0, "h", 0.8)),
        "passages": (HINNY, MULE, OTHER),
        "usage": Usage(30, 4, 3, (8, 11, 11)),
        "timings": Timings(None, 0.5, 0.6, 0.25, 0.75),
        "finish_reason": "stop",
        "grounding": 1.5,
        "fusion": "posterior",
        "warnings": (),
    }
    return Answer(**(values | changes))


def console(terminal: bool, width: int = 80, height: int = 24) -> Console:
    return Console(
        file=StringIO(),
        force_terminal=terminal,
        width=width,
        height=height,
        color_system="standard" if terminal else None,
        _environ={"TERM": "xterm"},
    )


def printed(where: Console) -> str:
    assert isinstance(where.file, StringIO)
    return where.file.getvalue()


def rendered(answer: Answer, *, terminal: bool = False, width: int = 80) -> str:
    where = console(terminal, width)
    render(answer, where)
    return printed(where)


def test_plain_output_is_the_text_with_numbers_and_the_sources() -> None:
    assert rendered(an_answer()) == (
        "A mule is sterile[1]. Hinnies too[2].\n"
        "\n"
        "Sources\n"
        "[1] Mules, docs/mule.md, characters 120-560, score 0.71, 54% of the answer\n"
        "[2] docs/hinny.md, score 0.60, 42% of the answer\n"
        "1 more passage read, not cited\n"
    )


def test_an_answer_that_was_cut_off_says_so() -> None:
    assert "(cut off at the most tokens allowed: max_tokens)" in rendered(an_answer(finish_reason="length"))
    assert "cut off" not in rendered(an_answer())


def test_on_a_terminal_each_passage_has_its_colour() -> None:
    out = rendered(an_answer(), terminal=True)
    assert "\x1b[36mmule is sterile\x1b[0m\x1b[1;36m[1]\x1b[0m" in out
    assert "\x1b[35mHinnies too\x1b[0m\x1b[1;35m[2]\x1b[0m" in out
    # The same colour marks the passage in the list.
    assert out.count("\x1b[1;36m[1]") == 2


def test_colour_adds_nothing_but_colour() -> None:
    seen = ESCAPES.sub("", rendered(an_answer(), terminal=True))
    assert [line.rstrip() for line in seen.splitlines()] == rendered(an_answer()).splitlines()


CODE = (
    "You make one client and then ask it for all of your pages, like so:\n"
    "```python\nclient = httpx.Client()  # a long line of code that does not fit on a narrow screen\n"
    "    two = client.get(url)\n```\nThat is all."
)


@pytest.mark.parametrize("terminal", [False, True])
def test_code_stays_code(terminal: bool) -> None:
    line_end = CODE.index("  # a long")
    citations = (
        dataclasses.replace(
            a_citation(CODE, 0, CODE.index(":") + 1, 1, "m", 0.6),
            others=(Support(0, "h", 0.4, False),),
        ),
        a_citation(CODE, CODE.index("client ="), line_end, 0, "h"),
        a_citation(CODE, CODE.index("two ="), CODE.index("\n```\nThat"), 0, "h"),
    )
    answer = an_answer(CODE, citations=citations)
    out = ESCAPES.sub("", rendered(answer, terminal=terminal, width=40))
    whole = CODE[CODE.index("```python") : CODE.index("\nThat")]
    assert f"like so:[1][2]\n{whole}\n[2]\nThat is all.\n" in out
    assert ("ask it for all of your pages" in out) != terminal  # prose is wrapped on a terminal


def test_the_share_counts_words_so_that_punctuation_takes_nothing_off() -> None:
    answer = an_answer("One, too!", citations=(a_citation("One, too!", 0, 8, 1, "m"),))
    assert "100% of the answer" in rendered(answer)


def test_a_passage_that_is_cited_twice_has_one_number() -> None:
    text = "one two one"
    places = [(0, 3, 1, "m"), (4, 7, 0, "h"), (8, 11, 1, "m")]
    answer = an_answer(text, citations=tuple(a_citation(text, *place) for place in places))
    out = rendered(answer)
    assert out.startswith("one[1] two[2] one[1]\n")
    assert out.count("Mules") == 1
    assert "67% of the answer" in out


def test_lines_are_wrapped_on_a_terminal_only() -> None:
    answer = an_answer("word " * 60 + "end", citations=())
    assert rendered(answer).splitlines()[0] == answer.text
    lines = ESCAPES.sub("", rendered(answer, terminal=True, width=40)).splitlines()
    assert max(map(len, lines)) <= 40


def test_without_citations_the_passages_that_were_read_are_named() -> None:
    out = rendered(an_answer(citations=()))
    assert "[1]" not in out
    assert "No sources" in out
    assert "3 passages" in out
    for name in ("- Mules", "- docs/hinny.md", "- Other"):
        assert name in out
    many = tuple(Passage(f"text {k}", title=f"title {k}") for k in range(11))
    assert "and 3 more" in rendered(an_answer(citations=(), passages=many))


def test_without_passages_there_is_the_text_and_the_warning() -> None:
    answer = an_answer(citations=(), passages=(), warnings=("no passages: answered from the question alone",))
    assert rendered(answer) == (
        "A mule is sterile. Hinnies too.\nwarning: no passages: answered from the question alone\n"
    )


def test_a_passage_without_a_name_is_shown_by_its_beginning() -> None:
    passage = Passage("word " * 40, id="x")
    citation = a_citation(an_answer().text, 2, 6, 0, "x")
    out = rendered(an_answer(passages=(passage,), citations=(citation,)))
    (line,) = [line for line in out.splitlines() if line.startswith("[1]")]
    assert "word word…, 1" in line
    assert len(line) < 100


HOSTILE = "[red]x[/red] \x1b[31mred\x1b]0;title\x07\x9b2J\x00\x7f\r[link=http://a]:smile:\u202eevil\\[b]"
HARMLESS = "[red]x[/red] [31mred]0;title2J[link=http://a]:smile:evil\\[b]"


@pytest.mark.parametrize("terminal", [False, True])
def test_text_from_documents_is_shown_literally_and_harmlessly(terminal: bool) -> None:
    passage = Passage(HOSTILE, id="e", title=HOSTILE, source=HOSTILE)
    answer = an_answer(
        HOSTILE,
        passages=(passage,),
        citations=(a_citation(HOSTILE, 5, 6, 0, "e"),),
        warnings=(HOSTILE,),
    )
    raw = rendered(answer, terminal=terminal, width=200)
    seen = ESCAPES.sub("", raw) if terminal else raw
    assert seen.splitlines()[0].rstrip() == HARMLESS.replace("]x[", "]x[1][", 1)
    # Once as title, once as source, and once in the warning, each on one line.
    one = one_line(HOSTILE)
    assert f"[1] {one}, {one}, " in seen
    assert f"warning: {one}" in seen
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", seen)
    assert "\x1b[31m" not in raw
    assert "\x1b]" not in raw


def test_a_title_cannot_forge_a_line_of_the_list() -> None:
    passage = Passage("t", id="m", title="Mules\n[2] Forged\r\n[3] Too")
    citation = a_citation(an_answer().text, 2, 17, 0, "m")
    out = rendered(an_answer(passages=(passage,), citations=(citation,)))
    assert "[1] Mules [2] Forged [3] Too, " in out


def test_clean_keeps_text_and_works_in_pieces() -> None:
    text = "Grüße, 北京 👩\u200d🚀\n\tहिन्दी \u200fعربي"
    assert clean(text) == text
    assert clean("\ud83d") == "\ufffd"
    assert "".join(map(clean, HOSTILE)) == clean(HOSTILE) == HARMLESS


def pieces_of(answer: Answer, size: int = 3) -> Iterator[Piece]:
    for at in range(0, len(answer.text), size):
        yield Piece(answer.text[at : at + size], (), None)
    yield Piece("", (), answer)


def test_a_stream_into_a_file_is_printed_once() -> None:
    where = console(False)
    assert stream(pieces_of(an_answer()), where) == an_answer()
    assert printed(where) == rendered(an_answer())


def test_a_thought_is_printed_before_the_answer_where_it_is_asked_for() -> None:
    answer = an_answer(thought="Mules \x1b[2J are.")
    for terminal in (False, True):
        where, thoughts = console(terminal), console(terminal)
        pieces = [Piece("", (), None, "Mules \x1b[2J"), Piece("", (), None, " are."), *pieces_of(answer)]
        assert stream(pieces, where, thoughts) == answer
        assert ESCAPES.sub("", printed(thoughts)) == "Mules [2J are.\n\n"
        assert ("\x1b[2m" in printed(thoughts)) is terminal  # dimmed
        assert "are." not in printed(where)
        assert "Mules" not in str(answer).partition("Sources")[0]
    silent = console(False)
    stream(pieces_of(an_answer()), console(False), silent)
    assert printed(silent) == ""


@pytest.mark.parametrize("text", ["", "word \x1b[2J " * 200])
def test_a_stream_on_a_terminal_ends_with_the_rendered_answer(text: str) -> None:
    where = console(True, height=10)
    answer = an_answer(text)
    assert stream(pieces_of(answer), where) == answer
    assert printed(where).endswith(rendered(answer, terminal=True))
    assert "\x1b[2J" not in printed(where)


def test_text_is_shown_while_it_comes() -> None:
    where = console(True)
    answer = an_answer("first second", citations=(), passages=())

    def slow() -> Iterator[Piece]:
        yield Piece("first", (), None)
        deadline = time.monotonic() + 10
        while "first" not in printed(where) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "first" in printed(where)
        yield Piece(" second", (), answer)

    assert stream(slow(), where) == answer


def test_a_number_is_shown_when_its_citation_is_certain() -> None:
    where = console(True)
    first, second = a_citation("first second", 0, 5, 1, "b"), a_citation("first second", 6, 12, 0, "a")

    def broken() -> Iterator[Piece]:
        yield Piece("first sec", (), None, citations=(first,))
        yield Piece("ond and", (), None, citations=(second,))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(broken(), where)
    assert re.sub(r"\x1b\[[\d;?]*\w", "", printed(where)).endswith("first[1] second[2] and\n")


def test_of_a_text_taller_than_the_screen_the_newest_lines_are_shown() -> None:
    where = console(True, width=20, height=10)
    shown = _tail(Text("\n".join(f"line {n}" for n in range(100)) + " and a half"), where).plain
    assert shown.splitlines() == [f"line {n}" for n in range(92, 99)] + ["line 99 and a half"]
    assert _tail(Text("one\ntwo"), where).plain == "one\ntwo"
    assert len(_tail(Text("word " * 400), where).plain.splitlines()) == 8


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stream_that_breaks_off_passes_the_reason_on(terminal: bool) -> None:
    def broken() -> Iterator[Piece]:
        yield Piece("so far \x1b[1m", (), None)
        raise KeyboardInterrupt

    where = console(terminal)
    with pytest.raises(KeyboardInterrupt):
        stream(broken(), where)
    assert printed(where).endswith("so far [1m\n") == terminal


def test_a_stream_without_an_answer_is_an_error() -> None:
    for where in (console(False), console(True)):
        with pytest.raises(StreamError, match="without an answer"):
            stream(iter([Piece("a", (), None)]), where)
        assert issubclass(StreamError, RuntimeError)
