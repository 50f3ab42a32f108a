"""Models that think before they answer: how a chat template switches that, and the marks around a thought.

Nothing goes by the names of models. What a template does is found out by rendering short conversations with
and without the variables that templates use, and by looking for marks in what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError, ModelError
from .thought_format import ANSWERS, CHANNELS, FORMATS, ThoughtFormat
from .tokenizer import Message, Tokenizer

__all__ = ["Thinking", "Thought", "thinking_of"]

# Variables by which templates switch thinking: name, value for off, value for on.
_SWITCHES: tuple[tuple[str, Any, Any], ...] = (
    ("enable_thinking", False, True),
    ("thinking", False, True),
    ("reasoning", False, True),
    ("thinking_mode", "disabled", "enabled"),
    ("thinking_budget", 0, -1),
)
_EFFORT = "reasoning_effort"
_LONGEST_MARKS = 200  # characters between a thought and the answer
_THOUGHT, _ANSWER = "qthought", "qanswer"  # words that no template has
_OPENER = re.compile(r"(<[^<>\s]+>|\[[A-Z_]+\])\s*$")
_CLOSER = re.compile(r"\s*(<[^<>\s]+>|\[/[A-Z_]+\])")


@dataclass(frozen=True, slots=True)
class Thought:
    """What is to be expected of one request's turn.

    Attributes:
        format: the marks.
        is_off: whether the template has switched thinking off, or the model is not known to think.
        is_barred: whether there shall be no thought, whatever the template says.
    """

    format: ThoughtFormat
    is_off: bool
    is_barred: bool = False


@dataclass(frozen=True)
class Thinking:
    """What a chat template knows of thinking.

    Attributes:
        format: the marks, or None where it has none.
        off: variables that switch thinking off, or as low as it goes.
        on: variables that switch it on.
        silences: whether `off` leaves no thought.
        thinks: whether the template itself speaks of thoughts, and not the vocabulary alone.
    """

    format: ThoughtFormat | None = None
    off: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Any] = field(default_factory=dict)
    silences: bool = False
    thinks: bool = False

    def variables(
        self, thinking: bool | None, chat_template_kwargs: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """What the template is to look at; where the given ones hold a switch, no other is set.

        Args:
            thinking: on, or None and False for off.
            chat_template_kwargs: variables of the request.

        Raises:
            InputError: `thinking` is True and the template knows nothing of it.
        """
        if thinking and self.format is None and not self.off:
            raise InputError(
                "thinking=True: the model's chat template has no switch and no marks for it. Leave it out, "
                "or use a model that thinks."
            )
        variables = dict(chat_template_kwargs or {})
        if (self.off.keys() | self.on.keys()) & variables.keys():
            return variables
        return {**(self.on if thinking else self.off), **variables}

    def thought(self, thinking: bool | None, variables: Mapping[str, Any]) -> Thought | None:
        """What is to be expected under these variables; None of a template without marks."""
        if self.format is None:
            return None
        switches = {name: value for name, value in self.off.items() if name in variables}
        is_silent = (
            self.silences and bool(switches) and all(variables[name] == v for name, v in switches.items())
        )
        is_off = is_silent or (not self.thinks and not thinking)
        return Thought(self.format, is_off, is_barred=thinking is False)


def thinking_of(tokenizer: Tokenizer) -> Thinking:
    """What a tokenizer's chat template knows of thinking; it is rendered some dozen times."""
    if not tokenizer.has_chat_template:
        return Thinking()
    ask = _Renderer(tokenizer)
    texts = [ask.turn({})]
    off: dict[str, Any] = {}
    on: dict[str, Any] = {}
    for name, quiet, loud in _SWITCHES:
        both = [ask.turn({name: value}) for value in (quiet, loud)]
        if "" not in both and both[0] != both[1]:
            off[name], on[name] = quiet, loud
            texts += both
    silences = bool(off)
    if not off:
        off, on, silences = _efforts(ask)
        texts += [ask.turn(off), ask.turn(on)]
    turn = next((text for text in (ask.thought_turn(on), ask.thought_turn({})) if _THOUGHT in text), "")
    texts += [turn, ask.past_turn(on), ask.past_turn({})]
    found = _format(texts, turn, ask)
    if found is not None:
        return Thinking(found, off, on, silences, thinks=True)
    rare = next((one for one in FORMATS if {one.opening, one.closer} <= tokenizer.specials), None)
    return Thinking(rare, off, on, silences)


