"""The evidence as a picture: a heat map of tokens and passages, and how sure each row was."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InputError, MissingDependencyError
from ..evidence.evidence import TokenEvidence
from ..evidence.passage_evidence import by_number, cited_by_number
from .labels import name_of, one_line, shortened
from .shown import AnswerLike
from .style import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_suffix", "plot", "to_bytes"]

# matplotlib's own font has no Chinese, Japanese or Korean; of these the first that is installed is added.
_CJK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
    "Droid Sans Fallback",
)
_TOKENS_NAMED = 120
_PASSAGES_NAMED = 60


def plot(answer: AnswerLike) -> Figure:
    """Draw the evidence of an answer.

    Above, one column a token and one line a passage, in the order of their numbers in the answer; the
    darker, the more of the token's evidence lies with the passage. A token with a star is cited in none of
    them: it stands in no passage that its citation names. Below, the entropy of each row's
    distribution at each token in nats (0 is sure), with the row without a passage dashed; it is known when
    the question was asked with `entropies=True`. Without it, the entropy of the evidence is drawn: 0 where
    one passage has all of it. The dotted line is the share of the model's memory (`TokenEvidence.memory`).

    Args:
        answer: any answer; one without tokens or passages gives a picture that says so.

    Returns:
        A `matplotlib.figure.Figure`, made without pyplot, so nothing needs closing. `savefig` writes it,
        and notebooks show it.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure_class = _figure_class()
    from matplotlib import rc_context

    passages = len(answer.passages)
    tokens = [token for token in answer.tokens if len(token.weights) == passages]
    with rc_context({"font.family": _fonts(), "font.size": 9}):
        width = max(6.0, 2.6 + 0.3 * min(30, len(tokens)) + 0.19 * min(90, max(0, len(tokens) - 30)))
        tall = min(14.0, 0.9 + 0.26 * passages) if passages else 0.0
        figure = figure_class(figsize=(width, tall + 3.1 if tokens else 1.2), layout="constrained")
        figure.suptitle(shortened(one_line(answer.question), 90), parse_math=False)
        if not tokens:
            axes = figure.subplots()
            axes.set_axis_off()
            axes.text(0.5, 0.5, "No tokens, so no evidence.", ha="center", va="center")
            return figure
        if passages:
            above, below = figure.subplots(2, 1, sharex=True, height_ratios=[tall, 2.0])
            _heat_map(figure, above, answer, tokens)
        else:
            below = figure.subplots()
        _entropies(below, answer, tokens)
        if passages:
            _memory(below, tokens)
        _name_tokens(below, tokens, answer)
    return figure


