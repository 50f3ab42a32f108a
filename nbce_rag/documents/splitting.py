"""Splitting text into overlapping passages at paragraph and sentence ends, for any language.

Nothing is rewritten: a passage is a span of the text, and everything but whitespace is in some span.
The text is first taken apart into pieces (sentences; parts of those that are too long), each of
which is counted once, and the pieces are then packed into passages. The rows of a pipe table are pieces too,
and a passage that begins among them takes the table's head along (`nbce_rag.documents.table_heads`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..checks import check_count
from ..errors import InputError
from ..passages import Passage
from .packing import Piece, pack
from .table_heads import TableHeads

__all__ = ["approximate_tokens", "split_document", "split_sentences", "split_text"]

TokenCounter = Callable[[str], int]
Span = tuple[int, int]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(
    r"[A-Za-z_\u00c0-\u024f]{1,6}"  # Latin script: up to six letters
    rf"|[{_CJK}]"  # a Chinese, Japanese or Korean character
    rf"|[^\x00-\x7f\s\u00c0-\u024f{_CJK}]{{1,3}}"  # any other script, and emoji: up to three
    r"|\S"  # a digit, a punctuation mark
)
# An end of sentence with the quotes and brackets that close after it. It is matched without looking
# at what follows, so that a long row of dots is passed over once and not once for every dot.
_CLOSERS = "\"'\u2019\u201d\u00bb)\\]}\u300d\u300f\uff09\u3011\u300b\u3009\uff02"
_WIDE_ENDS = "\u3002\uff01\uff1f\uff61"  # no space follows these
_ENDS = (
    f".!?\u2026\u203c\u2047-\u2049\u061f\u06d4\u0964\u0965\u0589\u1362\u1367\u104b\u17d4\u17d5{_WIDE_ENDS}"
)
_SENTENCE_END = re.compile(f"([{_ENDS}]+)[{_CLOSERS}]*")
_WIDE = re.compile(f"[{_WIDE_ENDS}]")
_LAST_WORD = re.compile(r"[\w.]*\Z")
# Words that are written with a full stop and followed by a capital or a number.
_ABBREVIATIONS = """
    abs al approx art ave bd bzw ca cf ch col dept dr e.g ed eds eq etc fig gen hr hrsg i.e jr lt m.e mme mr
    mrs ms mt no nos nr op p pp prof rev s sec sen sgt sr sra st str u.a v vgl viz vol vs z.b
