"""Checkpoints whose weights are quantised, and weights that are to be: what they need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import MissingDependencyError

__all__ = ["missing_package", "quantisation"]

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
        f"{name!r} is quantised by {method}, for which a package is missing: pip install {packages}. "
        f"Transformers says: {reason}"
    )