class _Renderer:
    """Short conversations in a chat template's words; "" where it refuses one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def turn(self, variables: Mapping[str, Any]) -> str:
        return self._render([_USER], variables)

    def thought_turn(self, variables: Mapping[str, Any]) -> str:
        """A turn that was thought about."""
        thinker = {"role": "assistant", "content": _ANSWER, "reasoning_content": _THOUGHT}
        return self._render([_USER, thinker], variables)

    def plain_head(self) -> str:
        """What stands before the answer of a turn that was not thought about."""
        return self._render([_USER, {"role": "assistant", "content": _ANSWER}], {}).partition(_ANSWER)[0]

    def past_turn(self, variables: Mapping[str, Any], before: str = "") -> str:
        """A turn of the past, the answer with something before it."""
        return self._render([_USER, {"role": "assistant", "content": before + _ANSWER}, _USER], variables)

    def _render(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        try:
            return self._tokenizer.render(messages, variables=variables)
        except ModelError:
            return ""


_USER = {"role": "user", "content": "q"}


def _efforts(ask: _Renderer) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """(off, on, whether off is really off) by how much effort a template can ask for."""
    if "qeffort" in ask.turn({_EFFORT: "qeffort"}):  # it writes down whatever it is told
        return {_EFFORT: "low"}, {}, False
    none, low, high = (ask.turn({_EFFORT: effort}) for effort in ("none", "low", "high"))
    if none and high and none != high:
        return {_EFFORT: "none"}, {_EFFORT: "high"}, True
    if low and high and low != high:
        return {_EFFORT: "low"}, {_EFFORT: "high"}, False
    return {}, {}, False


def _format(texts: Sequence[str], turn: str, ask: _Renderer) -> ThoughtFormat | None:
    """The marks in what a template rendered, or those that it takes out of earlier turns."""
    if any(CHANNELS.lead in text for text in texts):
        return CHANNELS
    found = next((f for f in FORMATS if any(_marks(f, text) for text in texts)), None)
    found = found or _from_turn(turn, ask) or next((f for f in FORMATS if _is_stripped(f, ask)), None)
    if found is None:
        return None
    before, _, behind = turn.partition(_THOUGHT)
    between, answer_word, _ = behind.partition(_ANSWER)
    mark, opening, closing = found.opening.strip(), found.opening, found.closing
    # The template's own white space around the marks, where it writes a thought itself.
    if answer_word and found.closer in between and len(between) < _LONGEST_MARKS:
        closing = between
    if mark in before and not before.rpartition(mark)[2].strip():
        opening = mark + before.rpartition(mark)[2]
    answer, stop = next((pair for pair in ANSWERS if any(pair[0] in text for text in texts)), ("", ""))
    if answer and answer not in closing:
        closing = closing.rstrip() + answer
    return ThoughtFormat(opening, found.closer, closing, answer, stop, found.prompt_end)


def _marks(form: ThoughtFormat, text: str) -> bool:
    return form.opening.strip() in text or form.closer in text


def _from_turn(turn: str, ask: _Renderer) -> ThoughtFormat | None:
    """Marks around a thought that the template writes itself."""
    before, thought, behind = turn.partition(_THOUGHT)
    opener = _OPENER.search(before) if thought and _ANSWER in behind else None
    closer = _CLOSER.match(behind)
    # What stands before an answer without a thought too is the head of the turn.
    if opener is None or closer is None or ask.plain_head().rstrip().endswith(opener[1]):
        return None
    return ThoughtFormat(opener[0], closer[1], behind.partition(_ANSWER)[0])


def _is_stripped(form: ThoughtFormat, ask: _Renderer) -> bool:
    """Whether a thought between these marks is taken out of an earlier turn."""
    text = ask.past_turn({}, f"{form.opening}{_THOUGHT}{form.closing}")
    return _ANSWER in text and _THOUGHT not in text
