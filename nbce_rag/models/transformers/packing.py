"""Weights of linear layers in the layout that oneDNN multiplies fastest.

A decoding step multiplies a few rows (one a passage) by every weight matrix. For so few rows the
general matrix product of torch on the CPU reaches a fraction of the memory's speed; oneDNN's product on
weights that were reordered beforehand is up to four times faster (on an AVX2 machine, 11 rows by
640 x 262,144 in float32: 205 ms and 55 ms), and no slower for the thousands of rows of a prefill. Sums
are rounded in another order, no number is changed otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .sources import reads_weight

__all__ = ["PackedLinear", "pack_linear_layers"]

_ROWS = 11  # what oneDNN is told to expect; other numbers of rows work as well


class PackedLinear(nn.Module):
    """`x @ weight.T + bias` with a reordered weight that can neither be read back nor trained.

    Args:
        weight: [out_features, in_features], float32 or bfloat16, on the CPU.
        bias: [out_features] or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight: Tensor | None = None
        self.out_features, self.in_features = weight.shape
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return product

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return self  # nothing can change it, and torch cannot copy a packed weight

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def pack_linear_layers(model: nn.Module) -> int:
    """Replace the linear layers of a model by packed ones, in place; the old weights are freed.

    The output layer keeps its weight beside the packed copy; in models that tie it to the embedding it
    would stay anyway. Layers whose weights an architecture's own code reads stay as they are. Nothing is
    done on other devices, in other dtypes, with quantised weights, or where torch has no oneDNN.

    Args:
        model: a model that only this program uses, in evaluation mode.

    Returns:
        Number of layers replaced.
    """
    if not _works(next(model.parameters())):
        return 0
    apart = _read_by_adapters(model)
    output = getattr(model, "get_output_embeddings", lambda: None)()
    replaced = 0
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            stays = layer in apart or reads_weight(parent, name)
            packed = None if stays else _packed(layer)
            if packed is not None:
                if layer is output:
                    packed.weight = layer.weight  # for scores over a part of the vocabulary
                setattr(parent, name, packed)
                replaced += 1
    return replaced


def _read_by_adapters(model: nn.Module) -> set[nn.Module]:
    """Layers inside adapters whose weights are looked at, not only multiplied: packed ones have none.

    Plain LoRA asks of the layer beneath only what it computes; what it adds to that is small.
    """
    apart: set[nn.Module] = set()
    for adapter in model.modules():
        if not hasattr(adapter, "base_layer"):
            continue
        kind = type(adapter)
        adds_only = (kind.__module__, kind.__name__) == ("peft.tuners.lora.layer", "Linear")
        if adds_only and not getattr(adapter, "lora_variant", True):
            own = [child for name, child in adapter.named_children() if name != "base_layer"]
        else:
            own = [adapter]
        apart.update(layer for child in own for layer in child.modules())
    return apart


def _packed(layer: Any) -> PackedLinear | None:
    # Exact types: a subclass may do more than multiply.
    if type(layer) is nn.Linear:
        weight = layer.weight
    elif type(layer) is Conv1D:
        weight = layer.weight.t()
    else:
        return None
    # Quantised weights are tensors of kinds of their own, or have another forward put on their layer.
    if type(weight.data) is not Tensor or weight.device.type != "cpu" or "forward" in vars(layer):
        return None
    if (
        weight.dtype not in (torch.float32, torch.bfloat16)
        or layer._forward_hooks
        or layer._forward_pre_hooks
    ):
        return None
    return PackedLinear(weight, layer.bias)


def _works(sample: Tensor) -> bool:
    """Whether oneDNN multiplies numbers of this kind here; its operators are not a documented interface."""
    if sample.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if sample.dtype not in (torch.float32, torch.bfloat16):
        return False
    x = torch.arange(1.0, 7.0, dtype=sample.dtype).view(2, 3) / 8
    weight = torch.arange(1.0, 13.0, dtype=sample.dtype).view(4, 3) / 8
    try:
        return torch.allclose(PackedLinear(weight, None)(x), x @ weight.T)
    except (AttributeError, RuntimeError):
        return False
