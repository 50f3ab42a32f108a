"""Answers and comparisons as HTML: whole, harmless, and readable without colour."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from view_tools import Page, a_citation, an_answer

from nbce_rag.answers.answer import Answer
from nbce_rag.answers.comparison import AnswerGroup, Comparison
from nbce_rag.evidence.marks import citation_marks
from nbce_rag.passages import Passage
from nbce_rag.view import answer_html, answer_page, comparison_html
from nbce_rag.view.labels import clean, ordinal, percentages
from nbce_rag.view.quotes import excerpt, quotes
from nbce_rag.view.style import PAGE, PALETTE, STRONGEST, STYLE

MULE = Passage("Every mule is sterile, they say.", id="m", title="Mules", source="docs/mule.md", score=0.71)
HINNY = Passage("A hinny has a horse as its father.", id="h", source="docs/hinny.md", score=0.6)
OTHER = Passage("Nothing of it.", id="o", title="Other")
THREE = an_answer(
    "A mule is sterile. Hinnies have a horse as father.",
    [HINNY, MULE, OTHER],
    [(0.05, 0.9, 0.05)] * 4 + [(0.8, 0.15, 0.05)],
)

NASTY = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            "</style><img src=https://evil.example/x onerror=alert(1)>",
            '" onmouseover="alert(1)',
            "' autofocus onfocus='alert(1)",
            "javascript:alert(1)",
            "&lt;b&gt; &amp;amp; &#60;",
            "<!-- --!> ]]> <![CDATA[",
            "\u202eevil\u202c \x1b[31m\x00",
            "\ud800 half a pair",
            "邬铁梅设计，一轮带八杵。",
            "x" * 300,
        ]
    ),
)


def harmless(html: str) -> Page:
    """Parsed strictly; no script, no handler, nothing loaded from anywhere."""
    page = Page(html)
    allowed = {"html", "head", "meta", "title", "style", "body", "main"}
    allowed |= {
        "div",
        "p",
        "span",
        "sup",
        "a",
        "b",
        "bdi",
        "ul",
        "li",
        "details",
        "summary",
        "blockquote",
        "code",
        "mark",
    }
    assert {tag for tag, _, _ in page.elements} <= allowed
    for tag, attributes, _ in page.elements:
        wanted = {"class", "id", "title", "style", "dir", "role", "aria-label", "href", "open"}
        assert tag in ("html", "meta") or set(attributes) <= wanted, (tag, attributes)
        assert attributes.get("href", "#nbce-").startswith("#nbce-")
        assert re.fullmatch(r"(--nbce-w: [\d.]+|flex: \d+ 1 0)?", attributes.get("style", ""))
    assert set("".join(page.styles).split("\n")) <= set(f"\n{STYLE}\n\n{PAGE}\n".split("\n"))
    for sheet in (STYLE, PAGE):
        assert not re.search(r"url\(|@import|https?:|expression", sheet)
    return page


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    passages = [
        Passage(
            text=draw(NASTY),
            id=draw(st.sampled_from(["", "one", '"><script>'])),
            title=draw(st.none() | NASTY),
            source=draw(st.none() | NASTY),
            score=draw(st.none() | st.floats(-1, 1)),
            start=draw(st.none() | st.integers(0, 9)),
            end=draw(st.none() | st.integers(10, 99)),
        )
        for _ in range(draw(st.integers(0, 5)))
    ]
    shares = st.lists(st.floats(0.001, 1), min_size=len(passages), max_size=len(passages))
    weights = [
        tuple(value / math.fsum(drawn) for value in drawn)
        for drawn in draw(st.lists(shares, min_size=1, max_size=4))
    ]
    return an_answer(
        draw(NASTY) + draw(NASTY),
        passages,
        weights,
        question=draw(NASTY),
        fusion=draw(NASTY),
        warnings=tuple(draw(st.lists(NASTY, max_size=2))),
        grounding=draw(st.none() | st.floats(-9, 9)),
        finish_reason=draw(st.sampled_from(["stop", "length", "no_evidence"])),
    )


@settings(max_examples=60)
@given(answers())
@example(THREE)
def test_whatever_an_answer_holds_it_is_text_on_the_page(answer: Answer) -> None:
    for html in (answer_html(answer), answer_page(answer)):
        page = harmless(html)
        assert html.encode()  # no halves of surrogate pairs
        (_, question) = page.all("p", "nbce-question")[0]
        (_, text) = page.all("p", "nbce-answer")[0]
        assert question == clean(answer.question)
        # The marks are what was added, and nothing else.
        numbers = {e.passage: e.number for e in answer.passage_evidence}
        expected, at = "", 0
        placed = citation_marks(
            answer.text, [(c.end, [one.passage for one in c.supports]) for c in answer.citations]
        )
        for mark in placed:
            expected += clean(answer.text[at : mark.at]) + "\n" * mark.own_line
            expected += "".join(f"[{numbers[place]}]" for place in mark.passages)
            at = mark.at
        assert text == expected + clean(answer.text[at:])
        assert len(page.all("sup")) == sum(len(mark.passages) for mark in placed)
        ids = [attributes["id"] for attributes, _ in page.all("li")]
        assert len(ids) == len(set(ids)) == len(answer.passages)
        assert {attributes["href"] for attributes, _ in page.all("a")} <= {f"#{id_}" for id_ in ids}
        for note in answer.warnings:
            assert clean(note) in page.text


@settings(max_examples=30)
@given(answers())
def test_the_shares_that_are_shown_sum_to_one_hundred(answer: Answer) -> None:
    page = Page(answer_html(answer))
    shown = [
        int(re.findall(r"(\d+)% of the evidence$", said)[0]) for _, said in page.all("span", "nbce-meta")
    ]
    assert len(shown) == len(answer.passages)
    counted = bool(answer.passages and answer.tokens)
    assert sum(shown) == (100 if counted else 0)
    bars = page.all("div", "nbce-bar")
    assert len(bars) == (1 if counted else 0)
    if bars:
        said = [int(share) for share in re.findall(r"\[\d+\] (\d+)%", bars[0][0]["aria-label"])]
        assert sum(said) == 100
        assert sorted(said) == sorted(share for share in shown if share)


def test_what_is_said_without_colour() -> None:
    page = harmless(answer_html(THREE))
    assert page.all("p", "nbce-answer")[0][1] == ("A mule is sterile[1]. Hinnies have a horse as father[2].")
    links = [attributes["aria-label"] for attributes, _ in page.all("a")]
    assert links == ["source 1: Mules", "source 2: docs/hinny.md"]
    cited, rest = page.all("ul")
    assert cited[0]["aria-label"] == "Sources"
    assert "[1] Mules docs/mule.md, score 0.71, 2nd of 3 found, cited for 36% of the answer" in cited[1]
    assert "[2] docs/hinny.md score 0.60, 1st of 3 found, cited for 64% of the answer" in cited[1]
    assert rest[0]["aria-label"] == "Not cited"
    assert "[3] Other" in rest[1]
    assert "1 more passage read, not cited" in page.text
    assert "the passages added 1.5 nats a token" in page.text


def test_every_word_says_its_passage_share_and_rank_when_pointed_at() -> None:
    spans = Page(answer_html(THREE)).all("span", "nbce-t")
    assert "".join(text for _, text in spans) == THREE.text
    assert spans[0][0]["title"] == (
        "[1] Mules: 90% of the evidence, 2nd of 3 found, score 0.71; then [2] 5%, [3] 5%"
        "; cited, not word for word; the model's memory 27%"
    )
    assert spans[0][0]["style"] == "--nbce-w: 0.90"
    assert spans[0][0]["class"].split() == ["nbce-t", "nbce-c1", "nbce-cite"]
    assert spans[-2][0]["title"].startswith("[2] docs/hinny.md: 80% of the evidence, 1st of 3 found")


CODE = an_answer(
    "Pass `http2=True` to the client <b>when</b> you make it, and close it afterwards with care.\n\n"
    "```python\nclient = httpx.Client(\n    http2=True,\n)\n```\n\n"
    "Then ask as before, of as many hosts as you like.",
    [Passage("client = httpx.Client(http2=True)", id="a"), MULE],
    [(0.6, 0.4)] * 16 + [(1.0, 0.0)] * 7 + [(0.1, 0.9)],
)


def test_code_is_one_element_and_its_marks_stand_behind_it() -> None:
    page = harmless(answer_html(CODE))
    text = page.all("p", "nbce-answer")[0][1]
    before, code, after = (
        CODE.text.partition("```python")[0],
        CODE.text[CODE.text.index("```python") : CODE.text.rindex("```") + 3],
        CODE.text.rpartition("```")[2],
    )
    assert text == f"{before.rstrip()}[1][2]\n\n{code}\n[1]{after}[2]"
    # The line end in front of the mark is in the element, or it would show as a line of its own.
    assert [inside for _, inside in page.all("code", "nbce-code")] == [code + "\n"]
    unmarked = dataclasses.replace(CODE, citations=())
    page = harmless(answer_html(unmarked))
    assert page.all("p", "nbce-answer")[0][1] == CODE.text
    assert [inside for _, inside in page.all("code")] == [code + "\n"]


def test_a_stretch_of_two_passages_is_cited_for_both() -> None:
    first = CODE.citations[0]
    assert [one.passage for one in first.supports] == [0, 1]
    page = harmless(answer_html(CODE))
    assert "[1] client = httpx.Client(http2=True)" in page.text
    links = [attributes["href"][-2:] for attributes, _ in page.all("a")]
    assert links == ["-1", "-2", "-1", "-2"]


def test_the_cited_words_are_highlighted_in_their_passage() -> None:
    marks = [text for _, text in Page(answer_html(THREE)).all("mark")]
    assert marks == ["mule is sterile", "a horse as", "father"]


def test_a_passage_that_only_supports_below_the_threshold_has_colour_and_no_mark() -> None:
    answer = an_answer("Perhaps so", [HINNY, MULE], [(0.45, 0.55)])
    answer = dataclasses.replace(answer, citations=())
    page = harmless(answer_html(answer))
    assert not page.all("sup")
    assert "No sources: no part of the answer rests on one passage." in page.text
    (span,) = page.all("span", "nbce-t")
    assert span[0]["class"] == "nbce-t nbce-c2"
    assert "2 passages read, not cited" in page.text


def test_without_passages_and_when_abstaining() -> None:
    alone = harmless(answer_html(an_answer("Paris.", [], [()], grounding=None, warnings=("No passages.",))))
    assert not alone.all("ul")
    assert "Warning: No passages." in alone.text
    abstained = dataclasses.replace(
        THREE, text="The passages do not answer this.", tokens=(), citations=(), finish_reason="no_evidence"
    )
    page = harmless(answer_html(abstained))
    assert not page.all("div", "nbce-bar")
    assert "no passage supports an answer" in page.text
    assert "3 passages read, not cited" in page.text


def test_a_thought_is_folded_before_the_answer() -> None:
    usage = dataclasses.replace(THREE.usage, generated_tokens=12, thought_tokens=5)
    answer = dataclasses.replace(THREE, thought="A <b>mule</b>,\nor not?", usage=usage)
    page = harmless(answer_html(answer))
    ((attributes, text),) = page.all("details", "nbce-thought")
    assert "open" not in attributes
    assert text == "Thought before the answerA <b>mule</b>,\nor not?"
    assert page.text.index("or not?") < page.text.index("A mule is sterile")
    assert "12 tokens, 5 of them thought" in page.text
    plain = harmless(answer_html(THREE))
    assert not plain.all("details", "nbce-thought")
    assert "thought" not in plain.text


def test_a_citation_of_a_passage_that_is_not_there_is_left_out() -> None:
    answer = dataclasses.replace(THREE, citations=(a_citation("A", 0, 1, 3, "gone"), *THREE.citations))
    assert "A mule is sterile[1]. Hinnies" in Page(answer_html(answer)).text


def test_many_and_long_passages_stay_small() -> None:
    passages = [Passage("word " * 2000, id=str(n)) for n in range(400)]
    answer = an_answer("word one two", passages, [(0.9, *(0.1 / 399,) * 399)])
    html = answer_html(answer)
    assert len(html) < 60_000
    page = harmless(html)
    assert "and 375 more" in page.text
    assert "399 more passages read" in page.text


def test_an_answer_shows_itself() -> None:
    class Printer:
        printed = ""

        def text(self, text: str) -> None:
            self.printed += text

    printer = Printer()
    THREE._repr_pretty_(printer, False)
    assert printer.printed == str(THREE)
    assert str(THREE).startswith(
        "A mule is sterile[1]. Hinnies have a horse as father[2].\n\nSources\n[1] Mules"
    )
    assert THREE._repr_html_() == answer_html(THREE)
    assert THREE.to_html() == answer_page(THREE)
    assert "<title>Who?</title>" in THREE.to_html()
    assert "default-src 'none'" in THREE.to_html()


def a_comparison(**changes: Any) -> Comparison:
    def alone(text: str, passage: Passage) -> Answer:
        return an_answer(text, [passage], [(1.0,)])

    groups = (
        AnswerGroup("sterile", (MULE, OTHER), 0.5, (alone("sterile", MULE), alone("Sterile.", OTHER))),
        AnswerGroup("a <b>horse</b>", (HINNY,), 1 / 3, (alone("a horse", HINNY),)),
    )
    values: dict[str, Any] = {
        "question": "<Who>?",
        "groups": groups,
        "silent": (Passage("<i>No</i>", id="s", title="Silent <one>"),),
        "silent_weight": 1 / 6,
    }
    return Comparison(**(values | changes))


def test_a_comparison_says_who_says_what() -> None:
    page = harmless(comparison_html(a_comparison()))
    assert "The passages give 2 answers." in page.text
    assert "(1) sterile 2 passages, 50% of the weight" in page.text
    assert "(2) a <b>horse</b> 1 passage, 33% of the weight" in page.text
    assert "No answer (17%): Silent <one>" in page.text
    assert [text for _, text in page.all("mark")] == ["sterile", "a horse"]
    label = page.all("div", "nbce-bar")[0][0]["aria-label"]
    assert label == "Weight of the answers: (1) 50%, (2) 33%, no answer 17%"
    assert a_comparison()._repr_html_() == comparison_html(a_comparison())


def test_a_comparison_that_agrees_or_says_nothing() -> None:
    one = a_comparison(groups=a_comparison().groups[:1], silent=(), silent_weight=0.0)
    assert "The passages agree." in harmless(comparison_html(one)).text
    none = a_comparison(groups=(), silent=(MULE,), silent_weight=1.0)
    text = harmless(comparison_html(none)).text
    assert "No passage answers this question." in text
    assert "No answer (100%): Mules" in text


@settings(max_examples=60)
@given(NASTY, NASTY, NASTY)
def test_whatever_a_comparison_holds_it_is_text_on_the_page(question: str, said: str, text: str) -> None:
    passage = Passage(text, title=said)
    group = AnswerGroup(said, (passage,), 1.0, (an_answer(said, [passage], [(1.0,)]),))
    page = harmless(comparison_html(Comparison(question, (group,), (), 0.0)))
    assert clean(question) in page.text
    assert clean(said) in page.text


@given(st.lists(st.floats(0, 1), max_size=40))
def test_percentages_sum_to_one_hundred_and_are_off_by_less_than_one(shares: list[float]) -> None:
    found = percentages(shares)
    total = math.fsum(shares)
    if total <= 0:
        assert found == [0] * len(shares)
        return
    assert sum(found) == 100
    assert all(
        abs(whole - 100 * share / total) < 1 + 1e-6 for whole, share in zip(found, shares, strict=True)
    )


def test_percentages_of_what_is_no_share() -> None:
    assert percentages([]) == []
    assert percentages([float("nan"), -1.0, 2.0]) == [0, 0, 100]


def test_ordinals() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 101, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th",
    ]  # fmt: skip


def test_evidence_shares_are_means_over_the_tokens() -> None:
    answer = an_answer("one two", [HINNY, MULE], [(1.0, 0.0), (0.5, 0.5)])
    assert [e.weight for e in answer.passage_evidence] == pytest.approx([0.75, 0.25])
    silent = dataclasses.replace(answer, tokens=())
    assert [e.weight for e in silent.passage_evidence] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("cited", "passage", "expected"),
    [
        (["Wen Tarsey"], "The chief pilot is Wen Tarsey, who", ["Wen Tarsey"]),
        (["WEN tarsey."], "Wen Tarsey and Wen Tarsey", ["Wen Tarsey", "Wen Tarsey"]),
        (["It is of the sea"], "part of the land", []),  # "of the" tells nothing
        (["of the"], "part of the land", ["of the"]),  # all that was cited
        (["in 1931 he"], "bought in 1931 by", ["in 1931"]),
        (["由工师邬铁梅设计"], "本水碓由邬铁梅建", ["邬铁梅"]),
        (["１９３１"], "in 1931", ["1931"]),
        (["harbour master pays"], "The harbour\n\nmaster", ["harbour", "master"]),
        (
            ["You can make your own client with verify_mode and 60 seconds for all of it"],
            "Can one make verify_mode so? Your own client with care: all in 60 s",
            ["verify_mode", "Your own client with", "60"],
        ),
        ([""], "text", []),
        (["text"], "", []),
        ([], "text", []),
    ],
)
def test_quotes(cited: list[str], passage: str, expected: list[str]) -> None:
    assert [passage[start:end] for start, end in quotes(cited, passage)] == expected


@given(
    st.lists(st.text(alphabet="ab 1中", max_size=12), max_size=3), st.text(alphabet="ab 1中.\n", max_size=40)
)
def test_quotes_are_ordered_disjoint_and_inside(cited: list[str], passage: str) -> None:
    at = 0
    for start, end in quotes(cited, passage):
        assert at <= start < end <= len(passage)
        at = end


@given(st.integers(0, 60), st.integers(0, 60), st.integers(20, 50))
def test_an_excerpt_holds_the_first_mark_and_no_more_than_it_may(before: int, after: int, limit: int) -> None:
    text = "a " * before + "MARK" + " b" * after
    place = text.index("MARK")
    start, end = excerpt(text, [(place, place + 4)], limit)
    assert 0 <= start <= end <= len(text)
    assert end - start <= limit
    assert "MARK" in text[start:end]
    if len(text) <= limit:
        assert (start, end) == (0, len(text))


def luminance(colour: tuple[float, float, float]) -> float:
    def linear(part: float) -> float:
        part /= 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = map(linear, colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_keeps_its_contrast_on_every_colour_in_light_and_dark() -> None:
    themes = re.findall(r"--nbce-page: #(\w{6}); --nbce-ink: #(\w{6})", PAGE)
    assert len(themes) == 2
    for page, ink in themes:
        below, above = ([int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in (page, ink))
        for colour in PALETTE:
            mixed = [STRONGEST * c + (1 - STRONGEST) * p for c, p in zip(colour, below, strict=True)]
            light, dark = sorted((luminance(tuple(mixed)), luminance(tuple(above))), reverse=True)  # type: ignore[arg-type]
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (page, colour)
