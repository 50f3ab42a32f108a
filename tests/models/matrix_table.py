"""The matrix as a command: every architecture judged, and the tables that come of it.

    make matrix                       judges all, and writes what `nbce-rag models` and the docs show
    make matrix MODELS="llama gpt2"   judges these, and writes nothing

Takes some minutes. Ends with an error where one is wrong or crashes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from families import VARIANTS, model_types
from matrix import Verdict, judge

from nbce_rag.models.families import TABLE, WAYS, Families, Family

__all__ = ["PAGE", "family_of", "markdown", "with_table"]

PAGE = Path(__file__).parents[2] / "examples" / "docs" / "models.md"
_BEGIN, _END = "<!-- made by `make matrix` -->\n", "<!-- end of what `make matrix` made -->\n"


def family_of(verdict: Verdict) -> Family:
    """A verdict as the table has it."""
    way = {"right": verdict.way, "absent": "refused"}.get(verdict.outcome, verdict.outcome)
    return Family(verdict.name, verdict.architecture, way, verdict.keeps, verdict.reason)


def markdown(table: Families) -> str:
    """The table as the docs have it: architectures that are read alike in one line, variants left out."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for family in table.families.values():
        if family.name not in VARIANTS:
            groups.setdefault((family.way, family.keeps, family.reason), []).append(f"`{family.name}`")
    order = list(WAYS)
    lines = ["| rows are read | a context keeps | model types |", "| --- | --- | --- |"]
    for (way, keeps, reason), names in sorted(groups.items(), key=lambda group: order.index(group[0][0])):
        lines.append(f"| {WAYS[way]} | {keeps or reason} | {', '.join(names)} |")
    read = sum(len(names) for (way, _, _), names in groups.items() if way != "refused")
    count = sum(map(len, groups.values()))
    head = f"Of the {count} model types of transformers {table.transformers}, {read} are read as rows:"
    return "\n".join([head, "", *lines, ""])


def with_table(page: str, table: Families) -> str:
    """A page with the table between its two marks."""
    before, rest = page.split(_BEGIN)
    return f"{before}{_BEGIN}\n{markdown(table)}\n{_END}{rest.split(_END)[1]}"


def main(names: Sequence[str]) -> int:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    verdicts = []
    for name in names or [*model_types(), *VARIANTS]:
        verdict = judge(name)
        share = "" if verdict.error is None else f"{verdict.error:.1e}"
        how = " | ".join(filter(None, (verdict.way, verdict.keeps, share, verdict.reason)))
        print(f"{verdict.outcome:8}{verdict.seconds:6.1f} s  {name}: {how}", flush=True)
        verdicts.append(verdict)
    counts = Counter(verdict.outcome for verdict in verdicts)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()))
    if not names:
        listed = [family_of(verdict) for verdict in verdicts]
        table = Families(transformers.__version__, {family.name: family for family in listed})
        TABLE.write_text(json.dumps(table.to_dict(), indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")
    return 1 if counts["wrong"] or counts["crash"] else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBCE_CACHE"] = folder  # verdicts of loading are reached anew
        sys.exit(main(sys.argv[1:]))
