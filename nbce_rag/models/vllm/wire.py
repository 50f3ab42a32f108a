"""What this package and its plugin inside vLLM say to each other, through vLLM's own API and nothing beside.

There: a group is one request for completions with a list of R prompts, row 0's first. Its `vllm_xargs` carry
`GROUP` (an id of its own), `ROWS` (R) and `SPEC` (a `GroupSpec` as JSON).

Back, in band: in every step all rows of a group choose the same token, and what else there is to tell of it
stands in the rows' log-probs, which vLLM returns as they are when it is started with
`--logprobs-mode processed_logprobs` (of prompts these are what the model says). A row's chosen token has the
logit `CHOSEN`, its carriers (`carrier_ids`) one number each, so low that logits are log-probs already, and
all other tokens have `FLOOR`. The numbers of a step, as float32, are one string of bits, which is dealt out
evenly to the carriers of all rows: few a row do, and nothing is rounded.

A step that lacks a number, or whose rows chose differently, is one of a group that fell apart: `decode_step`
gives None, and nothing of it counts.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ...fusion import resolve_rule
from ...options import Options
from ..model import Step

__all__ = [
    "CHOSEN",
    "FLOOR",
    "GROUP",
    "HELLO",
    "ROWS",
    "SPEC",
    "VERSION",
    "GroupSpec",
    "Hello",
    "StepShape",
    "carrier_ids",
    "decode_step",
    "encode_step",
]

VERSION = 1
"""Of what is said here; both sides must have the same."""

GROUP, ROWS, SPEC, HELLO = "nbce_group", "nbce_rows", "nbce", "nbce_hello"
"""Names within `vllm_xargs`."""

CHOSEN = 0.0
"""Logit of the token that was chosen."""
FLOOR = -1e30
"""Logit of a token that is neither chosen nor a carrier. vLLM's API writes -9999 for it."""

# A carrier has 23 bits: -(32 + bits / 2**18) is above -64, where float32 holds it exactly. exp(-32) is lost
# beside the 1 of the chosen token, so that a softmax changes none; and exp(-64) is not nothing yet: what is,
# vLLM cuts off in all rows of a step in which somebody else draws with top_p.
_BITS = 23
_FIRST = 32.0
_STEP = 2.0**18
_HELLO_MARK = "nbce-rag plugin "


@dataclass(frozen=True, slots=True)
class StepShape:
    """How many numbers a step of a group has, and how they are dealt out to its rows.

    Attributes:
        rows: R >= 1, row 0 included.
        entropies: whether the entropy of each row is told.
        top: how many of the most probable tokens are told.
    """

    rows: int
    entropies: bool = False
    top: int = 0

    @property
    def numbers(self) -> int:
        """Of one step."""
        return 3 + (self.rows - 1) + self.rows * (2 if self.entropies else 1) + 2 * self.top

    @property
    def carriers(self) -> int:
        """Carriers of one row."""
        return math.ceil(math.ceil(32 * self.numbers / _BITS) / self.rows)

    @property
    def logprobs(self) -> int:
        """What a request has to ask for as `logprobs`, so that all carriers come back beside the token."""
        return self.carriers + 1


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """What the plugin has to know of a group beside its prompts.

    Attributes:
        rows: R >= 1, row 0 included.
        rule: the fusion rule as `nbce_rag.fusion.rule_fields` gives it.
        eos: tokens that end the answer.
        poison: token that ends the rows of a group that fell apart; the request has it, and those of `eos`,
            among its `stop_token_ids`.
        seed: of the draws; not used where temperature is 0.
        sampling: the fields of `nbce_rag.options.Options` that `nbce_rag.decoding.sampling.Sampler` reads
            and that are not at their defaults, `bad_words` and `seed` left out.
        bad_words: strings that the answer must not spell, in order.
        spellings: token ids of each form of them that the sampler asks a tokenizer for: the word, and the
            word behind a blank.
        json_schema, regex: the answer's grammar, JSON text or a regular expression, or None.
        scores, relevance, refusal, joint: [n] as in `nbce_rag.fusion.FusionState`, or None.
        entropies, top: as in `StepShape`.
        version: of the wire.
    """

    rows: int
    rule: Mapping[str, Any]
    eos: tuple[int, ...]
    poison: int
    seed: int = 0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    spellings: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    json_schema: str | None = None
    regex: str | None = None
    scores: tuple[float, ...] | None = None
    relevance: tuple[float, ...] | None = None
    refusal: tuple[float, ...] | None = None
    joint: tuple[float, ...] | None = None
    entropies: bool = False
    top: int = 0
    version: int = VERSION

    @property
    def shape(self) -> StepShape:
        """Of its steps."""
        return StepShape(self.rows, self.entropies, self.top)

    @property
    def options(self) -> Options:
        """The rule and what the sampler reads.

        Raises:
            InputError: an unknown rule, or a number that it cannot have.
        """
        return Options(
            fusion=resolve_rule(**self.rule),
            seed=self.seed,
            bad_words=self.bad_words,
            json_schema=self.json_schema,
            regex=self.regex,
            **self.sampling,
        )

    def dumps(self) -> str:
        """As JSON; what is None is left out."""
        plain = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> GroupSpec:
        """The reverse of `dumps`.

        Raises:
            ValueError: it is none, or of another version of the wire.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("version") != VERSION:
            version = data.get("version") if isinstance(data, dict) else None
            raise ValueError(
                f"The group speaks version {version!r} of the wire and the plugin version {VERSION}; install "
                "the same nbce-rag on both sides."
            )
        known = {one.name for one in fields(cls)}
        if unknown := sorted(data.keys() - known):
            raise ValueError(f"A group has no {', '.join(unknown)}.")
        for name in ("eos", "bad_words", "scores", "relevance", "refusal", "joint"):
            if data.get(name) is not None:
                data[name] = tuple(data[name])
        data["spellings"] = {form: tuple(ids) for form, ids in data.get("spellings", {}).items()}
        try:
            spec = cls(**data)
        except TypeError as error:
            raise ValueError(f"The group lacks something: {error}.") from error
        spec._check()
        return spec

    def _check(self) -> None:
        if not isinstance(self.rows, int) or self.rows < 1:
            raise ValueError(f"rows={self.rows!r} must be a whole number of at least 1.")
        for name in ("scores", "relevance", "refusal", "joint"):
            values = getattr(self, name)
            if values is not None and len(values) != self.rows - 1:
                raise ValueError(f"{name} has {len(values)} numbers for {self.rows - 1} passage rows.")


@dataclass(frozen=True, slots=True)
class Hello:
    """What a plugin says of itself when it is asked by a request with `HELLO` among its `vllm_xargs`.

    vLLM asks the plugin to check the arguments of each request, and returns what it objects: so this comes
    back as the message of a refused request. A server without the plugin answers the request instead.

    Attributes:
        package: version of nbce-rag there.
        vllm: version of vLLM.
        rules: names of the fusion rules.
        grammar: whether `GroupSpec.json_schema` and `regex` are understood.
        version: of the wire.
    """

    package: str
    vllm: str
    rules: tuple[str, ...]
    grammar: bool = False
    version: int = VERSION

    def dumps(self) -> str:
        """The message."""
        return _HELLO_MARK + json.dumps(asdict(self))

    @classmethod
    def find(cls, message: str) -> Hello | None:
        """The one that stands somewhere in a message, or None."""
        _, mark, rest = message.partition(_HELLO_MARK)
        if not mark:
            return None
        try:
            data, _ = json.JSONDecoder().raw_decode(rest)
            known = {one.name for one in fields(cls)}
            data = {name: value for name, value in data.items() if name in known}
            return cls(**{**data, "rules": tuple(data.get("rules", ()))})
        except (ValueError, TypeError, AttributeError):
            return None


def carrier_ids(token: int, count: int) -> list[int]:
    """The tokens that carry a row's numbers, in their order: the lowest ids but that of the chosen token."""
    return [id for id in range(count + 1) if id != token][:count]


