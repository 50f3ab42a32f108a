"""What may be set for an engine or for one call, in one place, checked when it is set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

from .checks import COUNT, Range
from .errors import InputError
from .fusion import Rule, resolve_rule
from .prompts.chat_template import check_chat_template_kwargs
from .prompts.template import STYLES, Style
from .values import plain

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `NBCE`, of each call, and of the command line; all have defaults.

    Attributes:
        fusion: a rule's name or an object with a `fuse` method (see `nbce_rag.fusion`).
        style: how long an answer the built-in wordings ask for: "short" (as few words as possible; from a
            base model one line) or "long" (full sentences, with code where it helps). None is "long" for
            models with a chat template and "short" for others. Refused beside an engine's own wording
            (`prompt=`), and without effect on a request that has a template or a text of its own.
        max_tokens: most tokens of the answer, >= 1; one that is cut by it has `finish_reason` "length".
        max_seconds: seconds that answers may take from when they are begun, reading the passages included, or
            None. Then `AnswerTimeoutError` is raised, between two tokens or two blocks of what is read; of
            questions that are answered together the least one counts for all.
        stop: strings that end the answer; they are not part of it. Leading white space is not part of
            the answer either, so a stop string cannot match in it. The prompt template may add some.
        temperature: 0 is greedy; otherwise fused scores are divided by it and sampled from.
        top_k: sample from the k best only; 0 is off.
        top_p: sample from the smallest set with this mass, in (0, 1]; 1 is off. This acts on the fused
            distribution; rules truncate their rows by a number of their own.
        min_p: sample from tokens with at least this share of the best one's probability, in [0, 1].
        repetition_penalty: > 0; 1 is off. Sees the answer so far, not the prompts.
        no_repeat_ngram_size: no n-gram of the answer comes twice; 0 is off.
        bad_words: strings that the answer must not spell, as the tokenizer spells them by themselves or
            after a blank.
        seed: makes sampling repeatable; each call has a generator of its own.
        json_schema: the answer is JSON that fits this schema (dict or JSON text). Extra `[grammar]`.
        regex: the answer matches this regular expression. Extra `[grammar]`.
        chat_template_kwargs: what the model's chat template may look at beside messages and tools, such as
            `{"enable_thinking": False}`: a mapping of names to JSON values. Each template has its own, and
            leaves alone what it does not know. A switch of thinking that stands here wins over the one that
            `thinking` would set.
        thinking: whether a model that can think before it answers does. None switches it off where the
            model's chat template can (`enable_thinking`, `thinking`, a lower `reasoning_effort`, ...);
            False does so too, and closes at once what cannot be switched off; True switches it on, and is
            refused for models that know nothing of it. A thought stands in `Answer.thought`: it is no part
            of the answer, its stop strings, its grammar, and of nothing that is cited.
        max_thought_tokens: most tokens of the thought, beside those of the answer; then it is closed with the
            template's own mark and the answer begins. None is 1024, at most a quarter of the window, and 32
            where thinking is off and a thought comes all the same.
        passages_per_row: passages that share a row, in the given order; 1 is NBCE, n or more is one
            concatenated prompt.
        joint_row: one more row that reads all passages, where it fits into the window; fusion weighs it
            like any other. For questions whose answer needs several passages at once.
        order_labels: write "Part i of n" over each passage, for passages whose order matters.
        parts: answer a question with several parts (lines or list items, or sentences that ask) part by part,
            each with rows of its own, in one batch, and put the answers together as a list; `max_tokens` and
            `abstain_below` count for each part. False asks everything at once. Without effect without
            passages, beside a grammar, a prompt of the user's, tools, or a conversation with more than one
            question. Parts that are not understood alone, and more than 32, are asked at once
            (`nbce_rag.prompts.parts`).
        abstain_below: with a calibration (`NBCE.calibrate`), abstain before anything is decoded when
            `Answer.support` is not above this: 0.05 silences at most one answerable question in twenty by
            mistake. Without one, abstain when `Answer.grounding` of the whole answer (nats a token) is below
            this, which tells little: 0.06 of questions that no passage is about, where the former tells
            0.82. None never does.
        abstention: what an abstaining answer says.
        answer_without_context: where a search found no passage, or an empty list of contexts was given, let
            the model answer from the question alone; False abstains. A question that comes without any list
            of passages (`NBCE.answer("...")`) is answered in any case.
        refusal_threshold: a row refuses when its probability of the prompt's refusal reaches this; when
            all rows refuse, the answer is an abstention. In (0, 1].
        relevance: compute `passage.relevance` even for rules that do not use it.
        entropies: keep every row's entropy at every token (`TokenEvidence.entropies`), for `Answer.plot`.
            It costs a pass over all rows' probabilities a token, so it is off.
        top_logprobs: so many of the most probable tokens are kept at each place of the answer
            (`TokenEvidence.top`), those that the fusion rule excludes never; 0 is off.
        prompt_lookup_num_tokens: most tokens that are drafted from the leading passage and verified in
            one pass; changes the speed alone. 0 is off.
        sleep: leave rows unread for as long as they cannot change what is chosen; they read what they lack
            when they might. Tokens are the same as without, weights within 0.0001. For rules that know such
            bounds (`posterior`), where rows can be taken back; not beside a grammar, `entropies` or
            `drop_rows_after`.
        drop_rows_after: stop reading passages that had less than a thousandth of the evidence for this many
            tokens in a row; 0 never does. Sooner, but what comes later cannot be drawn from them; the
            answer says so.
        conflicts: say where passages that matter give other answers (`nbce_rag.Answer.conflicts`). It changes
            no token. The answer's own numbers tell first whether there may be any; only then up to four
            passages answer by themselves, before the last piece of a stream. For short answers in words
            from one passage a row, without tools, grammar or thought.
        citation_threshold: least share of the evidence at which a passage is cited, in (0, 1].

    Raises:
        InputError: a value out of range, named with its range.
    """

    fusion: str | Rule = "posterior"
    style: Style | None = None
    max_tokens: int = 256
    max_seconds: float | None = None
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words: tuple[str, ...] = ()
    seed: int | None = None
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    thinking: bool | None = None
    max_thought_tokens: int | None = None
    passages_per_row: int = 1
    joint_row: bool = False
    order_labels: bool = False
    parts: bool = True
    abstain_below: float | None = None
    abstention: str = "The passages do not answer this question."
    answer_without_context: bool = False
    refusal_threshold: float = 0.5
    relevance: bool = False
    entropies: bool = False
    top_logprobs: int = 0
    prompt_lookup_num_tokens: int = 8
    sleep: bool = True
    drop_rows_after: int = 0
    conflicts: bool = True
    citation_threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("stop", "bad_words"):
            value = getattr(self, name)
            texts = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ("",)
            if not all(isinstance(text, str) and text for text in texts):
                raise InputError(f"{name}={value!r} must be a sequence of non-empty strings.")
            object.__setattr__(self, name, texts)
        for name, numbers in _RANGES.items():
            value = getattr(self, name)
            if isinstance(value, Number) and not isinstance(value, int | float):
                value = plain(value, infinite=True)  # a number of NumPy's
                object.__setattr__(self, name, value)
            if value is not None or name not in _MAY_BE_NONE:
                numbers.check(name, value)
        for name, (kinds, wording) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise InputError(f"{name}={value!r} must be {wording}.")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(f"{name}={value!r} is not known; choose {' or '.join(choices)}, or None.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise InputError(f"seed={self.seed!r} is out of range; use a whole number of up to 64 bits.")
        if self.json_schema is not None and self.regex is not None:
            raise InputError("json_schema and regex exclude each other; give one of them.")
        kwargs = check_chat_template_kwargs(self.chat_template_kwargs)
        object.__setattr__(self, "chat_template_kwargs", kwargs)
        object.__setattr__(self, "fusion", resolve_rule(self.fusion))

    @property
    def rule(self) -> Rule:
        """The fusion rule, resolved."""
        return resolve_rule(self.fusion)

    def updated(self, **changes: Any) -> Options:
        """These options with some changed.

        Raises:
            InputError: an unknown option, or a value out of range.
        """
        names = [field.name for field in dataclasses.fields(self)]
        if unknown := sorted(set(changes) - set(names)):
            raise InputError(f"Unknown option {', '.join(unknown)}; the options are {', '.join(names)}.")
        return dataclasses.replace(self, **changes) if changes else self


_COUNT_OR_OFF = Range(0, whole=True, note="0 for off")
_SHARE = Range(0, 1, above=True)
_RANGES = {
    "max_tokens": COUNT,
    "max_seconds": Range(0, above=True, note="or None"),
    "temperature": Range(0, note="0 for greedy"),
    "top_k": _COUNT_OR_OFF,
    "top_p": _SHARE,
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0, above=True, note="1 for off"),
    "no_repeat_ngram_size": _COUNT_OR_OFF,
    "seed": Range(whole=True, note="or None"),
    "max_thought_tokens": Range(0, whole=True, note="or None"),
    "passages_per_row": COUNT,
    "abstain_below": Range(note="a share of false alarms with a calibration, else in nats, or None"),
    "refusal_threshold": _SHARE,
    "top_logprobs": _COUNT_OR_OFF,
    "prompt_lookup_num_tokens": _COUNT_OR_OFF,
    "drop_rows_after": Range(0, whole=True, note="0 for never"),
    "citation_threshold": _SHARE,
}
_MAY_BE_NONE = ("max_seconds", "seed", "max_thought_tokens", "abstain_below")
_CHOICES = {"style": STYLES}
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "json_schema": ((Mapping, str, type(None)), "a dict, JSON text, or None"),
    "regex": ((str, type(None)), "a string, or None"),
    "thinking": ((bool, type(None)), "True, False or None"),
    "joint_row": ((bool,), "True or False"),
    "sleep": ((bool,), "True or False"),
    "conflicts": ((bool,), "True or False"),
    "order_labels": ((bool,), "True or False"),
    "parts": ((bool,), "True or False"),
    "abstention": ((str,), "a string"),
    "answer_without_context": ((bool,), "True or False"),
    "relevance": ((bool,), "True or False"),
    "entropies": ((bool,), "True or False"),
}
