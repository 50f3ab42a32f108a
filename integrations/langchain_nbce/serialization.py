"""What `dumps` writes of our models and `loads` reads: what they are and how they answer, never weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.load.serializable import (
    Serializable,
    SerializedConstructor,
    SerializedNotImplemented,
)
from pydantic import field_validator, model_validator

from nbce_rag import resolve_rule, rule_fields

from .documents import KEY_SECRET, check_key
from .settings import NBCESettings

__all__ = ["SerializableSettings"]


class SerializableSettings(NBCESettings, Serializable):
    """Settings that LangChain's `dumps` and `loads` take.

    `loads(text, allowed_objects=[ChatNBCE], valid_namespaces=["langchain_nbce"])`, with
    `secrets_map={"NBCE_MARK_KEY": key}` if there is one. The weights load again when they are first used.
    What was given an engine is written as something that cannot be read back, and so is a rule of the user's
    own.
    """

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """It is."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The key of passage marks is not written."""
        return {"mark_key": KEY_SECRET}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """See the class."""
        if self.engine is not None:
            return self.to_json_not_implemented()
        made = cast(SerializedConstructor, super().to_json())
        kwargs = made["kwargs"]
        kwargs["model"] = self.model  # also where it is the default, which may be another one there
        if (fields := rule_fields(self.fusion)) is not None:
            kwargs["fusion"] = fields
        return made

    @model_validator(mode="before")
    @classmethod
    def _check_key(cls, values: Any) -> Any:
        return check_key(values)

    @field_validator("fusion", mode="before")
    @classmethod
    def _read_rule(cls, fusion: Any) -> Any:
        """A rule that was written as its name and numbers."""
        return resolve_rule(**fusion) if isinstance(fusion, Mapping) else fusion
