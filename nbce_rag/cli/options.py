"""Options that several commands have, declared once, and which of them were given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError

__all__ = [
    "AnswerStyleOption",
    "AnswerTokensOption",
    "BackendOption",
    "BatchSizeOption",
    "ChatTemplateOption",
    "DeviceOption",
    "DtypeOption",
    "EmbedderOption",
    "HalfOption",
    "KOption",
    "LimitOption",
    "LookOption",
    "MinScoreOption",
    "MmrOption",
    "ModelOption",
    "PassagesOption",
    "QuestionsOption",
    "RerankOption",
    "SampleSeedOption",
    "StyleOption",
    "ThinkingOption",
    "ThoughtTokensOption",
    "given",
    "parse_kwargs",
]

AnswerStyleOption = Annotated[
    str | None,
    typer.Option(
        "--style",
        metavar="short|long",
        help="As few words as possible, or full sentences, with code where it helps.",
        show_default="short, but long in study long",
    ),
]
AnswerTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        metavar="N",
        min=1,
        help="Most tokens of an answer.",
        show_default="24, 120 in the style long",
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="What reads the model: transformers, llama.cpp for GGUF files, or vllm for URLs of servers.",
        show_default="what fits it",
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Questions in one batch. Below float32, rounding can change a few answers.",
    ),
]
ChatTemplateOption = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs",
        metavar="JSON",
        help="What the model's chat template may look at: '{\"enable_thinking\": false}'.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="cpu, cuda, mps, ...", show_default="the best there is"),
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", metavar="NAME", help="auto, float32, bfloat16 or float16.", show_default="auto"),
]
EmbedderOption = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        metavar="NAME",
        help="sentence-transformers model of a new index.",
        show_default="all-MiniLM-L6-v2",
    ),
]
HalfOption = Annotated[
    int | None,
    typer.Option(
        "--half", metavar="1|2", min=1, max=2, help="Ask one half of the sample only.", show_default=False
    ),
]
KOption = Annotated[int, typer.Option("-k", metavar="K", min=1, help="How many passages to read.")]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Ask a random sample of this size.", show_default="all"),
]
RerankOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Cross-encoder that scores what was found, by name or folder.",
        show_default=False,
    ),
]
MmrOption = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0.0,
        max=1.0,
        help="Passages that differ: 1 is relevance alone, 0 difference alone.",
        show_default=False,
    ),
]
LookOption = Annotated[
    bool | None,
    typer.Option(
        "--look/--no-look",
        help="Look on from the best passage, for questions that take two.",
        show_default="look, from 8 passages on",
    ),
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(metavar="X", min=-1.0, max=1.0, help="Least score of a passage.", show_default=False),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help="Hub id, folder or GGUF file of a causal language model, or URL of a vLLM server.",
        show_default="packaged",
    ),
]
PassagesOption = Annotated[
    Path | None,
    typer.Option(
        "--passages",
        metavar="PATH",
        help="jsonl(.gz) with id, title, text; SQuAD JSON; or documents, a folder or a file.",
        show_default="those in the questions file",
    ),
]
QuestionsOption = Annotated[
    Path | None,
    typer.Option(
        "--questions",
        metavar="FILE",
        help="jsonl(.gz) with question, answers or keys, and gold_ids, gold_sources or ctxs; RAMDocs; "
        "or SQuAD JSON.",
        show_default=False,
    ),
]
SampleSeedOption = Annotated[int, typer.Option("--seed", metavar="S", help="Same seed, same sample.")]


def parse_kwargs(text: str | None, option: str) -> dict[str, Any] | None:
    """A JSON object as people type it; None where it was not typed.

    Raises:
        InputError: it is something else; the message names the option.
    """
    if text is None:
        return None
    way_out = "write it like '{\"enable_thinking\": false}', in quotation marks"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{option} {text!r} is no JSON ({error}); {way_out}") from error
    if not isinstance(value, dict):
        raise InputError(f"{option} {text!r} is no JSON object; {way_out}")
    return value


StyleOption = Annotated[
    str | None,
    typer.Option(
        "--style",
        metavar="short|long",
        help="As few words as possible, or full sentences, with code where it helps.",
        show_default="long for chat models, short for base models",
    ),
]


ThinkingOption = Annotated[
    bool | None,
    typer.Option(
        "--thinking/--no-thinking",
        help="Let a model think first that can, and show what it thought on stderr.",
        show_default="off where the model's chat template can switch it off",
    ),
]
ThoughtTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-thought-tokens",
        metavar="N",
        min=0,
        help="Most tokens of the thought, beside those of the answer.",
        show_default="1024",
    ),
]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, so that the others keep the library's own defaults."""
    return {name: value for name, value in options.items() if value is not None}
