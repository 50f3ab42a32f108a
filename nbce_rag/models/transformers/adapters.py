"""LoRA and other adapters of peft: by their own name, beside a base model, or on a model that is loaded.

Adapters stay beside the weights that they change, as peft lays them, so that they can be switched: what
`set_adapter` and `disable_adapter` do to a model changes its fingerprint (see `fingerprint`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError, MissingDependencyError, ModelError
from ...files import expand_home
from ..loading import DEFAULT_MODEL
from .gguf import first_line, quietly

__all__ = ["Adapter", "adapter_of", "adapter_to_lay", "attach_adapter", "without_wrapping"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_APART = frozenset({"ADAPTION_PROMPT", "POLY", "XLORA"})  # change more than what a layer makes of its input


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on this machine.

    Attributes:
        name: what the user called it.
        folder: where it lies.
        base: the model that it was trained on, as it says; "" if it does not.
        revision: of the base, if it names one.
        has_tokenizer: a tokenizer came with it.
    """

    name: str
    folder: Path
    base: str
    revision: str | None
    has_tokenizer: bool

    @property
    def files(self) -> list[Path]:
        """What it does: its weights, and the configuration that says how they count."""
        return [self.folder / _CONFIG, self.folder / _WEIGHTS]


def adapter_to_lay(
    name: str, adapter: str | os.PathLike[str] | None, hub: Mapping[str, Any]
) -> Adapter | None:
    """The adapter that is to be laid on a model: the one beside it, or that which the name itself is.

    Args:
        name: of the model.
        adapter: folder or hub id of an adapter, or None.
        hub: as in `adapter_of`.

    Raises:
        InputError: both are adapters.
        ModelError: an adapter that is not there, cannot be used, or does not say what it was trained on.
        MissingDependencyError: peft is not installed.
    """
    own = _own_adapter(name, hub)
    if own is not None and adapter is None:
        if not own.base:
            raise ModelError(
                f"The adapter {name!r} does not say which model it was trained on; give that as model=, and "
                "the adapter as adapter=."
            )
        if _own_adapter(own.base, {**hub, "revision": own.revision}) is not None:
            raise ModelError(
                f"{own.base!r}, which the adapter {name!r} was trained on, is an adapter itself; merge that "
                "into its own base first."
            )
    if adapter is None:
        return own
    if own is not None:
        raise InputError(f"{name!r} is an adapter itself; give a base as model= and one adapter as adapter=.")
    place = expand_home(adapter)
    beside = adapter_of(place, {**hub, "revision": None})
    if beside is None:
        raise ModelError(
            f"No adapter at {place!r}: there is no adapter_config.json. Give the folder that "
            "save_pretrained() of peft wrote, or a hub id of one."
        )
    return beside


def _own_adapter(name: str, hub: Mapping[str, Any]) -> Adapter | None:
    return None if name == DEFAULT_MODEL or name.endswith(".gguf") else adapter_of(name, hub)


def adapter_of(name: str, hub: Mapping[str, Any]) -> Adapter | None:
    """The adapter of this name, downloaded if need be; None if it is no adapter's.

    Args:
        name: folder or hub id.
        hub: revision, token, cache_dir and local_files_only, as transformers takes them.

    Raises:
        MissingDependencyError: it is an adapter, and peft is not installed.
        ModelError: an adapter that cannot be used.
    """
    from transformers.utils.hub import cached_file
    from transformers.utils.peft_utils import find_adapter_config_file

    places: dict[str, Any] = {
        key: hub.get(key) for key in ("cache_dir", "token", "revision", "local_files_only")
    }
    try:
        file = find_adapter_config_file(name, **places)
    except (OSError, ValueError):  # no hub id at all; what loads models says so
        return None
    if file is None:
        return None
    if importlib.util.find_spec("peft") is None:
        raise MissingDependencyError(
            f"{name!r} is an adapter, which needs peft: pip install 'nbce-rag[lora]'."
        )
    from peft import PeftConfig

    optional: dict[str, Any] = {
        f"_raise_exceptions_for_{problem}": False for problem in ("missing_entries", "connection_errors")
    }
    weights, tokenizer = (
        cached_file(name, wanted, **optional, **places) for wanted in (_WEIGHTS, "tokenizer_config.json")
    )
    if weights is None:
        raise ModelError(
            f"The adapter {name!r} has no {_WEIGHTS}; give the folder that save_pretrained() of peft wrote. "
            "Other formats of weights can execute code and are not read."
        )
    folder = Path(file).parent
    if any((folder / whole).is_file() for whole in ("model.safetensors", "model.safetensors.index.json")):
        raise ModelError(
            f"{name!r} holds a whole model and an adapter, so that it is open which is meant. Move "
            f"{_CONFIG} and {_WEIGHTS} into a folder of their own, and give it as adapter=."
        )
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # damaged, or of another version of peft
        raise ModelError(f"Cannot use the {_CONFIG} of the adapter {name!r}: {first_line(error)}") from error
    _refuse_unusable(config, name)
    base = config.base_model_name_or_path
    return Adapter(name, folder, str(base or ""), config.revision, tokenizer is not None)


def attach_adapter(model: Any, adapter: Adapter) -> None:
    """Lay an adapter beside the weights of a transformers model, switched on.

    Raises:
        ModelError: it does not fit the model.
    """
    from peft import PeftConfig, PeftModel

    kind = type(model).__name__
    folder = str(adapter.folder)
    try:
        with quietly():
            # Peft would keep an adapter in float32 beside weights of any precision.
            wrapped = PeftModel(model, PeftConfig.from_pretrained(folder), autocast_adapter_dtype=False)
            report = wrapped.load_adapter(folder, "default", autocast_adapter_dtype=False)
    except Exception as error:  # whatever peft chose
        raise ModelError(
            f"The adapter {adapter.name!r} does not fit {kind}, or is damaged: {first_line(error)} Give the "
            f"model that it was trained on{f', {adapter.base!r}' if adapter.base else ''}."
        ) from error
    # Of these peft says no more than a warning.
    missing = [key for key in report.missing_keys if ".default" in key]
    for problem, keys in (
        ("has weights without a place", report.unexpected_keys),
        ("lacks weights", missing),
    ):
        if keys:
            raise ModelError(
                f"The adapter {adapter.name!r} does not fit {kind}: it {problem}, {min(keys)} among them. "
                f"Give the model that it was trained on{f', {adapter.base!r}' if adapter.base else ''}."
            )


def without_wrapping(model: Any, name: str) -> Any:
    """The transformers model inside a `PeftModel`, its adapters in its layers; any other model as it is.

    Raises:
        ModelError: an adapter that cannot be used.
    """
    configs = getattr(model, "peft_config", None)
    for config in configs.values() if isinstance(configs, Mapping) else ():
        _refuse_unusable(config, name)
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()


def _refuse_unusable(config: Any, name: str) -> None:
    """Rows need keys and values of a passage to follow from the passage alone."""
    kind = getattr(config, "peft_type", None)
    kind = str(getattr(kind, "value", kind))
    way_out = "Use LoRA or another adapter that changes layers alone, or merge it into its base."
    if getattr(config, "is_prompt_learning", False) or kind in _APART:
        raise ModelError(
            f"The adapter {name!r} ({kind}) does more than change what layers compute. {way_out}"
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise ModelError(f"The adapter {name!r} is on behind certain tokens only (activated LoRA). {way_out}")
