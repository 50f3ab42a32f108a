"""Tiny models of every architecture that transformers calls a causal language model, random weights, float32.

Sizes go in by the names that configs have for them, through the constructors, since many derive others there.
What an architecture needs beside them stands in `SPECIAL`. Windows, chunks and budgets are so small that a
context of forty tokens passes them, and flat weights are drawn anew, so that a context changes what is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["ABSENT", "VARIANTS", "VOCABULARY", "build_family", "model_types"]

VOCABULARY = 480
_STD = 0.12
_LAYERS = 4
_WIDE, _HEADS, _INNER = 64, 4, 128
_LINEAR, _FULL, _SLIDING = "linear_attention", "full_attention", "sliding_attention"

SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "emb_dim"), _WIDE),
    **dict.fromkeys(("word_embed_proj_dim", "input_embedding_size", "output_embedding_size"), _WIDE),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), _LAYERS),
    **dict.fromkeys(("num_decoder_layers", "num_encoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), _HEADS),
    "decoder_attention_heads": _HEADS,
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "dff", "d_inner"), _INNER),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "feed_forward_size"), _INNER),
    **dict.fromkeys(("head_dim", "d_head", "dim_head", "attention_head_size", "kv_channels"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "context_length"), 512),
    **dict.fromkeys(("max_target_positions", "max_source_positions", "n_ctx"), 512),
    **dict.fromkeys(("initializer_range", "init_std", "embed_init_std"), _STD),
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Windows and chunks that a context of forty tokens passes.
    **dict.fromkeys(("sliding_window", "sliding_window_size", "window_size", "local_attention"), 16),
    **dict.fromkeys(("attention_window_size", "attention_chunk_size", "block_size", "chunk_size"), 16),
    "mamba_chunk_size": 16,
    "index_topk": 8,
    "use_sliding_window": True,
    "max_window_layers": 2,
    # Experts.
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_experts_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_dense_layers", "num_shared_experts", "moe_num_shared_experts"), 1),
    "dense_intermediate_size": _INNER,
    "intermediate_size_mlp": _INNER,
    # Latent attention, and its index.
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim"), 8),
    "qk_head_dim": 16,
    "v_head_dim": 12,
    "index_head_dim": 16,
    "index_n_heads": 16,
    # Recurrent layers.
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "linear_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_num_heads": 4,
    "use_mamba_kernels": False,
    # BERT and its kin are causal only where they are told so.
    "is_decoder": True,
    "is_encoder_decoder": False,
    "type_vocab_size": 2,
    # An encoder beside the decoder, which nobody asks here. As deep as that, as in most checkpoints:
    # transformers counts the layers of a cache by it. With other heads, so that nothing is counted by them.
    "encoder_layers": _LAYERS,
    "encoder_attention_heads": 2,
    "logit_scale": 1.0,
}
"""By the name of a config's field."""

_THETA = {"rope_theta": 10000.0}
_IMAGES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "image_size": 28,
    "patch_size": 14,
}
_INKLING = {
    "swa_num_attention_heads": _HEADS,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    "d_rel": 4,
    "rel_extent": 64,
    "layer_types": ["hybrid_sliding", "hybrid"] * 2,
}
_GEMMA3N = {
    "num_hidden_layers": 6,
    "intermediate_size": [_INNER] * 6,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "layer_types": [_SLIDING, _FULL] * 3,
    "laurel_rank": 8,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0] * 6,
}
_GEMMA4 = {
    "num_hidden_layers": 6,
    "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2,
    "layer_types": [_SLIDING, _FULL] * 3,
}
_GEMMA4_UNIFIED = {"layer_types": [_SLIDING, _FULL] * 2}
_QWEN4 = {
    "layer_types": [_LINEAR, "indexed_attention"] * 2,
    "hc_count": 2,
    "hc_lowrank": 8,
    "ple_layer_ids": [1],
    "ple_embed_dim": 32,
    "ngram_size": 3,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 500,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 1,
    "indexer_n_heads": 8,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
}
_DOTS3 = {
    "layer_types": [_FULL, _SLIDING] * 2,
    "swa_num_attention_heads": _HEADS,
    "swa_num_key_value_heads": _HEADS,
    "swa_q_lora_rank": 16,
    "swa_kv_lora_rank": 16,
    "swa_head_dim": 16,
    "swa_qk_nope_head_dim": 8,
    "swa_v_head_dim": 12,
}
_BLT = {"hidden_size_global": _WIDE}

