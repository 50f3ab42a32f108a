"""Long answers: their blocks and units, what these cite, and where the marks stand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nbce_rag import NBCE
from nbce_rag.evidence.blocks import blocks, code_blocks
from nbce_rag.evidence.citations import cite
from nbce_rag.evidence.evidence import Citation, TokenEvidence
from nbce_rag.evidence.identifiers import identifiers
from nbce_rag.evidence.marks import citation_marks
from nbce_rag.evidence.units import LONG, units
from nbce_rag.evidence.words import word_count, words
from nbce_rag.passages import Passage

A, B, BOTH, NONE = (0.9, 0.1, 0.0), (0.1, 0.9, 0.0), (0.5, 0.45, 0.05), (0.34, 0.33, 0.33)
Spec = Sequence[tuple[str, tuple[float, ...], float]]
HOW = """To enable HTTP/2, pass `http2=True. Or` to the client. This is e.g. useful for many requests!

## In short

```python
import httpx
client = httpx.Client(
    http2=True,
)

client.get(url)
```

1. Install the extra with `pip install httpx[http2]`
   and then check.
- Done

| name | use |
| --- | --- |
| h2 | the protocol |"""


def texts(text: str) -> list[tuple[str, str]]:
    return [(unit.kind, text[unit.start : unit.end]) for unit in units(text)]


def answered(spec: Spec) -> tuple[str, list[TokenEvidence]]:
    """An answer of pieces with their weights and gain a word; each word, with what follows it, is a token."""
    text, tokens = "", list[TokenEvidence]()
    for piece, weights, gain in spec:
        for match in re.finditer(r"\w+\W*|^\W+", piece):
            start = len(text) + match.start()
            tokens.append(
                TokenEvidence(0, match.group(), start, start + len(match.group()), -1.0, weights, gain)
            )
        text += piece
    return text, tokens


def cited(spec: Spec, *passages: str) -> list[tuple[str, list[int]]]:
    text, tokens = answered(spec)
    named = [Passage(passages[k] if passages else "", id=str(k)) for k in range(3)]
    return [(c.text, [one.passage for one in c.supports]) for c in cite(text, tokens, named)]


def test_units_of_markdown() -> None:
    assert texts(HOW) == [
        ("prose", "To enable HTTP/2, pass `http2=True. Or` to the client."),
        ("prose", "This is e.g. useful for many requests!"),
        ("heading", "In short"),
        ("code", "import httpx"),
        ("code", "client = httpx.Client("),
        ("code", "http2=True,\n)"),
        ("code", "client.get(url)"),
        ("item", "Install the extra with `pip install httpx[http2]`\n   and then check."),
        ("item", "Done"),
        ("row", "| name | use |"),
        ("row", "| h2 | the protocol |"),
    ]
    groups = [unit.group for unit in units(HOW)]
    assert groups == [groups[0]] * 2 + [groups[2]] + [groups[3]] * 4 + groups[7:9] + [groups[9]] * 2
    assert len(set(groups)) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n...\n- \n#\n```\n}\n```", []),
        ("One. Two? “Three.” Four", ["One.", "Two?", "“Three.”", "Four"]),
        ("**One.** Two.", ["**One.**", "Two."]),
        (
            "Version 3.11 of Dr. Fenwick's, i.e. A. Fenwick's. So",
            ["Version 3.11 of Dr. Fenwick's, i.e. A. Fenwick's.", "So"],
        ),
        ("一轮八杵。二轮十杵！「三」", ["一轮八杵。", "二轮十杵！", "「三」"]),
        ("1、一轮\n2、二轮\n（3）三轮", ["一轮", "二轮", "三轮"]),
        ("पहला वाक्य। दूसरा", ["पहला वाक्य।", "दूसरा"]),
        ("a line\nthat goes on. Next\n\nnew", ["a line\nthat goes on.", "Next", "new"]),
        ("~~~\nx = 1\n```\n~~~\ny", ["x = 1\n```", "y"]),
        ("- ```\n  x = 1\n  ```\ny", ["x = 1", "y"]),
        ("````\n```\nx\n```\n````\ny", ["x\n```", "y"]),
        ("```x``` is code in a line", ["```x``` is code in a line"]),
        ("```python\nbroken off", ["broken off"]),
        ("* one\n+ two\n\n• three", ["one", "two", "three"]),
        ("1990. A year", ["1990.", "A year"]),
    ],
)
def test_units(text: str, expected: list[str]) -> None:
    assert [text[unit.start : unit.end] for unit in units(text)] == expected


def test_a_long_sentence_has_clauses_of_eight_words_or_more_and_whole_brackets() -> None:
    eight = "one two three four five six seven eight"
    assert texts(f"{eight}, {eight}; {eight} – {eight} nine.") == [
        ("prose", f"{eight},"),
        ("prose", f"{eight};"),
        ("prose", eight),
        ("prose", f"{eight} nine."),
    ]
    assert len(units(f"{eight}, {eight} and {eight}.")) == 1  # twenty-five words
    assert len(units(f"one, {eight} {eight} {eight}, nine, and ten.")) == 1
    assert len(units(f"{eight} ({eight}, {eight}, {eight}).")) == 1
    assert len(units(f"{eight} `{eight}, {eight}, {eight}`.")) == 1
    wide = "市场每天早上八点在港口边开门卖鱼"
    assert [text for _, text in texts(f"{wide}，{wide}；{wide}，{wide}。")] == [
        f"{wide}，", f"{wide}；", f"{wide}，", f"{wide}。"
    ]  # fmt: skip


def test_an_answer_is_short_up_to_eleven_words_of_one_line() -> None:
    eleven = [("one two three ", A, 1.0), ("four five six ", B, 1.0), ("7 8 9 10 11", A, 1.0)]
    assert cited(eleven) == [("one two three", [0]), ("four five six", [1]), ("7 8 9 10 11", [0])]
    assert cited([*eleven, (" twelve.", A, 1.0)]) == [
        ("one two three four five six 7 8 9 10 11 twelve.", [0, 1])
    ]
    assert cited([("one two", A, 1.0), ("\nthree", B, 1.0)]) == [("one two\nthree", [0, 1])]
    assert word_count("北京2008年 and more") == 4.5


def test_words_that_gained_nothing_count_nothing() -> None:
    spec = [
        ("You can use the following thing for it: ", B, 0.0),
        ("client Fenwick nine.", A, 2.0),
        (" It is as it always was, and that is all.", B, 0.1),
    ]
    text, tokens = answered(spec)
    (citation,) = cite(text, tokens, [Passage("", id=c) for c in "abc"])
    assert citation.text == "You can use the following thing for it: client Fenwick nine."
    assert (citation.passage, citation.others) == (0, ())
    assert citation.share == pytest.approx(0.9)
    # Had nothing gained anything, nothing would be known of it, and all would count alike.
    unmeasured = [(piece, weights, 0.0) for piece, weights, _ in spec]
    assert cited(unmeasured) == [
        ("You can use the following thing for it: client Fenwick nine.", [1, 0]),
        ("It is as it always was, and that is all.", [1]),
    ]
    assert cited([(piece, weights, -1.0) for piece, weights, _ in spec]) == []


def test_several_passages_are_named_the_largest_share_first() -> None:
    long = "The ferry over the Lune is run by Ada Fenwick and by her son. "
    (citation,) = cite(
        *answered([(long, (0.3, 0.6, 0.1), 1.0)]),
        [Passage(long, id="a"), Passage("", id="b"), Passage("", id="c")],
    )
    assert [(s.passage, s.passage_id, s.verbatim) for s in citation.supports] == [
        (1, "b", False),
        (0, "a", True),
    ]
    assert [s.share for s in citation.supports] == pytest.approx([0.6, 0.3])
    assert (citation.passage, citation.passage_id, citation.verbatim) == (1, "b", False)
    assert cited([(long, BOTH, 1.0)]) == [(long.strip(), [0, 1])]
    assert cited([(long, (0.24, 0.24, 0.52), 1.0)]) == [(long.strip(), [2])]
    assert cited([(long, (0.2, 0.2, 0.2), 1.0)]) == [
        (long.strip(), [0, 1, 2])
    ]  # a third of the evidence each
    # Passages with one id are one; below a quarter, the threshold alone decides.
    text, tokens = answered([(long, (0.3, 0.35, 0.35), 1.0)])
    (citation,) = cite(text, tokens, [Passage("", id=c) for c in "abb"])
    assert [s.passage for s in citation.supports] == [1, 0]
    flat, tokens = answered([(long, (0.1,) * 10, 1.0)])
    ten = [Passage("", id=str(k)) for k in range(10)]
    assert cite(flat, tokens, ten) == ()
    assert len(cite(flat, tokens, ten, 0.05)[0].supports) == 10


def test_neighbours_with_the_same_passages_are_one_within_a_paragraph() -> None:
    one, two, three = "The first of them is this. ", "The second of them is that. ", "A third is here."
    assert cited([(one, A, 1.0), (two, A, 1.0), (three, B, 1.0)]) == [
        (one + two.strip(), [0]),
        (three, [1]),
    ]
    assert cited([(one.strip() + "\n\n", A, 1.0), (two, A, 1.0)]) == [(one.strip(), [0]), (two.strip(), [0])]
    assert [places for _, places in cited([(f"- {one}\n", A, 1.0), (f"- {two}", A, 1.0)])] == [[0], [0]]


def test_headings_fragments_and_invented_code_are_not_cited() -> None:
    passage = "client = httpx.Client(http2=True)\nclient.get(url)"
    lead = "Make a client of your own and then ask it for what you want to have.\n\n"
    assert cited([(lead, A, 1.0), ("# A heading of many words that came from there\n", A, 3.0)]) == [
        (lead.strip(), [0])
    ]
    assert cited([(lead, A, 1.0), ("So it is.\n", A, 3.0)]) == [(lead.strip(), [0])]
    assert cited([("Ada\n\nBob", A, 3.0)]) == [("Ada", [0]), ("Bob", [0])]
    assert cited([(lead, A, 1.0), ("- httpx\n- h2", A, 3.0)])[1:] == [("httpx", [0]), ("h2", [0])]
    code = "```python\nclient = httpx.Client(http2=True)\nclient.enable_http2(protocol=version)\n```"
    assert cited([(code, A, 1.0)], passage, "other", "other") == [("client = httpx.Client(http2=True)", [0])]
    assert cited([(code, B, 1.0)], passage, "other", "other") == []
    assert len(cited([(code, A, 1.0)])) == 1  # passages whose text is not known


@pytest.mark.parametrize(
    ("sentence", "is_cited"),
    [
        ("You can turn it on with `http2=True` when you make the client.", True),
        ("You can turn it on by calling client.enable_http2() before you ask.", False),
        ("You can turn it on with `client.enable_http2()` on the `httpx.Client` that asks.", False),
        ("You can turn it on with the flag --enable-http2 of the command line.", False),
        ("You can turn it on with the flag --http2 of the command line.", True),
        ("- You can turn it on with the `responses` library, as it is called.", False),
        ("| call | `client.mock_everything()` makes all of the responses up, be they long or short |", False),
        ("Httpx.Client is what you make, once for the whole of your program.", True),
        ("The `AsyncClient` is the one to take where there is much to wait for.", True),
        ("You can turn it on, and no name of code is needed to say that.", True),
    ],
)
def test_sentences_with_invented_names_of_code_are_not_cited(sentence: str, is_cited: bool) -> None:
    passage = "client = httpx.Client(http2=True)\nclient.get(url)\nOr `httpx --http2 URL`.\n"
    text, tokens = answered([(sentence, A, 1.0)])
    passages = [
        Passage(passage, title="AsyncClient", id="0"),
        Passage("enable_http2", id="1"),
        Passage("", id="2"),
    ]
    assert [c.passage for c in cite(text, tokens, passages)] == [0] * is_cited
    unknown = [Passage("", id=str(place)) for place in range(3)]
    assert [c.passage for c in cite(text, tokens, unknown)] == [0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Client.limit_connections()", []),
        ("It is limit_connections", []),
        ("httpx.Client", ["httpx.Client"]),
        ("`http2=True`", ["http2=True"]),
        ("AsyncClient, run by Ada", ["AsyncClient, run by Ada"]),
        ("Ada", ["Ada"]),
        ("```python", []),
    ],
)
def test_a_short_fact_is_not_cited_for_a_name_of_code_that_is_invented(
    text: str, expected: list[str]
) -> None:
    _, tokens = answered([(text, A, 1.0)])
    passages = [
        Passage("client = httpx.Client(http2=True)", title="AsyncClient", id="0"),
        Passage("limit_connections"),
        Passage("other"),
    ]
    assert [c.text for c in cite(text, tokens, passages)] == expected
    unknown = [Passage("", id=str(place)) for place in range(3)]
    assert bool(cite(text, tokens, unknown)) == (text != "```python")


def test_lines_of_code_of_one_passage_are_one_citation() -> None:
    code = "```\nclient = httpx.Client(\n    http2=True,\n)\n\nclient.get(url)\n```"
    passage = code.replace("`", "")
    assert cited([(code, A, 1.0)], passage, "x", "x") == [(code.strip("`\n"), [0])]


def test_chinese() -> None:
    text = (
        "市场每天早上八点在港口边开门，卖的多半是鱼。博物馆周一不开门，因为那天馆长要出海，所以没有人看门。"
    )
    first, second = text[: text.index("。") + 1], text[text.index("。") + 1 :]
    assert cited([*((c, A, 1.0) for c in first), *((c, B, 1.0) for c in second)]) == [
        (first, [0]),
        (second, [1]),
    ]


@pytest.mark.parametrize(
    ("text", "ends", "shown"),
    [
        ("one two", ["one", "two"], "one[0] two[1]"),
        ("so `a b` is", ["a", "a b"], "so `a b`[0][1] is"),
        ("so `a b is", ["a"], "so `a[0] b is"),
        ("- ``>= a``, so", [">= a"], "- ``>= a``[0], so"),
        ("``a ` b`` is", ["a", "b"], "``a ` b``[0][1] is"),
        ("``a `b` is", ["a", "b"], "``a[0] `b`[1] is"),
        ("`a` b `c`", ["a", "b", "c"], "`a`[0] b[1] `c`[2]"),
        ("a\n```\nx\ny\n```\nb", ["x", "y", "b"], "a\n```\nx\ny\n```\n[0][1]\nb[2]"),
        ("```\nx\ny", ["x"], "```\nx\ny\n[0]"),
        ("```\nx\n", ["x"], "```\nx\n[0]"),
        ("```\n`\n```\nb c", ["b"], "```\n`\n```\nb[0] c"),
    ],
)  # fmt: skip
def test_marks_keep_out_of_code(text: str, ends: list[str], shown: str) -> None:
    marked, at = "", 0
    for mark in citation_marks(text, [(text.index(end) + len(end), [n]) for n, end in enumerate(ends)]):
        marked += text[at : mark.at] + "\n" * mark.own_line + "".join(f"[{n}]" for n in mark.passages)
        at = mark.at
    assert marked + text[at:] == shown


def test_marks_name_each_passage_once_at_a_place() -> None:
    text = "```\nx\ny\n```"
    (mark,) = citation_marks(text, [(5, (2, 0)), (7, (0, 1))])
    assert mark == (len(text), (2, 0, 1), True)


PIECES = st.sampled_from(
    [
        *"ab. ", ". ", "! ", ", ", "; ", " – ", "\n", "\n\n", "```\n", "\n```python\n", "`", "(", ")", "- ",
        "\n- ", "1. ", "# ", "| ", "e.g. ", "word ", "client ", "http2=True", "3.5 ", "don't ", "北京", "。",
        "，", "；", "ि", "e\u0301", "\r\n", "\u2028", "...", "“", "” ",
        "one two three four five six seven eight nine",
    ]
)  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[TokenEvidence], list[Passage]]:
    count = draw(st.integers(1, 4))
    weights = st.lists(st.integers(0, 20), min_size=count, max_size=count).filter(any)
    gains = st.sampled_from([-1.0, 0.0, 0.2, 0.5, 3.0])
    pieces = st.tuples(st.lists(PIECES, max_size=3).map("".join), weights, gains)
    text, tokens = "", []
    for piece, raw, gain in draw(st.lists(pieces, max_size=25)):
        share = tuple(weight / sum(raw) for weight in raw)
        tokens.append(TokenEvidence(0, piece, len(text), len(text) + len(piece), -1.0, share, gain))
        text += piece
    ids = draw(st.lists(st.sampled_from("abcd"), min_size=count, max_size=count))
    return text, tokens, [Passage(draw(st.sampled_from(["", "client word", "北京"])), id=id_) for id_ in ids]


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=40).map("".join))
@example(HOW)
def test_units_are_ordered_disjoint_and_of_whole_words(text: str) -> None:
    found = units(text)
    spans = words(text)
    for unit in found:
        assert 0 <= unit.start < unit.end <= len(text)
        part = text[unit.start : unit.end]
        assert part == part.strip()
        assert unit.size == word_count(part) > 0
        for edge in (unit.start, unit.end):
            assert not any(start < edge < end for start, end in spans)
        within = [block for block in blocks(text) if block.start <= unit.start and unit.end <= block.end]
        assert unit.kind == "code" or [block.kind for block in within] == [unit.kind]
    for one, other in pairwise(found):
        assert one.end <= other.start
        assert one.group <= other.group
    code = code_blocks(text)
    assert all(block.start <= block.inner_start <= block.inner_end <= block.end for block in code)
    assert all(before.end < after.start for before, after in pairwise(code))
    # Every word outside of the signs of lists and fences is in a unit.
    for start, end in spans:
        if not any(unit.start <= start and end <= unit.end for unit in found):
            line = text[text.rfind("\n", 0, start) + 1 : start] + text[start:end]
            assert re.search(r"\d\Z|```\s*\w+\Z", line), (text, text[start:end])


@settings(max_examples=300)
@given(answers(), st.floats(0.01, 1))
def test_citations_of_units(answer: tuple[str, list[TokenEvidence], list[Passage]], threshold: float) -> None:
    text, tokens, passages = answer
    citations = cite(text, tokens, passages, threshold)
    long = len(text.splitlines()) > 1 or word_count(text) >= LONG
    starts, ends = {unit.start for unit in units(text)}, {unit.end for unit in units(text)}
    for citation in citations:
        assert citation.text == text[citation.start : citation.end] != ""
        assert not long or (citation.start in starts and citation.end in ends)
        assert all(passages[one.passage].id == one.passage_id for one in citation.supports)
        shares = [one.share for one in citation.supports]
        assert len({one.passage_id for one in citation.supports}) == len(shares)
        assert shares == sorted(shares, reverse=True)
        assert threshold - 1e-9 <= math.fsum(shares) <= 1 + 1e-9
        for edge in (citation.start, citation.end):
            assert not any(start < edge < end for start, end in words(text))
    for before, after in pairwise(citations):
        assert before.end <= after.start
    if long:
        check_against_a_slow_account(text, tokens, passages, threshold, citations)


def check_against_a_slow_account(
    text: str,
    tokens: list[TokenEvidence],
    passages: list[Passage],
    threshold: float,
    citations: tuple[Citation, ...],
) -> None:
    """The evidence of each unit, character by character, and who is cited for it."""
    measured = any(token.gain != 0 for token in tokens)
    ids = list(dict.fromkeys(passage.id for passage in passages))
    for unit in units(text):
        nats = dict.fromkeys(ids, 0.0)
        over = 0
        for token in tokens:
            inside = [at for at in range(token.start, token.end) if unit.start <= at < unit.end]
            over += bool(inside)
            for _ in inside:
                for passage, weight in zip(passages, token.weights, strict=True):
                    gain = max(0.0, token.gain) if measured else 1.0
                    nats[passage.id] += gain * weight / (token.end - token.start)
        total = sum(nats.values())
        by = {
            one.passage_id
            for citation in citations
            if citation.start <= unit.start and unit.end <= citation.end
            for one in citation.supports
        }
        shares = {id_: value / total for id_, value in nats.items()} if total else {}
        limits = [min(0.25, threshold)]
        if not total or any(abs(share - limits[0]) < 1e-9 for share in shares.values()):
            assert total or not by
            continue  # rounding decides
        # Those of equal text say the same, and count together.
        first = {id_: next(p.text for p in passages if p.id == id_) for id_ in ids}
        together = {
            id_: sum(shares[k] for k in ids if k == id_ or (first[k] and first[k] == first[id_]))
            for id_ in shares
        }
        if any(abs(share - limits[0]) < 1e-9 for share in together.values()):
            continue
        expected = {id_ for id_, share in shares.items() if together[id_] > limits[0] and share >= 0.001}
        enough = sum(shares[id_] for id_ in expected)
        if abs(enough - threshold) < 1e-9 or abs(total - max(0.3 * over, 1.0)) < 1e-9:
            continue
        gained = not measured or total > max(0.3 * over, 1.0)
        if unit.kind == "heading" or not gained or enough < threshold:
            assert by == set()
        elif unit.kind in ("item", "row") or (unit.kind == "prose" and unit.size >= 4):
            held = [f"{p.title or ''} {p.text}".casefold() for p in passages if p.id in expected]
            firsts_have_text = all(next(p.text for p in passages if p.id == id_) for id_ in expected)
            named = {name.casefold() for name in identifiers(text[unit.start : unit.end])}
            standing = {name for name in named if any(re.search(rf"(?<!\w){name}(?!\w)", t) for t in held)}
            assert by == (expected if standing == named or not firsts_have_text else set())
        else:
            assert by in (set(), expected)  # fragments, and code that is invented


def test_a_stream_is_cited_like_the_whole(make_nbce: Callable[..., NBCE]) -> None:
    nbce = make_nbce(max_tokens=40, temperature=1.5, citation_threshold=0.1)
    passages = ["The ferry is run by Ada.", "市场八点开门,卖鱼。", "The harbour lies in the north."]
    long = 0
    for seed in range(6):
        whole = nbce.answer("Who runs the ferry?", passages, seed=seed)
        streamed = list(nbce.stream("Who runs the ferry?", passages, seed=seed))[-1].answer
        assert streamed is not None
        assert (streamed.text, streamed.citations) == (whole.text, whole.citations)
        long += word_count(whole.text) >= LONG
    assert long
