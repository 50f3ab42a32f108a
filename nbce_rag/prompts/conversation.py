"""Which passages of a conversation count, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import InputError
from ..noncharacters import PASSAGES, strip_marks
from ..passages import Passage
from .marks import BEGIN, END, HEAD, split_marks

__all__ = ["Conversation", "Turn", "resolve"]

# Shorter pasted text is found only where it fills whole lines: "Ada" must not eat a word of the question.
_SURE = 40


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
        if isinstance(part, str) and any(c in part for c in (BEGIN, END, HEAD)):
            whole = sum(isinstance(p, Passage) for p in split_marks(part, key=key))
            if whole < max(part.count(BEGIN), part.count(END)):
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
