"""What a model can take and do, in LangChain's words."""

from __future__ import annotations

from importlib.util import find_spec

from langchain_core.language_models.model_profile import ModelProfile

from nbce_rag import Answerer, RemoteNBCE

__all__ = ["profile_of"]


def profile_of(engine: Answerer) -> ModelProfile:
    """What LangChain's parts, such as middleware that summarises, want to know of a model."""
    has_template = engine.model.tokenizer.has_chat_template
    is_remote = isinstance(engine, RemoteNBCE)  # it says itself what is installed where it is
    has_grammar = engine.model.can.grammar and (is_remote or find_spec("llguidance") is not None)
    return ModelProfile(
        max_input_tokens=engine.window,
        max_output_tokens=engine.window,
        text_inputs=True,
        image_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        text_outputs=True,
        tool_calling=has_template,
        tool_choice=has_grammar,
        structured_output=has_grammar,
    )
