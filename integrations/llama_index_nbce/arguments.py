"""What `NBCELLM` is constructed with: how a model is loaded, and options; unknown names are met here."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from nbce_rag import NBCE, InputError, Options

__all__ = ["OPTIONS", "split_arguments"]

OPTIONS = tuple(field.name for field in dataclasses.fields(Options))
_LOADING = tuple(
    name
    for name, parameter in inspect.signature(NBCE.from_pretrained).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in OPTIONS
)
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
    loading = {name: value for name, value in arguments.items() if name in _LOADING}
    options = {name: value for name, value in arguments.items() if name in OPTIONS}
    if unknown := sorted(set(arguments) - {*loading, *options}):
        ours = dict.fromkeys(_ELSEWHERE[name] for name in unknown if name in _ELSEWHERE)
        hint = f" (here it is {' and '.join(ours)})" if ours else ""
        raise InputError(
            f"Unknown argument {', '.join(unknown)} of NBCELLM{hint}; beside LlamaIndex's own it takes "
            f"{', '.join(sorted({*_LOADING, *OPTIONS}))}."
        )
    Options().updated(**options)
    return loading, options