def to_bytes(figure: Figure, suffix: str, dpi: int = 150) -> bytes:
    """A figure as the contents of a file with this suffix (".png", ".svg", ".pdf", ...)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix.removeprefix(".").lower(), dpi=dpi)
    return buffer.getvalue()


def check_suffix(suffix: str) -> None:
    """Before a model is run for nothing: is this a kind of picture that can be written?

    Raises:
        InputError: it is not.
        MissingDependencyError: matplotlib is not installed.
    """
    _figure_class()
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if suffix.removeprefix(".").lower() not in kinds:
        names = ", ".join(f".{kind}" for kind in sorted(kinds))
        raise InputError(f"{suffix!r} is no kind of picture; end the file's name in one of {names}.")


def _figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("Pictures need matplotlib: pip install 'nbce-rag[plot]'.") from error

    class EvidenceFigure(Figure):
        """Shows itself in a notebook, also where pyplot was never imported."""

        def _repr_png_(self) -> bytes:
            return to_bytes(self, ".png", dpi=80)

    return EvidenceFigure


def _heat_map(figure: Figure, axes: Axes, answer: AnswerLike, tokens: Sequence[TokenEvidence]) -> None:
    order = by_number(answer.passage_evidence)
    grid = [[token.weights[evidence.passage] for token in tokens] for evidence in order]
    image = axes.imshow(grid, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    if len(order) <= _PASSAGES_NAMED:
        names = [
            one_line(f"[{evidence.number}] {shortened(name_of(answer.passages[evidence.passage]), 34)}")
            for evidence in order
        ]
        axes.set_yticks(range(len(order)), names, parse_math=False)
    else:
        axes.set_ylabel(f"{len(order)} passages")
    axes.tick_params(bottom=False, labelbottom=False, length=0)
    figure.colorbar(image, ax=axes, label="share of the evidence", fraction=0.03, pad=0.01)


def _entropies(axes: Axes, answer: AnswerLike, tokens: Sequence[TokenEvidence]) -> None:
    places = range(len(tokens))
    rows, members = len(tokens[0].entropies), answer.usage.row_passages
    if rows and rows == len(members) and all(len(token.entropies) == rows for token in tokens):
        numbers = {evidence.passage: evidence.number for evidence in answer.passage_evidence}
        cited = min(len(cited_by_number(answer.passage_evidence)), len(PALETTE))
        for row in range(rows - 1, -1, -1):
            values = [token.entropies[row] for token in tokens]
            # A row with several passages has no number.
            number = numbers.get(members[row][0], 0) if len(members[row]) == 1 else 0
            again = number and members.index(members[row]) < row  # a part of a passage
            if row == 0:
                axes.plot(places, values, "--", color="0.35", label="without a passage")
            elif 0 < number <= cited:
                colour = tuple(part / 255 for part in PALETTE[number - 1])
                if again:
                    axes.plot(places, values, "-", color=colour, linewidth=0.6)
                else:
                    axes.plot(places, values, "-o", color=colour, markersize=3, label=f"[{number}]")
            else:
                axes.plot(places, values, "-", color="0.75", linewidth=0.8, zorder=1)
        axes.set_ylabel("entropy by row (nats)")
        axes.legend(
            *(part[::-1] for part in axes.get_legend_handles_labels()),
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=cited + 1,
            frameon=False,
        )
    else:
        axes.plot(places, [_entropy(token.weights) for token in tokens], "-o", color="0.2", markersize=3)
        axes.set_ylabel("entropy of\nthe evidence (nats)")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _memory(axes: Axes, tokens: Sequence[TokenEvidence]) -> None:
    """The share of the model's memory in each token, on a scale of its own from 0 to 1."""
    right = axes.twinx()
    shares = [math.nan if token.memory is None else token.memory for token in tokens]
    right.plot(range(len(tokens)), shares, ":", color="0.45", linewidth=1.2)
    right.set_ylim(0, 1)
    right.set_ylabel("memory (dotted)", color="0.45")
    right.tick_params(colors="0.45")
    right.spines["top"].set_visible(False)


def _name_tokens(axes: Axes, tokens: Sequence[TokenEvidence], answer: AnswerLike) -> None:
    axes.set_xlim(-0.5, len(tokens) - 0.5)
    absent = [
        any(token.start < w.end and w.start < token.end for w in answer.unsupported) for token in tokens
    ]
    if len(tokens) > _TOKENS_NAMED:
        note = f"; {sum(absent)} not in the passages that are cited" if any(absent) else ""
        axes.set_xlabel(f"{len(tokens)} tokens{note}")
        return
    names = [one_line(shortened(token.text.replace("\n", "⏎").strip(" "), 14)) or "·" for token in tokens]
    names = [f"{name}*" if is_absent else name for name, is_absent in zip(names, absent, strict=True)]
    if any(absent):
        axes.set_xlabel("* not in the passages that are cited for it")
    turned = 0 if len(tokens) <= 8 else 60
    axes.set_xticks(
        range(len(tokens)), names, rotation=turned, ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default", parse_math=False,
    )  # fmt: skip


def _entropy(weights: tuple[float, ...]) -> float:
    return -math.fsum(weight * math.log(weight) for weight in weights if weight > 0)


def _fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *[name for name in _CJK_FONTS if name in installed][:1]]
