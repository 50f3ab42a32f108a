"""A tiny model that is taught a few answers on the spot, for tests that need one which does as it is told.

The suites of langchain-tests ask for tool calls with certain arguments and for JSON objects whose strings
end. Constrained decoding gives the form; what stands in it has to come from a model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tiny_models import TOOL_TEMPLATE


@dataclass(frozen=True)
class Lesson:
    """What is asked, with which tools at hand, and what the model shall say."""

    asked: str
    answer: str
    tools: Sequence[str] = ()
    passage: str | None = None
    system: str | None = None
    more: Sequence[dict[str, Any]] = field(default=())


def teach(
    tokenizer: Any, lessons: Sequence[Lesson], *, steps: int = 400, enough: float = 0.02
) -> tuple[Any, Any]:
    """(model, tokenizer with a template that knows tools) after learning the lessons by heart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from nbce_rag.models.transformers.tokenizer import TransformersTokenizer
    from nbce_rag.noncharacters import PASSAGES
    from nbce_rag.prompts.binding import bind
    from nbce_rag.prompts.prompt import Prompt
    from nbce_rag.prompts.template import PromptTemplate

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TOOL_TEMPLATE
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.06,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
    )
    template = PromptTemplate.for_chat()
    rows, starts = [], []
    for lesson in lessons:
        tools = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in lesson.tools]
        content = f"{PASSAGES}{lesson.asked}" if lesson.passage else lesson.asked
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}, *lesson.more]
        if lesson.system:
            messages.insert(0, {"role": "system", "content": lesson.system})
        encoder = bind(Prompt(messages, tools=tools), template, TransformersTokenizer(tokenizer))
        passage = encoder.passage_ids(None, lesson.passage) if lesson.passage else ()
        prompt = [*encoder.prefix, *passage, *encoder.suffix(lesson.asked).ids]
        starts.append(len(prompt))
        rows.append([*prompt, *encoder.encode_answer(lesson.answer), tokenizer.eos_token_id])
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = torch.tensor(row[start:])
    mask = (torch.arange(width)[None] < torch.tensor([len(row) for row in rows])[:, None]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        if loss.item() < enough:
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    else:
        raise AssertionError(
            f"The model did not learn its lessons: loss {loss.item():.3f} after {steps} steps."
        )
    return model.eval(), tokenizer
