"""The logits processor: how vLLM tells which requests the rows of a step are.

vLLM has two model runners, which tell it differently, and one class here has both faces: `update_state` and
`apply(logits)` are called by V1, `add_request` and `apply(logits, context)` by V2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..prompts.tokenizer import Tokenizer
from .groups import Groups, Seat
from .member import Member, check_params, member_of

__all__ = ["ProcessorMixin"]


@dataclass(frozen=True, slots=True)
class _Request:
    """A request in V1's batch.

    Attributes:
        member: which row of which group.
        tokens: of its answer so far; the runner's own list, which grows.
    """

    member: Member
    tokens: Sequence[int]


class ProcessorMixin:
    """The logits processor without vLLM's base classes.

    Args:
        config: vLLM's `VllmConfig`.
        *parts: of V1 the device and whether memory is pinned, of V2 the state of all requests.
    """

    def __init__(self, config: Any, *parts: Any) -> None:
        # One row at least a group: no more of them can be in flight than there are slots.
        most = max(1024, 2 * config.scheduler_config.max_num_seqs)
        self._groups = Groups(_tokenizer_of(config.model_config), most)
        self._requests: dict[int, _Request] = {}  # V1: by row of the batch
        self._members: dict[int, Member] = {}  # V2: by slot
        self._states: Any = parts[0] if len(parts) == 1 else None

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """See `nbce_rag.vllm_plugin.member.check_params`."""
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Asked by V1, which otherwise leaves processors out where nothing is drawn."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: requests come, leave, and change places."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._requests.pop(row, None)
        for row, params, _, tokens in batch_update.added:
            self._requests.pop(row, None)
            if (member := member_of(params.extra_args)) is not None:
                self._requests[row] = _Request(member, tokens)
        for first, second, direction in batch_update.moved:
            one, other = self._requests.pop(first, None), self._requests.pop(second, None)
            if one is not None:
                self._requests[second] = one
            if other is not None and direction.name == "SWAP":
                self._requests[first] = other

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request takes a slot; whether its logits are changed."""
        self._members.pop(req_idx, None)
        if (member := member_of(sampling_params.extra_args)) is not None:
            self._members[req_idx] = member
        return member is not None

    def apply_staged_writes(self) -> None:
        """V2: nothing waits to be brought to the device."""

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        """Choose the tokens of all groups of a step; in place.

        Args:
            logits: [N, V].
            context: V2's `LogitsContext`.
        """
        self._groups.choose(
            logits, self._v1_seats(len(logits)) if context is None else self._v2_seats(context)
        )
        return logits

    def _v1_seats(self, count: int) -> list[Seat]:
        # V1 does not tell whether a row is in the middle of its prompt.
        return [
            Seat(row, request.member, len(request.tokens))
            for row, request in self._requests.items()
            if row < count
        ]

    def _v2_seats(self, context: Any) -> list[Seat]:
        # Without drafts there is a row of logits a request, in the batch's order.
        seats = []
        for row, slot in enumerate(context.idx_mapping_np.tolist()):
            if (member := self._members.get(slot)) is None:
                continue
            length = int(context.seq_lens_upper_bound_np[row])
            is_live = length >= int(self._states.prefill_len.np[slot])
            seats.append(Seat(row, member, length - int(self._states.prompt_len.np[slot]), is_live))
        return seats


def _tokenizer_of(model_config: Any) -> Callable[[], Tokenizer]:
    """Loads the served model's tokenizer when it is first asked for, which few groups do."""
    loaded: list[Tokenizer] = []

    def tokenizer() -> Tokenizer:
        if not loaded:
            from transformers import AutoTokenizer

            from ..models.transformers.tokenizer import TransformersTokenizer

            native = AutoTokenizer.from_pretrained(
                model_config.tokenizer,
                revision=getattr(model_config, "tokenizer_revision", None),
                trust_remote_code=model_config.trust_remote_code,
            )
            loaded.append(TransformersTokenizer(native))
        return loaded[0]

    return tokenizer
