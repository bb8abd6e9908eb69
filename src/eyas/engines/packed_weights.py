"""Weights of linear layers laid out once for MKL's matrix product, as torch.compile's freezing does.

Decoding multiplies few rows by every weight in every step; without this MKL rearranges each weight each time.
Source: torch/_inductor/fx_passes/mkldnn_fusion.py (`mkl._mkl_linear`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LEAST_ELEMENTS = 2**16
"""Smaller weights stay in the cache of a core, where laying them out anew costs less than the call."""


class _Packed:
    def __init__(self, layer: nn.Linear, rows: int) -> None:
        self._layer, self._rows = layer, rows
        self._weight = torch.ops.mkl._mkl_reorder_linear_weight(layer.weight.detach(), rows)

    def __call__(self, inputs: Tensor) -> Tensor:
        layer = self._layer
        if inputs.numel() != self._rows * layer.in_features:
            return nn.functional.linear(inputs, layer.weight, layer.bias)
        made: Tensor = torch.ops.mkl._mkl_linear(inputs, self._weight, layer.weight, layer.bias, self._rows)
        return made


@contextmanager
def packed_weights(module: nn.Module, *, rows: int) -> Iterator[None]:
    """Inside, float32 linear layers on a CPU with MKL multiply `rows` rows by packed weights; the result may differ
    in the last bits. Costs the memory of the weights once more; other devices and types are left alone.
    """
    layers = [layer for layer in module.modules() if type(layer) is nn.Linear and _can_pack(layer)]
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = _Packed(layer, rows)  # type: ignore[assignment,method-assign]
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if own is not None:
                layer.forward = own  # type: ignore[method-assign]


def _can_pack(layer: nn.Linear) -> bool:
    weight = layer.weight
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LEAST_ELEMENTS
    return fits and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
