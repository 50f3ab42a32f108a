"""Citations of an answer that grows: each comes once, as soon as it is certain, and none is taken back."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbce_rag.errors import InputError
from nbce_rag.evidence.citations import CitationStream, cite
from nbce_rag.evidence.evidence import Citation, TokenEvidence
from nbce_rag.evidence.units import UnitReader, units
from nbce_rag.passages import Passage

A, B = (0.9, 0.1), (0.1, 0.9)
PIECES = st.sampled_from(
    [
        *"ab.`(|#- ", ". ", "! ", ", ", "; ", " – ", "\n", "\n\n", "```\n", "\n```python\n", "\n}\n", "~~~",
        "\n- ", "1. ", "\n# ", "\n| ", "\n|-|\n", "e.g. ", "word ", "client ", "http2=True", "`client` ",
        "3.5 ", "don't ", "北京", "。", "，", "ि", "e\u0301", "\r", "\r\n", "\u2028", "...", "”", "Ada ",
        "Bob\n", "\n  ", "one two three four five six seven eight nine", "Ada Fenwick runs it. ",
        "It is hers, and that is all. ",
    ]
)  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[TokenEvidence], list[Passage]]:
    count = draw(st.integers(1, 3))
    weights = st.lists(st.sampled_from([0, 0, 1, 5]), min_size=count, max_size=count).filter(any)
    lifts = st.lists(st.sampled_from([-2.0, 0.0, 0.1, 1.5]), min_size=count, max_size=count)
    gains = st.sampled_from([0.0, 0.0, 0.2, 1.0, 3.0, -1.0])
    is_noted, is_measured = draw(st.booleans()), draw(st.booleans())
    text, tokens = "", []
    raw, lift = draw(weights), draw(lifts)
    for piece in draw(st.lists(PIECES, max_size=40)):
        if draw(st.integers(0, 3)) == 0:
            raw, lift = draw(weights), draw(lifts)
        share = tuple(weight / sum(raw) for weight in raw)
        rows = (-3.0, *(-3.0 + value for value in lift)) if is_noted else ()
        gain = draw(gains) if is_measured else 0.0
        # Words are tokens, and now and then the bytes of a character.
        for match in re.finditer(r"\w+\s*|\W+", piece):
            for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
                start = len(text) + match.start()
                tokens.append(
                    TokenEvidence(
                        0, "", start, start + len(match.group()), -1.0, share, gain, row_log_probs=rows
                    )
                )
        text += piece
    texts = st.sampled_from(["", "client word", "Ada Fenwick runs the client in Bob.", "北京"])
    passages = [
        Passage(draw(texts), id=draw(st.sampled_from("abc")), source="s", start=0) for _ in range(count)
    ]
    return text, tokens, passages


@st.composite
def cuts(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Pieces: how many characters come, and how many of the tokens that may come are still waited for."""
    sizes = st.sampled_from([1, 1, 2, 3, 5, 9, 40])
    return draw(st.lists(st.tuples(sizes, st.integers(0, 3)), min_size=1, max_size=60))


def pushed(
    stream: CitationStream, text: str, tokens: Sequence[TokenEvidence], pieces: Sequence[tuple[int, int]]
) -> list[tuple[Citation, ...]]:
    """What a stream gives with each piece and at the end."""
    parts: list[tuple[Citation, ...]] = []
    at = taken = number = 0
    while at < len(text):
        size, late = pieces[number % len(pieces)]
        number += 1
        new = text[at : at + size]
        at += len(new)
        ready = taken
        while ready < len(tokens) and tokens[ready].end <= at:
            ready += 1
        ready = max(taken, ready - late)
        parts.append(stream.push(new, tokens[taken:ready]))
        taken = ready
    parts.append(stream.push("", tokens[taken:]))
    return [*parts, stream.finish()]


@settings(max_examples=600)
@given(answers(), st.sampled_from([0.3, 0.5, 0.9]), cuts())
def test_however_it_is_cut_the_citations_are_those_of_the_whole(
    answer: tuple[str, list[TokenEvidence], list[Passage]], threshold: float, pieces: list[tuple[int, int]]
) -> None:
    text, tokens, passages = answer
    whole = cite(text, tokens, passages, threshold)
    parts = pushed(CitationStream(passages, threshold), text, tokens, pieces)
    # What came is never taken back, so at any time it is the beginning of the whole.
    assert tuple(citation for part in parts for citation in part) == whole


@settings(max_examples=600)
@given(st.lists(PIECES, max_size=40).map("".join), st.lists(st.integers(1, 20), min_size=1))
@example("abc\r\ndef", [4])
@example("- ```python\nx\n```", [1])
@example("1. `", [1])
@example("a | b\n|-|\n", [1])
def test_however_it_is_cut_the_units_are_those_of_the_whole(text: str, sizes: list[int]) -> None:
    reader = UnitReader()
    found, at = [], 0
    for number in range(len(text)):
        size = sizes[number % len(sizes)]
        found += reader.push(text[at : at + size])
        at += size
        # Those that come later are of no earlier block.
        assert all(unit.group >= reader.group for unit in units(text)[len(found) :])
    assert [*found, *reader.finish()] == units(text)


