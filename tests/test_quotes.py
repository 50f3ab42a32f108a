"""Where a passage holds what is cited from it: in its text, in its source, on which page."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from view_tools import Page, an_answer

from nbce_rag.evidence.evidence import Support
from nbce_rag.evidence.quote import Quote, quote_of
from nbce_rag.evidence.verbatim import FoldedText
from nbce_rag.evidence.words import fold, words
from nbce_rag.folding import INVISIBLE
from nbce_rag.passages import Passage
from nbce_rag.view import answer_html

SOURCE = "Ferries.\n\nThe  ＦＥＲＲＹ is\nrun by Ada Fenwick."
PASSAGE = Passage(
    SOURCE[10:], id="f", title="Ferry", source="f.pdf", start=10, end=len(SOURCE), metadata={"page": 3}
)


@pytest.mark.parametrize(
    ("text", "part", "expected"),
    [
        ("The  ＦＥＲＲＹ is\nrun", "the ferry is run", "The  ＦＥＲＲＹ is\nrun"),
        ("cafe\u0301s are", "CAF\u00c9S", "cafe\u0301s"),
        ("an of\ufb01ce here", "office", "of\ufb01ce"),
        ("Stra\u00dfe 5", "strasse", "Stra\u00dfe"),
        ("  北京\u3000是 首都", "是 首", "是 首"),
        ("\u1100\u1161\u11a8 \uac01", "\uac01", "\u1100\u1161\u11a8"),
        ("half \uff76\uff9e end", "\u30ac", "\uff76\uff9e"),
        ("q\u0307\u0323 and s", "q\u0323\u0307", "q\u0307\u0323"),
        ("one one", "one", "one"),
        ("party art", "art", "art"),
        ("the Bren\u00adnick yard", "brennick yard", "Bren\u00adnick yard"),
        ("the Brennick yard", "Bren\u200bnick\ufeff", "Brennick"),
        ("an a\u00ad\u0301 b", "\u00e1", "a\u00ad\u0301"),
    ],
)
def test_a_span_points_at_the_characters_as_they_were(text: str, part: str, expected: str) -> None:
    span = FoldedText(text).find(part)
    assert span is not None
    assert text[slice(*span)] == expected


def test_what_does_not_stand_there_is_not_found() -> None:
    assert FoldedText("party").find("art") is None
    assert FoldedText("art").find("  ") is None
    assert FoldedText("").find("art") is None


CHARACTERS = st.one_of(
    st.sampled_from(
        [
            *"aB 1.\t\néßﬁİ½Åガ北京हि",
            *"\u00ad\u200d\u00a0\u3000e\u0301\u0323\u0307\uff76\uff9e\u1100\u1161\u11a8\u0344\u0f71\u0f72\u09c7\u09be",
        ]
    ),
    st.characters(exclude_categories=["Cs"]),
)


def compared(text: str) -> str:
    return fold(text.translate(INVISIBLE))


@settings(max_examples=400)
@given(st.lists(CHARACTERS, max_size=25).map("".join), st.data())
@example("\u09c7\u09be x", None)
def test_any_span_of_words_is_found_where_it_is_first(text: str, data: st.DataObject | None) -> None:
    folded = compared(text)
    spans = words(folded)
    if not spans:
        return
    first = 0 if data is None else data.draw(st.integers(0, len(spans) - 1))
    last = first if data is None else data.draw(st.integers(first, len(spans) - 1))
    part = folded[spans[first][0] : spans[last][1]]
    if compared(part) != part:
        return  # a piece of a text may be normalised further than it was within
    held = FoldedText(text)
    span = held.find(part)
    assert held.holds(part) == (span is not None)
    if span is None:
        return
    start, end = span
    assert 0 <= start < end <= len(text)
    assert part in compared(text[start:end])
    # No shorter: without its first or its last character the part is not there.
    assert len(compared(text[start:end])) <= len(part) + 2 * max(
        len(unicodedata.normalize("NFKC", char).casefold()) for char in text[start:end]
    )


def test_a_citation_says_where_it_stands() -> None:
    answer = an_answer("the ferry is run by Ada", [PASSAGE], [(1.0,)])
    (citation,) = answer.citations
    assert citation.verbatim
    assert (citation.quote_start, citation.quote_end) == (0, 24)
    quote = answer.quote(citation)
    assert quote == Quote(0, 24, 10, 34, 3) == answer.quote(citation.supports[0])
    assert fold(SOURCE[10:34]) == fold(citation.text)
    (made,) = answer.to_dict()["citations"]
    keys = ("quote_start", "quote_end", "source_start", "source_end", "page")
    assert [made[key] for key in keys] == [0, 24, 10, 34, 3]  # type: ignore[literal-required]


def test_what_is_not_known_is_none() -> None:
    support = Support(0, "f", 1.0, True, 4, 9)
    assert quote_of(support, replace(PASSAGE, start=None, metadata={})) == Quote(4, 9, None, None, None)
    # The passage is not what stands in its source from `start` to `end`.
    assert quote_of(support, replace(PASSAGE, end=12)) == Quote(4, 9, None, None, 3)
    assert quote_of(support, replace(PASSAGE, end=None)) == Quote(4, 9, 14, 19, 3)
    assert quote_of(replace(support, quote_start=None), PASSAGE) is None
    for page, expected in (("iv", "iv"), (True, None), (2.5, None), ("", None)):
        quote = quote_of(support, replace(PASSAGE, metadata={"page_label": page}))
        assert quote is not None
        assert quote.page == expected


def test_views_tell_quotes_from_other_words() -> None:
    quoted = an_answer("the ferry is run by Ada", [PASSAGE], [(1.0,)])
    other = an_answer("Ada runs the ferry", [PASSAGE], [(1.0,)])
    assert str(quoted).endswith("page 3, 100% of the answer, word for word at 10-34")
    assert "word for word" not in str(other)
    for answer, is_quoted in ((quoted, True), (other, False)):
        page = Page(answer_html(answer))
        cited = page.all("span", "nbce-cite")
        assert cited
        assert all(("nbce-quote" in a["class"].split()) == is_quoted for a, _ in cited)
        assert all(a["title"].count("not word for word") == (not is_quoted) for a, _ in cited)
        assert ("word for word at 10-34" in page.text) == is_quoted
        assert ("not word for word" in page.text) != is_quoted
