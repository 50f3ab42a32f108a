r"""A folder of real documentation for how-to questions: a package's docstrings, a page for each public name.

click comes with nbce-rag, and hypothesis with its tests, so that nothing is downloaded. Then:

    python examples/make_howto_corpus.py howto-corpus
    nbce-rag eval --passages howto-corpus --questions examples/howto-questions.jsonl \
        --style long --json howto.json
    python examples/make_howto_corpus.py hypothesis-corpus --package hypothesis
    nbce-rag eval --passages hypothesis-corpus --questions examples/hypothesis-questions.jsonl \
        --style long --json hypothesis.json
"""

from __future__ import annotations

import argparse
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

LEAST_PAGE, LEAST_SECTION = 60, 80
"""Characters; shorter docstrings say nothing that a question could be about."""
MOST_SIGNATURE = 400

STATE_MACHINES = "Bundle RuleBasedStateMachine consumes initialize invariant multiple precondition rule"
PACKAGES: dict[str, dict[str, str]] = {
    "click": {"click": "", "click.testing": "CliRunner Result"},
    "hypothesis": {"hypothesis": "", "hypothesis.strategies": "", "hypothesis.stateful": STATE_MACHINES},
}
"""The modules of each package, with the names that get a page; all public ones where none is named."""


def pages(package: str) -> dict[str, str]:
    """Markdown by file name."""
    found: dict[str, str] = {}
    seen: set[int] = set()  # some objects have two names
    for module_name, names in PACKAGES[package].items():
        module = import_module(module_name)
        within = module_name.removeprefix(package).removeprefix(".")
        for name in names.split() or sorted(vars(module)):
            value = getattr(module, name)
            text = inspect.getdoc(value) if callable(value) and not inspect.ismodule(value) else None
            if name.startswith("_") or not text or len(text) < LEAST_PAGE or id(value) in seen:
                continue
            seen.add(id(value))
            page = f"{within}.{name}" if within else name
            parts = [*_head(f"{package}.{page}", value), text, *_sections(page, value)]
            found[f"{page}.md"] = "\n\n".join(parts) + "\n"
    return found


def _head(name: str, value: Any) -> list[str]:
    """Title and signature."""
    try:
        signature = re.sub(r" at 0x[0-9a-f]+|['\"]", "", str(inspect.signature(value)))
    except (TypeError, ValueError):
        signature = "(...)"
    if len(signature) >= MOST_SIGNATURE:
        signature = "(...)"
    return [f"# {name}", f"```python\n{name}{signature}\n```"]


def _sections(name: str, value: Any) -> list[str]:
    """The methods and properties of a class."""
    members = sorted(vars(value).items()) if inspect.isclass(value) else []
    texts = {
        member: inspect.getdoc(part) or ""
        for member, part in members
        if not member.startswith("_") and (callable(part) or isinstance(part, property))
    }
    return [f"## {name}.{member}\n\n{text}" for member, text in texts.items() if len(text) > LEAST_SECTION]


def main(arguments: list[str] | None = None) -> None:
    """Writes the pages into a folder, which is made if it is not there."""
    parser = argparse.ArgumentParser(description="Write a package's docstrings as Markdown pages.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--package", choices=PACKAGES, default="click")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    texts = pages(options.package)
    for name, text in texts.items():
        (options.folder / name).write_text(text, encoding="utf-8")
    print(f"{len(texts)} pages in {options.folder}")


if __name__ == "__main__":
    main()