def encode_step(place: int, step: Step, shape: StepShape) -> list[list[float]]:
    """A step as numbers, [R, shape.carriers], to be written at `carrier_ids(step.token, shape.carriers)`.

    Args:
        place: of the token in the answer, from 0.
        step: with `row_log_probs` of all rows, and `entropies` and `top` as the shape has them (fewer top
            tokens will do). Its `question` is not told.
        shape: of the group's steps.
    """
    top = [number for pair in step.top[: shape.top] for number in pair]
    numbers = [
        float(place),
        step.log_prob,
        step.gain,
        *step.evidence,
        *step.row_log_probs,
        *(step.entropies if shape.entropies else ()),
        *top,
        *[-1.0] * (2 * shape.top - len(top)),
    ]
    if len(numbers) != shape.numbers:
        raise ValueError(f"The step has {len(numbers)} numbers and its group's have {shape.numbers}.")
    bits = int.from_bytes(struct.pack(f"<{len(numbers)}f", *numbers), "little")
    carried = [
        -(_FIRST + (bits >> (_BITS * at) & (2**_BITS - 1)) / _STEP)
        for at in range(shape.rows * shape.carriers)
    ]
    return [carried[row * shape.carriers : (row + 1) * shape.carriers] for row in range(shape.rows)]


def decode_step(
    question: int, place: int, tokens: Sequence[int], rows: Sequence[Mapping[int, float]], shape: StepShape
) -> Step | None:
    """The reverse of `encode_step`; None where the rows are not in step.

    Args:
        question: of the step.
        place: that the token must have.
        tokens: [R] that the rows chose.
        rows: [R] log-probs by token id, as they came back.
        shape: of the group's steps.
    """
    if len(tokens) != shape.rows or len(rows) != shape.rows or len(set(tokens)) != 1:
        return None
    token = tokens[0]
    ids = carrier_ids(token, shape.carriers)
    bits = 0
    for at, value in enumerate(row.get(id, FLOOR) for row in rows for id in ids):
        part = round((-value - _FIRST) * _STEP)
        if not 0 <= part < 2**_BITS:
            return None
        bits |= part << (_BITS * at)
    size = 4 * shape.numbers
    if bits.bit_length() > 8 * size:
        return None
    numbers = struct.unpack(f"<{shape.numbers}f", bits.to_bytes(size, "little"))
    if numbers[0] != place:
        return None
    parts = iter(numbers[1:])

    def take(count: int) -> tuple[float, ...]:
        return tuple(next(parts) for _ in range(count))

    log_prob, gain = take(2)
    evidence, row_log_probs = take(shape.rows - 1), take(shape.rows)
    entropies = take(shape.rows) if shape.entropies else ()
    top = take(2 * shape.top)
    pairs = zip(top[::2], top[1::2], strict=True)
    return Step(
        question=question,
        token=token,
        log_prob=log_prob,
        evidence=evidence,
        gain=gain,
        entropies=entropies,
        row_log_probs=row_log_probs,
        top=tuple((int(id), value) for id, value in pairs if id >= 0),
    )
