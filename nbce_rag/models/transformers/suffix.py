"""Reading prompts: contexts into keys and values, suffixes into the first log-probs.

Contexts (prefix + passage) are read without padding masks, in length-sorted chunks, or taken from the
KV store. A question's suffix is then read by all of its rows at once, over their contexts. Layers with a
sliding window keep no more of a context than what comes after it can see.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ...errors import NumericalError
from ...kv.context import ContextKV, context_key
from ...kv.store import PassageKVStore
from ..model import Reading
from .contexts import fits, kept_tokens, label_of, on_devices, windows
from .likelihood import QuestionEstimate, worth_estimating
from .loading import LoadedModel
from .rows import RowCache

__all__ = ["forward", "read_contexts", "read_suffix"]

LOGITS_BYTES = 256 * 2**20  # of logits at once, in float32


def read_contexts(
    loaded: LoadedModel,
    contexts: Sequence[tuple[int, ...]],
    store: PassageKVStore | None,
    max_batch_tokens: int,
) -> tuple[dict[tuple[int, ...], ContextKV], set[tuple[int, ...]]]:
    """Keys and values of each distinct context.

    Args:
        loaded: the model.
        contexts: token ids of prefix + passage; empty ones are skipped.
        store: asked first, and given what was computed.
        max_batch_tokens: rows times length of one forward pass, at most (a longer row goes alone).

    Returns:
        (keys and values by ids, the ids that came from the store).
    """
    found: dict[tuple[int, ...], ContextKV] = {}
    missing: list[tuple[int, ...]] = []
    keys: dict[tuple[int, ...], str] = {}
    layers, label = windows(loaded), label_of(loaded)
    for ids in dict.fromkeys(contexts):
        if not ids:
            continue
        if store is not None:
            keys[ids] = context_key(loaded.fingerprint, ids)
            if (kept := store.get(keys[ids], label)) is not None:
                if fits(kept, len(ids), layers):
                    found[ids] = on_devices(loaded, kept)
                    continue
                store.drop(keys[ids])
        missing.append(ids)
    reused = set(found)
    for chunk in _chunks(sorted(missing, key=len), max_batch_tokens):
        for ids, context in zip(chunk, _prefill(loaded, chunk), strict=True):
            found[ids] = context if store is None else store.put(keys[ids], context, label)
    return found, reused


def read_suffix(
    loaded: LoadedModel,
    cache: RowCache,
    suffix: Sequence[int],
    *,
    question: tuple[int, int] | None,
    refusal: Sequence[int],
    max_batch_tokens: int,
    contexts: Iterable[int] = (),
) -> Reading:
    """Read one question's suffix in all of its rows.

    The refusal's tokens, if any, are read behind the suffix to see how probable they are; their columns
    are free again afterwards. So is the output layer run only where something is asked: at the
    question's tokens, at the last one, and along the refusal. Over a large vocabulary the question is
    scored on a shortlist (`nbce_rag.models.transformers.likelihood`).

    Args:
        loaded: the model.
        cache: the question's rows, contexts in place. Left filled up to the end of the suffix.
        suffix: its token ids, not empty.
        question: half-open range of the question's tokens within `suffix`, or None not to score them.
        refusal: token ids to score, may be empty.
        max_batch_tokens: as in `read_contexts`.
        contexts: the token ids that the rows' contexts are made of.

    Raises:
        NumericalError: the model gave NaN.
    """
    ids = torch.tensor([*suffix, *refusal[:-1]])
    start, rows = cache.length, len(cache.begins)
    last = len(suffix) - 1
    # The token in column c is predicted in column c - 1.
    scored = list(range(max(question[0], 1), question[1])) if question else []
    kept = torch.tensor([position - 1 for position in scored], dtype=torch.long)
    asked = torch.tensor([suffix[position] for position in scored], dtype=torch.long, device=loaded.device)
    tail = torch.arange(last, last + max(len(refusal), 1))
    weight = loaded.output_weight if scored and worth_estimating(loaded.vocab_size, len(scored)) else None
    keep = tail if weight is not None else torch.cat([kept, tail])
    refused = torch.tensor([*refusal], dtype=torch.long, device=loaded.device)
    step = max(1, min(max_batch_tokens // len(ids), LOGITS_BYTES // (4 * loaded.vocab_size * len(keep))))
    estimate: QuestionEstimate | None = None
    next_log_probs, likelihoods, refusals = [], [], []
    for first in range(0, rows, step):
        view = cache.view(first, min(first + step, rows), start)
        batch = ids.expand(len(view.begins), -1)
        log_probs, hidden = _forward(loaded, view, batch, keep, hidden=kept if weight is not None else None)
        behind = log_probs[:, len(keep) - len(tail) :]
        next_log_probs.append(behind[:, 0])
        if len(refusal):
            refusals.append(_of_tokens(behind, refused).sum(-1).exp())
        if not question:
            continue
        if weight is None or hidden is None:
            likelihoods.append(_of_tokens(log_probs[:, : len(kept)], asked).sum(-1))
            continue
        if estimate is None:
            estimate = QuestionEstimate(weight, hidden[0], loaded.output(hidden[0]), asked, contexts)
        values = estimate.rows(hidden)
        if first == 0:
            values[0] = estimate.row_0
        likelihoods.append(values.sum(-1))
    cache.length = start + len(suffix)
    return Reading(
        torch.cat(next_log_probs),
        torch.cat(likelihoods) if question else None,
        torch.cat(refusals) if len(refusal) else None,
    )


def _of_tokens(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """[R, K] of log-probs [R, K, V] at tokens [K]."""
    return log_probs.gather(-1, tokens[None, :, None].expand(len(log_probs), -1, 1))[..., 0]


def forward(loaded: LoadedModel, cache: RowCache, ids: Tensor, keep: Tensor | None = None) -> Tensor:
    """One pass of new tokens over a cache.

    Args:
        loaded: the model.
        cache: rows with something or nothing in them; grows by the tokens.
        ids: [R, T] the new tokens.
        keep: positions within T whose log-probs are wanted; None wants the last alone.

    Returns:
        [R, K, V] log-probs at the kept positions, float32, on the model's device.

    Raises:
        NumericalError: NaN among the logits.
    """
    kept = torch.tensor([ids.shape[1] - 1]) if keep is None else keep
    return _forward(loaded, cache, ids, kept)[0]


def _forward(
    loaded: LoadedModel, cache: RowCache, ids: Tensor, keep: Tensor, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`forward`, and the last hidden states [R, Q, H] at the positions in `hidden`, if any are asked for."""
    device, new_tokens = loaded.device, ids.shape[1]
    whole = "logits_to_keep" not in inspect.signature(loaded.model.forward).parameters
    arguments: dict[str, Any] = {} if whole else {"logits_to_keep": keep.to(device)}
    if hidden is not None:
        arguments["output_hidden_states"] = True
    # Rows of finished questions run along, maybe past the window, where some models have no position.
    positions = cache.position_ids(new_tokens).clamp(max=loaded.window - 1)
    with loaded.lock, torch.no_grad():
        output = loaded.model(
            input_ids=ids.to(device),
            attention_mask=cache.attention_mask(new_tokens).to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            **arguments,
        )
        logits = output.logits[:, keep.to(device)] if whole else output.logits
        log_probs: Tensor = logits.float().log_softmax(-1)
    # One NaN in a row's logits makes its whole log-softmax NaN, so one value a row tells.
    if bool(log_probs[..., 0].isnan().any()):
        raise NumericalError(
            f"{loaded.name!r} gave NaN instead of probabilities (dtype {loaded.dtype}); "
            "load it with dtype='float32', or check its weights."
        )
    return log_probs, None if hidden is None else output.hidden_states[-1][:, hidden.to(device)]


