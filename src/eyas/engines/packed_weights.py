"""Weights of linear layers laid out once for MKL's matrix product, as torch.compile's freezing does.

Decoding multiplies few rows by every weight in every step; without this MKL rearranges each weight each time.
Source: torch/_inductor/fx_passes/mkldnn_fusion.py (`mkl._mkl_linear`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eyas.losses import Head, finished, narrow_weight

LEAST_ELEMENTS = 2**16
"""Smaller weights stay in the cache of a core, where laying them out anew costs less than the call."""
LEAST_ROWS = 8
"""Fewer rows take about as long as reading the weight once; packing it reads and writes it."""
REPACK_AFTER = 8
"""Packing costs about as much as eight products save (SmolLM2, 64 rows: 0.12 s, 20 ms a step)."""


class _Packed:
    """Packed for a number of rows, and anew for fewer that have come several times: slots that are given up."""

    def __init__(self, weight_ND: Tensor, bias_N: Tensor | None, rows: int) -> None:
        self._weight_ND, self._bias_N = weight_ND, bias_N
        self._pack(rows)

    def _pack(self, rows: int) -> None:
        self._rows, self._other, self._times = rows, 0, 0
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(self._weight_ND.detach(), rows)

    def _fits(self, rows: int) -> bool:
        if rows != self._rows and LEAST_ROWS <= rows < self._rows:
            self._other, self._times = rows, self._times + 1 if rows == self._other else 1
            if self._times == REPACK_AFTER:
                self._pack(rows)
        elif rows == self._rows:
            self._times = 0
        return rows == self._rows

    def __call__(self, inputs: Tensor) -> Tensor:
        if not self._fits(inputs.numel() // self._weight_ND.shape[1]):
            return nn.functional.linear(inputs, self._weight_ND, self._bias_N)
        made: Tensor = torch.ops.mkl._mkl_linear(inputs, self._packed, self._weight_ND, self._bias_N, self._rows)
        return made


@contextmanager
def packed_weights(module: nn.Module, *, rows: int) -> Iterator[None]:
    """Inside, float32 linear layers on a CPU with MKL multiply `rows` rows by packed weights; the result may differ
    in the last bits. Costs the memory of the weights once more; other devices and types are left alone.
    """
    linear = [layer for layer in module.modules() if type(layer) is nn.Linear]
    layers = [layer for layer in linear if _can_pack(layer.weight, rows=rows)]
    before = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers:
            layer.forward = _Packed(layer.weight, layer.bias, rows)  # type: ignore[assignment,method-assign]
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.__dict__.pop("forward", None)
            if own is not None:
                layer.forward = own  # type: ignore[method-assign]


def packed_head(head: Head, *, rows: int) -> Callable[[Tensor], Tensor]:
    """Logits [N, V] of hidden states [N, D] as `Head.__call__`, from a packed weight where N is `rows`."""
    weight_VD = narrow_weight(head)
    if not _can_pack(weight_VD, rows=rows):
        return head
    product = _Packed(weight_VD, None, rows)
    return lambda hidden_ND: finished(product(hidden_ND), head=head)


def _can_pack(weight: Tensor, *, rows: int) -> bool:
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= LEAST_ELEMENTS
    return fits and rows >= LEAST_ROWS and torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
