"""Answers against each number of the fusion rules, the others at their defaults."""

from __future__ import annotations

from ...errors import InputError
from ...fusion.numbers import grid_of
from ...fusion.registry import RULES
from ..log import Row
from ..methods.names import parse_methods
from .pictures import Panel, lines, point
from .study import Finding, Study

__all__ = ["find"]

_RULES = "posterior,min-entropy"


def find(study: Study) -> Finding:
    """One evaluation of all settings, which read the same rows and therefore share each prompt."""
    rules = [method.name for method in parse_methods(study.methods or _RULES)]
    grids = {rule: grid_of(RULES[rule]) for rule in rules if rule in RULES}
    if unknown := [rule for rule in rules if not grids.get(rule)]:
        raise InputError(f"There is nothing to sweep for {unknown[0]!r}; choose of {', '.join(RULES)}.")
    settings = [
        (rule, number, value)
        for rule, grid in grids.items()
        for number, values in grid.items()
        for value in values
    ]
    names = {setting: f"{setting[0]}({setting[1]}={setting[2]:g})" for setting in settings}
    k = study.k or 8
    report = study.run(f"sweep-{k}", study.sample, methods=",".join(names.values()), k=k, together=True)
    rows: list[Row] = []
    for setting, name in names.items():
        rule, number, value = setting
        scores = report["methods"][name]
        rows.append(
            {
                "rule": rule,
                "number": number,
                "value": value,
                "default": value == getattr(RULES[rule], number),
                "answer_found": scores["answer_found"],
                "ci95": scores["ci95"]["answer_found"],
                "f1": scores["f1"],
                "leading_is_gold_when_right": scores["leading_is_gold_when_right"],
            }
        )
    title = f"Answers against the numbers of the rules ({study.data.name}, k = {k})"
    return Finding(
        title,
        "Each number is varied with the others at their defaults, over the same passages. The dotted "
        "line, and True in the table, is the default.",
        {
            "rule": "rule",
            "number": "number",
            "value": "value",
            "default": "default",
            "answer_found": "answer found",
            "ci95": "95%",
            "f1": "F1",
            "leading_is_gold_when_right": "leading citation is gold, of right answers",
        },
        rows,
        lambda: lines([_panel(rows, rule, number) for rule in rules for number in grids[rule]], title),
    )


def _panel(rows: list[Row], rule: str, number: str) -> Panel:
    """Values at equal distances: they are chosen by ratio and begin at 0."""
    mine = [row for row in rows if (row["rule"], row["number"]) == (rule, number)]
    series = {
        "answer found": [point(x, row["answer_found"], row["ci95"]) for x, row in enumerate(mine)],
        "F1": [point(x, row["f1"], None) for x, row in enumerate(mine)],
    }
    mark = next((float(x) for x, row in enumerate(mine) if row["default"]), None)
    ticks = {float(x): f"{row['value']:g}" for x, row in enumerate(mine)}
    return Panel(rule, number, "share, mean F1", series, ticks=ticks, mark=mark)
