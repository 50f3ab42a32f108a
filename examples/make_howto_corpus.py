r"""A folder of real documentation for how-to questions: the docstrings of click, a page for each public name.

click comes with nbce-rag, so that nothing is downloaded. Then:

    python examples/make_howto_corpus.py howto-corpus
    nbce-rag eval --passages howto-corpus --questions examples/howto-questions.jsonl \
        --style long --json howto.json
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from typing import Any

import click
import click.testing

LEAST_PAGE, LEAST_SECTION = 60, 80
"""Characters; shorter docstrings say nothing that a question could be about."""
MOST_SIGNATURE = 400


def pages() -> dict[str, str]:
    """Markdown by file name."""
    objects = {name: getattr(click, name) for name in sorted(vars(click)) if not name.startswith("_")}
    objects |= {f"testing.{name}": getattr(click.testing, name) for name in ("CliRunner", "Result")}
    found: dict[str, str] = {}
    seen: set[int] = set()  # some objects have two names
    for name, value in objects.items():
        text = inspect.getdoc(value) if callable(value) and not inspect.ismodule(value) else None
        if text and len(text) >= LEAST_PAGE and id(value) not in seen:
            seen.add(id(value))
            found[f"{name}.md"] = "\n\n".join([*_head(name, value), text, *_sections(name, value)]) + "\n"
    return found


def _head(name: str, value: Any) -> list[str]:
    """Title and signature."""
    try:
        signature = re.sub(r" at 0x[0-9a-f]+|['\"]", "", str(inspect.signature(value)))
    except (TypeError, ValueError):
        signature = "(...)"
    if len(signature) >= MOST_SIGNATURE:
        signature = "(...)"
    return [f"# click.{name}", f"```python\nclick.{name}{signature}\n```"]


def _sections(name: str, value: Any) -> list[str]:
    """The methods of a class."""
    members = sorted(vars(value).items()) if inspect.isclass(value) else []
    texts = {
        member: inspect.getdoc(part) or ""
        for member, part in members
        if not member.startswith("_") and (callable(part) or isinstance(part, property))
    }
    return [f"## {name}.{member}\n\n{text}" for member, text in texts.items() if len(text) > LEAST_SECTION]


def main(arguments: list[str] | None = None) -> None:
    """Writes the pages into a folder, which is made if it is not there."""
    parser = argparse.ArgumentParser(description="Write click's docstrings as a folder of Markdown pages.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{len(pages())} pages in {folder}")


if __name__ == "__main__":
    main()
