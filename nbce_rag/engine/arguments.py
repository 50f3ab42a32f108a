"""What callers give: passages in all their forms; arguments of an engine, checked before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..checks import COUNT
from ..errors import InputError
from ..models.loading import check_backend
from ..options import Options
from ..passages import Passage
from ..prompts.prompt import Prompt
from ..prompts.template import PromptTemplate, check_style

__all__ = [
    "check_engine_arguments",
    "check_passages",
    "check_question",
    "passage_sequence",
]


def check_engine_arguments(
    options: Options,
    prompt: PromptTemplate | None = None,
    window: int | None = None,
    max_batch_tokens: int | None = None,
    backend: str | None = None,
) -> None:
    """Says what is wrong with arguments of `NBCE` and `NBCE.from_pretrained`, if anything is.

    Raises:
        InputError: naming the argument and its value.
    """
    for name, number in (("window", window), ("max_batch_tokens", max_batch_tokens)):
        if number is not None:
            COUNT.check(name, number)
    check_backend(backend)
    if prompt is not None and not isinstance(prompt, PromptTemplate):
        raise InputError(f"prompt={prompt!r} is no wording; give a PromptTemplate.")
    check_style(options.style, prompt)


def check_question(question: Any, prompt: Any = None) -> None:
    """Raises InputError for an empty question, or words of a request that are no `Prompt`."""
    if not isinstance(question, str) or not question.strip():
        raise InputError(f"The question {question!r} is empty; ask something.")
    if prompt is not None and not isinstance(prompt, Prompt):
        raise InputError(f"prompt={prompt!r} is no wording of a request; give an nbce_rag.Prompt.")


def passage_sequence(passages: Any) -> Iterator[Passage]:
    """Passages and plain texts as passages.

    Raises:
        InputError: something that is neither, or that holds none.
    """
    if isinstance(passages, (str, Passage)):
        raise InputError("passages must be a sequence of passages, not a single one; put it into a list.")
    if passages is not None and not isinstance(passages, Iterable):
        raise InputError(f"passages must be a sequence of passages, got {type(passages).__name__}.")
    for place, passage in enumerate(() if passages is None else passages):
        if isinstance(passage, Passage):
            yield passage
        elif isinstance(passage, str):
            yield Passage(text=passage)
        else:
            raise InputError(
                f"passages[{place}] is a {type(passage).__name__}; give Passage objects or texts."
            )


def check_passages(passages: Any) -> None:
    """Raises InputError unless these are passages, as a `Request` that was made by hand should hold them."""
    if isinstance(passages, str) or not isinstance(passages, Sequence):
        raise InputError(
            f"A request's passages must be a sequence of Passage, got {type(passages).__name__}."
        )
    for place, passage in enumerate(passages):
        if not isinstance(passage, Passage):
            raise InputError(
                f"passages[{place}] of a request is a {type(passage).__name__}; give a Passage, or make the "
                "request with NBCE.request, which takes texts."
            )
