"""Tiny models of transformers written as GGUF files, as llama.cpp's converter would write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

__all__ = ["split_gguf", "write_gguf", "write_mamba_gguf"]

_ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "gemma3_text": gguf.MODEL_ARCH.GEMMA3}


def write_gguf(
    path: Path, model: Any, tokenizer: Any, leave_out: str = "", *, bos: bool | None = None, chat: str = ""
) -> Path:
    """A Llama or a Gemma 3 in llama.cpp's names; of a Llama, in its order of the rotary halves.

    Args:
        path: the file.
        model: of transformers.
        tokenizer: its tokenizer, byte-level.
        leave_out: part of the name of weights that are left out.
        bos: whether the file says that a text begins with BOS; None says nothing.
        chat: a chat template.
    """
    config = model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    is_gemma = config.model_type == "gemma3_text"
    if is_gemma:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    _add_tokenizer(writer, tokenizer, bos, chat)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if leave_out and leave_out in name:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
            name.split(".")[-2]
        )
        if heads and not is_gemma:
            rows, columns = tensor.shape
            tensor = (
                tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
            )
        if is_gemma and name.endswith("norm.weight"):
            tensor = tensor + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    return _written(writer, path)


def write_mamba_gguf(path: Path, tokenizer: Any, *, layers: int = 2, seed: int = 0) -> Path:
    """A Mamba with weights at random: a model whose state takes no token back."""
    numbers = np.random.default_rng(seed)
    hidden, inner, state, rank, vocabulary = 32, 64, 8, 4, len(tokenizer)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(layers)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    _add_tokenizer(writer, tokenizer, None, "")

    def weights(*shape: int) -> Any:
        return (0.4 * numbers.standard_normal(shape)).astype(np.float32)

    writer.add_tensor("token_embd.weight", weights(vocabulary, hidden))
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    writer.add_tensor("output.weight", weights(vocabulary, hidden))
    for layer in range(layers):
        name = f"blk.{layer}"
        writer.add_tensor(f"{name}.attn_norm.weight", np.ones(hidden, np.float32))
        writer.add_tensor(f"{name}.ssm_in.weight", weights(2 * inner, hidden))
        writer.add_tensor(f"{name}.ssm_conv1d.weight", weights(inner, 4))
        writer.add_tensor(f"{name}.ssm_conv1d.bias", weights(inner))
        writer.add_tensor(f"{name}.ssm_x.weight", weights(rank + 2 * state, inner))
        writer.add_tensor(f"{name}.ssm_dt.weight", weights(inner, rank))
        writer.add_tensor(f"{name}.ssm_dt.bias", weights(inner))
        writer.add_tensor(f"{name}.ssm_a", -np.exp(weights(inner, state)))
        writer.add_tensor(f"{name}.ssm_d", weights(inner))
        writer.add_tensor(f"{name}.ssm_out.weight", weights(hidden, inner))
    return _written(writer, path)


def split_gguf(whole: Path, folder: Path, tensors: int = 9) -> list[Path]:
    """The same in several files, as llama.cpp splits them: the first says what the model is."""
    reader = gguf.GGUFReader(whole)
    writer = gguf.GGUFWriter(folder / "split.gguf", "llama", split_max_tensors=tensors)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("split-*.gguf"))


def _add_tokenizer(writer: Any, tokenizer: Any, bos: bool | None, chat: str) -> None:
    spec = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(spec["vocab"], key=spec["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token in tokenizer.all_special_tokens else normal for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in spec["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if bos is not None:
        writer.add_add_bos_token(bos)
    if chat:
        writer.add_chat_template(chat)


def _written(writer: Any, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
