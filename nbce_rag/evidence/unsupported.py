"""Numbers and names of an answer that stand in none of the passages that are cited for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..passages import Passage, whole_text
from .content_words import StretchWords, content_words, script_of, skipped_spans
from .evidence import Citation
from .passage_words import PassageWords, words_of
from .units import is_short
from .verbatim import FoldedText

__all__ = ["CitedWords", "UnsupportedReader", "UnsupportedWords", "count_cited_words", "unsupported_words"]


@dataclass(frozen=True, slots=True)
class UnsupportedWords:
    """Words inside of a citation that stand in none of the passages that it names.

    Attributes:
        start: Where they begin in `Answer.text`, in characters.
        end: Where they end; exclusive.
        text: The words themselves.
        passage: Place in `Answer.passages` of the first other passage that was read and in which they stand;
            None if they stand in none.
    """

    start: int
    end: int
    text: str
    passage: int | None


def unsupported_words(
    text: str, citations: Sequence[Citation], passages: Sequence[Passage], is_cut: bool = False
) -> tuple[UnsupportedWords, ...]:
    """The numbers and names (`content_words`) inside of citations that stand in no passage cited there.

    Evidence says which passage made a word likelier than others did, and of several that do not have it one
    always did so most. Whether the word is there at all is looked up: `PassageWords`, over text and title.
    That a word stands in a passage does not say that the passage supports what the answer says of it. A word
    of the question counts like any other: passages stand for answers, questions do not.

    A citation that names a passage without text is left out: nothing is known of what stands there.

    Args:
        text: the answer.
        citations: its citations, ordered and disjoint.
        passages: the passages that were read.
        is_cut: whether the text was cut off, so that its last word may be the beginning of one. That is left
            out; in Chinese, Japanese and scripts without spaces, whose words are not told, nothing is.

    Returns:
        Words, ordered and disjoint. Neighbours on one line with nothing but blanks between them are one.
    """
    return UnsupportedReader(passages).push(text, citations, is_cut=is_cut)


class UnsupportedReader:
    """What `unsupported_words` says of an answer that grows, citation by citation.

    Of a long answer a citation is read with what stands before it, so that what follows changes nothing.

    Args:
        passages: the passages that were read.
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._count = len(passages)
        self._lookup = _Lookup(passages)
        self._words = _CitedContent()

    def push(
        self,
        text: str,
        citations: Sequence[Citation],
        *,
        is_cut: bool = False,
        is_long: bool | None = None,
    ) -> tuple[UnsupportedWords, ...]:
        """Words in further citations, which stand behind those of earlier calls.

        Args:
            text: the answer so far.
            citations: the further ones.
            is_cut: as in `unsupported_words`.
            is_long: whether the whole answer is no short fact; None tells it from the text so far.
        """
        result: list[UnsupportedWords] = []
        for citation, spans in self._words.of(text, citations, is_cut, is_long):
            found: list[UnsupportedWords] = []
            for start, end in spans:
                for one in self._absent(text, start, end, self._lookup.places(citation)):
                    if found and _are_one(text, found[-1], one):
                        before = found.pop()
                        one = replace(one, start=before.start, text=text[before.start : one.end])
                    found.append(one)
            result += found
        return tuple(result)

    def _absent(self, text: str, start: int, end: int, named: Sequence[int]) -> Iterator[UnsupportedWords]:
        """What of a word stands in none of the passages that are cited for it."""
        word = text[start:end]
        for first, last in self._lookup.absent(word, named) if named else ():
            missing = word[first:last]
            others = (
                k for k in range(self._count) if k not in named and not self._lookup.absent(missing, [k])
            )
            yield UnsupportedWords(start + first, start + last, missing, next(others, None))


def _are_one(text: str, before: UnsupportedWords, one: UnsupportedWords) -> bool:
    """Whether words of one citation are shown together: on one line, with blanks between."""
    between = text[before.end : one.start]
    return before.passage == one.passage and not between.strip() and "\n" not in between


