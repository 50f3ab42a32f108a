"""An answer as HTML: every word in the colour of its passage, numbered marks, and the passages below.

What colour says is said in words too: the numbers, the title texts, the list of sources. Everything that
comes from documents, models and users is escaped, there is no script, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..evidence.passage_evidence import PassageEvidence, by_number, supports_among
from .labels import (
    absences,
    conflict_lines,
    name_of,
    one_line,
    ordinal,
    particulars,
    percentages,
    shortened,
    supports_of,
    wording,
)
from .likelihoods import likelihood_lines
from .quotes import excerpt, quotes
from .shown import AnswerLike
from .spans import spans_html, text
from .style import PAGE, STYLE, shade

__all__ = ["answer_html", "answer_page", "bar", "fragment", "marked_text"]

_CHARACTERS_OF_A_PASSAGE = 2400
_CHARACTERS_OF_ONE_NOT_CITED = 400
_NOT_CITED_SHOWN = 24


def answer_page(answer: AnswerLike) -> str:
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


def answer_html(answer: AnswerLike) -> str:
    """An answer as a piece of HTML with its own style sheet: what a notebook shows."""
    order = by_number(answer.passage_evidence)
    numbers = {evidence.passage: evidence.number for evidence in order}
    anchor = _anchor(answer)
    spans = spans_html(
        answer.text, answer.tokens, answer.citations, answer.passages, numbers, anchor, answer.unsupported
    )
    parts = [
        f'<p class="nbce-sr">Question:</p><p class="nbce-question" dir="auto">{text(answer.question)}</p>',
        f'<p class="nbce-sr">Answer:</p><p class="nbce-answer" dir="auto">{spans}</p>',
    ]
    parts += [
        f'<p class="nbce-small nbce-note" dir="auto">{text(line)}</p>'
        for line in (*conflict_lines(answer), *absences(answer.unsupported, numbers))
    ]
    if answer.thought:
        parts.insert(
            1,
            '<details class="nbce-thought"><summary>Thought before the answer</summary>'
            f'<blockquote dir="auto">{text(answer.thought)}</blockquote></details>',
        )
    if answer.passages:
        shares = percentages([evidence.weight for evidence in answer.passage_evidence])
        parts += _evidence(order, shares)
        parts += _sources(answer, order, shares, anchor)
    parts += [f'<p class="nbce-small">{text(line)}</p>' for line in likelihood_lines(answer)]
    parts += [f'<p class="nbce-warning" role="note">Warning: {text(note)}</p>' for note in answer.warnings]
    parts.append(f'<p class="nbce-small">{text(_figures(answer))}</p>')
    return fragment("Answer with its sources", parts)


def fragment(label: str, parts: Sequence[str]) -> str:
    """Parts of HTML and the style sheet, in one element that has a name for screen readers."""
    inside = "\n".join(parts)
    return (
        f'<div class="nbce" role="region" aria-label="{label}">\n<style>\n{STYLE}\n</style>\n{inside}\n</div>'
    )


def bar(shares: Sequence[tuple[str, str, int]], label: str) -> str:
    """Shares as one bar: (class, name, percent) each. Its `label` is what a screen reader says of it."""
    spoken = ", ".join(f"{name} {percent}%" for _, name, percent in shares)
    pieces = " ".join(
        f'<span class="{shade_}" style="flex: {percent} 1 0" title="{text(name)} {percent}%">'
        f"{text(_fitting(name, percent))}</span>"
        for shade_, name, percent in shares
        if percent
    )
    return f'<div class="nbce-bar" role="img" aria-label="{text(label)}: {text(spoken)}">{pieces}</div>'


def _fitting(name: str, percent: int) -> str:
    """What of a name and its percent has room in its part of a bar, also on a telephone."""
    return f"{name} {percent}%" if percent >= 12 else name if percent >= 5 and len(name) <= 3 else ""


def marked_text(passage: str, stretches: Sequence[str], limit: int) -> str:
    """A passage, at most `limit` characters of it, with what stretches of an answer quote highlighted."""
    marks = quotes(stretches, passage)
    begin, stop = excerpt(passage, marks, limit)
    parts = ["… " if begin else ""]
    at = begin
    for start, end in marks:
        if start < begin or end > stop:
            continue
        parts += [text(passage[at:start]), f"<mark>{text(passage[start:end])}</mark>"]
        at = end
    parts += [text(passage[at:stop]), " …" if stop < len(passage) else ""]
    return "".join(parts)


def _evidence(order: Sequence[PassageEvidence], shares: Sequence[int]) -> list[str]:
    if not any(shares):
        return []
    entries = [(shade(e.number), f"[{e.number}]", shares[e.passage]) for e in order if shares[e.passage]]
    return [
        bar(entries, "Evidence for the whole answer"),
        '<p class="nbce-small">Colour: the passage that a word rests on most. Strength: its share of the '
        "evidence. Underlined: cited; with a solid line word for word. Dotted: not in the passages. That a "
        "word stands in a passage is no proof of what is said of it. The bar: evidence for the whole "
        "answer.</p>",
    ]


def _sources(
    answer: AnswerLike, order: Sequence[PassageEvidence], shares: Sequence[int], anchor: str
) -> list[str]:
    cited = [evidence for evidence in order if evidence.citations]
    rest = order[len(cited) :]
    parts = []
    if cited:
        items = []
        for evidence in cited:
            place = evidence.passage
            stretches = [
                c.text
                for c in answer.citations
                if any(s.passage == place for s in supports_among(c, len(answer.passages)))
            ]
            said = wording(supports_of(answer, place), answer.passages[place])
            meta = [
                f"cited for {evidence.cited:.0%} of the answer",
                said or "not word for word",
                f"{shares[place]}% of the evidence",
            ]
            body = marked_text(answer.passages[place].text, stretches, _CHARACTERS_OF_A_PASSAGE)
            items.append(_item(answer, evidence, meta, body, anchor, is_open=True))
        parts.append(f'<ul class="nbce-list" role="list" aria-label="Sources">\n{"".join(items)}</ul>')
    else:
        parts.append('<p class="nbce-small">No sources: no part of the answer rests on one passage.</p>')
    if rest:
        items = []
        for evidence in rest[:_NOT_CITED_SHOWN]:
            body = marked_text(answer.passages[evidence.passage].text, (), _CHARACTERS_OF_ONE_NOT_CITED)
            meta = [f"{shares[evidence.passage]}% of the evidence"]
            items.append(_item(answer, evidence, meta, body, anchor, is_open=False))
        more = len(rest) - _NOT_CITED_SHOWN
        last = f'<p class="nbce-small">and {more} more</p>' if more > 0 else ""
        parts.append(
            f'<details class="nbce-more"><summary>{_count(len(rest), "passage", len(cited))} read, not cited'
            f'</summary>\n<ul class="nbce-list" role="list" aria-label="Not cited">\n{"".join(items)}</ul>'
            f"{last}</details>"
        )
    return parts


def _item(
    answer: AnswerLike,
    evidence: PassageEvidence,
    meta: Sequence[str],
    body: str,
    anchor: str,
    *,
    is_open: bool,
) -> str:
    number, place = evidence.number, evidence.passage
    passage = answer.passages[place]
    facts = [*particulars(passage), f"{ordinal(place + 1)} of {len(answer.passages)} found", *meta]
    return (
        f'<li id="{anchor}-{number}" class="{shade(number)}"><details{" open" if is_open else ""}><summary>'
        f"<b>[{number}] <bdi>{text(name_of(passage))}</bdi></b> "
        f'<span class="nbce-meta">{text(", ".join(facts))}</span></summary>'
        f'<blockquote dir="auto">{body}</blockquote></details></li>\n'
    )


def _count(number: int, noun: str, before: int) -> str:
    return f"{number}{' more' if before else ''} {noun}{'' if number == 1 else 's'}"


def _figures(answer: AnswerLike) -> str:
    parts = [f"Fusion rule {one_line(answer.fusion)}"]
    if answer.grounding is not None:
        parts.append(f"the passages added {answer.grounding:.1f} nats a token")
    if answer.memory is not None:
        parts.append(f"the model's memory has {answer.memory:.0%}")
    # No seconds: what is kept of an answer, as in a notebook, is the same whenever it is run again.
    count = answer.usage.generated_tokens
    thought = answer.usage.thought_tokens
    of_thought = f", {thought} of them thought" if thought else ""
    if answer.finish_reason == "given":
        parts.append("the text was given, not written by the model")
    else:
        parts.append(f"{count} token{'' if count == 1 else 's'}{of_thought}")
    if answer.usage.prompt_tokens:
        parts.append(f"{answer.usage.cached_tokens} of {answer.usage.prompt_tokens} prompt tokens reused")
    if answer.finish_reason == "length":
        parts.append("cut off at the most tokens allowed")
    elif answer.finish_reason == "no_evidence":
        parts.append("no passage supports an answer")
    return "; ".join(parts) + "."


def _anchor(answer: AnswerLike) -> str:
    """A prefix for ids that no other answer on the page has."""
    data = "\0".join([answer.question, answer.text, *(passage.id for passage in answer.passages)])
    return "nbce-" + hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()[:8]
