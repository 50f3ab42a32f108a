"""The LLM that is meant where none is given."""

from __future__ import annotations

from llama_index.core.llms import LLM
from llama_index.core.settings import Settings

from nbce_rag import InputError

__all__ = ["default_llm"]


def default_llm(llm: LLM | None) -> LLM:
    """`llm`, or the one of `Settings`. LlamaIndex itself would go on to OpenAI's, over the network.

    Raises:
        InputError: neither is there.
    """
    if llm is not None:
        return llm
    if getattr(Settings, "_llm", None) is None:
        raise InputError("There is no LLM: give llm=NBCELLM(...), or set Settings.llm to one.")
    return Settings.llm
