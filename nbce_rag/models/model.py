"""The seam: what a backend is, seen from above.

A backend reads rows of token ids and says what comes next. Nobody above this room knows how: no tensors of
keys and values, no layers, no cache, no tokenizer of a library. There are two seams. The lower one, `Model`
with its `Rows`, is for backends whose loop is ours; the upper one, `Decoder`, for those that hold the loop
themselves. A backend is right when it passes the contract suite in `tests/models/contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from ..options import Options
from ..prompts.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..fusion import FusionState
    from ..kv.staging import Staging
    from ..kv.store import ContextStore

__all__ = [
    "Can",
    "Decoder",
    "GroupRequest",
    "JoinableDecoder",
    "LoopModel",
    "Model",
    "Opening",
    "Reading",
    "RowPrompt",
    "Rows",
    "Step",
    "TokenIds",
]

TokenIds: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowPrompt:
    """One question as rows of token ids, each a context and then the suffix that all of them share.

    Attributes:
        contexts: token ids of each row's context, row 0's first; a context may be empty. What a backend
            keeps of a context is known by these ids alone.
        suffix: what every row ends with; not empty.
        question: the question's tokens within the suffix, if their likelihood is asked for, else None.
        refusal: token ids whose probability behind the suffix is asked for; empty asks for none.
        vocabulary: tokens that a backend may normalise likelihoods over, beside those that it finds likely
            itself; equal wherever likelihoods are to be compared.
        measure: of a `Reading` of the same suffix behind the same row 0, where there is one: likelihoods are
            then measured by it, which spares measuring row 0 again.
    """

    contexts: tuple[TokenIds, ...]
    suffix: TokenIds
    question: range | None = None
    refusal: TokenIds = ()
    vocabulary: frozenset[int] = field(default=frozenset(), repr=False)
    measure: object = field(default=None, repr=False, compare=False)

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.contexts)) + len(self.suffix)


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading a prompt tells before the first token is chosen.

    Attributes:
        log_probs: [R, V] next-token log-probs of each row, float32; [R, 1] zeros where the backend denies
            `Can.distributions`.
        question: [R] log p(question tokens | row), nats, or None if it was not asked for. A question
            token that is the very first token of a row has no prediction and is left out in all rows.
        refusal: [R] probability of the refusal, or None.
        reused: tokens of each row that came from the store.
        measure: what the backend measured the question's likelihood by, for further rows; None where each
            row is measured by itself.
    """

    log_probs: Tensor
    question: Tensor | None
    refusal: Tensor | None
    reused: tuple[int, ...]
    measure: object = field(default=None, repr=False)

    def joined(self, other: Reading) -> Reading:
        """These rows and another reading's passage rows; the row 0 of both is the same."""
        import torch

        def join(mine: Tensor | None, others: Tensor | None) -> Tensor | None:
            return None if mine is None or others is None else torch.cat([mine, others[1:]])

        return Reading(
            torch.cat([self.log_probs, other.log_probs[1:]]),
            join(self.question, other.question),
            join(self.refusal, other.refusal),
            (*self.reused, *other.reused[1:]),
            self.measure,
        )


