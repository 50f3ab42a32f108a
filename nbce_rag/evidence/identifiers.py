"""Names of code in a text: flags, functions, arguments, classes."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["identifiers", "names_in", "names_stand"]

_NAME = re.compile(r"--[A-Za-z][\w-]*|[A-Za-z_]\w+", re.ASCII)
_SPAN = re.compile(r"`([^`\n]+)`")
_LOOKS_LIKE_CODE = re.compile(
    r"""--[A-Za-z][\w-]*                     # a flag
    | [A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+        # a dotted name
    | [A-Za-z]*_\w+                          # snake_case
    | [A-Za-z_]\w+(?=\()                     # a call
    | [A-Za-z_]\w+(?==[^\s=])                # an argument by name
    | [A-Z]?[a-z0-9]+[A-Z]\w*                # CamelCase
    | [A-Z]{2,}[a-z]{2}\w*                   # HTTPTransport, but not URLs
    """,
    re.ASCII | re.VERBOSE,
)


def identifiers(text: str) -> list[str]:
    """Names of code in a text, each once, in the order in which they stand.

    They are all names (two or more of A-Z, a-z, 0-9, _) in Markdown's code spans, and elsewhere those that
    look like code: flags, dotted names, snake_case, calls, arguments by name, CamelCase. A dotted name counts
    by its parts. Nor does all of a fenced block count: there are comments in it, and where a model leaves a
    fence open or begins with a closing one, prose.

    >>> identifiers("Call `client.get()` or HTTPTransport with retries=1 and --verbose.")
    ['client', 'get', 'HTTPTransport', 'retries', '--verbose']
    """
    spans = [span.span(1) for span in _SPAN.finditer(text)]
    spans += [look.span() for look in _LOOKS_LIKE_CODE.finditer(text)]
    return list(
        dict.fromkeys(
            name[0]
            for name in _NAME.finditer(text)
            if any(start <= name.start() and name.end() <= end for start, end in spans)
        )
    )


def names_stand(text: str, sources: Iterable[str]) -> bool:
    """Whether all names of code in a text stand in its sources, in whatever case: one may begin a sentence.

    >>> names_stand("Call `client.enable_http2()`.", ["client = Client(http2=True)"])
    False
    """
    names = {name.casefold() for name in identifiers(text)}
    return not names or names <= names_in(source.casefold() for source in sources)


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Every name that stands in some texts, whether it looks like code or not."""
    return frozenset(name for text in texts for name in _NAME.findall(text))
