"""The text of an answer as HTML: every word in the colour of its passage, and what is said when one points
at it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from ..evidence.blocks import code_blocks
from ..evidence.evidence import Citation, TokenEvidence
from ..evidence.marks import citation_marks
from ..evidence.passage_evidence import supports_among
from ..evidence.unsupported import UnsupportedWords
from ..passages import Passage
from .labels import clean, name_of, ordinal, shortened
from .style import shade

__all__ = ["spans_html", "text"]


def text(value: str) -> str:
    """Escaped for elements and quoted attributes alike, without characters that HTML has no place for."""
    return escape(clean(value), quote=True)


def spans_html(
    answer: str,
    tokens: Sequence[TokenEvidence],
    citations: Sequence[Citation],
    passages: Sequence[Passage],
    numbers: Mapping[int, int],
    anchor: str = "",
    unsupported: Sequence[UnsupportedWords] = (),
) -> str:
    """The text of an answer with its evidence as colour and title texts, and marks where citations end.

    Line ends stay as they are, and a code block is one element with its fences, so that what is copied
    from the page is what the model wrote; the marks for its lines stand behind it.

    Args:
        answer: the text.
        tokens: their spans are in the text, ordered; stretches that none covers stay plain.
        citations: ordered and disjoint.
        passages: in the order of the tokens' weights; none where they are not known yet.
        numbers: for each index in the tokens' weights the number of that passage.
        anchor: where the marks link to, without the number; "" for no links.
        unsupported: words inside of citations that are not shown as cited.
    """
    count = len(numbers)
    cited = [citation for citation in citations if supports_among(citation, count)]
    placed = {
        mark.at: mark
        for mark in citation_marks(
            answer, [(c.end, [s.passage for s in supports_among(c, count)]) for c in cited]
        )
    }
    code = code_blocks(answer)
    ends = [(token.start, token.end) for token in tokens] + [(c.start, c.end) for c in cited]
    ends += [(word.start, word.end) for word in unsupported]
    # The line end behind a block stands in it, so that it does not show as a line of its own.
    opens = {block.start for block in code}
    closes = {block.end + (block.end not in placed and answer[block.end :][:1] == "\n") for block in code}
    ends += [(at, at) for at in (*opens, *closes, *placed)]
    cuts = sorted({0, len(answer), *(min(max(0, end), len(answer)) for pair in ends for end in pair)})
    html: list[str] = []
    run = ("", "", "")  # opening tag, closing tag, text: equal neighbours share an element

    def flush() -> None:
        nonlocal run
        if run[2]:
            html.append(run[0] + text(run[2]) + run[1])
        run = ("", "", "")

    at_token = at_citation = at_word = 0
    for start, end in pairwise(cuts):
        if start in opens:
            flush()
            html.append('<code class="nbce-code">')
        while at_token < len(tokens) and tokens[at_token].end <= start:
            at_token += 1
        while at_citation < len(cited) and cited[at_citation].end <= start:
            at_citation += 1
        token = tokens[at_token] if at_token < len(tokens) and tokens[at_token].start <= start else None
        inside = at_citation < len(cited) and cited[at_citation].start <= start
        citation = cited[at_citation] if inside else None
        while at_word < len(unsupported) and unsupported[at_word].end <= start:
            at_word += 1
        is_absent = at_word < len(unsupported) and unsupported[at_word].start <= start
        absent = unsupported[at_word] if is_absent else None
        opening, closing = _tag(token, citation, absent, passages, numbers)
        if (opening, closing) != run[:2]:
            flush()
        run = (opening, closing, run[2] + answer[start:end])
        if end in closes or end in placed or (inside and cited[at_citation].end == end):
            flush()
        mark = placed.get(end)
        if mark and mark.own_line:
            html.append("\n")
        if end in closes:
            html.append("</code>")
        if mark:
            names = {place: name_of(passages[place]) if passages else "" for place in mark.passages}
            html += [_mark(numbers[place], name, anchor) for place, name in names.items()]
    flush()
    return "".join(html)


def _tag(
    token: TokenEvidence | None,
    citation: Citation | None,
    absent: UnsupportedWords | None,
    passages: Sequence[Passage],
    numbers: Mapping[int, int],
) -> tuple[str, str]:
    """Opening and closing tag of a stretch of the answer that one token covers, inside a citation or not.

    Inside of one that names several passages, the strength is that of all of them together.
    """
    if absent is not None and (token is None or not token.weights):
        return f'<span class="nbce-absent" title="{text(_absence(absent, numbers))}">', "</span>"
    if token is None or not token.weights:
        return "", ""
    ranked = sorted(range(len(token.weights)), key=lambda k: (-token.weights[k], k))
    best = ranked[0]
    number, weight = numbers[best], min(max(token.weights[best], 0.0), 1.0)
    name = f" {shortened(name_of(passages[best]), 40)}" if passages else ""
    score = passages[best].score if passages else None
    title = f"[{number}]{name}: {weight:.0%} of the evidence, {ordinal(best + 1)} of {len(token.weights)}"
    title += " found" if score is None else f" found, score {score:.2f}"
    others = [k for k in ranked if k != best and token.weights[k] >= 0.005][:2]
    if others:
        title += "; then " + ", ".join(f"[{numbers[k]}] {token.weights[k]:.0%}" for k in others)
    classes = f"nbce-t {shade(number)}"
    if citation is not None:
        named = [one.passage for one in supports_among(citation, len(numbers))]
        if best in named and len(named) > 1:
            weight = min(math.fsum(max(token.weights[k], 0.0) for k in named), 1.0)
            title += f"; the cited ones together {weight:.0%}"
        if absent is None:
            is_verbatim = any(one.verbatim for one in citation.supports)
            classes += " nbce-cite nbce-quote" if is_verbatim else " nbce-cite"
            title += "; cited word for word" if is_verbatim else "; cited, not word for word"
    if token.memory is not None:
        title += f"; the model's memory {token.memory:.0%}"
    if absent is not None:
        classes += " nbce-absent"
        title = f"{_absence(absent, numbers)} {title}"
    return f'<span class="{classes}" style="--nbce-w: {weight:.2f}" title="{text(title)}">', "</span>"


def _absence(word: UnsupportedWords, numbers: Mapping[int, int]) -> str:
    if word.passage is None:
        return "Not in the passages."
    return f"Not in the passages cited for it, but in [{numbers[word.passage]}]."


def _mark(number: int, name: str, anchor: str) -> str:
    label = f"source {number}: {name}"
    if not anchor:
        return f"<sup>[{number}]</sup>"
    return f'<sup><a href="#{anchor}-{number}" aria-label="{text(label)}">[{number}]</a></sup>'
