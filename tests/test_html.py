"""Pages of HTML as their readers see them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbce_rag.documents.html.page import read_markup
from nbce_rag.documents.limits import ReadLimits
from nbce_rag.documents.readers import read_document
from nbce_rag.errors import ReadError


def text_of(markup: str, **limits: float) -> str:
    return read_markup("page", markup, ReadLimits(**limits)).text  # type: ignore[arg-type]


ACCORDION = """<main><div class="accordion">
 <h3><button aria-expanded="false">How do I book a mooring?</button></h3>
 <div class="panel"><p>Ask the office.</p></div>
 <h3><button aria-expanded="false">What does water cost?</button></h3>
 <div class="panel" hidden><p>Two crowns.</p></div>
</div>
<div role="tablist"><button role="tab">Linux</button><button role="tab">BSD</button></div>
<div role="tabpanel"><p>Run setup.</p></div>
<div role="tabpanel" hidden><p>Run make.</p></div>
<a href="#more">More</a><section><p>Between.</p></section>
<div id="more" style="display: none">By its id.</div>
<div hidden="until-found"><p>Found by a search.</p></div>
<p style="display:none">Counted.</p><p hidden>Not for readers.</p><span hidden>Nor this.</span>
<div style="color: red;visibility:hidden">Nor that.</div></main>"""


def test_what_buttons_and_tabs_show_is_text_and_what_nothing_shows_is_not() -> None:
    assert text_of(ACCORDION).split("\n\n") == [
        "How do I book a mooring?",
        "Ask the office.",
        "What does water cost?",
        "Two crowns.",
        "Linux BSD",
        "Run setup.",
        "Run make.",
        "More",
        "Between.",
        "By its id.",
        "Found by a search.",
    ]


def test_hidden_text_does_not_show_because_of_a_button_far_off() -> None:
    assert text_of("<button>Menu</button><p>One.</p><div hidden>Two.</div><p>Three.</p>") == (
        "Menu\n\nOne.\n\nThree."
    )


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("10<sup>6</sup> litres, 5 m<sup>2</sup>", "10^6 litres, 5 m^2"),
        ("2<sup>-3</sup> and x<sup>n + 1</sup>", "2^-3 and x^(n + 1)"),
        ("the 2<sup>nd</sup>, Tide<sup>TM</sup>", "the 2nd, TideTM"),
        ("so<sup><a href='#n'>[3]</a></sup>, <sup>4</sup> a note", "so[3], 4 a note"),
        ("H<sub>2</sub>O, log<sub>10</sub>5, x<sub>i</sub>", "H₂O, log₁₀5, x_i"),
        ("a<sup> </sup>b<sup></sup>c", "abc"),
        ("<ruby>佐<rt>さ</rt>竹<rp>(</rp><rt>たけ</rt><rp>)</rp></ruby>さん", "佐竹さん"),
        ("The fee is <del>40</del> <ins>55</ins>; was <s>40</s>.", "The fee is 55; was ."),
        ("Chart: <img alt='4 m deep' src=a.png>, <img alt='' src=b>", "Chart: 4 m deep,"),
        ("<img alt='data:image/png;base64,AAAA'>x", "x"),
        ("<math alttext='v = 7'><mi>v</mi></math> knots", "v = 7 knots"),
        (
            "<math><mi>v</mi><mo>=</mo><mfrac><mn>7</mn><msup><mi>t</mi><mn>2</mn></msup></mfrac></math>",
            "v = 7/(t^2)",
        ),
        (
            "<math><mi>E</mi><annotation encoding='application/x-tex'>E=mc^2</annotation></math>",
            "E=mc^2",
        ),
        ("<math><msqrt><msub><mi>a</mi><mn>1</mn></msub><mo>+</mo><mi>b</mi></msqrt></math>", "√(a₁ + b)"),
        ("<my-card>One.</my-card><my-card>Two.</my-card>", "One. Two."),
        ("<button>One</button><button>Two</button>", "One Two"),
        ("<noscript><p>At nine.</p></noscript>", "At nine."),
        ("<details><summary>Where?</summary><p>Here.</p></details>", "Where?\n\nHere."),
        ("<article><p>Body.</p><footer>By Ada.</footer></article><footer>©</footer>", "Body.\n\nBy Ada."),
        ("<h2>Tide<a class=anchor aria-hidden=true>#</a></h2>", "Tide"),
        ("<main><p>Body.</p><footer>Signed.</footer></main><footer>©</footer>", "Body.\n\nSigned."),
        ("<sup>1</sup>/<sub>2</sub>", "1/2"),
        ("<math><mn>2</mn><mo>&InvisibleTimes;</mo><mi>x</mi></math>", "2x"),
        ("<a href=x>One</a><a href=y>Two</a> and <a href=z>cat</a>s", "One Two and cats"),
        ("<b>Map</b><img alt='of Brill'>", "Map of Brill"),
        ("<h3 onclick='x()'>Open?</h3><div style='display:none'>At nine.</div>", "Open?\n\nAt nine."),
        ("<nav>a</nav><script>b</script><svg><text>c</text></svg><template>d</template>e", "e"),
        ("a<br>b<br><br>c", "a\nb\n\nc"),
        ("one<wbr>two &lt;b&gt; &amp;amp;", "onetwo <b> &amp;"),
    ],
)
def test_pieces_of_pages(markup: str, text: str) -> None:
    assert text_of(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<ol><li>a<li>b</ol><ol start=5><li>c<li value=9>d<li>e</ol>", "1. a\n2. b\n\n5. c\n9. d\n10. e"),
        ("<ul><li>a<ul><li>b<ol><li>c</ol></ul><li>d</ul>e", "- a\n  - b\n    1. c\n- d\n\ne"),
        ("<ul><li><p>a</p><p>b</p></li></ul>", "- a\n  b"),
        ("<ul><li><ul><li>a</ul></ul>", "  - a"),
        ("<dl><dt>Ebb<dd>Water goes.</dl>", "Ebb\nWater goes."),
        ("<li>alone", "alone"),
        ("<ol><li>a<pre>x\n y</pre></ol>", "1. a\n   ```\n   x\n    y\n   ```"),
    ],
)
def test_lists(markup: str, text: str) -> None:
    assert text_of(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<pre><code><div>a = 1</div><div>  b = 2</div></code></pre>", "```\na = 1\n  b = 2\n```"),
        ("<pre>\n\n  x\n\n\ty \n</pre>z", "```\n  x\n\n\ty \n```\n\nz"),
        ('<pre><code class="hljs language-python">x = 1</code></pre>', "```python\nx = 1\n```"),
        ("<pre>a\n```\nb</pre>", "````\na\n```\nb\n````"),
        ("<pre> \n</pre>a <code>b  c</code>", "a b c"),
    ],
)
def test_code(markup: str, text: str) -> None:
    assert text_of(markup) == text


HEADS = "<tr><th>Boat</th><th>Winter</th><th>Summer</th></tr>"


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (HEADS + "<tr><td><p>Yawl</p><td><p></p><td><p>48</p>", ["| Yawl |  | 48 |"]),
        (HEADS + "<tr><td rowspan=2>Yawl<td>1<td>2<tr><td>3<td>4", ["| Yawl | 1 | 2 |", "| Yawl | 3 | 4 |"]),
        (HEADS + "<tr><td>Yawl<td colspan=2>shut", ["| Yawl | shut | shut |"]),
        (HEADS + "<tr><td colspan=3>Old boats<tr><td>Yawl<td>1", ["| Old boats |  |  |", "| Yawl | 1 |  |"]),
        (
            HEADS + "<tr><td>Yawl<td><table><tr><th>a<th>b<tr><td>1<td>2</table>",
            ["| Yawl | a, b<br>1, 2 |  |"],
        ),
        (
            HEADS + "<tr><td>Yawl<td rowspan=0>x<td>1<tr><td>Skiff<td>2",
            ["| Yawl | x | 1 |", "| Skiff | x | 2 |"],
        ),
        (HEADS + "<tr><th>Yawl<td>1|2", ["| Yawl | 1\\|2 |  |"]),
        (HEADS + "<tr><td>Yawl<td><ul><li>a<li>b</ul><td><p>c<p>d", ["| Yawl | - a<br>- b | c<br>d |"]),
    ],
)
def test_a_cell_stays_under_its_head_and_in_its_row(rows: str, lines: list[str]) -> None:
    head = ["| Boat | Winter | Summer |", "| --- | --- | --- |"]
    assert text_of(f"a<table>{rows}</table>b") == "\n".join(["a\n", *head, *lines, "\nb"])


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (
            "<table><caption>Fees</caption><thead><tr><th rowspan=2>Boat<th colspan=2>2024<tr><th>Q1<th>Q2"
            "</thead><tr><td>Yawl<td>1<td>2</table>",
            "Fees\n\n| Boat | 2024 Q1 | 2024 Q2 |\n| --- | --- | --- |\n| Yawl | 1 | 2 |",
        ),
        (
            "<table><tr><th colspan=2>2024<tr><th>Q1<th>Q2<tr><td>1<td>2</table>",
            "| 2024 Q1 | 2024 Q2 |\n| --- | --- |\n| 1 | 2 |",
        ),
        ("<table><tr><th><th>Mon<tr><td><td>shut</table>", "|  | Mon |\n| --- | --- |\n|  | shut |"),
        ("<table><tr><td><th>Mon<tr><th>9<td>shut</table>", "|  | Mon |\n| --- | --- |\n| 9 | shut |"),
        (
            "<table><tr><td>Mon<td>fish<tr><td>Tue<td>rope</table>",
            "|  |  |\n| --- | --- |\n| Mon | fish |\n| Tue | rope |",
        ),
        ("<table><tr><th>a<th>b</table>", "| a | b |\n| --- | --- |"),
        ("<table><tr><td><td></table>x", "x"),
        ("<table role=presentation><tr><td>a<td>b</table>", "a\n\nb"),
        ("<table><tr><td><p>only</p><p>one</p></table>", "only\n\none"),
        (
            f"<table><tr><td>menu<td><table>{HEADS}<tr><td>Yawl<td>1<td>2</table></table>",
            "menu\n\n| Boat | Winter | Summer |\n| --- | --- | --- |\n| Yawl | 1 | 2 |",
        ),
        ("<table><tr><td>1<td><pre>x</pre></table>", "1\n\n```\nx\n```"),
        (f"<table><tr><td>menu<td>{'word ' * 200}</table>", f"menu\n\n{('word ' * 200).strip()}"),
        (f"<ul><li><table>{HEADS}</table></ul>", "-\n  | Boat | Winter | Summer |\n  | --- | --- | --- |"),
        ("<table><tr><td>" * 12 + "deep<td>er", "deep\n\ner"),
    ],
)
def test_heads_of_tables_and_tables_that_arrange_a_page(markup: str, text: str) -> None:
    assert text_of(markup) == text


def test_nothing_of_a_picture_is_text(tmp_path: Path) -> None:
    data = "data:image/png;base64," + "iVBORw0KGgo" * 50
    assert text_of(f"<p>One <img src='{data}'> two.</p><pre>url({data})</pre>") == (
        "One two.\n\n```\nurl(data:image/png)\n```"
    )


def test_elements_of_xhtml_may_end_where_they_begin() -> None:
    markup = '<?xml version="1.0"?><html><head><title/><script src="a"/></head><p id="x"/>Text.</html>'
    assert text_of(markup) == "Text."


def test_depth_and_time_have_limits() -> None:
    assert text_of("<div>" * 50 + "deep", max_depth=60) == "deep"
    for markup in ("<div>" * 100 + "deep", "<i>" * 100 + "deep"):
        with pytest.raises(ReadError, match="page: nests elements more than 60 levels deep"):
            text_of(markup, max_depth=60)
    with pytest.raises(ReadError, match=r"page: takes over 1e-09 seconds"):
        text_of("<p>words" * 10_000, max_seconds=1e-9)


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 200_000,
        "<ul><li>" * 100_000,
        "<table><tr><td>" * 100_000,
        "<div>" * 200_000 + "</div>" * 200_000,
    ],
)
def test_what_would_take_quadratic_time_is_refused_before_it_is_parsed(markup: str) -> None:
    with pytest.raises(ReadError, match="nests elements more than 20,000 levels deep"):
        text_of(markup)


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 16_000 + "hi",
        "<p>hi" + "<b>x" * 16_000 + "</i>" * 16_000,
        "<pre>" * 16_000 + "hi",
        "<p " + " ".join(f"a{i}=1" for i in range(16_000)) + ">hi</p>",
        "<ul><li>hi" * 9_000,
        "<div>" * 15_000 + "<p>hi</p>" * 50_000,
    ],
)
def test_what_nests_deep_is_read_in_little_time(markup: str) -> None:
    start = time.perf_counter()
    assert "hi" in text_of(markup)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "row",
    ["<tr><td rowspan=0>x<td>y", "<tr><td colspan=1000>x<td>y", "<tr><td rowspan=65534 colspan=1000>x<td>y"],
)
def test_spans_that_claim_too_much_count_as_one(row: str) -> None:
    lines = text_of(f"<table>{row * 5000}</table>").split("\n")
    assert len(lines) == 5002
    assert lines[2] == "| x | y |"


_TAGS = """
    <p> </p> <td> <tr> <table> </table> <li> <ul> </ul> <ol> <pre> </pre> <sup> </sup> <th/colspan=3> <br>
    <th> </td> <math> <mi> </math> <button> <b> </b> <sub> <div> </div> <thead> </thead> <my-x> one two
