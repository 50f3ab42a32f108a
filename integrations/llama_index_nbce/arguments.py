"""What `NBCELLM` is constructed with: how a model is loaded, and options; unknown names are met here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nbce_rag import LOADING_ARGUMENTS, InputError, Options

__all__ = ["OPTIONS", "check_options", "split_arguments"]

OPTIONS = tuple(field.name for field in dataclasses.fields(Options))
# What HuggingFaceLLM, LlamaCPP and others call what is called otherwise here, or is not there.
_ELSEWHERE = {
    **dict.fromkeys(("model_name", "model_path", "model_url", "model_id"), "model"),
    **dict.fromkeys(("max_new_tokens", "max_length", "num_output", "num_predict"), "max_tokens"),
    **dict.fromkeys(("n_ctx", "max_seq_len"), "context_window"),
    "tokenizer_name": "nothing, since the model brings its tokenizer",
    "generate_kwargs": "the options by their names",
    "model_kwargs": "the arguments of NBCE.from_pretrained by their names",
    "tokenizer_kwargs": "nothing, since the model brings its tokenizer",
    "tokenizer_outputs_to_remove": "nothing, since it is not needed",
    "query_wrapper_prompt": "completion_to_prompt, or prompt",
    "stopping_ids": "stop",
    "is_chat_model": "nothing, since the model's chat template tells it",
    "do_sample": "temperature, where 0 is no sampling",
    "verbose": "nothing, since nothing is printed",
    **dict.fromkeys(("repeat_penalty", "frequency_penalty", "presence_penalty"), "repetition_penalty"),
    **dict.fromkeys(("documents", "nodes"), "contexts, which a call takes"),
    "grammar": "regex or json_schema",
    **dict.fromkeys(("timeout", "request_timeout"), "max_seconds"),
}


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(those of `NBCE.from_pretrained`, options of `nbce_rag.options.Options`).

    Raises:
        InputError: a name that is neither, or an impossible option.
    """
    options = {name: value for name, value in arguments.items() if name in OPTIONS}
    others = {name: value for name, value in arguments.items() if name not in OPTIONS}
    if unknown := sorted(set(others) - set(LOADING_ARGUMENTS)):
        raise InputError(
            f"Unknown argument {', '.join(unknown)} of NBCELLM{_hint(unknown)}; beside LlamaIndex's own it "
            f"takes {', '.join(sorted({*LOADING_ARGUMENTS, *OPTIONS}))}."
        )
    Options().updated(**options)
    return others, options


def check_options(call: Mapping[str, Any]) -> None:
    """Raises InputError for what a call may not change, with our name of it if others have another."""
    if unknown := sorted(set(call) - set(OPTIONS)):
        raise InputError(
            f"Unknown option {', '.join(unknown)}{_hint(unknown)}; the options are {', '.join(OPTIONS)}."
        )


def _hint(unknown: Sequence[str]) -> str:
    ours = dict.fromkeys(_ELSEWHERE[name] for name in unknown if name in _ELSEWHERE)
    return f" (here it is {' and '.join(ours)})" if ours else ""