def worded(*spec: tuple[str, tuple[float, ...]]) -> tuple[str, list[TokenEvidence]]:
    text, tokens = "", []
    for piece, weights in spec:
        for match in re.finditer(r"\S+\s*|\s+", piece):
            start = len(text) + match.start()
            tokens.append(
                TokenEvidence(0, match.group(), start, start + len(match.group()), -1.0, weights, 1.0)
            )
        text += piece
    return text, tokens


ONE = "The ferry over the Lune is run by Ada Fenwick and her son. "
TWO = "It goes every day of the week, but not by night. "


def when(text: str, tokens: Sequence[TokenEvidence]) -> list[tuple[str, str]]:
    """Each citation, and what of the text was there when it came, token by token."""
    stream = CitationStream([Passage("", id="a"), Passage("", id="b")])
    came = [(c.text, text[: token.end]) for token in tokens for c in stream.push(token.text, [token])]
    return [*came, *((c.text, "end") for c in stream.finish())]


def test_a_citation_comes_when_the_next_sentence_cites_another_passage() -> None:
    text, tokens = worded((ONE, A), (TWO, B), (ONE, A))
    assert when(text, tokens) == [
        (ONE.strip(), f"{ONE}{TWO}The "),
        (TWO.strip(), "end"),
        (ONE.strip(), "end"),
    ]


def test_a_citation_comes_when_its_paragraph_has_ended() -> None:
    text, tokens = worded((ONE, A), (f"{TWO}\n\n", A), ("Next. ", A))
    assert when(text, tokens) == [(f"{ONE}{TWO.strip()}", text)]
    text, tokens = worded((f"- {ONE}\n", A), (f"- {TWO}\n", A), ("- Three of them.", A))
    assert [came for _, came in when(text, tokens)] == [
        f"- {ONE}\n- It ",
        f"- {ONE}\n- {TWO}\n- Three ",
        "end",
    ]


def test_a_short_answer_is_cited_at_its_end() -> None:
    text, tokens = worded(("Ada Fenwick, ", A), ("by night", B))
    assert when(text, tokens) == [("Ada Fenwick", "end"), ("by night", "end")]


def test_a_fragment_waits_for_the_words_that_make_the_answer_long() -> None:
    text, tokens = worded(("Ada Fenwick.\n\n", A), ("By night.\n\n", B), ("1 2 3 ", B))
    assert when(text, tokens) == [(part, "end") for part in ("Ada Fenwick.", "By night.", "1 2 3")]
    text, tokens = worded(("Ada Fenwick.\n\n", A), (ONE, A), (TWO, B))
    assert [part for part, _ in when(text, tokens)] == [ONE.strip(), TWO.strip()]


def test_while_no_gain_is_measured_nothing_is_certain() -> None:
    text, tokens = worded((f"{ONE}\n\n", A), (f"{TWO}\n\n", A))
    unmeasured = [TokenEvidence(0, t.text, t.start, t.end, -1.0, t.weights, 0.0) for t in tokens]
    assert [came for _, came in when(text, unmeasured)] == ["end", "end"]


def test_tokens_that_come_late_are_waited_for() -> None:
    text, tokens = worded((f"{ONE}\n\n", A), (TWO, B))
    stream = CitationStream([Passage("", id="a"), Passage("", id="b")])
    assert stream.push(text, tokens[:12]) == ()
    assert [c.text for c in stream.push("", tokens[12:])] == [ONE.strip()]
    assert [c.text for c in stream.finish()] == [TWO.strip()]


def test_without_passages_nothing_is_cited() -> None:
    stream = CitationStream([])
    assert stream.push(ONE, [TokenEvidence(0, ONE, 0, len(ONE), -1.0, (), 0.0)]) == ()
    assert stream.finish() == ()


def test_wrong_weights_and_thresholds_are_refused() -> None:
    with pytest.raises(InputError, match="threshold"):
        CitationStream([], math.nan)
    _, tokens = worded(("one", A))
    with pytest.raises(InputError, match="2 weights for 1 passages"):
        CitationStream([Passage("", id="a")]).push("one", tokens)


@pytest.mark.parametrize(
    "part",
    [
        ONE,  # one paragraph, and one citation
        ONE.replace(". ", " "),  # one sentence
        f"{ONE}\n\n",
        f"- {ONE}\n",
        ONE.replace(" ", "_"),  # one word
        "x = client.get()\n",
        "北京",
    ],
)
@pytest.mark.parametrize("before", ["", "```python\n", "| "])
def test_the_time_is_linear_in_the_answer(part: str, before: str) -> None:
    def seconds(count: int) -> float:
        text, tokens = worded((before + part * count, A))
        pieces: list[str] = re.findall(r"(?s).{1,6}", text)
        stream = CitationStream([Passage(ONE, id="a"), Passage(TWO, id="b")])
        start = time.process_time()
        for piece in pieces:
            stream.push(piece, [])
        stream.push("", tokens)
        stream.finish()
        return time.process_time() - start

    few = min(seconds(100) for _ in range(3))
    assert min(seconds(800) for _ in range(3)) < 24 * few + 0.05
