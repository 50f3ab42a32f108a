"""Every causal language model of transformers through the seam, against plain whole passes of its own.

A witness that shares nothing with the rows that it judges: each row is read whole, alone and without a cache,
by the model as transformers made it. Errors are told as shares of what a context itself changes, so that a
model which hardly looks at its context cannot hide one.
"""

from __future__ import annotations

import copy
import re
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from families import ABSENT, VOCABULARY, build_family
from tiny_models import build_tokenizer
from torch import Tensor

from nbce_rag.errors import ModelError, NbceError
from nbce_rag.kv.store import PassageKVStore
from nbce_rag.models.model import Model, RowPrompt, Rows, TokenIds
from nbce_rag.models.transformers.description import what_is_kept
from nbce_rag.models.transformers.loading import load_model, wrap_model
from nbce_rag.models.transformers.model import TransformersModel

__all__ = ["LENGTHS", "RIGHT", "Verdict", "judge"]

LENGTHS = (2, 17, 40, 23)
"""Tokens of the contexts, of unequal length and beyond the small windows of these models."""

RIGHT = 1e-3
"""The largest share of a context's effect that an error may have; rounding stays a tenth below, mistakes are
thirty times as large."""

_SUFFIX, _ROOM = 7, 24


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one model.

    Attributes:
        name: model type, or variant.
        architecture: the class, or "".
        outcome: right, refused, wrong, crash, or absent where it cannot be built.
        way: how rows are read, where it is right.
        keeps: what its layers keep of a context, where it is right.
        reason: why it was not.
        error: the largest share of the context's effect that log-probs were off by.
        seconds: that it took.
    """

    name: str
    architecture: str
    outcome: str
    way: str = ""
    keeps: str = ""
    reason: str = ""
    error: float | None = None
    seconds: float = 0.0


class _Witness:
    """Whole passes of a plain model, each row alone.

    Attributes:
        effect: the most that a context has changed a log-prob so far, nats.
        error: the largest difference so far, nats.
        fault: where the first one was that cannot be rounding, or "".
    """

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self.effect = 0.0
        self.error = 0.0
        self.fault = ""

    @torch.no_grad()
    def whole(self, ids: TokenIds) -> Tensor:
        """[T, V] log-probs after each token."""
        logits: Tensor = self._plain(torch.tensor([list(ids)]), use_cache=False).logits[0]
        return logits.float().log_softmax(-1)

    def compare(self, what: str, ours: Tensor, context: TokenIds, behind: TokenIds) -> None:
        """Our log-probs [T, V] after the last T tokens of a row, a context and what is behind it."""
        places = len(ours)
        plain = self.whole((*context, *behind))[-places:]
        if context:
            bare = self.whole(behind)[-places:]
            self.effect = max(self.effect, float((plain - bare).abs().max()))
        self.differ(what, float((ours.cpu() - plain).abs().max()))

    def differ(self, what: str, error: float) -> None:
        if not error <= RIGHT * max(self.effect, 0.1):  # NaN counts
            self.fault = self.fault or what
        if not error <= self.error:
            self.error = error


def judge(name: str) -> Verdict:
    """Build one model, load it as a user would, read rows and compare; whatever goes wrong is told."""
    began = time.perf_counter()

    def verdict(outcome: str, **more: Any) -> Verdict:
        return Verdict(name, architecture, outcome, seconds=round(time.perf_counter() - began, 2), **more)

    architecture = ""
    if name in ABSENT:
        return verdict("absent", reason=ABSENT[name])
    plain = build_family(name)
    architecture = type(plain).__name__
    witness = _Witness(plain)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = _load(plain, Path(folder))
            _read(model, witness)
    except ModelError as error:
        return verdict("refused", reason=_reason(error, folder))
    except NbceError as error:
        return verdict("crash", reason=f"{type(error).__name__}: {error}")
    except Exception as error:
        return verdict("crash", reason=_place(error))
    if witness.effect < 0.1:
        return verdict("crash", reason=f"the context changes {witness.effect:.3f} nats only: nothing is seen")
    share = witness.error / witness.effect
    if not share <= RIGHT:
        return verdict("wrong", error=share, reason=f"{witness.fault}: {witness.error:.3g} nats")
    return verdict("right", way=_way(model), keeps=what_is_kept(model.layout), error=share)


def _load(plain: Any, folder: Path) -> TransformersModel:
    """By its folder; a model that transformers itself does not read back as it was, as an object."""
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()
    try:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ids = tuple(range(5, 25))
        whole = _Witness(plain).whole(ids)
        same = float((_Witness(again).whole(ids) - whole).abs().max()) < 1e-4
    except Exception:
        same = False
    if same:
        return load_model(folder, device="cpu", dtype="float32")
    return wrap_model(copy.deepcopy(plain), tokenizer, name=type(plain).__name__)


def _read(model: Model, witness: _Witness) -> None:
    """Rows read, stepped, taken back, kept, joined, lagging and read from a store."""
    most = min(max(LENGTHS), model.window - _SUFFIX - _ROOM)  # a window may end before a threshold
    lengths = [max(1, length * most // max(LENGTHS)) for length in LENGTHS]
    contexts = tuple(_ids(length, place) for place, length in enumerate(lengths))
    suffix, refusal = _ids(_SUFFIX, 10), _ids(3, 11)
    prompt = RowPrompt(contexts, suffix, vocabulary=frozenset(range(VOCABULARY)))
    if model.can.likelihood:
        prompt = replace(prompt, question=range(2, 6), refusal=refusal)
    rows, [reading] = model.open([prompt], _ROOM)
    for context, ours in zip(contexts, reading.log_probs, strict=True):
        witness.compare("the suffix", ours[None], context, suffix)
    if reading.question is not None and reading.refusal is not None:
        _likelihoods(witness, prompt, reading.question, reading.refusal)
    behind = [suffix] * len(contexts)

    def step(what: str, rows: Rows, some: Sequence[int], tokens: Tensor, which: Any = None) -> None:
        log_probs = rows.step(tokens, which)
        for row, new, ours in zip(some, tokens.tolist(), log_probs, strict=True):
            behind[row] = (*behind[row], *new)
            witness.compare(what, ours, contexts[row], behind[row])

    every = range(len(contexts))
    for number in range(5):
        step("a step", rows, every, _new(every, 1, number))
    if model.can.rewind:
        rows.step(_new(every, 4, 20))
        rows.rewind(4)
        step("a step after a rejected draft", rows, every, _new(every, 2, 21))
        rows.step(_new(every, 4, 22))
        rows.rewind(3)
        behind = [(*row, *new[:1]) for row, new in zip(behind, _new(every, 4, 22).tolist(), strict=True)]
        step("a step after a draft taken in part", rows, every, _new(every, 1, 23))
    for number in range(3):
        step("a later step", rows, every, _new(every, 1, 30 + number))
    step("rows that lag", rows, [1, 3], _new([1, 3], 1, 40), [1, 3])
    step("rows that lag", rows, [1, 3], _new([1, 3], 1, 41), [1, 3])
    step("rows that catch up", rows, [0, 2], _new([0, 2], 2, 42), [0, 2])
    kept = rows.keep([2, 0])
    other, _ = model.open([RowPrompt((contexts[1], contexts[3]), suffix)], _ROOM)
    both = kept.joined(other)
    behind[1] = behind[3] = suffix
    order = (2, 0, 1, 3)
    step("rows kept and joined", both, order, _new(order, 3, 50))
    step("rows kept and joined", both, order, _new(order, 1, 51))
    _stored(model, witness, prompt, reading.log_probs)
    _without_context(model, witness, contexts[1], suffix)


def _likelihoods(witness: _Witness, prompt: RowPrompt, question: Tensor, refusal: Tensor) -> None:
    asked = prompt.question or range(0)
    sums = []
    for row, context in enumerate(prompt.contexts):
        ids = (*context, *prompt.suffix, *prompt.refusal)
        log_probs = witness.whole(ids)
        total = sum(float(log_probs[len(context) + at - 1, prompt.suffix[at]]) for at in asked)
        sums.append(total - float(question[row]))
        begin = len(context) + len(prompt.suffix)
        total = sum(float(log_probs[begin + at - 1, token]) for at, token in enumerate(prompt.refusal))
        witness.differ("the refusal", abs(total - float(refusal[row].log())) / len(prompt.refusal))
    # Likelihoods may lack what is the same in all rows.
    witness.differ("the question", (max(sums) - min(sums)) / len(asked))


def _stored(model: Model, witness: _Witness, prompt: RowPrompt, first: Tensor) -> None:
    """What was read once and comes from the store says the same, to the rounding of another batch."""
    store = PassageKVStore()
    model.read(prompt.contexts, store.of(model))
    rows, [reading] = model.open([RowPrompt(prompt.contexts, prompt.suffix)], 4, store.of(model))
    if reading.reused != tuple(map(len, prompt.contexts)):
        raise AssertionError(f"of the contexts {reading.reused} tokens came from the store")
    witness.differ("contexts from the store", float((reading.log_probs - first).abs().max()))
    new = _new(range(len(prompt.contexts)), 1, 60)
    log_probs = rows.step(new)
    for context, token, ours in zip(prompt.contexts, new.tolist(), log_probs, strict=True):
        witness.compare("a step behind the store", ours, context, (*prompt.suffix, *token))


def _without_context(model: Model, witness: _Witness, context: TokenIds, suffix: TokenIds) -> None:
    """A row may have none."""
    rows, [reading] = model.open([RowPrompt(((), context), suffix)], 4)
    new = _new(range(2), 1, 70)
    log_probs = rows.step(new)
    for row, before in enumerate(((), context)):
        witness.compare("a row without context", reading.log_probs[row][None], before, suffix)
        behind = (*suffix, *new[row].tolist())
        witness.compare("a step without context", log_probs[row], before, behind)


def _ids(count: int, seed: int) -> TokenIds:
    generator = torch.Generator().manual_seed(100 + seed)
    return tuple(torch.randint(3, VOCABULARY - 30, (count,), generator=generator).tolist())


def _new(rows: Iterable[int], tokens: int, seed: int) -> Tensor:
    """[R, tokens], other ones in each row."""
    return torch.tensor([_ids(tokens, 1000 * seed + row) for row in rows])


def _way(model: TransformersModel) -> str:
    if not model.layout.in_step:
        return "groups"
    return "rows" if model.layout.at_once else "steps"


def _reason(error: Exception, folder: str) -> str:
    """A refusal without the model's name and without the way out, which are not the table's."""
    text = " ".join(str(error).replace(folder, "").split())
    text = re.sub(r"^'[^']*' \([\w-]+\) ", "", text)
    return re.split(r"\. Use |: the row with |: it raises |\. Its answers | \(\w*Error: ", text)[0].rstrip(
        "."
    )


def _place(error: Exception) -> str:
    """What went wrong and where, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "nbce_rag" in frame.filename] or frames
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__} in {Path(ours[-1].filename).name} {ours[-1].name}: {text}"