"""
_ABBREVIATION_SET = frozenset(_ABBREVIATIONS.split())
# How a sentence that is too long is taken apart, coarse to fine; characters come last.
_FINER = (
    re.compile(r"[^\r\n\v\f\x85\u2028\u2029]+"),  # lines
    # Clauses. Possessive (++, *+) throughout: what has been matched is never tried again.
    re.compile(
        "(?:[^,;:\u060c\u061b\u3001\uff0c\uff1b\uff1a]++|[,;:\u060c\u061b](?!\\s))*+"
        "[,;:\u060c\u061b\u3001\uff0c\uff1b\uff1a]?+"
    ),
    re.compile("[^\\s\u200b]++\u200b*+|\u200b++"),  # words; Khmer and Thai may mark theirs by U+200B
)


def approximate_tokens(text: str) -> int:
    """The default counter: tokens that a typical vocabulary needs for `text`, from its characters alone.

    One token for each up to six Latin letters of a word, for each Chinese, Japanese or Korean
    character, for each up to three neighbouring characters of another script, for each digit and
    for each punctuation mark; none for whitespace. Meant to err on the high side.
    """
    return sum(1 for _ in _TOKEN.finditer(text))


def split_text(
    text: str, *, max_tokens: int = 200, overlap: int = 32, count_tokens: TokenCounter | None = None
) -> list[Span]:
    """Splits a text into passages of at most `max_tokens`, at paragraph ends, then at sentence ends.

    A sentence of more than `max_tokens` is cut at line ends, then clauses, words, characters; so is a row of
    a pipe table, and one that begins a passage leaves room for the head of its table. The time is linear in
    the length of the text.

    Args:
        text: Any text; it is not changed.
        max_tokens: The most tokens of a passage. Only a single character (with its combining marks,
            where they fit) that alone has more tokens is over it.
        overlap: The most tokens that a passage repeats from the end of the one before. Whole sentences
            are repeated (or whole parts of one that was cut), so none when the last is longer.
        count_tokens: Counts the tokens of a string, best without special tokens; default
            `approximate_tokens`. Called once for each sentence and a few times for each passage.

    Returns:
        Spans (start, end) with both ends strictly increasing, none empty and none with whitespace at
        its ends; every character that is not whitespace is in one. Empty for a blank text.

    Raises:
        InputError: `max_tokens` < 1, or `overlap` is negative or not below `max_tokens`.
    """
    check_window(max_tokens, overlap)
    count = count_tokens or approximate_tokens
    return _split(text, max_tokens, overlap, count, TableHeads(text, max_tokens, count))


def split_document(
    text: str,
    *,
    title: str | None = None,
    source: str | None = None,
    max_tokens: int = 200,
    overlap: int = 32,
    count_tokens: TokenCounter | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> list[Passage]:
    """Splits a text as `split_text` does, into passages that know their title, source, span and metadata.

    The title is not counted. Each passage gets a copy of `metadata`, and its id from its content.

    A passage that begins within a pipe table has the table's head before its own text, where it fits, and
    its length, with the line of dashes, in `metadata["table_head"]`: behind that many characters the text is
    what stands from `start` to `end`.

    Raises:
        InputError: As `split_text`.
    """
    check_window(max_tokens, overlap)
    count = count_tokens or approximate_tokens
    heads = TableHeads(text, max_tokens, count)
    passages = []
    for start, end in _split(text, max_tokens, overlap, count, heads):
        part, more = text[start:end], dict(metadata or {})
        head = heads.head_at(start)
        if head and count(head + part) <= max_tokens:
            part, more = head + part, {**more, "table_head": len(head)}
        passages.append(Passage(part, title=title, source=source, start=start, end=end, metadata=more))
    return passages


def split_sentences(text: str, most: int) -> list[Span]:
    """Spans of a text's sentences; neighbours are put together where there would be more than `most` spans.

    A sentence never goes over a blank line. Spans are in order and disjoint, none is empty, and every
    character that is not whitespace is in one.
    """
    # Counted as one token each, sentences are pieces that are never taken apart.
    heads = TableHeads("", 1, len)
    spans = [(piece.start, piece.end) for piece in _pieces(text, 1, 0, lambda sentence: 1, heads)]
    size = max(1, -(-len(spans) // most))
    runs = (spans[i : i + size] for i in range(0, len(spans), size))
    return [(run[0][0], run[-1][1]) for run in runs]


def check_window(max_tokens: int, overlap: int) -> None:
    """Raises InputError unless 0 <= overlap < max_tokens."""
    check_count("max_tokens", max_tokens, "100 to 300 suits most documents")
    if not 0 <= overlap < max_tokens:
        raise InputError(
            f"overlap must be at least 0 and below max_tokens ({max_tokens}), got {overlap}: "
            "give a smaller overlap or more max_tokens."
        )


def _trim(text: str, start: int, end: int) -> Span:
    """The span without whitespace at its ends; empty when there is nothing else."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def _paragraphs(text: str) -> Iterator[Span]:
    """Spans between blank lines, form feeds (pages) and paragraph separators."""
    start = 0
    for space in re.finditer(r"\s+", text):
        run = space.group()
        # The sentinel makes the last line end count: a blank line is two line ends, \r\n being one.
        if (len(run) > 1 and len(f"{run}|".splitlines()) > 2) or "\f" in run or "\u2029" in run:
            yield start, space.start()
            start = space.end()
    yield start, len(text)


