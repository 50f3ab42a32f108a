"""Passages inside plain text and conversations: the marks, and the one rule by which adapters find them.

Between a prompt template and a model, frameworks pass strings, so passages travel in them between marks:

    U+FDD0  header  U+FDD2  text  U+FDD1        header: id=..;score=..;rank=..;title=..;source=..;tag=..

The header's values are percent-encoded, so that templates which escape HTML leave them alone. U+FDD3 alone
(`nbce_rag.noncharacters.PASSAGES`) says where passages given otherwise shall stand. These are Unicode
noncharacters: no interchanged text has them, they survive JSON, UTF-8, caches and checkpoints, and they are
taken out of every passage that is marked, so that no passage can open or close another.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from urllib.parse import quote, unquote

from ..errors import InputError
from ..noncharacters import PASSAGES, strip_marks
from ..passages import Passage

__all__ = ["BEGIN", "END", "HEAD", "format_passage", "format_passages", "mark_places", "split_marks"]

BEGIN, END, HEAD = "\ufdd0", "\ufdd1", "\ufdd2"

_MARKED = re.compile(
    f"{BEGIN}([^{BEGIN}{END}{HEAD}{PASSAGES}]*){HEAD}([^{BEGIN}{END}{HEAD}{PASSAGES}]*){END}"
)
_FIELDS = ("id", "score", "rank", "title", "source")


def format_passage(passage: Passage, *, text: str | None = None, key: str | None = None) -> str:
    """One passage between marks.

    Args:
        passage: gives the header (id, score, rank, title, source) and the text.
        text: another wording of it, which is then what the model reads.
        key: a secret that the reader knows too; without it, whoever writes a part of the prompt can mark a
            passage. The header gets an HMAC over all of it and the text.

    Raises:
        InputError: the key is empty.
    """
    _check_key(key)
    body = strip_marks(passage.text if text is None else text)
    fields = {
        "id": passage.id,
        "score": None if passage.score is None else repr(float(passage.score)),
        "rank": None if passage.rank is None else str(passage.rank),
        "title": passage.title,
        "source": passage.source,
    }
    header = ";".join(f"{name}={_quote(strip_marks(value))}" for name, value in fields.items() if value)
    if key is not None:
        header += f";tag={_tag(key, header, body)}"
    return f"{BEGIN}{header}{HEAD}{body}{END}"


def format_passages(passages: Iterable[Passage], *, separator: str = "\n\n", key: str | None = None) -> str:
    """Passages between marks, joined; arguments and errors as in `format_passage`.

    Of no passages it is `PASSAGES`, so that who reads the prompt knows that some were looked for.
    """
    _check_key(key)
    if not (passages := list(passages)):
        return PASSAGES
    return strip_marks(separator).join(format_passage(passage, key=key) for passage in passages)


def mark_places(text: str, passages: Sequence[Passage], *, key: str | None = None) -> str:
    """A text with passages between marks where `PASSAGES` says, once for all or once for each of them."""
    pieces = text.split(PASSAGES)
    groups = [passages] if len(pieces) == 2 else [[passage] for passage in passages]
    marked = [format_passages(group, key=key) for group in groups]
    return "".join(part for pair in zip_longest(pieces, marked, fillvalue="") for part in pair)


def split_marks(text: str, *, key: str | None = None) -> list[str | Passage]:
    """A text as strings and the passages marked in it, in their order.

    Marks that are unbalanced, or that do not carry the tag of `key`, are taken out and what is between
    them stays text. `PASSAGES` stays where it is.

    Raises:
        InputError: the key is empty.
    """
    _check_key(key)
    parts: list[str | Passage] = []
    end = 0
    for match in _MARKED.finditer(text):
        header, body = match[1], match[2]
        signed, _, tag = header.rpartition(";tag=")
        if key is not None and not hmac.compare_digest(tag.encode(), _tag(key, signed, body).encode()):
            continue
        parts += [_plain(text[end : match.start()]), _parse(header, body)]
        end = match.end()
    parts.append(_plain(text[end:]))
    return [part for part in parts if part != ""]


def _plain(text: str) -> str:
    return PASSAGES.join(strip_marks(part) for part in text.split(PASSAGES))


def _parse(header: str, body: str) -> Passage:
    fields = dict(item.partition("=")[::2] for item in header.split(";") if "=" in item)
    values = {name: strip_marks(unquote(fields[name])) for name in _FIELDS if fields.get(name)}
    try:
        score: float | None = float(values.pop("score", "nan"))
    except ValueError:
        score = None
    score = score if score is not None and math.isfinite(score) else None
    rank = values.pop("rank", "")
    return Passage(
        strip_marks(body),
        id=values.get("id", ""),
        title=values.get("title"),
        source=values.get("source"),
        score=score,
        rank=int(rank) if re.fullmatch("[1-9][0-9]{0,8}", rank) else None,
    )


def _quote(value: str) -> str:
    return quote(value, safe="", errors="replace").replace("~", "%7E")


def _check_key(key: str | None) -> None:
    if key is not None and not key.strip():
        raise InputError(
            "The key of passage marks is empty, so that anyone could sign them: give a secret, or None."
        )


def _tag(key: str, header: str, body: str) -> str:
    digest = hmac.new(key.encode(), f"{header}{HEAD}{body}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return digest.hexdigest()[:16]