"""


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(_TAGS.split()),
        max_size=40,
    ).map("".join)
)
def test_any_markup_gives_its_words(markup: str) -> None:
    text = text_of(markup)
    assert "\n\n\n" not in text.replace("```", "") or "<br>" in markup or "<pre>" in markup
    if "<math>" not in markup and "<table>" not in markup:
        # Nothing is lost and nothing stands twice.
        assert text.count("one") == markup.count("one")


def test_a_page_may_declare_an_encoding_by_another_name(tmp_path: Path) -> None:
    for name, encoding in (("gb2312", "gb18030"), ("Shift_JIS", "cp932"), ("ISO-8859-9", "windows-1254")):
        path = tmp_path / f"{name}.html"
        text = "ışık" if "1254" in encoding else "①港" if encoding == "cp932" else "镕港"
        path.write_bytes(f'<meta http-equiv=x content="text/html; charset={name}"><p>{text}'.encode(encoding))
        assert read_document(path).text == text


def test_what_is_utf_8_is_read_so_whatever_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    for name in ("iso-8859-1", "windows-1252", "us-ascii"):
        path.write_bytes(f'<meta charset="{name}"><p>café 5 €'.encode())
        assert read_document(path).text == "café 5 €"
    path.write_bytes('<meta charset="iso-8859-1"><p>café 5 €'.encode("cp1252"))
    assert read_document(path).text == "café 5 €"
    path.write_bytes(b'<meta charset="punycode"><p>caf-dma')
    assert read_document(path).text == "caf-dma"


def test_what_stands_for_frames_is_no_text() -> None:
    markup = "<frameset><frame src=a><noframes><body>Use <b>frames</b></body></noframes></frameset>"
    assert text_of(markup) == ""


def test_numbers_of_lists_have_a_length() -> None:
    assert text_of(f"<ol start={'9' * 4000}><li>a<li value={'8' * 4000}>b</ol>") == "1. a\n2. b"


def test_a_cell_in_many_places_has_limits() -> None:
    rows = f"<tr><td rowspan=0 colspan=2>{'word ' * 30_000}<td>x" + "<tr><td>y" * 300
    with pytest.raises(ReadError, match="unpacks to more than 5,000,000 characters"):
        text_of(f"<table><tr><th>a<th>b<th>c{rows}</table>", max_unpacked_bytes=5_000_000)
