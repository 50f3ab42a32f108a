"""Which passages of a conversation count, and where they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import InputError
from ..noncharacters import PASSAGES, strip_marks
from ..passages import Passage
from .marks import BEGIN, END, HEAD, split_marks
from .oversights import oversights
from .scores import on_one_scale

__all__ = ["Conversation", "Turn", "resolve"]

# Shorter pasted text is found only where it fills whole lines: "Ada" must not eat a word of the question.
_SURE = 40
_WORD = re.compile(r"[^\W_]")


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
        texts: text of each turn. Passages stand at `PASSAGES`, which they hold once for all of them, or once
            for each in their order; without passages, none does.
        passages: the passages to read, each a context of its own.
        question: what is asked, as it stands in the texts.
        notes: what the reader of the answer should know, in sentences.
        is_retrieved: whether passages were looked for: some were given, or a list of none, or there is a
            place for them. Without passages then, nothing was found, and nothing should be answered.
    """

    texts: tuple[str, ...]
    passages: tuple[Passage, ...]
    question: str
    notes: tuple[str, ...]
    is_retrieved: bool = False


def resolve(
    turns: Sequence[Turn],
    contexts: Iterable[Passage] | None = None,
    *,
    key: str | None = None,
    history: str = "drop",
    score_scale: str | None = None,
) -> Conversation:
    """Find the passages of a conversation and the places where they stand.

    1. `contexts`, if given, are the passages, and those in the turns are left out.
    2. Else they are those of the current turn (the last user turn, what follows it, and system turns), in
       their order, each once.
    3. Passages of earlier turns are left out, or stay as text.
    4. They stand at `PASSAGES`, all together. Without that mark each stays where it stands in the turns,
       also `contexts` whose texts stand there word for word. Where the turns hold other passages than
       `contexts`, all stand in the place of the first; where they hold none, before the text of the last
       user turn.
    5. Text before, between and after passages stays where it is, so that what is said of one ("Source 2,
       from 1999:") is not read as said of another. Between two passages, what holds no letter and no digit
       only separates them and goes; line breaks after a passage go, since each brings its own. Where no text
       is left between passages, they stand at one mark together, so that a passage's row does not depend on
       its rank.
    6. Empty passages are left out, with a note.
    7. Scores count where they are cosines or can be made so; else, and where there are none, the passages'
       ranks do (`nbce_rag.prompts.scores`).
    8. Contexts that came as the repr of objects, and places for them that were left unfilled, are noted.

    Args:
        turns: the conversation, oldest first.
        contexts: passages given beside it.
        key: see `format_passage`; marks without its tag are not believed, and neither is `PASSAGES` outside
            system turns where signed passages stand.
        history: "drop" or "keep_as_text", for passages of earlier turns.
        score_scale: what the passages' scores are, see `on_one_scale`; None tells it from them.

    Raises:
        InputError: no turns, an unknown `history` or `score_scale`, or scores that are not what they are said
            to be.
    """
    if history not in ("drop", "keep_as_text"):
        raise InputError(f"history={history!r} must be 'drop' or 'keep_as_text'.")
    if not turns:
        raise InputError("There is no message; give at least one.")
    users = [place for place, turn in enumerate(turns) if turn.role == "user"]
    last = users[-1] if users else len(turns) - 1
    current = [turn.role == "system" or place >= last for place, turn in enumerate(turns)]
    notes: list[str] = []
    split = [
        _split(turn, key, is_current, history, notes) for turn, is_current in zip(turns, current, strict=True)
    ]
    standing = [part for parts in split for part in parts if isinstance(part, Passage)]
    if key is not None and standing:  # nobody has signed that mark
        split = [
            parts if turn.role == "system" else [_without_places(part) for part in parts]
            for turn, parts in zip(turns, split, strict=True)
        ]
    marked = any(isinstance(part, str) and PASSAGES in part for parts in split for part in parts)
    scored, of_scores = on_one_scale(standing if contexts is None else list(contexts), score_scale)
    passages = _distinct(scored, notes)
    notes += of_scores
    notes += oversights(
        part
        for parts, now in zip(split, current, strict=True)
        if now
        for part in parts
        if isinstance(part, str)
    )
    if contexts is not None and not standing and not marked:
        split = [
            _cut_pasted(parts, passages) if now else parts for parts, now in zip(split, current, strict=True)
        ]
    texts = _placed(split, current, passages, last)
    question = texts[last].rpartition(PASSAGES)[2].strip() or texts[last].replace(PASSAGES, "").strip()
    is_retrieved = contexts is not None or marked or bool(standing)
    return Conversation(tuple(texts), passages, question, tuple(notes), is_retrieved)


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


