"""A causal language model that reads: it answers "What is the code of X?" from "The code of X is Y.".

It goes through the same interface as real ones (cache, masks, positions, logits to keep) but knows its
tokens by their ids, which it keeps in the cache instead of keys. Without the fact in sight it says
"I don't know.", and is surer of that than of any answer: the behaviour of instruction-tuned models
that the tests of refusals need.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

REFUSAL = "I don't know."
ASSISTANT = "<|assistant|>\n"


class ScriptedModel(PreTrainedModel):
    """See the module.

    Attributes:
        sure: probability of each token of an answer.
        surer: probability of each token of a refusal.
        passes: forward passes so far.
    """

    config_class = LlamaConfig

    def __init__(self, tokenizer: Any, *, sure: float = 0.8, surer: float = 0.999) -> None:
        super().__init__(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                max_position_embeddings=2048,
                bos_token_id=0,
                eos_token_id=1,
            )
        )
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = tokenizer
        self.sure, self.surer, self.passes = sure, surer, 0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = True,
        logits_to_keep: Any = 0,
    ) -> CausalLMOutputWithPast:
        self.passes += 1
        past_key_values = DynamicCache() if past_key_values is None else past_key_values
        keys = input_ids[:, None, :, None].float()
        seen = past_key_values.update(keys, keys, 0)[0][:, 0, :, 0].long()
        rows, length = input_ids.shape
        mask = torch.ones_like(seen) if attention_mask is None else attention_mask
        positions = list(range(length))
        if isinstance(logits_to_keep, Tensor):
            positions = [int(p) for p in logits_to_keep]
        logits = torch.zeros(rows, len(positions), self.config.vocab_size)
        for row in range(rows):
            for place, position in enumerate(positions):
                end = seen.shape[1] - length + position + 1
                ids = seen[row, :end][mask[row, :end].bool()].tolist()
                logits[row, place] = self.next(ids)
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def next(self, ids: list[int]) -> Tensor:
        """Log-probs [V] of the token after these."""
        vocab = self.config.vocab_size
        said = self.tokenizer.decode(ids)
        prompt, found, _ = said.partition(ASSISTANT)
        if not found:
            return torch.zeros(vocab)  # anything may come in a prompt
        reply = self.reply(prompt)
        wanted = [*self.tokenizer(reply, add_special_tokens=False)["input_ids"], 1]
        spoken = self._spoken(ids)
        if spoken == wanted[: len(spoken)] and len(spoken) < len(wanted):
            token = wanted[len(spoken)]
        else:
            return torch.zeros(vocab)  # somebody put other words into its mouth
        p = self.surer if reply == REFUSAL else self.sure
        logits = torch.full((vocab,), math.log((1 - p) / (vocab - 1)))
        logits[token] = math.log(p)
        return logits

    def reply(self, prompt: str) -> str:
        """What the model answers to a prompt."""
        asked = re.search(r"code of (\w+)\?", prompt)
        if asked is None:
            return REFUSAL
        told = re.search(rf"The code of {asked[1]} is ([^.]+)\.", prompt)
        return told[1] if told else REFUSAL

    def _spoken(self, ids: list[int]) -> list[int]:
        """The ids behind the assistant's mark."""
        mark = self.tokenizer(ASSISTANT, add_special_tokens=False)["input_ids"]
        for start in range(len(ids) - len(mark), -1, -1):
            if ids[start : start + len(mark)] == mark:
                return ids[start + len(mark) :]
        raise AssertionError("the mark is there, but in other tokens")
