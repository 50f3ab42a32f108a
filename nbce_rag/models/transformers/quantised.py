"""Checkpoints whose weights are quantised, and weights that are to be: what they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import MissingDependencyError, ModelError
from .devices import execution_device
from .gguf import first_line

__all__ = ["arrange_weights", "missing_package", "quantisation", "unpacked_at_once"]

_PACKAGES = {
    "aqlm": "aqlm[cpu,gpu]",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "kernels",
    "fbgemm_fp8": "fbgemm-gpu",
    "fp_quant": "fp_quant",
    "gptq": "gptqmodel optimum",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "metal": "kernels",
    "nvfp4": "kernels",
    "quanto": "optimum-quanto",
    "quark": "amd-quark",
    "sinq": "sinq",
    "spqr": "spqr_quant",
    "torchao": "torchao",
    "vptq": "vptq",
}
"""What to install, by the methods of transformers that need more than accelerate."""


def quantisation(config: Any, override: Any = None) -> str:
    """How weights are quantised, such as "gptq" or "bitsandbytes"; "" for plain ones.

    Args:
        config: of the model.
        override: `quantization_config=`, which says how plain weights are to be quantised.
    """
    text = getattr(config, "get_text_config", lambda: None)()
    for source in (
        override,
        getattr(config, "quantization_config", None),
        getattr(text, "quantization_config", None),
    ):
        if source is None:
            continue
        values = source if isinstance(source, Mapping) else vars(source)
        method = values.get("quant_method")
        if method is None and (values.get("load_in_4bit") or values.get("load_in_8bit")):
            method = "bitsandbytes"
        return str(getattr(method, "value", method))
    return ""


def unpacked_at_once(method: str, device: torch.device) -> bool:
    """Whether transformers makes plain weights of quantised ones on loading: there is no kernel for them."""
    return method in ("fp8", "mxfp4", "mxfp8") and device.type not in ("cuda", "xpu")


def arrange_weights(model: Any, name: str) -> None:
    """Run a quantised model once: layers of several kinds lay their weights otherwise the first time.

    Raises:
        ModelError: it cannot be run.
    """
    method = quantisation(model.config)
    if not method:
        return
    device = execution_device(model)
    try:
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    except Exception as error:  # whatever the library behind it chose
        raise ModelError(
            f"{name!r} is quantised by {method}, and cannot be run on {device}: {first_line(error)} "
            "Its weights may be of another kind than its config.json says."
        ) from error


def missing_package(name: str, method: str, reason: str) -> MissingDependencyError:
    """What to raise where transformers lacks a package to load a model.

    Args:
        name: of the model.
        method: as `quantisation` gives it.
        reason: what transformers says.
    """
    if not method:
        return MissingDependencyError(f"Loading {name!r} so needs a package that is not installed: {reason}")
    packages = f"{_PACKAGES.get(method, '')} accelerate".strip()
    return MissingDependencyError(
        f"{name!r} is quantised by {method}, and what reads it is missing: {reason} "
        f"Install it with: pip install {packages}"
    )