def _sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """Spans of the sentences in a paragraph. A wrong cut or a missed one costs little, so rules suffice."""
    for mark in _SENTENCE_END.finditer(text, start, end):
        stop = mark.end()
        if stop < end and not _WIDE.search(mark.group(1)):
            if not text[stop].isspace():
                continue  # 3.14, example.org
            # A window of fixed size: looking further would make long lines quadratic.
            if text[stop : min(end, stop + 16)].lstrip()[:1].islower():
                continue  # "Really?" she said.
            if mark.group() == "." and _is_abbreviation(text, start, mark.start()):
                continue
        yield start, stop
        start = stop
    yield start, end


def _is_abbreviation(text: str, start: int, dot: int) -> bool:
    """Whether the full stop at `dot` belongs to an abbreviation, initial or list number."""
    # 40 characters hold every abbreviation; the first word in them may be cut off on the left.
    before = text[max(start, dot - 40) : dot]
    match = _LAST_WORD.search(before)
    word = match.group() if match else ""
    # J. K. Rowling, U.S. Army
    is_initial = word != "I" and all(len(part) == 1 and part.isupper() for part in word.split("."))
    is_list_number = word.isdecimal() and not before.removesuffix(word).strip()
    return is_initial or is_list_number or word.lower() in _ABBREVIATION_SET


def _split(text: str, max_tokens: int, overlap: int, count: TokenCounter, heads: TableHeads) -> list[Span]:
    pieces = list(_pieces(text, max_tokens, overlap, count, heads))
    return pack(text, pieces, max_tokens, overlap, count, heads)


def _units(text: str, start: int, end: int, heads: TableHeads) -> Iterator[Span]:
    """The sentences of a paragraph, and the rows of tables in it."""
    for a, b, is_row in heads.units(start, end):
        if is_row:
            yield a, b
        else:
            yield from _sentences(text, a, b)


def _pieces(
    text: str, max_tokens: int, overlap: int, count: TokenCounter, heads: TableHeads
) -> Iterator[Piece]:
    """All pieces of the text in order, each of at most `max_tokens`."""
    # Characters are cut off in runs that are small against the passage, and no larger than the
    # overlap: a text without any break still fills its passages and overlaps.
    grain = max(1, min(max_tokens // 8, overlap or max_tokens))
    for paragraph in _paragraphs(text):
        opens = True
        for unit in _units(text, *paragraph, heads):
            todo = [(*unit, 0)]
            most = max_tokens - heads.tokens_at(unit[0])
            while todo:
                a, b, level = todo.pop()
                a, b = _trim(text, a, b)
                if a >= b:
                    continue
                tokens = count(text[a:b])
                if tokens <= most or b - a == 1:
                    yield Piece(a, b, tokens, opens)
                    opens = False
                    continue
                if level < len(_FINER):
                    parts = [match.span() for match in _FINER[level].finditer(text, a, b)]
                else:
                    parts = _characters(text, a, b, max(1, (b - a) * grain // tokens))
                todo.extend((*part, level + 1) for part in reversed(parts))


def _characters(text: str, start: int, end: int, size: int) -> list[Span]:
    """Runs of about `size` characters, none the whole span, keeping letters with their marks if it can."""
    parts = []
    begin = start
    while begin < end:
        stop = min(begin + size, end)
        cut = stop
        while begin < cut < end and _attaches(text, cut):
            cut -= 1
        if cut == begin:  # longer than a run: let it stand out
            cut = stop
            while cut < end and _attaches(text, cut):
                cut += 1
        parts.append((begin, cut))
        begin = cut
    if len(parts) > 1:
        return parts
    return [(begin, min(begin + size, end)) for begin in range(start, end, size)]


def _attaches(text: str, position: int) -> bool:
    """Whether the character there belongs to the one before: combining marks, joined emoji, skin tones."""
    character = text[position]
    is_modifier = character == "\u200d" or "\U0001f3fb" <= character <= "\U0001f3ff"
    is_joined = text[position - 1] == "\u200d"
    return is_modifier or is_joined or unicodedata.category(character).startswith("M")
