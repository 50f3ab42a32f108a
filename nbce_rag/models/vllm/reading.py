"""What vLLM says of prompts before anything is written: likelihoods of the question and of a refusal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...errors import NumericalError, RemoteError
from ..model import Reading, RowPrompt
from .rows import place_of
from .servers import Instance, Servers

__all__ = ["read_prompt"]


async def read_prompt(servers: Servers, model: str, prompt: RowPrompt) -> Reading:
    """One request for all rows of a prompt, none where nothing is asked of them.

    The refusal is put behind each row, so that one pass gives its probability and that of the question.

    Args:
        servers: who read.
        model: the name that they know.
        prompt: the rows.

    Returns:
        A reading whose log-probs are no distribution: one column of zeros, since vLLM tells of no whole
        distribution.

    Raises:
        RemoteError: none of them could.
        NumericalError: the model gave NaN.
    """
    count = len(prompt.contexts)
    nothing = torch.zeros(count, 1)
    if prompt.question is None and not prompt.refusal:
        return Reading(nothing, None, None, (0,) * count)
    rows = [[*context, *prompt.suffix, *prompt.refusal] for context in prompt.contexts]
    body = {
        "model": model,
        "prompt": rows,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": 0,
    }

    async def read(instance: Instance) -> Any:
        return await servers.post(instance, body)

    answer = await servers.run(place_of(prompt), read)
    by_row = [_log_probs(row, told) for row, told in zip(rows, _choices(answer, count), strict=True)]
    question = refusal = None
    if prompt.question is not None:
        # A token that nothing stands before in some row is left out in all of them.
        starts = [len(context) for context in prompt.contexts]
        places = [at for at in prompt.question if min(starts) + at > 0]
        question = torch.tensor(
            [math.fsum(row[start + at] for at in places) for start, row in zip(starts, by_row, strict=True)]
        )
    if prompt.refusal:
        said = len(prompt.refusal)
        refusal = torch.tensor([math.fsum(row[-said:]) for row in by_row]).exp()
    return Reading(nothing, question, refusal, (0,) * count)


def _choices(answer: Any, count: int) -> list[Sequence[Mapping[str, Any] | None]]:
    """What is said of each prompt's tokens, in the order of the prompts."""
    choices = answer.get("choices", ()) if isinstance(answer, Mapping) else ()
    by_index = {choice.get("index"): choice.get("prompt_logprobs") for choice in choices}
    told = [by_index.get(row) for row in range(count)]
    if any(one is None for one in told):
        raise RemoteError(
            "The server says nothing of the prompts' tokens (prompt_logprobs), so it is no vLLM, or one that "
            "denies them; ask with a rule that needs no likelihoods, such as fusion='min-entropy'."
        )
    return [one for one in told if one is not None]


def _log_probs(row: Sequence[int], told: Sequence[Mapping[str, Any] | None]) -> list[float]:
    """Of each token of a row given those before it; nothing is known of the first one, and 0 stands there."""
    values = [0.0]
    for token, by_token in zip(row[1:], told[1:], strict=True):
        values.append(float((by_token or {}).get(str(token), {}).get("logprob", math.nan)))
    if any(map(math.isnan, values)):
        raise NumericalError(
            "The model behind vLLM gave no number for a token of the prompt; start the server with "
            "--dtype float32, or check its weights."
        )
    return values
