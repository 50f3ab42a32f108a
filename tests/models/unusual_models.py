"""Tiny models with random weights whose layers keep more, or less, than keys and values of one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HYBRID = ("qwen3_5", "granitemoehybrid", "lfm2", "falcon_h1", "nemotron_h", "minimax")
"""Recurrent states beside keys and values."""

BY_STEPS = ("mamba", "jamba")
"""Their states are forgotten where several tokens are read at once."""

RECURRENT = (*HYBRID, *BY_STEPS, "mamba2")

ATTENDING = ("gemma4", "gemma3n", "deepseek_v3", "deepseek_v32", "gpt_oss", "llama4")
"""Heads of several sizes, layers that share keys and values, latent keys, an indexer, sinks, chunks."""

BY_COLUMNS = ("bart", "roberta")
"""They take the length of the cache for a position, or begin behind the padding token's place."""

_STATES: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}


def _config(tf: Any, common: dict[str, Any], window: int) -> dict[str, Callable[[], Any]]:
    sizes = {name: value for name, value in common.items() if name != "intermediate_size"}
    plain = {"vocab_size": common["vocab_size"], "hidden_size": 32, "num_hidden_layers": 3}
    linear = ["linear_attention", "full_attention", "linear_attention"]
    sliding = ["sliding_attention", "full_attention"] * 2
    return {
        "qwen3_5": lambda: tf.Qwen3_5TextConfig(
            **common,
            head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=linear,
        ),
        "granitemoehybrid": lambda: tf.GraniteMoeHybridConfig(
            **common,
            **_STATES,
            layer_types=linear,
            num_local_experts=0,
            shared_intermediate_size=48,
            position_embedding_type="rope",
        ),
        "lfm2": lambda: tf.Lfm2Config(**common, layer_types=["conv", "full_attention", "conv"]),
        "falcon_h1": lambda: tf.FalconH1Config(**common, **_STATES, mamba_d_ssm=64),
        "nemotron_h": lambda: tf.NemotronHConfig(
            **{name: value for name, value in common.items() if name != "num_hidden_layers"},
            layers_block_type=["mamba", "mlp", "attention", "mamba"],
            head_dim=8,
            ssm_state_size=8,
            mamba_num_heads=8,
            mamba_head_dim=8,
            n_groups=2,
            chunk_size=16,
        ),
        "minimax": lambda: tf.MiniMaxConfig(
            **common,
            layer_types=linear,
            num_local_experts=4,
            num_experts_per_tok=2,
            head_dim=8,
            block_size=16,
        ),
        "jamba": lambda: tf.JambaConfig(
            **common,
            attn_layer_period=2,
            attn_layer_offset=1,
            num_experts=4,
            num_experts_per_tok=2,
            mamba_d_state=8,
            mamba_dt_rank=4,
            use_mamba_kernels=False,
        ),
        "mamba": lambda: tf.MambaConfig(**plain, state_size=8, initializer_range=0.2),
        "mamba2": lambda: tf.Mamba2Config(
            **plain, state_size=8, num_heads=8, head_dim=8, n_groups=2, chunk_size=16, initializer_range=0.2
        ),
        "gemma4": lambda: tf.Gemma4TextConfig(
            **{**sizes, "num_hidden_layers": 4},
            intermediate_size=48,
            head_dim=8,
            sliding_window=7,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=common["vocab_size"],
            num_kv_shared_layers=2,
            layer_types=sliding,
        ),
        "gemma3n": lambda: tf.Gemma3nTextConfig(
            **{**sizes, "num_hidden_layers": 4},
            intermediate_size=[48] * 4,
            head_dim=8,
            sliding_window=7,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=common["vocab_size"],
            num_kv_shared_layers=2,
            layer_types=sliding,
            laurel_rank=8,
            altup_num_inputs=2,
            activation_sparsity_pattern=[0.0] * 4,
        ),
        "deepseek_v3": lambda: tf.DeepseekV3Config(**{**common, **_LATENT}),
        "deepseek_v32": lambda: tf.DeepseekV32Config(
            **{**common, **_LATENT}, index_topk=8, index_head_dim=16, index_n_heads=16
        ),
        "gpt_oss": lambda: tf.GptOssConfig(
            **common, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=7
        ),
        "bart": lambda: tf.BartConfig(
            vocab_size=common["vocab_size"],
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            decoder_ffn_dim=48,
            max_position_embeddings=window,
            pad_token_id=2,
            init_std=0.3,
        ),
        "roberta": lambda: tf.RobertaConfig(
            **{name: value for name, value in common.items() if name != "num_key_value_heads"},
            is_decoder=True,
        ),
        "llama4": lambda: tf.Llama4TextConfig(
            **common, head_dim=8, intermediate_size_mlp=48, num_local_experts=4, attention_chunk_size=16
        ),
    }


def build_unusual(kind: str, vocab_size: int = 480, *, seed: int = 0, window: int = 512) -> Any:
    """A float32 model whose contexts matter: weights that would be too flat for that are drawn again."""
    import torch
    import transformers as tf

    # Where activations grow large, so does rounding.
    std = 0.1 if kind in ("nemotron_h", "gemma4") else 0.2
    common = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": window,
        "initializer_range": std,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    config = _config(tf, common, window)[kind]()
    torch.manual_seed(seed)
    architecture: Any = tf.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = architecture(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2 and float(parameter.std()) < 0.05:
                parameter.normal_(0.0, std)
    return model
