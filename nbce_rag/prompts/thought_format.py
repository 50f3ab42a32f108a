"""The marks between which models think, in the forms that chat templates have them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANSWERS", "CHANNELS", "FORMATS", "Head", "ThoughtFormat"]

_CHANNEL, _MESSAGE, _START, _SPEAKER = "<|channel|>", "<|message|>", "<|start|>", "assistant"
_FINAL = f"{_CHANNEL}final{_MESSAGE}"
_LONGEST_HEADER = 200  # characters between a channel's mark and that of its message


@dataclass(frozen=True, slots=True)
class Head:
    """What a turn begins with.

    Attributes:
        is_thought: whether a thought follows; else the answer.
        length: characters of the mark and the blanks before it; 0 where an answer begins without a mark.
    """

    is_thought: bool
    length: int


@dataclass(frozen=True, slots=True)
class ThoughtFormat:
    """The marks between which a model thinks.

    Attributes:
        opening: what begins a thought, as the model writes it: `<think>` and a line break.
        closer: what ends it: `</think>`.
        closing: the closer with what stands around it between a thought and the answer.
        answer_opening: a mark that begins the answer behind a thought, such as `<response>`, or "".
        stop: a mark that ends the answer, such as `</response>`, or "".
        prompt_end: how a prompt that begins the thought may end instead of with the opening, or "".
        has_channels: whether these are gpt-oss' channels, each with a header that names it.
    """

    opening: str
    closer: str
    closing: str
    answer_opening: str = ""
    stop: str = ""
    prompt_end: str = ""
    has_channels: bool = False

    @property
    def lead(self) -> str:
        """What stands between the closer and the answer."""
        return self.closing.partition(self.closer)[2]

    def is_open(self, prompt: str) -> bool:
        """Whether a prompt ends with the beginning of a thought."""
        ends = [end for end in (self.opening.strip(), self.prompt_end) if end]
        return prompt.rstrip().endswith(tuple(ends))

    def without_thought(self, prompt: str) -> str:
        """What a prompt has to go on with so that the answer follows at once."""
        if self.has_channels:
            return _FINAL if prompt.endswith(_SPEAKER) else ""
        return self.closing.lstrip("\n") if self.is_open(prompt) else ""

    def head(self, text: str) -> Head | None:
        """What a turn begins with, by the text so far; None while that may be a part of a mark."""
        stripped = text.lstrip()
        blanks = len(text) - len(stripped)
        if self.has_channels:
            return _channel(stripped, blanks)
        marks = [(self.opening.strip(), True), (self.answer_opening, False)]
        for mark, is_thought in marks:
            if mark and stripped.startswith(mark):
                return Head(is_thought, blanks + len(mark))
        return None if any(mark.startswith(stripped) for mark, _ in marks if mark) else Head(False, 0)


CHANNELS = ThoughtFormat(
    opening=f"{_CHANNEL}analysis{_MESSAGE}",
    closer="<|end|>",
    closing=f"<|end|>{_START}{_SPEAKER}{_FINAL}",
    stop="<|end|>",
    has_channels=True,
)
FORMATS = (
    ThoughtFormat("<think>\n", "</think>", "\n</think>\n\n"),
    ThoughtFormat("[THINK]", "[/THINK]", "[/THINK]"),
    ThoughtFormat(
        "<seed:think>", "</seed:think>", "</seed:think>", prompt_end="<seed:think><seed:cot_budget_reflect>"
    ),
    ThoughtFormat("<|START_THINKING|>", "<|END_THINKING|>", "<|END_THINKING|>"),
    ThoughtFormat("<|channel>thought\n", "<channel|>", "\n<channel|>"),
    ThoughtFormat("<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|close|>think<|sep|>"),
    ThoughtFormat("◁think▷", "◁/think▷", "◁/think▷"),
    ThoughtFormat("<thought>\n", "</thought>", "\n</thought>\n\n"),
    ThoughtFormat("<|begin_of_thought|>", "<|end_of_thought|>", "<|end_of_thought|>\n\n"),
)
ANSWERS = (
    ("<response>", "</response>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)


def _channel(text: str, blanks: int) -> Head | None:
    """A turn's head in gpt-oss' words: `<|channel|>analysis<|message|>` begins a thought."""
    header, mark, _ = text.partition(_MESSAGE)
    inside = header.removeprefix(_START).removeprefix(_SPEAKER).lstrip()
    is_header = inside.startswith((_CHANNEL, "to="))
    if mark and is_header and _CHANNEL in inside:
        if "to=" in inside:
            return Head(False, 0)  # a call of a tool, whose name stands in the header
        is_answer = inside.partition(_CHANNEL)[2].startswith("final")
        return Head(not is_answer, blanks + len(header) + len(mark))
    starts = (f"{_START}{_SPEAKER}{_CHANNEL}", f"{_SPEAKER}{_CHANNEL}", _CHANNEL, "to=")
    if not mark and len(text) < _LONGEST_HEADER and (is_header or any(s.startswith(text) for s in starts)):
        return None
    return Head(False, 0)
