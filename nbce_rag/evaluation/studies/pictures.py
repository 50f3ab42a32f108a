"""Pictures of studies: Okabe and Ito's colours, which colour-blind readers can tell apart, and markers.

matplotlib is the extra `[plot]`; it is used without pyplot, so that no window system is touched.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from ...errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Draw", "Panel", "Point", "bars", "lines", "point", "require_matplotlib"]

Draw = Callable[[], bytes]
"""Makes a PNG."""

Style: TypeAlias = dict[str, Any]
"""Colour, marker and line of a series, as matplotlib takes them."""

_COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_MARKERS = "osD^vPX"
_STYLES = ("-", "--", ":", "-.")
# So that a method looks the same in every picture.
_FIXED = ("gold", "concat", "min-entropy", "experts", "robustrag", "posterior", "closed-book")


@dataclass(frozen=True)
class Point:
    """A value with its 95% interval, at a place on the x axis.

    Attributes:
        x: number, or its place among the categories.
        y: value; None leaves a gap.
        low, high: the interval; None where there is none.
    """

    x: float
    y: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: over it; "" for none.
        x, y: labels of the axes.
        series: points by name.
        log: x axis in powers of two.
        ticks: labels of the x axis by place; None takes the points' numbers.
        mark: a vertical line at this x, such as a default.
        share: y is a share: the axis goes from 0 to 1.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[Point]]
    log: bool = False
    ticks: Mapping[float, str] | None = None
    mark: float | None = None
    share: bool = True


def require_matplotlib() -> None:
    """Raises MissingDependencyError unless matplotlib is installed."""
    if find_spec("matplotlib") is None:
        raise MissingDependencyError(
            "Studies draw with matplotlib, which is not installed; run: pip install 'nbce-rag[plot]'"
        )


def point(x: float, value: float | None, ci95: Sequence[float] | None) -> Point:
    """A point from a mean and its interval [low, high] as reports have them."""
    return Point(x, value, *(ci95 or (None, None)))


def lines(panels: Sequence[Panel], title: str) -> bytes:
    """Panels side by side, at most three in a row, with one legend under all."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(max(6.5, 4.4 * columns), 3.6 * rows + 1.0)
    axes = figure.subplots(rows, columns, squeeze=False)
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    styles = _styles(names)
    for place, axis in enumerate(axes.flat):
        if place < len(panels):
            _draw_lines(axis, panels[place], styles)
        else:
            axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.legend(
        [handles[name] for name in names if name in handles],
        [name for name in names if name in handles],
        loc="outside lower center",
        ncols=len(names) if len(names) <= 5 else 4,
        frameon=False,
    )
    return _png(figure, title)


def bars(panels: Sequence[Panel], title: str) -> bytes:
    """Panels side by side of horizontal bars: a group for each tick, a bar for each series in it."""
    groups = max(len(panel.ticks or {}) for panel in panels)
    most = max(len(panel.series) for panel in panels)
    figure = _figure(5.4 * len(panels), 1.4 + groups * (0.16 + 0.17 * most))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        ticks = panel.ticks or {}
        height = 0.8 / max(len(panel.series), 1)
        for place, (name, points) in enumerate(panel.series.items()):
            shown = [p for p in points if p.y is not None]
            offset = (place - (len(panel.series) - 1) / 2) * height
            values = [p.y or 0.0 for p in shown]
            axis.barh(
                [p.x + offset for p in shown],
                values,
                height=0.9 * height,
                color=_COLOURS[1 + place % (len(_COLOURS) - 1)],
                xerr=_errors(shown),
                error_kw={"elinewidth": 0.9, "capsize": 1.5, "ecolor": "#333333"},
                label=name,
            )
        axis.set_yticks(list(ticks), list(ticks.values()))
        axis.invert_yaxis()
        axis.set_xlabel(panel.x)
        axis.set_ylabel(panel.y)
        axis.set_title(panel.title, fontsize=10)
        if panel.share:
            axis.set_xlim(0, 1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_axisbelow(True)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.55 / figure.get_figheight() - 0.06), ncols=2)
        axis.get_legend().set_frame_on(False)
    return _png(figure, title)


def _draw_lines(axis: Axes, panel: Panel, styles: Mapping[str, Style]) -> None:
    places = sorted({p.x for points in panel.series.values() for p in points})
    most = len(panel.series) - 1
    for place, (name, points) in enumerate(panel.series.items()):
        shown = [p for p in points if p.y is not None]
        # Side by side, so that intervals at one x do not hide each other.
        shift = (place - most / 2) / max(most, 1)
        x = [_shift(p.x, shift, places, panel.log) for p in shown]
        axis.errorbar(
            x,
            [p.y or 0.0 for p in shown],
            yerr=_errors(shown),
            label=name,
            linewidth=1.4,
            markersize=4.5,
            elinewidth=0.8,
            capsize=2,
            **styles[name],
        )
    if panel.log:
        axis.set_xscale("log", base=2)
    ticks = panel.ticks or {x: f"{x:g}" for x in places}
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.minorticks_off()
    if panel.mark is not None:
        axis.axvline(panel.mark, color="#777777", linewidth=0.8, linestyle=":")
    if panel.share:
        axis.set_ylim(-0.03, 1.03)
    axis.set_xlabel(panel.x)
    axis.set_ylabel(panel.y)
    axis.set_title(panel.title, fontsize=10)
    axis.grid(alpha=0.3)


def _shift(x: float, shift: float, places: Sequence[float], log: bool) -> float:
    if log:
        return float(x * 2 ** (0.12 * shift))
    gaps = [b - a for a, b in pairwise(places)]
    return x + 0.12 * shift * (min(gaps) if gaps else 1.0)


def _errors(points: Sequence[Point]) -> list[list[float]] | None:
    """Distances to the interval's ends, as matplotlib wants them; None where no point has one."""
    if all(p.low is None or p.high is None for p in points):
        return None

    def gap(a: float | None, b: float | None) -> float:
        return 0.0 if a is None or b is None else max(0.0, a - b)

    return [[gap(p.y, p.low) for p in points], [gap(p.high, p.y) for p in points]]


def _styles(names: Sequence[str]) -> dict[str, Style]:
    """Colour, marker and line of each series; colour and marker change together, then the line."""
    places = {name: _FIXED.index(name) for name in names if name in _FIXED}
    free = (place for place in count() if place not in places.values())
    places |= {name: next(free) for name in names if name not in places}
    return {
        name: {
            "color": _COLOURS[place % len(_COLOURS)],
            "marker": _MARKERS[place % len(_MARKERS)],
            "linestyle": _STYLES[place // len(_COLOURS) % len(_STYLES)],
        }
        for name, place in places.items()
    }


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure, title: str) -> bytes:
    figure.suptitle(title, fontsize=11)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=150, metadata={"Software": None})
    return target.getvalue()