def _prefill(loaded: LoadedModel, chunk: Sequence[tuple[int, ...]]) -> list[ContextKV]:
    """Keys and values of contexts of similar length in one pass.

    Padding stands behind the tokens, where causal attention never looks, so no mask is needed.
    """
    longest = max(map(len, chunk))
    ids = torch.zeros(len(chunk), longest, dtype=torch.long)
    for row, tokens in enumerate(chunk):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    cache = DynamicCache()
    with loaded.lock, torch.no_grad():
        # The model without its output layer: nobody asks what follows a passage.
        loaded.model.base_model(input_ids=ids.to(loaded.device), past_key_values=cache, use_cache=True)
    # Copies, so that the store does not keep the whole padded batch alive.
    layers: list[Any] = cache.layers  # plain ones: a cache made without a config has no others

    def cut(states: Tensor, row: int, tokens: int, window: int | None) -> Tensor:
        return states[row, :, tokens - kept_tokens(tokens, window) : tokens].clone()

    return [
        tuple(
            (cut(layer.keys, row, len(ids), window), cut(layer.values, row, len(ids), window))
            for layer, window in zip(layers, windows(loaded), strict=True)
        )
        for row, ids in enumerate(chunk)
    ]


def _chunks(contexts: Sequence[tuple[int, ...]], max_batch_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Runs of contexts, sorted by length, whose rows times longest stay within the budget."""
    chunk: list[tuple[int, ...]] = []
    for ids in contexts:
        if chunk and (len(chunk) + 1) * len(ids) > max_batch_tokens:
            yield chunk
            chunk = []
        chunk.append(ids)
    if chunk:
        yield chunk
