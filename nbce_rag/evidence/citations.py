"""From evidence for tokens to citations of words, or of sentences, list items and lines of code.

Tokens are the model's units, not the reader's: a name may be four of them, and two of these may be led
by different passages. What a reader's unit is depends on the answer. A short fact is read word by word,
and each of its words may come from elsewhere; in an explanation a run of three words says nothing, and
what is cited is a sentence, an item or a line.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from ..errors import InputError
from ..passages import Passage, whole_text
from .agreement import Agreement
from .evidence import Citation, Support, TokenEvidence
from .identifiers import names_stand
from .quote import quote_of
from .stretch import Stretch
from .unit_evidence import CitedUnits
from .units import Unit, UnitReader, is_short
from .verbatim import FoldedText
from .word_evidence import cited_words

__all__ = ["CitationStream", "cite"]


def cite(
    text: str,
    tokens: Sequence[TokenEvidence],
    passages: Sequence[Passage],
    threshold: float = 0.5,
) -> tuple[Citation, ...]:
    """The citations of an answer, from the evidence for its tokens.

    An answer of one line and fewer than 12 words (of Chinese and Japanese, 24 characters) is short: it is
    cited by words, as `cited_words` says, each citation naming one passage and those that say the same; none
    if a name of code in it does not stand in them. Any other is cited by
    sentences, clauses of long sentences, list items and lines of code, as `CitedUnits` says, and a
    citation may name passages that say different things.

    Passages that say the same (`nbce_rag.evidence.agreement`) count together and are named together, the one
    with most evidence first: the more of them there are, the less each has, and not the less is cited. Those
    that overlap in one source and hold the same words of it are one, and the first of them has the share.

    Args:
        text: The answer.
        tokens: Its tokens, whose spans are in `text`, ordered. Their `weights` are over `passages`.
        passages: The passages. Evidence for those that share an id is added up, and the first of them
            is cited.
        threshold: Least share of the evidence for which something is cited, in [0, 1]; of a unit, for the
            passages that it names together. Above 0.5 no word can be claimed by two passages equally.

    Returns:
        Citations, ordered by start, disjoint, and inside of `text`.

    Raises:
        InputError: `threshold` is not in [0, 1], or a token's weights and `passages` differ in number.
    """
    stream = CitationStream(passages, threshold)
    return (*stream.push(text, tokens), *stream.finish())


class CitationStream:
    """The citations of an answer that grows: each comes as soon as nothing that follows can change it.

    What `push` and `finish` return, in order, is what `cite` returns for the whole answer, however it was cut
    into pieces. Nothing is certain before the answer is known to be long; those of a short one come at its
    end. Then a citation comes behind its stretch: when the next sentence, line or item is known to cite
    other passages, or the paragraph, table or code block has ended (`nbce_rag.evidence.unit_evidence`).

    Args:
        passages, threshold: As in `cite`.

    Raises:
        InputError: `threshold` is not in [0, 1].
    """

    def __init__(self, passages: Sequence[Passage], threshold: float = 0.5) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"the citation threshold is {threshold}; give a share from 0 to 1, such as 0.5")
        self._passages = passages
        self._threshold = threshold
        first_of_id: dict[str, int] = {}
        self._owners = [first_of_id.setdefault(passage.id, place) for place, passage in enumerate(passages)]
        self._texts = [passage.text and whole_text(passage) for passage in passages]
        self._agreement = Agreement(self._texts, [passage.text for passage in passages])
        self._folded: dict[int, FoldedText] = {}
        self._reader = UnitReader()
        self._cited = CitedUnits(self._owners, self._texts, self._agreement, threshold)
        self._is_long = False
        self._next_count = 0  # length of the text at which its words are counted again
        self._units: list[Unit] = []  # while it is short
        self._tokens: list[TokenEvidence] = []

    @property
    def text(self) -> str:
        """The answer so far; "" without passages."""
        return self._reader.text

    def push(self, text: str, tokens: Sequence[TokenEvidence]) -> tuple[Citation, ...]:
        """Take in more of the answer.

        Args:
            text: What follows the text so far.
            tokens: What follows the tokens so far. A token comes with its text or later.

        Returns:
            The citations that are now certain, behind those of earlier calls.

        Raises:
            InputError: a token's weights and the passages differ in number.
        """
        for token in tokens:
            if len(token.weights) != len(self._passages):
                raise InputError(
                    f"token {token.text!r} has {len(token.weights)} weights for {len(self._passages)} "
                    "passages; give the passages that the answer was decoded with, in their order"
                )
        if not self._passages:
            return ()
        self._units += self._reader.push(text)
        self._tokens += tokens
        return self._citations(self._of_units(self._reader.group) if self._has_many_words() else ())

    def finish(self) -> tuple[Citation, ...]:
        """Nothing follows: the rest of the citations."""
        if not self._passages:
            return ()
        text = self._reader.text
        self._units += self._reader.finish()
        if self._is_long or not is_short(text):
            return self._citations(self._of_units(None))
        if not self._units:  # an answer that is one fence has a word, the code's language, and says nothing
            return ()
        return self._citations(
            stretch
            for stretch in cited_words(text, self._tokens, self._owners, self._agreement, self._threshold)
            if _stands(text[stretch.start : stretch.end], [self._texts[place] for place, _ in stretch.shares])
        )

    def _has_many_words(self) -> bool:
        """Whether the answer is known to be long. Its words are not counted for every piece of it."""
        text = self._reader.text
        if not self._is_long and len(text) >= self._next_count:
            self._is_long = not is_short(text)
            self._next_count = len(text) + 1 + len(text) // 8
        return self._is_long

    def _of_units(self, group: int | None) -> list[Stretch]:
        """The stretches of a long answer that are now certain; `group` is the least one to come, if any."""
        units, self._units = self._units, []
        tokens, self._tokens = self._tokens, []
        return self._cited.push(self._reader.text, units, tokens, group)

    def _citations(self, stretches: Iterable[Stretch]) -> tuple[Citation, ...]:
        text = self._reader.text
        return tuple(_citation(text, stretch, self._passages, self._folded) for stretch in stretches)


def _stands(part: str, texts: Sequence[str]) -> bool:
    """Whether no name of code is held against a stretch; of a passage without text nothing is known."""
    return not all(texts) or names_stand(part, texts, camel=False)


def _citation(
    text: str, stretch: Stretch, passages: Sequence[Passage], folded: dict[int, FoldedText]
) -> Citation:
    """A stretch as a citation. `folded` keeps the passages' texts from one stretch to the next."""
    part = text[stretch.start : stretch.end]
    supports = []
    for place, share in stretch.shares:
        if place not in folded:
            folded[place] = FoldedText(passages[place].text)
        quote = folded[place].find(part)
        supports.append(Support(place, passages[place].id, share, quote is not None, *(quote or ())))
    first, *others = _of_one_source(supports, passages)
    return Citation(
        start=stretch.start,
        end=stretch.end,
        text=part,
        passage=first.passage,
        passage_id=first.passage_id,
        share=first.share,
        verbatim=first.verbatim,
        others=tuple(others),
        quote_start=first.quote_start,
        quote_end=first.quote_end,
    )


def _of_one_source(supports: Iterable[Support], passages: Sequence[Passage]) -> list[Support]:
    """The supports, those that quote the same characters of one source as one, the largest share first."""
    merged: dict[Hashable, Support] = {}
    for support in supports:
        quote, source = quote_of(support, passages[support.passage]), passages[support.passage].source
        is_placed = source and quote is not None and quote.source_start is not None
        key: Hashable = (source, quote[2:4]) if is_placed and quote is not None else support.passage
        if key in merged:
            support = replace(merged[key], share=min(merged[key].share + support.share, 1.0))
        merged[key] = support
    return sorted(merged.values(), key=lambda support: (-support.share, support.passage))
