"""Numbers and names of an answer that stand in no passage that is cited for them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from view_tools import Page, a_citation, an_answer

from nbce_rag.answers.answer import Answer
from nbce_rag.evidence.content_words import content_words
from nbce_rag.evidence.evidence import Support
from nbce_rag.evidence.numerals import is_numeral, number_keys
from nbce_rag.evidence.passage_words import PassageWords
from nbce_rag.evidence.quantities import quantities
from nbce_rag.evidence.unsupported import UnsupportedWords, count_cited_words, unsupported_words
from nbce_rag.evidence.words import words
from nbce_rag.passages import Passage
from nbce_rag.view import answer_html

MANUAL = Passage(
    "Drawn by Runa Tolliver at the Brennick yard in 1,907. "
    "The sluice takes seven turns; the 3rd gate is new.",
    id="manual",
    title="Tide Engine Mark IV",
)
LEDGER = Passage("The Olluvane ledger of 1908 names Hathmoor.", id="ledger")
ANSWER = an_answer("Runa Tolliver, Brennick yard, 1908", [MANUAL, LEDGER], [(0.9, 0.1)])


def held(text: str) -> list[str]:
    return [text[start:end] for start, end in content_words(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("it is so, of course", []),
        ("Runa Tolliver, Brennick yard, 1908", ["Runa", "Tolliver", "Brennick", "1908"]),
        ("The Mark IV of 1,908", ["Mark", "IV", "1,908"]),
        ("seven turns, and the 3rd gate", ["seven", "3rd"]),
        ("one of them was the second", []),
        ("I don't know", []),
        ("NATO and iPhone", ["NATO", "iPhone"]),
        ("Die Brücke steht seit 1874", ["Brücke", "1874"]),
        ("Санкт-Петербург стоит на Неве", ["Санкт-Петербург", "Неве"]),
        ("龙塔娃,一九〇八年", ["龙塔娃", "一九〇八年"]),
        ("เมืองหลวง", ["เมืองหลวง"]),
        ("서울은 큰 도시입니다", ["서울은", "도시입니다"]),
        ('{"Name": "Runa", "Year": 1908}', ["Runa", "1908"]),
        ("use `Client` or 5", ["5"]),
        ('{"text": "Oslo\\nBergen\\tAlta\\u00e9n Caf\\u00e9"}', ["Oslo", "Bergen"]),
        ("three hundred and five turns", ["three hundred and five"]),
        ("2.5 million, or twenty one", ["2.5 million", "twenty one"]),
        ("共20万人", ["20万"]),
        ("1. Ferries leave at 7.\n2) Oslo\n3、龙塔娃", ["7", "Oslo", "龙塔娃"]),
        ("15.", ["15"]),
    ],
)
def test_numbers_and_names(text: str, expected: list[str]) -> None:
    assert held(text) == expected


def test_a_capital_that_begins_a_sentence_and_stands_within_another_counts() -> None:
    text = "Fenwick ran the ferry for many years. Nobody but Fenwick knew of it. Boats came, and boats went."
    assert held(text) == ["Fenwick", "Fenwick"]


def test_what_only_gives_an_answer_its_form_says_nothing() -> None:
    text = (
        "Don't open it.\n1. Take the key.\n**Step 2:** Go to Brennick.\n\n"
        "| Name | Year |\n|:-----|-----:|\n| Yawl | 1931 |\n"
    )
    assert held(text) == ["Brennick", "Yawl", "1931"]


def test_a_capital_that_only_begins_a_sentence_says_nothing_in_a_longer_text() -> None:
    text = (
        "Locating the yard took the surveyors a while. Surveyors of Brennick were helped by Dr. Hale, "
        "who knew it.\n- Ferries ran daily.\n- Ada Fenwick ran them."
    )
    assert held(text) == ["Brennick", "Dr", "Hale", "Ada", "Fenwick"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000", "1000"),
        ("1\u202f000", "1000"),
        ("1.000", "1,000"),
        ("3rd", "third"),
        ("seven", "7"),
        ("Twenty-one", "21"),
        ("IV", "4"),
        ("1,317.50", "1317.5"),
        ("3,5", "3.5"),
        ("７", "7"),
        ("\u0661\u0669\u0660\u0668", "1908"),
        ("一九〇八", "1908"),
        ("三百二十", "320"),
        ("007", "7"),
        ("二十万三千", "203000"),
        ("一亿二千万", "120000000"),
        ("三万亿", "3000000000000"),
    ],
)
def test_one_number_in_two_forms(one: str, other: str) -> None:
    assert number_keys(one) & number_keys(other)


@pytest.mark.parametrize(
    ("one", "other"), [("15", "2015"), ("3.5", "35"), ("1.3", "13"), ("1907", "1908"), ("II", "11")]
)
def test_two_numbers(one: str, other: str) -> None:
    assert number_keys(one)
    assert not number_keys(one) & number_keys(other)


@given(st.integers(0, 10**9))
def test_figures_are_one_number_with_any_separators(value: int) -> None:
    for form in (f"{value}", f"{value:,}", f"{value:,}".replace(",", "\u00a0"), f"0{value}"):
        assert str(value) in number_keys(form)
        assert is_numeral(form)


@pytest.mark.parametrize(
    "word",
    [
        "Runa", "RUNA", "Ｒｕｎａ", "Rúna", "Tollivers", "Tolliver's", "Brennick", "1907", "1,907", "7",
        "Seven", "third", "3", "IV", "4", "Mark-IV", "sluices", "1907s",
    ],
)  # fmt: skip
def test_a_word_stands_in_a_passage_in_any_form(word: str) -> None:
    assert PassageWords(f"{MANUAL.title}\n{MANUAL.text}").absent(word) == []


@pytest.mark.parametrize(
    ("passage", "word"),
    [
        ("takes three hundred turns", "300"),
        ("takes 300 turns", "three hundred"),
        ("2,500,000 people", "2.5 million"),
        ("some 2.5 million people", "2,500,000"),
        ("in nineteen eighty", "1980"),
        ("200,000 people", "二十万"),
        ("200,000 people", "20万"),
        ("at 10:30", "10.30"),
        ("the war of 1914-1918", "1914-18"),
        ("the war of 1914\u201318", "1918"),
        ("a grey wolf", "Wolves"),
        ("grey wolves", "Wolf"),
        ("the city", "Cities"),
        ("one cat", "Cats"),
        ("the Bren\u00adnick yard", "Brennick"),
        ("the Bren-\nnick yard", "Brennick"),
        ("the Brennick yard", "Bren\u200bnick"),
        ("in Lodz", "Łódź"),
        ("Hans Ørsted", "Orsted"),
        ("Herr Mueller", "Müller"),
        ("Herr Müller", "Mueller"),
        ("the U.S.A. and its navy", "USA"),
        ("القاهرة", "والقاهرة"),
        ("المهندس", "للمهندس"),
        ("הספר", "ספר"),
    ],
)
def test_a_word_stands_in_a_passage_that_writes_it_otherwise(passage: str, word: str) -> None:
    assert PassageWords(passage).absent(word) == []


@pytest.mark.parametrize(
    ("passage", "word"),
    [
        ("takes 300 turns", "three thousand"),
        ("takes three turns, a hundred times", "300"),
        ("on 2020-05-12", "2005"),
        ("at 10:30", "10.31"),
        ("Jon came", "Jones"),
        ("200 people", "20万"),
    ],
)
def test_what_looks_like_it_does_not(passage: str, word: str) -> None:
    assert PassageWords(passage).absent(word) == [(0, len(word))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one hundred and twenty", {"120"}),
        ("two thousand and five", {"2005"}),
        ("nineteen hundred", {"1900"}),
        ("twenty twelve", {"2012"}),
        ("One Million Two Hundred Thousand", {"1200000"}),
        ("1.317 million", {"1317000", "1317000000"}),
        ("3.5亿", {"350000000"}),
        ("three four", None),
        ("one two three four", None),
        ("five hundredth", None),
        ("1,2,3 million", None),
        ("seven", None),
        ("zero hundred", None),
        ("hundred and five", {"105"}),
        ("thousand and one", {"1001"}),
        ("million thousand", None),
    ],
)
def test_numbers_of_several_words(text: str, expected: set[str] | None) -> None:
    assert [(one.start, one.end, one.keys) for one in quantities(text)] == (
        [(0, len(text), frozenset(expected))] if expected else []
    )


def test_quantities_of_a_text_in_the_middle_of_others() -> None:
    text = "9 million and 5 thousand; in 20万 years"
    assert [text[one.start : one.end] for one in quantities(text)] == ["9 million", "5 thousand", "20万"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Runa Tolliver, Bro", []),
        ("Runa Tolliver, 19", []),
        ("Runa Tolliver, 19,", []),
        ("Oslo, Bro", ["Oslo"]),
        ("Runa Tolliver, Bro.", ["Bro"]),
        ("Runa Tolliver, 王小明", ["王小明"]),
    ],
)
def test_a_word_that_the_limit_cut_off_is_not_held_against_anyone(text: str, expected: list[str]) -> None:
    whole = an_answer(text, [MANUAL], [(1.0,)])
    cut = replace(whole, finish_reason="length")
    assert [word.text for word in cut.unsupported] == expected
    assert len(whole.unsupported) >= len(expected)
    counted = count_cited_words(text, cut.citations, cut.passages, is_cut=True)
    assert counted.all - counted.standing == len(expected)


def test_each_passage_is_read_once_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    init = PassageWords.__init__

    def read(self: PassageWords, text: str) -> None:
        reads.append(text)
        init(self, text)

    monkeypatch.setattr(PassageWords, "__init__", read)
    passages = [Passage(f"Nothing of it, {place}.", id=f"{place}") for place in range(200)]
    text = " ".join(f"Oslo{place}" for place in range(50))
    answer = an_answer(text, passages, [[1.0] + [0.0] * 199])
    assert answer.unsupported
    assert len(reads) == len(set(reads)) <= 200


@pytest.mark.parametrize(
    "word", ["1908", "907", "19", "Runar-Hale", "Tollivan", "Bren", "eight", "V", "Sluicegate", "8th"]
)
def test_another_word_does_not(word: str) -> None:
    assert PassageWords(f"{MANUAL.title}\n{MANUAL.text}").absent(word) == [(0, len(word))]


@pytest.mark.parametrize(
    ("passage", "word", "expected"),
    [
        ("龙塔娃于1908年设计了潮汐机", "龙塔娃", []),
        ("龙塔娃于1908年设计了潮汐机", "潮汐机的设计", []),
        ("龙塔娃于1908年设计了潮汐机", "龙塔娃和王小明", [(4, 7)]),
        ("龙塔娃于1908年设计了潮汐机", "一九〇八", []),
        ("モーツァルトはザルツブルクで生まれた", "モーツァルト", []),
        ("モーツァルトはザルツブルクで生まれた", "バッハ", [(0, 3)]),
        ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "กรุงเทพมหานคร", []),
        ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เชียงใหม่", [(0, 9)]),
        ("서울은 한국의 수도이다", "서울의", []),
        ("서울은 한국의 수도이다", "부산광역시", [(0, 5)]),
    ],
)
def test_other_scripts(passage: str, word: str, expected: list[tuple[int, int]]) -> None:
    assert PassageWords(passage).absent(word) == expected


def test_what_stands_nowhere_loses_its_mark_and_the_citation_stays() -> None:
    (citation,) = ANSWER.citations
    assert citation.text == "Runa Tolliver, Brennick yard, 1908"
    assert ANSWER.unsupported == (UnsupportedWords(30, 34, "1908", 1),)
    cited = ANSWER.passage_evidence[0]
    letters = sum(end - start for start, end in words(ANSWER.text))
    assert cited.citations == 1
    assert cited.cited == pytest.approx((letters - 4) / letters)
    assert cited.support == pytest.approx(0.9 * 30 / 34)
    alone = replace(ANSWER, passages=(MANUAL, replace(LEDGER, text="Bread.")))
    assert [word.passage for word in alone.unsupported] == [None]


def test_a_word_of_the_question_stands_nowhere_by_that() -> None:
    answer = replace(ANSWER, question="What was drawn in 1908?", passages=(MANUAL, MANUAL))
    assert [word.text for word in answer.unsupported] == ["1908"]


def test_every_passage_that_a_citation_names_counts() -> None:
    (citation,) = ANSWER.citations
    both = replace(citation, others=(Support(1, "ledger", 0.1, False),))
    assert unsupported_words(ANSWER.text, [both], ANSWER.passages) == ()
    copies = (MANUAL, replace(LEDGER, id="manual"))
    assert unsupported_words(ANSWER.text, [citation], copies) == ()  # they share an id


def test_nothing_is_held_against_passages_without_text_and_citations_of_none() -> None:
    assert replace(ANSWER, passages=(Passage("", id="manual"), LEDGER)).unsupported == ()
    gone = a_citation(ANSWER.text, 0, 34, 7, "gone")
    assert unsupported_words(ANSWER.text, [gone], ANSWER.passages) == ()
    assert unsupported_words(ANSWER.text, [], ANSWER.passages) == ()
    assert unsupported_words("", [], []) == ()


def test_neighbours_are_one_and_others_apart() -> None:
    text = "Tom Hale, Runa, Ida Vole"
    answer = an_answer(text, [MANUAL], [(1.0,)])
    assert [word.text for word in answer.unsupported] == ["Tom Hale", "Ida Vole"]
    apart = an_answer("of 1908\n1909 too", [MANUAL], [(1.0,)])
    assert [word.text for word in apart.unsupported] == ["1908", "1909"]


def test_underscores_of_a_title_are_blanks() -> None:
    page = Passage("The city lies in a valley.", id="page", title="Fresno,_California")
    answer = an_answer("Fresno, California", [page], [(1.0,)])
    assert count_cited_words(answer.text, answer.citations, answer.passages) == (2, 2, 2)


def test_counts_of_what_is_looked_up() -> None:
    answer = an_answer("Runa Tolliver, 7 turns, 1908", [MANUAL], [(1.0,)])
    assert count_cited_words(answer.text, answer.citations, answer.passages) == (4, 3, 2)


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_a_year_that_the_model_made_up_over_the_example_texts() -> None:
    files = [EXAMPLES / "corpus" / name for name in ("manual-tide-engine.md", "coinage.md")]
    passages = [Passage(file.read_text("utf-8"), source=file.name) for file in files]
    answer = an_answer("Runa Tolliver, Brennick yard, 1908.", passages, [(1.0, 0.0)])
    assert [(word.text, word.passage) for word in answer.unsupported] == [("1908", None)]


def test_no_answer_to_the_example_questions_loses_its_mark() -> None:
    looked_up = 0
    for line in (EXAMPLES / "corpus-questions.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] not in ("single", "multi"):
            continue  # of the others no one text has the answer
        answer = row["answers"][0]
        spans = content_words(answer)
        looked_up += bool(spans)
        for name in row["gold"]:
            held = PassageWords((EXAMPLES / "corpus" / name).read_text("utf-8"))
            assert not [answer[a:b] for a, b in spans if held.absent(answer[a:b])], (answer, name)
    assert looked_up > 60


TEXTS = st.lists(
    st.sampled_from(
        ["Runa", "runa", "1,907", "1908", "seven", "the", "龙塔娃", "Übel", "Oslo", "3rd", ",", "\n"]
    ),
    max_size=9,
).map(" ".join)


@given(TEXTS, st.lists(TEXTS.filter(str.strip), min_size=1, max_size=3), st.integers(0, 2))
def test_it_agrees_with_a_slow_account(text: str, texts: list[str], place: int) -> None:
    passages = [Passage(one, id=str(k)) for k, one in enumerate(texts)]
    answer = an_answer(text, passages, [[float(k == place % len(texts)) for k in range(len(texts))]])
    for word in answer.unsupported:
        assert word.text == text[word.start : word.end] != ""
        assert any(c.start <= word.start and word.end <= c.end for c in answer.citations)
        named = next(c for c in answer.citations if c.start <= word.start < c.end)
        for one in named.supports:
            for part in word.text.split():
                assert not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", passages[one.passage].text)
    gone = {at for word in answer.unsupported for at in range(word.start, word.end)}
    for citation in answer.citations:
        for start, end in words(citation.text):
            begin = citation.start + start
            if begin not in gone and text[begin].isdigit():
                part = text[begin : citation.start + end]
                keys = {
                    key
                    for one in citation.supports
                    for word in passages[one.passage].text.split()
                    for key in number_keys(word)
                }
                assert number_keys(part) & keys


def spans(answer: Answer) -> list[tuple[str, str, str]]:
    return [
        (part, attributes["class"], attributes["title"])
        for attributes, part in Page(answer_html(answer)).all("span", "nbce-t")
    ]


def test_the_page_carves_them_out_and_says_so() -> None:
    cited = [part for part, classes, _ in spans(ANSWER) if "nbce-cite" in classes.split()]
    assert "".join(cited) == "Runa Tolliver, Brennick yard, "
    ((part, _, title),) = [one for one in spans(ANSWER) if "nbce-absent" in one[1].split()]
    assert part == "1908"
    assert title.startswith("Not in the passages cited for it, but in [2].")
    alone = an_answer(ANSWER.text, [MANUAL], [(1.0,)])
    assert "Not in the passages: 1908." in Page(alone.to_html()).all("p", "nbce-note")[0][1]


def test_the_terminal_says_so_below_the_answer() -> None:
    alone = an_answer(ANSWER.text, [MANUAL], [(1.0,)])
    assert str(alone).splitlines()[:2] == [f"{ANSWER.text}[1]", "Not in the passages: 1908."]
    assert str(ANSWER).splitlines()[1] == "Not in the passages cited for it, but in [2]: 1908."


def test_the_report_has_them() -> None:
    (word,) = ANSWER.to_dict()["unsupported"]
    assert word == {"start": 30, "end": 34, "text": "1908", "context_index": 1}


def test_the_picture_has_a_star() -> None:
    pytest.importorskip("matplotlib")
    below = ANSWER.plot().axes[1]
    assert [label.get_text() for label in below.get_xticklabels()][-1] == "1908*"
    assert "not in the passages" in below.get_xlabel()
