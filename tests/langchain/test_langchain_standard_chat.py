"""LangChain's own suites for chat models, as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

pytest.importorskip("langchain_tests")

from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_nbce import ChatNBCE


class _Flags:
    """What both suites are told.

    Off, because a text model has no eyes or ears: image, audio, video and PDF inputs, also in tool messages.
    """

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatNBCE

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        # Off: that test sends an image too.
        return False

    @property
    def enable_vcr_tests(self) -> bool:
        return True  # nothing goes over the network, so there is nothing to be recorded and nothing to skip


class TestChatNBCEUnit(_Flags, ChatModelUnitTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "never-loaded"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"NBCE_MODEL": "some/model"}, {}, {"model": "some/model"}

    @property
    def model_override_value(self) -> str | None:
        return "another"


class TestChatNBCEIntegration(_Flags, ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _folders(self, taught_folder: Path, tiny_folder: Any) -> None:
        self.taught = str(taught_folder)
        self.another = str(tiny_folder("qwen3", chat=True))

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self.taught, "device": "cpu", "dtype": "float32", "max_tokens": 160}

    @property
    def model_override_value(self) -> str | None:
        return self.another
