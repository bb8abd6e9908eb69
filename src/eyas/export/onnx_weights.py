"""The weights of several graphs in one file beside them, each tensor once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import onnx

ALIGNMENT = 4096
"""Bytes; a page, so that runtimes can map tensors instead of reading them (ONNX's docs/ExternalData.md)."""
SMALLEST = 1024
"""Bytes from which a tensor moves out of the graph; shapes and scalars stay, compilers fold them."""


class SharedWeights:
    """Tensors appended to one file, found again by content: three graphs and a tied embedding hold one copy.

    A protobuf ends at 2 GB; with its tensors outside, a graph of any model is small.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._name, self._file = path.name, file
        self._places: dict[str, int] = {}

    def move(self, model: onnx.ModelProto) -> None:
        """Replace the data of the model's initializers by references to the file."""
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= SMALLEST:
                self._move(tensor)

    def _move(self, tensor: onnx.TensorProto) -> None:
        import onnx

        data = tensor.raw_data
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[digest] = self._file.tell()
            self._file.write(data)
        place = {"location": self._name, "offset": str(self._places[digest]), "length": str(len(data))}
        tensor.ClearField("raw_data")
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items())
