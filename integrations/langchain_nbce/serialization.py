"""What `dumps` writes of our models and `loads` reads: what they are and how they answer, never weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    @property
    def lc_secrets(self) -> dict[str, str]:
        """The key of passage marks is not written, and neither is that of a server."""
        return {"mark_key": KEY_SECRET, "api_key": "NBCE_API_KEY"}

    # `is_lc_serializable` stays False: LangChain takes a class that says True for one that its own list of
    # loadable classes names, and keys caches by what is written, in which the state of the weights is not.
    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """What was set; see the class."""
        if self.engine is not None:
            return self.to_json_not_implemented()
        fields = type(self).model_fields
        names = [name for name in sorted(self.model_fields_set) if not fields[name].exclude]
        kwargs: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.base_url is None:
            kwargs["model"] = self.model  # also where it is the default, which may be another one there
        if (rule := rule_fields(self.fusion)) is not None:
            kwargs["fusion"] = rule
        if self.mark_key is not None:
            kwargs["mark_key"] = {"lc": 1, "type": "secret", "id": [KEY_SECRET]}
        return {"lc": 1, "type": "constructor", "id": self.lc_id(), "kwargs": kwargs}

    @model_validator(mode="before")
    @classmethod
    def _check_key(cls, values: Any) -> Any:
        return check_key(values)

    @field_validator("fusion", mode="before")
    @classmethod
    def _read_rule(cls, fusion: Any) -> Any:
        """A rule that was written as its name and numbers."""
        return resolve_rule(**fusion) if isinstance(fusion, Mapping) else fusion