def _without_places(part: str | Passage) -> str | Passage:
    return part.replace(PASSAGES, "") if isinstance(part, str) else part


def _tidy(parts: Sequence[str | Passage]) -> list[str | Passage]:
    """The parts, texts in a row joined, without what only separates passages."""
    joined: list[str | Passage] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    tidy: list[str | Passage] = []
    for place, part in enumerate(joined):
        if isinstance(part, str) and place:  # what stands before a text is a passage
            if place + 1 < len(joined) and not _WORD.search(part):
                continue
            part = part.lstrip("\r\n")
        tidy.append(part)
    return tidy


def _placed(
    split: Sequence[Sequence[str | Passage]],
    current: Sequence[bool],
    passages: Sequence[Passage],
    last: int,
) -> list[str]:
    """The text of each turn, with the marks for the passages in it."""
    if not passages:
        return [_text(parts).replace(PASSAGES, "") for parts in split]
    split = [_tidy(parts) for parts in split]
    marked = next((n for n, parts in enumerate(split) if current[n] and PASSAGES in _text(parts)), None)
    standing = [n for n, parts in enumerate(split) if any(isinstance(part, Passage) for part in parts)]
    if marked is not None:
        return [
            _at_mark(parts) if n == marked else _text(parts).replace(PASSAGES, "")
            for n, parts in enumerate(split)
        ]
    if not standing:
        return [PASSAGES + text if n == last else text for n, text in enumerate(map(_text, split))]
    texts = _in_place(split, passages)
    if texts is None:
        return [_at_first(parts) if n == standing[0] else _text(parts) for n, parts in enumerate(split)]
    together = PASSAGES * len(passages)
    return [text.replace(together, PASSAGES) for text in texts]


def _text(parts: Sequence[str | Passage]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _at_mark(parts: Sequence[str | Passage]) -> str:
    """All passages at the first mark; further ones mean nothing."""
    before, _, after = _text(parts).partition(PASSAGES)
    return before + PASSAGES + after.replace(PASSAGES, "").lstrip("\r\n")


def _at_first(parts: Sequence[str | Passage]) -> str:
    """All passages where the first of those in the parts stands."""
    place = next(n for n, part in enumerate(parts) if isinstance(part, Passage))
    return _text(parts[:place]) + PASSAGES + _text(parts[place:])


def _in_place(split: Sequence[Sequence[str | Passage]], passages: Sequence[Passage]) -> list[str] | None:
    """The texts with a mark for each passage where it stands first; None if these are not the passages."""
    waiting = [passage.content_hash for passage in passages]
    texts = []
    for parts in split:
        pieces = []
        for part in parts:
            if isinstance(part, str):
                pieces.append(part)
            elif waiting and _clean(part).content_hash == waiting[0]:
                waiting.pop(0)
                pieces.append(PASSAGES)
        texts.append("".join(pieces))
    return None if waiting else texts


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
    distinct: dict[str, Passage] = {}
    copies: dict[str, int] = {}  # by id
    for number, passage in enumerate(passages, 1):
        passage = _clean(passage)
        if not passage.text.strip():
            notes.append(f"Passage {passage.id!r} (number {number}) is empty and was left out.")
            continue
        if passage.content_hash in distinct:
            continue
        name = passage.id
        while name in copies:  # the same id for another text: citations must tell them apart
            copies[passage.id] = copies.get(passage.id, 1) + 1
            name = f"{passage.id}#{copies[passage.id]}"
        copies.setdefault(name, 1)
        distinct[passage.content_hash] = replace(passage, id=name)
    return tuple(distinct.values())


def _clean(passage: Passage) -> Passage:
    return replace(passage, text=strip_marks(passage.text))
