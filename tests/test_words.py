"""Searching for words: ways of writing one word find each other, in both directions."""

from __future__ import annotations

import sqlite3
import time
import unicodedata
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_tools import ANIMALS, bag_of_words, ids
from postgres_tools import with_index

from nbce_rag.errors import IndexDamagedError
from nbce_rag.folding import folded
from nbce_rag.index import PassageIndex
from nbce_rag.index.sqlite import schema
from nbce_rag.index.sqlite.words import index_text, match_expression
from nbce_rag.index.words import query_terms
from nbce_rag.passages import Passage

SAME = {
    "case": ("FERRY", "ferry"),
    "composed": ("caf\u00e9", "cafe\u0301"),
    "without its accent": ("café", "cafe"),
    "several accents": ("Tiếng", "tieng"),
    "tilde": ("mañana", "manana"),
    "cedilla": ("façade", "facade"),
    "ring": ("Ångström", "angstrom"),
    "angstrom sign": ("\u212bngstrom", "ångström"),
    "stroke": ("smørrebrød", "smorrebrod"),
    "Polish l": ("Łódź", "lodz"),
    "crossed d": ("Đurđevac", "durdevac"),
    "ae": ("Cæsar", "caesar"),
    "oe": ("œuvre", "oeuvre"),
    "thorn": ("Þór", "thor"),
    "sharp s": ("Straße", "STRASSE"),
    "capital sharp s": ("STRA\u1e9eE", "straße"),
    "long s": ("Wach\u017ftube", "Wachstube"),
    "Turkish dotted I": ("İstanbul", "istanbul"),
    "Turkish dotless i": ("Diyarbakır", "DIYARBAKIR"),
    "ligature fi": ("\ufb01nal", "final"),
    "ligature ffl": ("ba\ufb04e", "baffle"),
    "ligature st": ("\ufb06rong", "strong"),
    "full width": ("\uff26\uff45\uff52\uff52\uff59", "ferry"),
    "full-width digits": ("\uff12\uff10\uff12\uff14", "2024"),
    "small capitals of mathematics": ("\U0001d405erry", "ferry"),
    "soft hyphen": ("har\u00adbour", "harbour"),
    "soft hyphen at a line's end": ("har\u00ad\nbour", "harbour"),
    "hyphen at a line's end": ("har-\nbour", "harbour"),
    "hyphen at a line's end of Windows": ("har-\r\n  bour", "harbour"),
    "true hyphen at a line's end": ("har\u2010\nbour", "harbour"),
    "zero-width space": ("har\u200bbour", "harbour"),
    "zero-width joiner": ("har\u200dbour", "harbour"),
    "word joiner": ("har\u2060bour", "harbour"),
    "byte order mark": ("\ufeffharbour", "harbour"),
    "mark of direction": ("\u200eharbour\u202c", "harbour"),
    "no-break space": ("the\u00a0ferry", "ferry"),
    "no-break hyphen": ("well\u2011known", "well-known"),
    "formula": ("H\u2082O", "H2O"),
    "unit": ("km\u00b2", "km2"),
    "power": ("10\u2076", "10^6"),
    "footnote": ("harbour\u00b9", "harbour"),
    "fraction": ("3\u00bd", "3 1/2"),
    "trade mark": ("Ferry\u2122", "ferry"),
    "Roman numeral": ("\u2163", "IV"),
    "Greek final sigma": ("ΟΔΟΣ", "οδός"),
    "Greek accents": ("Αθήνα", "ΑΘΗΝΑ"),
    "old Greek": ("ἄνθρωπος", "ανθρωποσ"),
    "Russian yo": ("ёлка", "елка"),
    "Russian stress": ("за\u0301мок", "замок"),
    "Cyrillic composed": ("\u0439од", "\u0438\u0306од"),
    "Arabic vowel signs": ("كِتَابٌ", "كتاب"),
    "Arabic tatweel": ("كـــتاب", "كتاب"),
    "Arabic alef": ("أحمد", "احمد"),
    "Arabic teh marbuta": ("مدرسة", "مدرسه"),
    "Arabic presentation forms": ("\ufefb", "لا"),
    "Persian yeh and kaf": ("کتابی", "كتابي"),
    "Persian non-joiner": ("می\u200cروم", "میروم"),
    "Arabic digits": ("١٩٩٠", "1990"),
    "Hebrew vowel signs": ("שָׁלוֹם", "שלום"),
    "Hebrew presentation forms": ("\ufb2a\u05dcום", "שלום"),
    "Hindi": ("हिन्दी", "हिन्दी"),
    "Hindi nukta": ("\u0958लम", "कलम"),
    "Hindi chandrabindu": ("चाँद", "चांद"),
    "Hindi digits": ("२०२४", "2024"),
    "Bengali composed": ("\u09dc", "\u09a1\u09bc"),
    "Tamil vowel in parts": ("\u0b95\u0bca", "\u0b95\u0bc6\u0bbe"),
    "Malayalam chillu": ("അവ\u0d7b", "അവ\u0d28\u0d4d\u200d"),
    "Korean letters": (unicodedata.normalize("NFD", "한국어"), "한국어"),
    "half-width katakana": ("\uff76\uff9e\uff72\uff84\uff9e", "ガイド"),
    "kana with a mark apart": ("か\u3099いど", "がいど"),
    "Chinese compatibility": ("\uf9d1年", "六年"),
    "Thai sara am": ("น\u0e33", "น\u0e4d\u0e32"),
}
DIFFERENT = {
    "power": ("10\u2076", "106"),
    "fraction": ("3\u00bd", "31"),
    "Russian short i": ("й", "и"),
    "Ukrainian yi": ("їжак", "іжак"),
    "Hindi words with one consonant": ("कि", "का"),
    "Hindi word and its first letter": ("हिन्दी", "ह"),
    "parts of a broken word": ("har-\nbour", "arbour"),
    "kana with and without a mark": ("がいど", "かいと"),
    "Thai vowel": ("กา", "กี"),
}


