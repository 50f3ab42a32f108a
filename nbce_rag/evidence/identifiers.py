"""Names of code in a text: flags, functions, arguments, classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["identifiers", "names_in", "names_stand"]

_NAME = re.compile(r"--[A-Za-z][\w-]*|[A-Za-z_]\w+", re.ASCII)
_SPAN = re.compile(r"`([^`\n]+)`")
_IS_CODE = r"""--[A-Za-z][\w-]*            # a flag
    | [A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+        # a dotted name
    | [A-Za-z]*_\w+                          # snake_case
    | [A-Za-z_]\w+(?=\()                     # a call
    | [A-Za-z_]\w+(?==[^\s=])                # an argument by name
    """
_IS_CAMEL = r"""
    | [A-Z]?[a-z0-9]+[A-Z]\w*                # CamelCase
    | [A-Z]{2,}[a-z]{2}\w*                   # HTTPTransport, but not URLs
    """
_LOOKS_LIKE_CODE = {
    is_camel: re.compile(_IS_CODE + (_IS_CAMEL if is_camel else ""), re.ASCII | re.VERBOSE)
    for is_camel in (True, False)
}


def identifiers(text: str, *, camel: bool = True) -> list[str]:
    """Names of code in a text, each once, in the order in which they stand.

    They are all names (two or more of A-Z, a-z, 0-9, _) in Markdown's code spans, and elsewhere those that
    look like code: flags, dotted names, snake_case, calls, arguments by name, CamelCase. A dotted name counts
    by its parts. Nor does all of a fenced block count: there are comments in it, and where a model leaves a
    fence open or begins with a closing one, prose.

    Args:
        text: Markdown.
        camel: whether CamelCase looks like code by itself; brands and people are written so too.

    >>> identifiers("Call `client.get()` or HTTPTransport with retries=1 and --verbose.")
    ['client', 'get', 'HTTPTransport', 'retries', '--verbose']
    """
    spans = [span.span(1) for span in _SPAN.finditer(text)]
    spans += [look.span() for look in _LOOKS_LIKE_CODE[camel].finditer(text)]
    return list(
        dict.fromkeys(
            name[0]
            for name in _NAME.finditer(text)
            if any(start <= name.start() and name.end() <= end for start, end in spans)
        )
    )


def names_stand(text: str, sources: Iterable[str], *, camel: bool = True) -> bool:
    """Whether all names of code in a text stand in its sources, in whatever case: one may begin a sentence.

    Args:
        text, camel: as in `identifiers`.
        sources: texts.

    >>> names_stand("Call `client.enable_http2()`.", ["client = Client(http2=True)"])
    False
    """
    names = {name.casefold() for name in identifiers(text, camel=camel)}
    for source in sources:
        if not names:
            break
        folded = source.casefold()
        # Most of what an answer names is looked for in many passages and stands in few.
        if any(name in folded for name in names):
            names -= names_in([folded])
    return not names


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Every name that stands in some texts, whether it looks like code or not."""
    return frozenset(name for text in texts for name in _NAME.findall(text))