SPECIAL: dict[str, dict[str, Any]] = {
    "axk2": {"head_dim": 8},
    "bailing_hybrid": {"layer_types": [_LINEAR, _FULL, _LINEAR, _LINEAR]},
    "bamba": {"attn_layer_indices": [1]},
    "blt": {
        "encoder_config": _BLT,
        "decoder_config": _BLT,
        "cross_attn_k": 2,
        "encoder_hash_byte_group_vocab": 503,
        "local_attention_window_len": 16,
    },
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": [_SLIDING, _FULL] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in (_SLIDING, _FULL)
        },
    },
    "dbrx": {
        "attn_config": {**_THETA, "kv_n_heads": 2, "clip_qkv": 8},
        "ffn_config": {"moe_num_experts": 4, "ffn_hidden_size": 32},
    },
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "layer_types": [
            _SLIDING,
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            _SLIDING,
        ],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "index_topk": 4,
        "o_groups": 2,
        "o_lora_rank": 16,
        "hc_mult": 2,
        "partial_rotary_factor": 0.5,
        "mlp_layer_types": ["moe"] * 4,
    },
    "dots3_note": {
        "text_config": _DOTS3,
        "vision_config": {
            "num_hidden_layers": 1,
            "mlp_layer_types": ["dense"],
            "adapter_in_dim": _WIDE,
            "adapter_out_dim": _WIDE,
        },
        "audio_config": {"num_hidden_layers": 1, "adapter_input_size": _WIDE, "adapter_out_dim": _WIDE},
    },
    "dots3_note_text": _DOTS3,
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3": {"text_config": {"layer_types": [_SLIDING, _FULL] * 2}, "vision_config": _IMAGES},
    "gemma3_text": {"layer_types": [_SLIDING, _FULL] * 2},
    "gemma3n": {"text_config": _GEMMA3N},
    "gemma3n_text": _GEMMA3N,
    "gemma4": {"text_config": _GEMMA4, "vision_config": {"num_hidden_layers": 1}},
    "gemma4_text": _GEMMA4,
    "gemma4_unified": {
        "text_config": _GEMMA4_UNIFIED,
        "vision_config": {"mm_embed_dim": 32, "mm_posemb_size": 16, "output_proj_dims": 32},
    },
    "gemma4_unified_text": _GEMMA4_UNIFIED,
    "got_ocr2": {"vision_config": {"image_size": 32, "mlp_dim": 32, "output_channels": 8}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": [_LINEAR, _FULL, _LINEAR, _LINEAR]},
    "hrm_text": {"num_hidden_layers": 2},
    "inkling2_text": {**_INKLING, "n_layers_per_attn_res_block": 2},
    "inkling_text": {**_INKLING, "logits_mup_width_multiplier": 1.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": {"layer_types": [_LINEAR, _FULL, _LINEAR, _LINEAR]},
    "kolibri1": {"layer_types": [_SLIDING, _FULL] * 2},
    "laguna": {"layer_types": [_SLIDING, _FULL] * 2},
    "lfm2": {"layer_types": ["conv", _FULL] * 2},
    "lfm2_moe": {"layer_types": ["conv", _FULL] * 2},
    "lfm3": {"layer_types": ["conv", _FULL, "conv", _SLIDING]},
    "longcat_flash": {"head_dim": 8, "num_layers": 2, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "mellum": {"layer_types": [_SLIDING, _FULL] * 2},
    "minimax": {"layer_types": [_LINEAR, _FULL] * 2},
    # Its cache has a window and its mask has none; in its checkpoints the window is all that there is.
    "moshi": {"sliding_window": 512},
    "moss_transcribe_diarize": {"audio_config": {"num_hidden_layers": 1}},
    "musicgen": {"decoder": {}},
    "nemotron_h": {
        "num_hidden_layers": ...,
        "layers_block_type": ["mamba", "moe", "mamba", "attention", "mlp"],
        "n_groups": 2,
    },
    "olmo_hybrid": {"linear_num_key_heads": 4, "linear_key_head_dim": 12},
    "phi4_multimodal": {"vision_config": {"num_hidden_layers": 2}, "audio_config": {"num_blocks": 2}},
    "qwen3_5": {"text_config": {"layer_types": [_LINEAR, _FULL] * 2}},
    "qwen3_5_moe": {"text_config": {"layer_types": [_LINEAR, _FULL] * 2}},
    "qwen3_5_moe_text": {"layer_types": [_LINEAR, _FULL] * 2},
    "qwen3_5_text": {"layer_types": [_LINEAR, _FULL] * 2},
    "qwen3_next": {"layer_types": [_LINEAR, _FULL] * 2},
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": {
        "num_key_value_heads": 1,
        "intermediate_size": 192,
        "lru_width": _WIDE,
        "block_types": ("recurrent", "attention"),
        "w_init_variance_scale": 1.0,
    },
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local"] * _LAYERS,
        "local_attn_chunk_length": 16,
    },
    "roc_bert": {"pronunciation_vocab_size": VOCABULARY, "shape_vocab_size": VOCABULARY},
    "xlstm": {"autocast_kernel_dtype": "float32", "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 5,
        "num_key_value_heads": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },
    "zamba2": {
        "num_key_value_heads": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "adapter_rank": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "moe_intermediate_size": 64, "router_hidden_size": 16},
}
"""By model type, what `SIZES` cannot know; `...` leaves a field to its default."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma4_text, experts, keys as values": (
        "gemma4_text",
        {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "enable_moe_block": True},
    ),
    "bart, an encoder of another depth": ("bart", {"encoder_layers": 3}),
    "granitemoehybrid, dense": (
        "granitemoehybrid",
        {"num_local_experts": 0, "num_experts_per_tok": 0, "position_embedding_type": "rope"},
    ),
    "inkling_text, past its floor": ("inkling_text", {"log_scaling_n_floor": 48}),
    "llama, dynamic positions": (
        "llama",
        {"max_position_embeddings": 48, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, **_THETA}},
    ),
    "llama4_text, past its floor": ("llama4_text", {"floor_scale": 48, "attn_scale": 0.5}),
    "minimax_m3_vl_text, sparse": (
        "minimax_m3_vl_text",
        {
            "layer_types": [_FULL, "minimax_m3_sparse"] * 2,
            "index_block_size": 4,
            "index_topk_blocks": 2,
            "index_local_blocks": 1,
            "index_n_heads": 2,
        },
    ),
    "nemotron_h, dense": ("nemotron_h", {"layers_block_type": ["mamba", "mlp", "mamba", "attention", "mlp"]}),
    "phi3, past its original window": (
        "phi3",
        {
            "original_max_position_embeddings": 48,
            "rope_parameters": {
                "rope_type": "longrope",
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 48,
                **_THETA,
            },
        },
    ),
}
"""The same architectures with other layers, or with thresholds that the rows pass."""

_ASSISTANT = "drafts for another model, whose keys and values it must be given"
ABSENT = {
    "gemma3n": "not tried: its picture encoder needs timm; its text model is gemma3n_text",
    "gemma4_assistant": _ASSISTANT,
    "gemma4_unified_assistant": _ASSISTANT,
}
"""Model types that are not built here, and why."""


def model_types() -> list[str]:
    """Every model type that transformers' `AutoModelForCausalLM` makes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def build_family(name: str) -> Any:
    """A tiny model of a model type or of a variant, float32, in evaluation mode; the same at each call."""
    import torch
    import transformers
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, more = VARIANTS.get(name, (name, {}))
    config = _config(CONFIG_MAPPING[model_type], {**SPECIAL.get(model_type, {}), **more})
    torch.manual_seed(0)
    model: Any
    if model_type.startswith("musicgen"):  # the whole is made of three models, one of which is causal
        names = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        model = getattr(transformers, names[model_type])(config.decoder)
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            # Weights at zero hide mistakes, and so do flat ones.
            if parameter.dim() >= 2 and float(parameter.std()) < 0.05:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * _STD)
    return model.eval()


def _config(kind: Any, special: Mapping[str, Any]) -> Any:
    """A config of this class with the sizes that it has fields for, and its parts made alike."""
    fields = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in SIZES.items() if name in fields}
    if "kv_lora_rank" in fields:  # latent attention has no groups of heads
        values["num_key_value_heads"] = _HEADS
    values |= {name: value for name, value in special.items() if name not in kind.sub_configs}
    for name, part in kind.sub_configs.items():
        values[name] = _config(_part(kind, name, part), special.get(name, {}))
    return kind(**{name: value for name, value in values.items() if value is not ...})


def _part(kind: Any, name: str, part: Any) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    default = kind.sub_configs_defaults.get(name)
    return CONFIG_MAPPING[default.model_type] if part is AutoConfig else part