class Rows(Protocol):
    """Rows that were read and are decoded further. Used from one thread at a time."""

    def __len__(self) -> int: ...

    @property
    def room(self) -> int:
        """Tokens that still fit behind every row."""
        ...

    def step(self, ids: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """Append tokens to rows and read them.

        Args:
            ids: [R', T] the tokens of each of these rows; T >= 1.
            rows: which rows, each at most once; None is all of them. The others stay as they are and lag
                behind; they may catch up in later calls, with as many tokens at once as they lack.

        Returns:
            [R', T, V] log-probs of what follows each token, float32.

        Raises:
            InputError: a shape that does not fit the rows, rows that are not there, or more tokens than
                there is room for. Nothing has changed then.
            NumericalError: the model gave NaN. A GPU would have to be waited for to see it; its rows may
                give log-probs of NaN instead.
        """
        ...

    def rewind(self, tokens: int, rows: Sequence[int] | None = None) -> None:
        """Take the last tokens of rows (None: of all) back: those of a row's last `step` can be, and those of
        earlier ones where nothing but columns is kept of them. States go back to where that step began, and
        what of it stays is read again with the tokens of the next one.

        Raises:
            InputError: more than can be taken back, which is never more than were appended.
        """
        ...

    def keep(self, rows: Sequence[int]) -> Rows:
        """New rows: these of the old ones, in order, repeats allowed. The old ones stay as they are."""
        ...

    def joined(self, other: Rows) -> Rows:
        """New rows: these, and behind them those of another `open` of the same model, which may be longer or
        shorter. The old ones stay as they are."""
        ...


@dataclass(frozen=True, slots=True)
class Can:
    """What a backend can do beside reading and stepping; what it cannot is refused, never faked.

    Attributes:
        likelihood: the question's log-likelihood, and the probability of a refusal.
        rewind: `Rows.rewind`, which drafts need.
        repeat: `Rows.keep` with one row several times, which scoring of choices needs.
        grammar: tokens can be masked by a grammar before one is chosen.
        round: contexts are numbers that a codec of the store can round, and not bytes of a library's own.
        pads: every row takes as much room as the longest one, not as its own tokens.
        steps: rows are stepped from here, token by token. Where not, the backend holds the loop itself: it is
            a `LoopModel`, whose rows write their own answers and no given texts.
        distributions: `Reading.log_probs` are those of the first token.
        store: contexts can be kept in a store of ours.
    """

    likelihood: bool = True
    rewind: bool = True
    repeat: bool = True
    grammar: bool = True
    round: bool = True
    pads: bool = True
    steps: bool = True
    distributions: bool = True
    store: bool = True


class Model(Protocol):
    """The lower seam: a backend whose decoding loop is ours. Safe to use from several threads.

    Attributes:
        name: what the user called it.
        fingerprint: changes with the weights' identity, dtype and configuration; part of the keys of stores.
        dtype: of keys and values, such as "bfloat16".
        window: the most tokens that one row may hold, prompt and answer together.
        vocab_size: width of the log-probs.
        eos_ids: every token id that ends an answer.
        tokenizer: text into token ids and back.
        can: what it can do.
        device: where its log-probs are.
        staging: moves contexts between a store and a device with memory of its own, beside what that
            computes; None where they are taken from the processor's memory.
        batch_tokens: rows times length of one forward pass that suit this machine.
    """

    @property
    def name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def window(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_ids(self) -> frozenset[int]: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def can(self) -> Can: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def staging(self) -> Staging | None: ...
    @property
    def batch_tokens(self) -> int: ...

    def cost(self, rows: int, tokens: int) -> int:
        """About the bytes that decoding so many rows of so many tokens takes at its peak."""
        ...

    def context_bytes(self, tokens: int) -> int:
        """About the bytes that what is kept of a context of so many tokens takes; of 0, what it takes however
        short it is."""
        ...

    def free(self) -> int:
        """Bytes that can be allocated where rows are kept, now."""
        ...

    def open(
        self,
        prompts: Sequence[RowPrompt],
        room: int,
        store: ContextStore | None = None,
        batch_tokens: int | None = None,
    ) -> tuple[Rows, list[Reading]]:
        """Read prompts: contexts from the store or anew, then each suffix by all of its rows.

        Args:
            prompts: one or more questions.
            room: tokens that must fit behind every row.
            store: asked first, and given what was read.
            batch_tokens: rows times length of one forward pass, at most (a longer row goes alone).

        Returns:
            (all rows, one question after another; one `Reading` a question).

        Raises:
            InputError: something is asked for that `can` denies.
            NumericalError: the model gave NaN.
        """
        ...

    def read(
        self, contexts: Iterable[TokenIds], store: ContextStore, batch_tokens: int | None = None
    ) -> None:
        """Put contexts into a store ahead of any question; those that are there are not read again."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One chosen token.

    Attributes:
        question: index of the question in the batch.
        token: its id.
        log_prob: log-prob under the fused, normalised distribution, nats, before temperature.
        evidence: evidence over the n passage rows, sums to 1.
        gain: log sum_k w_k p_k(token) - log p_0(token), nats: what the passages added.
        entropies: of each row's distribution, nats, row 0 first, NaN for a row that was dropped; () unless
            the question asks for them.
        row_log_probs: log-prob of the token by each row, nats, row 0 first, -inf for a row that slept or was
            dropped; () where the decoder does not say.
        top: the most probable tokens of that distribution and their log-probs, the best first; () unless the
            question asks for them.
    """

    question: int
    token: int
    log_prob: float
    evidence: tuple[float, ...]
    gain: float
    entropies: tuple[float, ...] = ()
    row_log_probs: tuple[float, ...] = ()
    top: tuple[tuple[int, float], ...] = ()


class Decoder(Protocol):
    """The upper seam, for backends that hold the loop themselves: what chooses tokens for several questions.

    Ours, over the lower seam, is `nbce_rag.decoding.decoder`. `nbce_rag.engine.batch` makes it, the one place
    where a serving engine's own comes in.
    """

    @property
    def active(self) -> Sequence[int]:
        """Indexes of the questions that are still being answered."""
        ...

    @property
    def errors(self) -> Mapping[int, Exception]:
        """The questions that ended with the last step by an error, which the others did not meet."""
        ...

    def step(self) -> Sequence[Step]:
        """Further tokens, at least one for every active question unless it waits for others."""
        ...

    def finish(self, question: int) -> None:
        """No more tokens for this question, between steps; its rows are read no more."""
        ...

    def forget(self, question: int) -> None:
        """Nothing more will be asked about this question, which has ended."""
        ...

    def dropped(self, question: int) -> int:
        """How many of a question's passage rows are no longer read."""
        ...

    def row_steps(self, question: int) -> tuple[int, int]:
        """Steps of a question's rows behind its first token: those that were read, and those that were
        spared since the row slept."""
        ...


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """One question for a decoder that chooses tokens by itself.

    Attributes:
        rows: its rows among those that it comes with, row 0 first.
        state: what the fusion rule may know before the first token, G = 1.
        options: the rule, sampling, and what its steps are to tell (`entropies`, `top_logprobs`).
        max_tokens: most tokens, thought and answer.
    """

    rows: tuple[int, ...]
    state: FusionState
    options: Options
    max_tokens: int


class JoinableDecoder(Decoder, Protocol):
    """A decoder of a backend that holds the loop itself."""

    def add(self, rows: Rows, requests: Sequence[GroupRequest]) -> range:
        """Let questions join, whose prompts were read by the same model; their indexes.

        Raises:
            InputError: something is asked for that it cannot do.
        """
        ...


class Opening(Protocol):
    """Prompts that are being read elsewhere."""

    def wait(self, seconds: float) -> bool:
        """Whether they are read, or have failed, within so many seconds."""
        ...

    def result(self) -> tuple[Rows, list[Reading]]:
        """What `Model.open` gives or raises; waits for it."""
        ...

    def cancel(self) -> None:
        """Nobody wants it any more."""
        ...


@runtime_checkable
class LoopModel(Protocol):
    """What a backend has that holds the loop itself, beside what every `Model` has."""

    def opening(self, prompts: Sequence[RowPrompt], room: int) -> Opening:
        """`Model.open`, which goes on while others are served.

        Raises:
            InputError: rows that do not fit into the window.
        """
        ...

    def decoder(self) -> JoinableDecoder:
        """For questions that are answered side by side."""
        ...
