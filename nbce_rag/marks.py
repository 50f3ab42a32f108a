"""Passages inside plain text and conversations: the marks, and the one rule by which adapters find them.

Between a prompt template and a model, frameworks pass strings, so passages travel in them between marks:

    U+FDD0  header  U+FDD2  text  U+FDD1        header: id=..;score=..;title=..;source=..;tag=..

The header's values are percent-encoded, so that templates which escape HTML leave them alone. U+FDD3 alone
(`nbce_rag.prompt.PASSAGES`) says where passages given otherwise shall stand. These are Unicode
noncharacters: no interchanged text has them, they survive JSON, UTF-8, caches and checkpoints, and they are
taken out of every passage that is marked, so that no passage can open or close another.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from .errors import InputError
from .passages import Passage
from .prompt import NONCHARACTERS, PASSAGES

__all__ = [
    "PASSAGES",
    "Conversation",
    "Turn",
    "format_passage",
    "format_passages",
    "resolve",
    "split_marks",
    "strip_marks",
]

_BEGIN, _END, _HEAD = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKED = re.compile(
    f"{_BEGIN}([^{_BEGIN}{_END}{_HEAD}{PASSAGES}]*){_HEAD}([^{_BEGIN}{_END}{_HEAD}{PASSAGES}]*){_END}"
)
_FIELDS = ("id", "score", "title", "source")
# Shorter pasted text is found only where it fills whole lines: "Ada" must not eat a word of the question.
_SURE = 40


def strip_marks(text: str) -> str:
    """The text without U+FDD0 to U+FDEF."""
    return text.translate(NONCHARACTERS)


def format_passage(passage: Passage, *, text: str | None = None, key: str | None = None) -> str:
    """One passage between marks.

    Args:
        passage: gives the header (id, score, title, source) and the text.
        text: another wording of it, which is then what the model reads.
        key: a secret that the reader knows too; without it, whoever writes a part of the prompt can mark a
            passage. The header gets an HMAC over all of it and the text.
    """
    body = strip_marks(passage.text if text is None else text)
    fields = {
        "id": passage.id,
        "score": None if passage.score is None else repr(float(passage.score)),
        "title": passage.title,
        "source": passage.source,
    }
    header = ";".join(f"{name}={_quote(strip_marks(value))}" for name, value in fields.items() if value)
    if key is not None:
        header += f";tag={_tag(key, header, body)}"
    return f"{_BEGIN}{header}{_HEAD}{body}{_END}"


def format_passages(passages: Iterable[Passage], *, separator: str = "\n\n", key: str | None = None) -> str:
    """Passages between marks, joined; arguments as in `format_passage`."""
    return strip_marks(separator).join(format_passage(passage, key=key) for passage in passages)


def split_marks(text: str, *, key: str | None = None) -> list[str | Passage]:
    """A text as strings and the passages marked in it, in their order.

    Marks that are unbalanced, or that do not carry the tag of `key`, are taken out and what is between
    them stays text. `PASSAGES` stays where it is.
    """
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


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, as `resolve` takes it.

    Attributes:
        role: "system", "user", "assistant" or "tool"; a plain prompt is one "user" turn.
        parts: texts, which may hold marks, and passages where they stand between them.
    """

    role: str
    parts: Sequence[str | Passage]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a model is to be given.

    Attributes:
        texts: text of each turn. With passages exactly one holds `PASSAGES`, once; without, none does.
        passages: the passages to read, each a context of its own.
        question: what is asked, as it stands in the texts.
        notes: what the reader of the answer should know, in sentences.
    """

    texts: tuple[str, ...]
    passages: tuple[Passage, ...]
    question: str
    notes: tuple[str, ...]


def resolve(
    turns: Sequence[Turn],
    contexts: Iterable[Passage] | None = None,
    *,
    key: str | None = None,
    history: str = "drop",
) -> Conversation:
    """Find the passages of a conversation and the place where they stand.

    1. `contexts`, if given, are the passages, and those in the turns are left out.
    2. Else they are those of the current turn (the last user turn, what follows it, and system turns), in
       their order, each once.
    3. Passages of earlier turns are left out, or stay as text.
    4. They stand at `PASSAGES`; else where the first of those in the turns stood; else where their texts
       stand already word for word; else before the text of the last user turn. Text between passages
       follows them.
    5. Empty passages are left out, with a note.

    Args:
        turns: the conversation, oldest first.
        contexts: passages given beside it.
        key: see `format_passage`; marks without its tag are not believed.
        history: "drop" or "keep_as_text", for passages of earlier turns.

    Raises:
        InputError: no turns, or an unknown `history`.
    """
    if history not in ("drop", "keep_as_text"):
        raise InputError(f"history={history!r} must be 'drop' or 'keep_as_text'.")
    if not turns:
        raise InputError("There is no message; give at least one.")
    users = [place for place, turn in enumerate(turns) if turn.role == "user"]
    asked = users[-1] if users else len(turns) - 1
    current = [turn.role == "system" or place >= asked for place, turn in enumerate(turns)]
    notes: list[str] = []
    split = [
        _split(turn, key, is_current, history, notes) for turn, is_current in zip(turns, current, strict=True)
    ]
    found = [part for parts in split for part in parts if isinstance(part, Passage)]
    given = None if contexts is None else list(contexts)
    passages = _distinct(found if given is None else given, notes)
    placed = _place_of(split, current)
    if given is not None and passages and placed is None:
        split = [
            _cut_pasted(parts, passages) if now else parts for parts, now in zip(split, current, strict=True)
        ]
        placed = _place_of(split, current)
    if passages and placed is None:
        placed = asked
        split[asked] = [PASSAGES, *split[asked]]
    texts = tuple(_join(parts, here=bool(passages) and place == placed) for place, parts in enumerate(split))
    question = texts[asked].rpartition(PASSAGES)[2].strip() or texts[asked].replace(PASSAGES, "").strip()
    return Conversation(texts, passages, question, tuple(notes))


def _split(
    turn: Turn, key: str | None, is_current: bool, history: str, notes: list[str]
) -> list[str | Passage]:
    parts: list[str | Passage] = []
    for part in turn.parts:
        parts += [part] if isinstance(part, Passage) else split_marks(part, key=key)
        if isinstance(part, str) and any(c in part for c in (_BEGIN, _END, _HEAD)):
            whole = sum(isinstance(p, Passage) for p in split_marks(part, key=key))
            if whole < max(part.count(_BEGIN), part.count(_END)):
                notes.append("Passage marks that are unbalanced or not signed were read as plain text.")
    if is_current:
        return parts
    if history == "keep_as_text":
        return [part.text if isinstance(part, Passage) else part.replace(PASSAGES, "") for part in parts]
    return [part.replace(PASSAGES, "") for part in parts if isinstance(part, str)]


def _place_of(split: Sequence[Sequence[str | Passage]], current: Sequence[bool]) -> int | None:
    """The turn in which passages are to stand: the first with the placeholder, else the first with any."""
    own = [place for place, is_current in enumerate(current) if is_current]
    for place in own:
        if any(isinstance(part, str) and PASSAGES in part for part in split[place]):
            return place
    return next((place for place in own if any(isinstance(part, Passage) for part in split[place])), None)


def _join(parts: Sequence[str | Passage], here: bool) -> str:
    """The text of a turn, with `PASSAGES` at its place if passages stand in this one."""
    if not here:
        return "".join(part.replace(PASSAGES, "") for part in parts if isinstance(part, str))
    explicit = any(isinstance(part, str) and PASSAGES in part for part in parts)
    before: list[str] = []
    after: list[str] | None = None
    for part in parts:
        if isinstance(part, Passage):
            if not explicit and after is None:
                after = []
        elif after is not None:
            after.append(part.replace(PASSAGES, ""))
        elif PASSAGES in part:
            head, _, tail = part.partition(PASSAGES)
            before.append(head)
            after = [tail.replace(PASSAGES, "")]
        else:
            before.append(part)
    # Blank separators between passages go, and each passage brings the one after it along.
    following = "".join(part for part in after or () if part.strip())
    return "".join(before) + PASSAGES + following.lstrip("\r\n")


def _cut_pasted(parts: Sequence[str | Passage], passages: Sequence[Passage]) -> list[str | Passage]:
    """Passages whose texts stand in the parts word for word, as passages."""
    todo = list(parts)
    for passage in passages:
        text = strip_marks(passage.text).strip()
        pattern = re.escape(text) if len(text) >= _SURE else rf"(?m)^{re.escape(text)}$"
        for place, part in enumerate(todo):
            if isinstance(part, str) and (match := re.search(pattern, part)):
                todo[place : place + 1] = [part[: match.start()], passage, part[match.end() :]]
                break
    return [part for part in todo if part != ""]


def _distinct(passages: Sequence[Passage], notes: list[str]) -> tuple[Passage, ...]:
    """Without empty ones and repetitions, and with ids that are unique."""
    kept: dict[str, Passage] = {}
    ids: set[str] = set()
    for number, passage in enumerate(passages, 1):
        text = strip_marks(passage.text)
        if not text.strip():
            notes.append(f"Passage {passage.id!r} (number {number}) is empty and was left out.")
            continue
        if passage.content_hash in kept:
            continue
        name, copies = passage.id, 1
        while name in ids:  # the same id for another text: citations must tell them apart
            copies += 1
            name = f"{passage.id}#{copies}"
        ids.add(name)
        kept[passage.content_hash] = replace(passage, id=name, text=text)
    return tuple(kept.values())


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
    return Passage(
        strip_marks(body),
        id=values.get("id", ""),
        title=values.get("title"),
        source=values.get("source"),
        score=score,
    )


def _quote(value: str) -> str:
    return quote(value, safe="", errors="replace").replace("~", "%7E")


def _tag(key: str, header: str, body: str) -> str:
    digest = hmac.new(key.encode(), f"{header}{_HEAD}{body}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return digest.hexdigest()[:16]
