"""What `NBCE.from_pretrained` takes beside the model and options, for who must not load an engine to know."""

from __future__ import annotations

__all__ = ["LOADING_ARGUMENTS"]

LOADING_ARGUMENTS: tuple[str, ...] = (
    "tokenizer",
    "backend",
    "device",
    "dtype",
    "revision",
    "trust_remote_code",
    "local_files_only",
    "device_map",
    "adapter",
    "quantization_config",
    "attn_implementation",
    "token",
    "cache_dir",
    "check",
    "n_gpu_layers",
    "n_threads",
    "flash_attn",
    "kv_type",
    "use_mmap",
    "api_key",
    "server_timeout",
    "max_retries",
    "data_parallel",
    "prompt",
    "kv_store",
    "window",
    "max_batch_tokens",
)
"""Names of its keywords that say how a model is loaded and how an engine is made of it."""
