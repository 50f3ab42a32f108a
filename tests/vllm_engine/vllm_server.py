"""A real `vllm serve` with the plugin, as the docs say to start it, but small."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["COMMAND", "VllmServer", "tiny_folder"]

COMMAND = os.environ.get("NBCE_VLLM_COMMAND", "")
"""The `vllm` of an environment that has vLLM and this package."""

_START_SECONDS = 600.0


class VllmServer:
    """A server on a free port of this machine, ended with the block.

    Args:
        folder: of the model.
        log: file for what it says.
        *arguments: further ones of the command line.
        window: the most tokens of a row.
    """

    def __init__(self, folder: Path, log: Path, *arguments: str, window: int = 512) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [
            COMMAND,
            "serve",
            str(folder),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--scheduler-cls", "nbce_rag.vllm_plugin.scheduler.GangScheduler"),
            *("--logprobs-mode", "processed_logprobs", "--max-logprobs", "64"),
            *("--dtype", "float32", "--enforce-eager", "--served-model-name", "model"),
            *("--max-model-len", str(window), "--max-num-batched-tokens", "512", "--max-num-seqs", "48"),
            *("--kv-cache-memory-bytes", str(256 * 2**20), "--distributed-executor-backend", "uni"),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> VllmServer:
        self.start()
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and do not wait."""
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        environment.pop("PYTHONPATH", None)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.log.parent,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it answers."""
        assert self._process is not None
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as response:
                    if response.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(1)
        tail = self.log.read_text(errors="replace")[-4000:]
        self.kill()
        raise AssertionError(f"vLLM did not start: {tail}")

    def kill(self) -> None:
        """End it with all of its processes, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def tiny_folder(path: Path) -> Path:
    """A small model of random weights, of a shape that vLLM's kernels take."""
    import torch
    from tiny_models import build_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer: Any = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