@pytest.fixture(scope="module", params=["folder", "postgres"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    """An index in which each word of the table stands once, written either way."""
    place: Path | str = tmp_path_factory.mktemp("words") / "index"
    if request.param == "postgres":
        place = with_index(request.getfixturevalue("postgres_server"), "words")
    index = PassageIndex.create(place, bag_of_words)
    index.add(
        Passage(f"x {text} x", id=f"{table}/{name}/{side}")
        for table, pairs in (("same", SAME), ("different", DIFFERENT))
        for name, pair in pairs.items()
        for side, text in enumerate(pair)
    )
    return index


@pytest.mark.parametrize("name", SAME)
def test_two_ways_of_writing_find_each_other(written: PassageIndex, name: str) -> None:
    for text in SAME[name]:
        found = set(ids(written.search(text, k=200, mode="words")))
        assert found >= {f"same/{name}/0", f"same/{name}/1"}, text


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_another_word_is_not_found(written: PassageIndex, name: str) -> None:
    for side, text in enumerate(DIFFERENT[name]):
        found = set(ids(written.search(text, k=200, mode="words")))
        assert f"different/{name}/{side}" in found
        assert f"different/{name}/{1 - side}" not in found


def test_both_parts_of_a_broken_word_are_found_too(written: PassageIndex) -> None:
    assert "same/hyphen at a line's end/0" in ids(written.search("bour", k=200, mode="words"))


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_found_by_any_of_its_words(before: str, after: str) -> None:
    text = f"{before} {after}"
    with closing(sqlite3.connect(":memory:")) as connection:
        schema.create_words(connection)
        schema.put_words(connection, 1, None, text)
        terms = query_terms(text)
        expression = match_expression(terms)
        if terms:
            found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,))
            assert found.fetchall() == [(1,)]
        # Taken out again, nothing is left of it.
        connection.execute(
            "INSERT INTO words(words, rowid, title, text) VALUES ('delete', 1, '', ?)", (index_text(text),)
        )
        assert connection.execute("SELECT count(*) FROM words_docsize").fetchone()[0] == 0
        if terms:
            found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,))
            assert found.fetchall() == []


@pytest.mark.parametrize("unit", ["a", "-\n", "\u00ad\n", "10\u2076", "é-\n", "-", "\u0301", "水", "- "])
def test_folding_takes_time_in_proportion(unit: str) -> None:
    start = time.perf_counter()
    folded(unit * 300_000)
    assert time.perf_counter() - start < 5


def test_a_query_of_many_words_is_cut() -> None:
    expression = match_expression(query_terms(" ".join(f"word{n}" for n in range(5000))))
    assert expression.count(" OR ") == 999


@pytest.mark.parametrize(
    "how",
    [
        "DELETE FROM words_data WHERE id > 10",
        "UPDATE words_data SET block = zeroblob(length(block)) WHERE id > 10",
        "DELETE FROM words_data",
        "DROP TABLE words_data",
        "DELETE FROM words_idx",
        "DELETE FROM words_config",
        "DELETE FROM words_docsize",
    ],
)
def test_damaged_words_are_found_by_a_check_and_made_anew(tmp_path: Path, how: str) -> None:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add(Passage(f"the ferry number {n} word{n}", id=f"p{n}") for n in range(400))
    with closing(sqlite3.connect(tmp_path / "index" / "passages.sqlite")) as connection, connection:
        connection.execute(how)
    with PassageIndex.open(tmp_path / "index", bag_of_words) as index:
        (problem,) = index.check().problems
        assert "--rebuild" in problem
        with suppress(IndexDamagedError):
            index.search("word7", mode="words")
        index.rebuild()
        assert index.check().ok
        assert ids(index.search("word7", mode="words")) == ["p7"]


def test_words_of_an_older_index_are_made_anew(tmp_path: Path) -> None:
    with PassageIndex.create(tmp_path / "index", bag_of_words) as index:
        index.add([*ANIMALS, Passage("die Straße", id="street")])
    with closing(sqlite3.connect(tmp_path / "index" / "passages.sqlite")) as connection, connection:
        connection.execute("DROP TABLE words")
        connection.execute(
            "CREATE VIRTUAL TABLE words USING fts5(title, text, content = '', "
            "tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        connection.executemany(
            "INSERT INTO words(rowid, title, text) VALUES (?, ?, ?)",
            connection.execute("SELECT key, coalesce(title, ''), text FROM passages").fetchall(),
        )
        connection.execute("PRAGMA user_version = 2")
    with PassageIndex.open(tmp_path / "index", bag_of_words) as index:
        assert ids(index.search("STRASSE", mode="words")) == ["street"]
        assert index.check().ok
        index.delete("street")
        assert index.search("STRASSE", mode="words") == []
        assert index.check().ok
