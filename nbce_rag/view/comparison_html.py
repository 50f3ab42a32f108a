"""Who says what, as HTML: each distinct answer with the passages that give it."""

from __future__ import annotations

from .html import bar, fragment, marked_text
from .labels import headline, name_of, particulars, percentages
from .shown import ComparisonLike, GroupLike
from .spans import text
from .style import shade

__all__ = ["comparison_html"]

_CHARACTERS_OF_A_PASSAGE = 1200
_SILENT = "no answer"


def comparison_html(comparison: ComparisonLike) -> str:
    """A comparison as a piece of HTML with its own style sheet: what a notebook shows."""
    shares = percentages([*(group.weight for group in comparison.groups), comparison.silent_weight])
    entries = [(shade(n), f"({n})", shares[n - 1]) for n in range(1, len(comparison.groups) + 1)]
    if comparison.silent:
        entries.append(("nbce-c8", _SILENT, shares[-1]))
    parts = [
        '<p class="nbce-sr">Question:</p>',
        f'<p class="nbce-question" dir="auto">{text(comparison.question)}</p>',
        f'<p class="nbce-answer">{text(headline(comparison))}</p>',
        bar(entries, "Weight of the answers"),
    ]
    groups = zip(comparison.groups, shares, strict=False)
    items = "".join(_group(n, group, share) for n, (group, share) in enumerate(groups, start=1))
    if items:
        parts.append(f'<ul class="nbce-list" role="list" aria-label="Answers">\n{items}</ul>')
    if comparison.silent:
        names = "; ".join(name_of(passage) for passage in comparison.silent)
        parts.append(f'<p class="nbce-small">No answer ({shares[-1]}%): <bdi>{text(names)}</bdi></p>')
    return fragment("Comparison of the passages", parts)


def _group(number: int, group: GroupLike, share: int) -> str:
    count = f"{len(group.passages)} passage{'' if len(group.passages) == 1 else 's'}, {share}% of the weight"
    sources = "".join(
        f"<li><details><summary><bdi>{text(name_of(passage))}</bdi> "
        f'<span class="nbce-meta">{text(", ".join(particulars(passage)))}</span></summary>'
        f'<blockquote dir="auto">{marked_text(passage.text, [answer.text], _CHARACTERS_OF_A_PASSAGE)}'
        f"</blockquote></details></li>\n"
        for passage, answer in zip(group.passages, group.answers, strict=True)
    )
    return (
        f'<li class="{shade(number)}"><b>({number}) <bdi>{text(group.text)}</bdi></b> '
        f'<span class="nbce-meta">{count}</span>\n<ul role="list">\n{sources}</ul></li>\n'
    )
