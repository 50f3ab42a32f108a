"""What is prose: sentences may be taken out of it, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbce_rag.documents.prose import is_prose
from nbce_rag.fusion import Posterior
from nbce_rag.passages import Passage

PROSE = (
    "The ferry leaves at nine. It is run by Ada.",
    "船在中午从旧港口出发。艾达负责渡轮。",
    "He paid $3.50 (in 1931); nobody knows why.\nThe next line goes on with it, and ends.",
    "A title\n\nThen a paragraph of several sentences. They go on for a while, so that the one heading that "
    "is in there is a small part of it.\n\n# Heading\n\nAnd another paragraph, as long as the first one was.",
    "One sentence with `code` in it, such as `client.get(url)`, is a sentence.",
    "**Ada Lovelace** was an English mathematician. She wrote the first program.",
    "One was called Ada; the other Bob;",
    "He called f(x)",
    "    A paragraph of a book begins with blanks, and goes\n    on in the next line until it ends.",
    "",
)
MARKED = (
    "Use it:\n\n```python\nclient = httpx.Client(http2=True)\n```",
    "~~~\nls\n~~~",
    ">>> import os",
    ".. code-block:: python\n\n    import os",
    "* one\n* two\n* three",
    "1. Open the lid.\n2. Pour.\n3. Close it.",
    "| a | b |\n| - | - |\n| 1 | 2 |",
    "def main() -> None:\n    print(1)\n    return None",
    "int main() {\n  return 0;\n}",
    ":param name: who it is\n:returns: nothing",
    "    indented = 1\n    more = 2",
    "# Heading\n## Another\ntext",
)


@pytest.mark.parametrize("text", PROSE)
def test_prose(text: str) -> None:
    assert is_prose(text)


@pytest.mark.parametrize("text", MARKED)
def test_no_prose(text: str) -> None:
    assert not is_prose(text)


@given(st.text(alphabet="ab .\n`*|(){};:#\t-1", max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    assert is_prose(text) in (True, False)
    assert not is_prose(f"{text}\n```\nx\n```")


def test_hostile_lines_come_to_an_end() -> None:
    """Quadratic time on these would run into the suite's limit."""
    for text in ("(" * 500_000, "a(" * 300_000, " " * 500_000 + "x", "1" * 500_000, ":a" * 300_000):
        assert is_prose(text) in (True, False)


def test_only_prose_is_read_by_sentences(make_nbce: Callable[..., Any]) -> None:
    nbce = make_nbce(max_tokens=2, fusion=Posterior(focus=1.0))
    prose = Passage("It is run by Ada. It leaves at noon. Dogs ride for free.")
    manual = Passage("It is run so. Use this:\n\n```\nrun(ada)\n```\n\nThen it leaves. Dogs ride for free.")
    assert nbce.answer("Who?", [prose]).usage.sentence_rows == 3
    assert nbce.answer("Who?", [prose, manual]).usage.sentence_rows == 0
    assert nbce.answer("Who?", [manual]).usage.sentence_rows == 0
