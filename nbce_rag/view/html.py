"""An answer as HTML: every word in the colour of its passage, numbered marks, and the passages below.

What colour says is said in words too: the numbers, the title texts, the list of sources. Everything that
comes from documents, models and users is escaped, there is no script, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from ..answers.answer import Answer
from ..evidence.evidence import Citation, TokenEvidence, leading
from ..passages import Passage
from .labels import (
    cited_shares,
    clean,
    evidence_shares,
    found_at,
    name_of,
    one_line,
    ordinal,
    percentages,
    reading_order,
    shortened,
)
from .quotes import excerpt, quotes
from .style import PAGE, STYLE, shade

__all__ = ["answer_html", "answer_page", "bar", "fragment", "marked_text", "spans_html", "text"]

_CHARACTERS_OF_A_PASSAGE = 2400
_CHARACTERS_OF_ONE_NOT_CITED = 400
_NOT_CITED_SHOWN = 24


def answer_page(answer: Answer) -> str:
    """A whole HTML page, for a file."""
    title = text(shortened(one_line(answer.question)))
    # The policy keeps a page from loading anything, whatever stands in it.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
        " 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{PAGE}\n</style>\n</head>\n<body>\n<main>\n"
        f"{answer_html(answer)}\n</main>\n</body>\n</html>\n"
    )


def answer_html(answer: Answer) -> str:
    """An answer as a piece of HTML with its own style sheet: what a notebook shows."""
    order = reading_order(answer)
    numbers = {index: number for number, index in enumerate(order, start=1)}
    anchor = _anchor(answer)
    parts = [
        f'<p class="nbce-sr">Question:</p><p class="nbce-question" dir="auto">{text(answer.question)}</p>',
        f'<p class="nbce-sr">Answer:</p><p class="nbce-answer" dir="auto">'
        f"{spans_html(answer.text, answer.tokens, answer.citations, answer.passages, numbers, anchor)}</p>",
    ]
    if answer.passages:
        shares = percentages(evidence_shares(answer))
        parts += _evidence(answer, order, shares)
        parts += _sources(answer, order, shares, anchor)
    parts += [f'<p class="nbce-warning" role="note">Warning: {text(note)}</p>' for note in answer.warnings]
    parts.append(f'<p class="nbce-small">{text(_figures(answer))}</p>')
    return fragment("Answer with its sources", parts)


def fragment(label: str, parts: Sequence[str]) -> str:
    """Parts of HTML and the style sheet, in one element that has a name for screen readers."""
    inside = "\n".join(parts)
    return (
        f'<div class="nbce" role="region" aria-label="{label}">\n<style>\n{STYLE}\n</style>\n{inside}\n</div>'
    )


def text(value: str) -> str:
    """Escaped for elements and quoted attributes alike, without characters that HTML has no place for."""
    return escape(clean(value), quote=True)


def spans_html(
    answer: str,
    tokens: Sequence[TokenEvidence],
    citations: Sequence[Citation],
    passages: Sequence[Passage],
    numbers: dict[int, int],
    anchor: str = "",
) -> str:
    """The text of an answer with its evidence as colour and title texts, and a mark after each citation.

    Args:
        answer: the text.
        tokens: their spans are in the text, ordered; stretches that none covers stay plain.
        citations: ordered and disjoint.
        passages: in the order of the tokens' weights; none where they are not known yet.
        numbers: for each index in the tokens' weights the number of that passage.
        anchor: where the marks link to, without the number; "" for no links.
    """
    first: dict[str, int] = {}
    for index, passage in enumerate(passages):
        first.setdefault(passage.id, index)
    cited = [c for c in citations if c.passage_id in first]
    ends = [(token.start, token.end) for token in tokens] + [(c.start, c.end) for c in cited]
    cuts = sorted({0, len(answer), *(min(max(0, end), len(answer)) for pair in ends for end in pair)})
    html: list[str] = []
    run = ("", "", "")  # opening tag, closing tag, text: equal neighbours share an element

    def flush() -> None:
        nonlocal run
        if run[2]:
            html.append(run[0] + text(run[2]) + run[1])
        run = ("", "", "")

    at_token = at_citation = 0
    for start, end in pairwise(cuts):
        while at_token < len(tokens) and tokens[at_token].end <= start:
            at_token += 1
        while at_citation < len(cited) and cited[at_citation].end <= start:
            at_citation += 1
        token = tokens[at_token] if at_token < len(tokens) and tokens[at_token].start <= start else None
        inside = at_citation < len(cited) and cited[at_citation].start <= start
        opening, closing = _tag(token, inside, passages, numbers)
        if (opening, closing) != run[:2]:
            flush()
        run = (opening, closing, run[2] + answer[start:end])
        if inside and cited[at_citation].end == end:
            flush()
            index = first[cited[at_citation].passage_id]
            html.append(_mark(numbers[index], passages[index], anchor))
    flush()
    return "".join(html)


def bar(shares: Sequence[tuple[str, str, int]], label: str) -> str:
    """Shares as one bar: (class, name, percent) each. Its `label` is what a screen reader says of it."""
    said = ", ".join(f"{name} {percent}%" for _, name, percent in shares)
    pieces = " ".join(
        f'<span class="{shade_}" style="flex: {percent} 1 0" title="{text(name)} {percent}%">'
        f"{text(_fitting(name, percent))}</span>"
        for shade_, name, percent in shares
        if percent
    )
    return f'<div class="nbce-bar" role="img" aria-label="{text(label)}: {text(said)}">{pieces}</div>'


def _fitting(name: str, percent: int) -> str:
    """What of a name and its percent has room in its part of a bar, also on a telephone."""
    return f"{name} {percent}%" if percent >= 12 else name if percent >= 5 and len(name) <= 3 else ""


def marked_text(passage: str, cited: Sequence[str], limit: int) -> str:
    """A passage, at most `limit` characters of it, with what is said in the cited texts highlighted."""
    found = quotes(cited, passage)
    begin, stop = excerpt(passage, found, limit)
    parts = ["… " if begin else ""]
    at = begin
    for start, end in found:
        if start < begin or end > stop:
            continue
        parts += [text(passage[at:start]), f"<mark>{text(passage[start:end])}</mark>"]
        at = end
    parts += [text(passage[at:stop]), " …" if stop < len(passage) else ""]
    return "".join(parts)


def _tag(
    token: TokenEvidence | None, cited: bool, passages: Sequence[Passage], numbers: dict[int, int]
) -> tuple[str, str]:
    """Opening and closing tag of a stretch of the answer that one token covers."""
    if token is None or not token.weights:
        return "", ""
    ranked = sorted(range(len(token.weights)), key=lambda k: (-token.weights[k], k))
    best = leading(token.weights)
    number, weight = numbers[best], min(max(token.weights[best], 0.0), 1.0)
    name = f" {shortened(name_of(passages[best]), 40)}" if passages else ""
    score = passages[best].score if passages else None
    said = f"[{number}]{name}: {weight:.0%} of the evidence, {ordinal(best + 1)} of {len(token.weights)}"
    said += " found" if score is None else f" found, score {score:.2f}"
    others = [k for k in ranked if k != best and token.weights[k] >= 0.005][:2]
    if others:
        said += "; then " + ", ".join(f"[{numbers[k]}] {token.weights[k]:.0%}" for k in others)
    classes = f"nbce-t {shade(number)}" + (" nbce-cite" if cited else "")
    return f'<span class="{classes}" style="--nbce-w: {weight:.2f}" title="{text(said)}">', "</span>"


def _mark(number: int, passage: Passage, anchor: str) -> str:
    label = f"source {number}: {name_of(passage)}"
    if not anchor:
        return f"<sup>[{number}]</sup>"
    return f'<sup><a href="#{anchor}-{number}" aria-label="{text(label)}">[{number}]</a></sup>'


def _evidence(answer: Answer, order: list[int], shares: list[int]) -> list[str]:
    if not any(shares):
        return []
    entries = [(shade(n), f"[{n}]", shares[index]) for n, index in enumerate(order, start=1) if shares[index]]
    return [
        bar(entries, "Evidence for the whole answer"),
        '<p class="nbce-small">Colour: the passage that a word rests on most. Strength: its share of the '
        "evidence. Underlined: cited. The bar: evidence for the whole answer.</p>",
    ]


def _sources(answer: Answer, order: list[int], shares: list[int], anchor: str) -> list[str]:
    cited, rest = order[: len(answer.cited_passages)], order[len(answer.cited_passages) :]
    parts = []
    if cited:
        words_cited = cited_shares(answer)
        items = []
        for number, index in enumerate(cited, start=1):
            passage = answer.passages[index]
            quoted = [answer.text[c.start : c.end] for c in answer.citations if c.passage_id == passage.id]
            meta = [
                f"cited for {words_cited[passage.id]:.0%} of the answer",
                f"{shares[index]}% of the evidence",
            ]
            body = marked_text(passage.text, quoted, _CHARACTERS_OF_A_PASSAGE)
            items.append(_item(answer, number, index, meta, body, anchor, opened=True))
        parts.append(f'<ul class="nbce-list" role="list" aria-label="Sources">\n{"".join(items)}</ul>')
    else:
        parts.append('<p class="nbce-small">No sources: no part of the answer rests on one passage.</p>')
    if rest:
        items = []
        for number, index in enumerate(rest[:_NOT_CITED_SHOWN], start=len(cited) + 1):
            body = marked_text(answer.passages[index].text, (), _CHARACTERS_OF_ONE_NOT_CITED)
            meta = [f"{shares[index]}% of the evidence"]
            items.append(_item(answer, number, index, meta, body, anchor, opened=False))
        more = len(rest) - _NOT_CITED_SHOWN
        last = f'<p class="nbce-small">and {more} more</p>' if more > 0 else ""
        parts.append(
            f'<details class="nbce-more"><summary>{_count(len(rest), "passage", len(cited))} read, not cited'
            f'</summary>\n<ul class="nbce-list" role="list" aria-label="Not cited">\n{"".join(items)}</ul>'
            f"{last}</details>"
        )
    return parts


def _item(
    answer: Answer, number: int, index: int, meta: list[str], body: str, anchor: str, *, opened: bool
) -> str:
    passage = answer.passages[index]
    said = [*found_at(passage), f"{ordinal(index + 1)} of {len(answer.passages)} found", *meta]
    return (
        f'<li id="{anchor}-{number}" class="{shade(number)}"><details{" open" if opened else ""}><summary>'
        f"<b>[{number}] <bdi>{text(name_of(passage))}</bdi></b> "
        f'<span class="nbce-meta">{text(", ".join(said))}</span></summary>'
        f'<blockquote dir="auto">{body}</blockquote></details></li>\n'
    )


def _count(number: int, noun: str, before: int) -> str:
    return f"{number}{' more' if before else ''} {noun}{'' if number == 1 else 's'}"


def _figures(answer: Answer) -> str:
    parts = [f"Fusion rule {one_line(answer.fusion)}"]
    if answer.grounding is not None:
        parts.append(f"the passages added {answer.grounding:.1f} nats a token")
    # No seconds: what is kept of an answer, as in a notebook, is the same whenever it is run again.
    count = answer.usage.generated_tokens
    parts.append(f"{count} token{'' if count == 1 else 's'}")
    if answer.usage.prompt_tokens:
        parts.append(f"{answer.usage.cached_tokens} of {answer.usage.prompt_tokens} prompt tokens reused")
    if answer.finish_reason == "length":
        parts.append("cut off at the most tokens allowed")
    elif answer.finish_reason == "no_evidence":
        parts.append("no passage supports an answer")
    return "; ".join(parts) + "."


def _anchor(answer: Answer) -> str:
    """A prefix for ids that no other answer on the page has."""
    data = "\0".join([answer.question, answer.text, *(passage.id for passage in answer.passages)])
    return "nbce-" + hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()[:8]