class CitedWords(NamedTuple):
    """How many numbers and names stand inside of citations, and where they come from.

    Attributes:
        all: those that were looked up.
        standing: those that stand in a passage cited there, in some form; the others are unsupported.
        verbatim: those of them that stand there letter by letter, but for case and width.
    """

    all: int
    standing: int
    verbatim: int


def count_cited_words(
    text: str, citations: Sequence[Citation], passages: Sequence[Passage], is_cut: bool = False
) -> CitedWords:
    """Counts what `unsupported_words` looks up. Arguments are the same."""
    lookup = _Lookup(passages)
    total = standing = verbatim = 0
    for citation, spans in _CitedContent().of(text, citations, is_cut, None):
        named = lookup.places(citation)
        for start, end in spans if named else ():
            word = text[start:end]
            total += 1
            if not lookup.absent(word, named):
                standing += 1
                verbatim += any(lookup.is_verbatim(word, place) for place in named)
    return CitedWords(total, standing, verbatim)


class _Lookup:
    """Words of passages, by the passages' places."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._words: dict[int, PassageWords] = {}
        self._folded: dict[int, FoldedText] = {}

    def words(self, place: int) -> PassageWords:
        """The words of a passage's title and text."""
        if place not in self._words:
            self._words[place] = words_of(whole_text(self._passages[place]))
        return self._words[place]

    def is_verbatim(self, word: str, place: int) -> bool:
        """Whether a passage's title or text has a word letter by letter, but for case and width.

        Titles of pages have underscores for blanks ("Super_Bowl_50").
        """
        if place not in self._folded:
            passage = self._passages[place]
            title = (passage.title or "").replace("_", " ")
            self._folded[place] = FoldedText(f"{title}\n{whole_text(passage)}")
        return self._folded[place].holds(word)

    def places(self, citation: Citation) -> list[int]:
        """The passages that a citation names; of those that share an id all, and none if one has no text."""
        count = len(self._passages)
        if not 0 <= citation.passage < count:
            return []  # as `supports_among` has it
        ids = {self._passages[one.passage].id for one in citation.supports if 0 <= one.passage < count}
        places = [place for place, passage in enumerate(self._passages) if passage.id in ids]
        return places if all(self._passages[place].text for place in places) else []

    def absent(self, word: str, places: Sequence[int]) -> list[tuple[int, int]]:
        """What of a word stands in none of some passages: the least that is missing in one of them."""
        least: list[tuple[int, int]] = [(0, len(word))]
        for place in places:
            missing = self.words(place).absent(word)
            if not missing:
                return []
            least = min(least, missing, key=lambda spans: sum(end - start for start, end in spans))
        return least


class _CitedContent:
    """The numbers and names inside of citations, in their order."""

    def __init__(self) -> None:
        self._words = StretchWords()
        self._end = 0  # up to where the answer is read

    def of(
        self, text: str, citations: Iterable[Citation], is_cut: bool, is_long: bool | None
    ) -> Iterator[tuple[Citation, list[tuple[int, int]]]]:
        """Further citations with the spans of their words."""
        is_long = not is_short(text) if is_long is None else is_long
        skipped = skipped_spans(text) if is_long else []
        spans = [] if is_long else content_words(text)
        for citation in citations:
            start, end = citation.start, citation.end
            if is_long:
                self._words.read(text, self._end, start, skipped)
                inside = self._words.read(text, start, end, skipped)
                self._end = end
            else:
                inside = [span for span in spans if start <= span[0] and span[1] <= end]
            if is_cut and inside and _goes_on(text, *inside[-1]):
                inside.pop()
            yield citation, inside


def _goes_on(text: str, start: int, end: int) -> bool:
    """Whether a word may go on behind the end of a text: nothing follows it, or what joins words."""
    is_spaced = script_of(text[start:end]) in ("cased", "uncased")
    return is_spaced and not text[end:].strip("-\u2010\u2011'\u2019,")
