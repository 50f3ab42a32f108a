"""One question as vLLM gets it: a group of rows in one request, and its steps as they come back."""

from __future__ import annotations

import json
import random
import uuid
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import InputError
from ...fusion import rule_fields
from ...options import Options
from ...prompts.tokenizer import Tokenizer
from ..model import GroupRequest, Step, TokenIds
from .servers import Place
from .transport import TryAgain
from .wire import GROUP, ROWS, SPEC, GroupSpec, decode_step

__all__ = ["Group", "GroupReader", "group_of"]

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size")
_TOKEN = "token_id:"
# What vLLM itself would do to logits; else a model's generation_config.json may say something.
_NEUTRAL = {
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "repetition_penalty": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}


@dataclass(frozen=True, slots=True)
class Group:
    """A question that is to be answered.

    Attributes:
        model: the name that the servers know.
        prompts: token ids of its rows, row 0 first.
        spec: what the plugin has to know.
        max_tokens: of the answer.
        place: what decides where it goes.
    """

    model: str
    prompts: Sequence[TokenIds]
    spec: GroupSpec
    max_tokens: int
    place: Place

    def body(self) -> dict[str, Any]:
        """Of a request; each try is a group of its own."""
        return {
            "model": self.model,
            "prompt": [list(ids) for ids in self.prompts],
            "max_tokens": self.max_tokens,
            **_NEUTRAL,
            "logprobs": self.spec.shape.logprobs,
            "return_tokens_as_token_ids": True,
            "stop_token_ids": sorted({*self.spec.eos, self.spec.poison}),
            "ignore_eos": True,
            "skip_special_tokens": False,
            "stream": True,
            "vllm_xargs": {
                GROUP: uuid.uuid4().hex,
                ROWS: len(self.prompts),
                SPEC: self.spec.dumps(),
            },
        }


def group_of(
    model: str,
    request: GroupRequest,
    prompts: Sequence[TokenIds],
    place: Place,
    tokenizer: Tokenizer,
    eos_ids: Collection[int],
) -> Group:
    """A question for vLLM.

    Args:
        model: the name that the servers know.
        request: the question.
        prompts: token ids of its rows, row 0 first.
        place: what decides where it goes.
        tokenizer: spells out `bad_words`.
        eos_ids: tokens that end an answer; the lowest ends a group that fell apart.

    Raises:
        InputError: a fusion rule of the user's own.
    """
    options, state = request.options, request.state
    rule = rule_fields(options.rule)
    if rule is None:
        raise InputError(
            f"vLLM fuses by the rules of nbce_rag.fusion, by name; {options.rule!r} is none of them. Load "
            "the model with backend='transformers' for a rule of your own."
        )
    defaults = Options()
    sampling = {name: getattr(options, name) for name in _SAMPLING}
    eos = tuple(sorted(eos_ids))
    spec = GroupSpec(
        rows=len(prompts),
        rule=rule,
        eos=eos,
        poison=eos[0] if eos else 0,
        # Drawn here, so that an answer that is asked for again comes out the same.
        seed=random.getrandbits(63) if options.seed is None else options.seed,
        sampling={name: value for name, value in sampling.items() if value != getattr(defaults, name)},
        bad_words=options.bad_words,
        spellings={form: tokenizer.encode(form) for word in options.bad_words for form in (word, f" {word}")},
        json_schema=_schema_text(options),
        regex=options.regex,
        scores=_numbers(state.scores),
        relevance=_numbers(state.relevance),
        refusal=_numbers(state.refusal),
        joint=_numbers(state.joint),
        entropies=options.entropies,
        top=options.top_logprobs,
    )
    return Group(model, prompts, spec, request.max_tokens, place)


class GroupReader:
    """Makes steps of the events of one try of a group.

    Args:
        group: the group.
        question: that the steps are of.
    """

    def __init__(self, group: Group, question: int) -> None:
        self._group, self._question = group, question
        self._shape = shape = group.spec.shape
        self._count = 0
        self._last = -1
        self._rows: list[deque[tuple[int, dict[int, float]]]] = [deque() for _ in range(shape.rows)]
        self._reasons: dict[int, str] = {}

    def push(self, event: Mapping[str, Any]) -> list[Step]:
        """The steps that an event makes whole.

        Raises:
            TryAgain: the group fell apart.
        """
        for choice in event.get("choices", ()):
            row = choice.get("index")
            if not isinstance(row, int) or not 0 <= row < self._shape.rows:
                raise TryAgain(f"the server answers a row {row!r} that was not asked for", is_down=False)
            self._rows[row] += _tokens_of(choice.get("logprobs"))
            if (reason := choice.get("finish_reason")) is not None:
                self._reasons[row] = reason
                if reason not in ("stop", "length"):
                    told = choice.get("stop_reason")
                    raise TryAgain(f"the server ended the group ({reason}: {told})", is_down=False)
        steps = []
        while all(self._rows):
            heads = [row.popleft() for row in self._rows]
            tokens, log_probs = [token for token, _ in heads], [by_token for _, by_token in heads]
            step = decode_step(self._question, self._count, tokens, log_probs, self._shape)
            if step is None:
                raise TryAgain(
                    f"the rows of a group fell out of step at token {self._count + 1}", is_down=False
                )
            self._count, self._last = self._count + 1, step.token
            steps.append(step)
        return steps

    def check_whole(self) -> None:
        """At the end of the events: raises TryAgain unless all rows have ended together, and in time."""
        if any(self._rows) or len(self._reasons) < self._shape.rows or len(set(self._reasons.values())) > 1:
            raise TryAgain("the rows of a group did not end together", is_down=False)
        if self._last not in self._group.spec.eos and self._count < self._group.max_tokens:
            raise TryAgain(f"a group ended after {self._count} tokens, before its answer did", is_down=False)


def _tokens_of(logprobs: Any) -> list[tuple[int, dict[int, float]]]:
    """Tokens that were chosen, each with log-probs by token id."""
    if not isinstance(logprobs, Mapping):
        return []
    tops = logprobs.get("top_logprobs") or ()
    pairs = zip(logprobs.get("tokens") or (), tops, strict=True)
    try:
        return [(_id_of(token), {_id_of(one): value for one, value in top.items()}) for token, top in pairs]
    except (ValueError, AttributeError) as error:
        raise TryAgain(f"the server answers tokens without their ids ({error})", is_down=False) from error


def _id_of(token: str) -> int:
    return int(token.removeprefix(_TOKEN))


def _numbers(values: Tensor | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values[0].tolist())


def _schema_text(options: Options) -> str | None:
    schema = options.json_schema
    return schema if schema is None or isinstance(schema, str) else json.dumps(schema, default=dict)
