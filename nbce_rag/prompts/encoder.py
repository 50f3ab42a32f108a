"""From a question and its passages to rows of token ids: prefix | passage | suffix.

A row is cut at fixed places. Prefix, passage and suffix are tokenized apart and joined as ids, so that
the ids of prefix + passage, and hence their keys and values, are the same under every question and
can be reused exactly. The row without a passage leaves the passage part out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from ..errors import InputError, ModelError
from ..noncharacters import NONCHARACTERS, PASSAGES
from ..values import shown
from .template import PromptTemplate
from .thinking import Thought
from .tokenizer import Message, Tokenizer

__all__ = ["PromptEncoder", "Suffix"]

_QUESTION = "\ufdd4"


@dataclass(frozen=True, slots=True)
class Suffix:
    """The token ids that follow the passage.

    Attributes:
        ids: all of them.
        question: half-open range within `ids` of the tokens that spell the question.
    """

    ids: tuple[int, ...]
    question: tuple[int, int]


class PromptEncoder:
    """A wording bound to a tokenizer. Safe to use from several threads.

    Args:
        template: the wording.
        tokenizer: the model's.
        messages: a conversation in place of the template's own prefix and suffix, as chat templates take
            it; `PASSAGES` in a content is where the passages go. Several of these marks are for one passage
            each, in their order; none is for a prompt without passages. Tokenizers without a chat template
            get "role: content" lines. The template still words the passages.
        text: likewise a plain prompt; what stands before `PASSAGES` is the prefix.
        tools: tools for the chat template, with `messages`.
        trusted: `text` comes from a program that renders a chat format: special tokens in it count, and a
            BOS that it begins with is not written twice.
        chat_template_kwargs: what else the chat template may look at, such as `{"enable_thinking": False}`.
        thought: what is to be expected of a thought before the answer; None expects nothing.

    Attributes:
        template: the wording.
        thought: likewise; None too where the prompt is no chat, so that nobody's turn begins behind it.
        thought_is_open: whether the prompt ends with the beginning of a thought.

    Raises:
        InputError: `template.chat` without a chat template in the tokenizer.
        ModelError: a chat template that swallows or repeats the user's message.
    """

    def __init__(
        self,
        template: PromptTemplate,
        tokenizer: Tokenizer,
        *,
        messages: Sequence[Message] | None = None,
        text: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        trusted: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        thought: Thought | None = None,
    ) -> None:
        self.template = template
        self._tokenizer = tokenizer
        self._unwanted, self._specials = _specials(tokenizer.specials)
        self._variables = self._harmless(chat_template_kwargs or {})
        self._is_full = messages is not None or text is not None
        self.places = 1
        rendered = template.chat
        if text is not None:
            before, after = self._cut(text if trusted else self._defuse(text, keep=PASSAGES))
            rendered = trusted and self._begins_with_bos(text)
        elif messages is not None:
            rendered = tokenizer.has_chat_template
            before, after = self._cut(self._conversation(messages, tools))
        else:
            before, after = self._scaffold()
        self.thought = thought if trusted or (text is None and rendered) else None
        self.thought_is_open = False
        if self.thought is not None:
            if self.thought.is_barred:
                after += self.thought.format.without_thought(after)
            self.thought_is_open = self.thought.format.is_open(after)
            if trusted and self.thought_is_open:  # whoever rendered it has switched it on
                self.thought = replace(self.thought, is_off=False)
        head, _, tail = after.partition(_QUESTION)
        self._suffix_head, self._suffix_tail = head, tail
        # Chat templates write their own BOS.
        first, *others = map(tokenizer.encode, before.split(PASSAGES))
        self._segments = ((*(() if rendered else tokenizer.bos_ids), *first), *others)
        self.prefix: tuple[int, ...] = tuple(token for segment in self._segments for token in segment)
        self.refusal: tuple[int, ...] = ()
        # A plain prompt ends with "Answer:", after which a word starts with its blank.
        self._lead = "" if rendered else " "
        if template.refusal and not self.thinks_first():
            self.refusal = tokenizer.encode(self._lead + template.refusal)

    def passage_ids(
        self, title: str | None, text: str, source: str | None = None, id: str = ""
    ) -> tuple[int, ...]:
        """Token ids of one passage in the template's wording."""
        values = {
            "heading": f"{title}\n" if title else "",
            "title": title or "",
            "text": text,
            "source": source or "",
            "id": id,
        }
        # Every second part is a field's name.
        parts = re.split(r"\{(heading|title|text|source|id)\}", self.template.passage)
        filled, _ = self._compose(
            *((values[part], False) if i % 2 else (part, True) for i, part in enumerate(parts))
        )
        return self._tokenizer.encode(filled)

    def suffix(self, question: str) -> Suffix:
        """Token ids of everything after the passage, with the place of the question in them.

        Raises:
            InputError: empty question.
        """
        if self._is_full:
            question = self._defuse(question).strip()
            # The question stands somewhere in the given prompt; else all that follows counts as one.
            text = self._suffix_head
            start = text.rfind(question) if question else -1
            start, end = (start, start + len(question)) if start >= 0 else (0, len(text))
        else:
            question = question.translate(self._unwanted).strip()
            if not question:
                raise InputError("The question is empty; ask something.")
            text, (start, end, _) = self._compose(
                (self._suffix_head, True), (question, False), (self._suffix_tail, True)
            )
        encode = self._tokenizer.encode
        encoded = self._tokenizer.encode_with_offsets(text)
        if encoded is None:  # count the question's tokens from both sides
            ids = encode(text)
            first = len(encode(text[:start]))
            last = len(ids) - len(encode(text[end:]))
            return Suffix(ids, (min(first, len(ids)), max(last, first)))
        ids, offsets = encoded
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and a < b]
        if not inside and not self._is_full:  # a tokenizer may drop what nobody sees, such as U+200B
            raise InputError(f"The question {question!r} has no characters that the model reads.")
        return Suffix(ids, (inside[0], inside[-1] + 1) if inside else (0, 0))

    @property
    def end_tokens(self) -> frozenset[int]:
        """Special tokens that end an answer behind a thought, such as gpt-oss' `<|end|>`."""
        stop = "" if self.thought is None else self.thought.format.stop
        ids = self._tokenizer.encode(stop)[:1]
        return frozenset(ids) if self._tokenizer.decode(ids) in self._tokenizer.specials else frozenset()

    def context(self, passages: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
        """Token ids of a row up to the suffix, with the ids of some passages, by number, in their places."""
        ids: list[int] = []
        for place, segment in enumerate(self._segments):
            ids += segment
            for number in sorted(passages) if len(self._segments) == 1 else [place]:
                ids += passages.get(number, ())
        return tuple(ids)

    def check_places(self, passages: int) -> None:
        """Raises InputError unless the prompt has places for this number of passages."""
        if passages and self.places not in (1, passages):
            raise InputError(
                f"The prompt holds the mark for passages (U+FDD3) {self.places} times and there are "
                f"{passages} passages; it must hold it once, or once for each."
            )

    def count(self, text: str) -> int:
        """Number of tokens of a text within a passage."""
        return len(self._tokenizer.encode(text))

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Token ids of a given answer, as they would follow the suffix."""
        return self._tokenizer.encode(self.answer_text(text))

    def answer_text(self, text: str) -> str:
        """A given answer as it would follow the suffix: defused, and with the blank that leads to it.

        Lines end as models end them, not as Windows does.
        """
        return self._lead + self._defuse(text.replace("\r\n", "\n")).strip()

    def thinks_first(self) -> bool:
        """Whether a thought is likely before the answer, so that what comes first is no refusal."""
        thought = self.thought
        return self.thought_is_open or (thought is not None and not (thought.is_off or thought.is_barred))

    def _defuse(self, text: str, keep: str = "") -> str:
        """Text that can neither mark a seam nor spell a special token such as `<|im_end|>`."""
        parts = text.split(keep) if keep else [text]
        return keep.join(self._compose((part, False))[0] for part in parts)

    def _compose(self, *parts: tuple[str, bool]) -> tuple[str, list[int]]:
        """The parts joined, and where each ends; those not the template's own (False) are defused."""
        text, ends, own = "", [], []
        for part, is_own in parts:
            start, text = len(text), text + (part if is_own else part.translate(self._unwanted))
            ends.append(len(text))
            if is_own:
                own.append((start, len(text)))
        if self._specials is None:
            return text, ends
        # A blank after the first character makes other tokens of it. Passages may also complete what the
        # wording around them begins: `<{id}>`.
        cuts = [
            match.start() + 1
            for match in self._specials.finditer(text)
            if not any(start <= match.start() and match.end() <= end for start, end in own)
        ]
        joined = " ".join(text[start:end] for start, end in pairwise([0, *cuts, len(text)]))
        return joined, [end + sum(cut <= end for cut in cuts) for end in ends]

    def _begins_with_bos(self, text: str) -> bool:
        bos = self._tokenizer.bos_ids
        return bool(bos) and self._tokenizer.encode(text)[: len(bos)] == bos

    def _cut(self, text: str) -> tuple[str, str]:
        """What stands before the last mark, with the other marks in it, and what after."""
        self.places = text.count(PASSAGES)
        before, _, after = text.rpartition(PASSAGES)
        return before, after

    def _conversation(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The messages as one text, special tokens in their contents made harmless."""
        safe = [
            {
                **self._harmless(message),
                "content": self._defuse(str(message.get("content") or ""), keep=PASSAGES),
            }
            for message in messages
        ]
        if not self._tokenizer.has_chat_template:
            lines = [f"{message['role']}: {message['content']}" for message in safe]
            return "\n\n".join([*lines, "assistant:"])
        return self._render(safe, self._harmless(list(tools)))

    def _harmless(self, value: Any) -> Any:
        """The same with all of its strings defused: arguments of tool calls, what tools say of themselves."""
        if isinstance(value, str):
            return self._defuse(value)
        if isinstance(value, Mapping):
            return {key: self._harmless(inner) for key, inner in value.items()}
        return [self._harmless(inner) for inner in value] if isinstance(value, list | tuple) else value

    def _scaffold(self) -> tuple[str, str]:
        """The fixed text before the passage and, with the question marked, after it."""
        template = self.template
        suffix = template.suffix.replace("{question}", _QUESTION, 1)
        if not template.chat:
            return template.prefix, suffix
        if not self._tokenizer.has_chat_template:
            raise InputError(
                f"{self._tokenizer.name!r} has no chat template; use PromptTemplate.plain() or "
                "another template with chat=False."
            )
        user = f"{template.prefix}{PASSAGES}{suffix}"
        messages = [{"role": "user", "content": user}]
        if template.system:
            messages.insert(0, {"role": "system", "content": template.system})
        rendered = self._render(messages, ())
        if rendered.count(PASSAGES) != 1 or rendered.count(_QUESTION) != 1:
            raise ModelError(
                f"The chat template of {self._tokenizer.name!r} drops or repeats the user's message; "
                "pass a tokenizer with another chat_template, or PromptTemplate.plain()."
            )
        before, _, after = rendered.partition(PASSAGES)
        return before, after

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> str:
        """The chat template; where it has no system role, that message heads the next one."""
        if len(messages) > 1 and messages[0]["role"] == "system":
            head, following, *others = messages
            try:
                text = self._tokenizer.render(messages, tools=tools, variables=self._variables)
                # Some templates skip the system role silently instead of refusing it.
                if str(head["content"]).strip() in text:
                    return text
            except ModelError:
                pass  # the other form says what is wrong, if it is something else
            messages = [{**following, "content": f"{head['content']}\n\n{following['content']}"}, *others]
        try:
            return self._tokenizer.render(messages, tools=tools, variables=self._variables)
        except ModelError as error:
            if not self._variables:
                raise
            self._tokenizer.render(messages, tools=tools)  # fails by itself where they are not at fault
            raise InputError(
                f"chat_template_kwargs={shown(self._variables)} cannot be used: {error}"
            ) from error


@lru_cache(maxsize=16)
def _specials(texts: frozenset[str]) -> tuple[dict[int, str | None], re.Pattern[str] | None]:
    """What `str.translate` takes out of foreign text, and a pattern of special tokens to be broken up."""
    unwanted = NONCHARACTERS | {ord(text): None for text in texts if len(text) == 1}
    longer = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return unwanted, re.compile("|".join(map(re.escape, longer))) if longer else None
