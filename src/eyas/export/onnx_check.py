"""Whether a graph is one that a compiler of static shapes takes: standard operators expected to pass, no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from eyas.errors import ModelError

if TYPE_CHECKING:
    import onnx

OPSET = 14
"""CANN's parser is made for ONNX 1.12 (opset 17, IR 8 at most); 14 is what its users export."""
MAX_IR = 8
ALLOWED = frozenset(
    {
        "Add", "Cast", "Concat", "Constant", "Div", "Gather", "Gemm", "Identity", "MatMul", "Mul", "Neg", "Pow",
        "ReduceMean", "Reshape", "Sigmoid", "Slice", "Softmax", "Sqrt", "Tanh", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
"""What the supported architectures need; Identity is how the exporter writes weights that are equal. Left out on
purpose: Trilu, ScatterND, Where, Range, Loop and If, which are unknown to, or slow on, the compilers that these graphs
are for."""


def require_static_graph(path: Path) -> frozenset[str]:
    """Check a file with its external data by `onnx.checker`, then operator by operator; returns the operators.

    Raises: ModelError, which names the operator or tensor that a static compiler would refuse.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"{path}: not a valid ONNX model ({str(error).splitlines()[0]}).") from error
    model = onnx.load(path, load_external_data=False)
    found = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if found != {"ai.onnx": OPSET} or model.ir_version > MAX_IR:
        raise ModelError(f"{path}: opset {found}, IR {model.ir_version}; expected {OPSET}, at most {MAX_IR}.")
    known = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {value.name: value for value in (*known.input, *known.value_info, *known.output)}
    for node in known.node:
        _require_allowed(path, node)
        for name in () if node.op_type == "Constant" else node.output:
            _require_fixed(path, shapes.get(name), made_by=f"{node.op_type} {node.name}", name=name)
    for value in (*known.input, *known.output):
        _require_fixed(path, value, made_by="the graph", name=value.name)
    return frozenset(node.op_type for node in known.node)


def _require_allowed(path: Path, node: onnx.NodeProto) -> None:
    if node.domain not in ("", "ai.onnx") or node.op_type not in ALLOWED:
        raise ModelError(
            f"{path}: operator {node.domain or 'ai.onnx'}.{node.op_type} ({node.name}) is none of those that static "
            f"compilers are expected to take: {', '.join(sorted(ALLOWED))}. Export to GGUF or safetensors instead."
        )


def _require_fixed(path: Path, value: onnx.ValueInfoProto | None, *, made_by: str, name: str) -> None:
    import onnx

    types = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    tensor = None if value is None else value.type.tensor_type
    if tensor is None or not tensor.HasField("shape") or any(side.dim_value < 1 for side in tensor.shape.dim):
        raise ModelError(f"{path}: {name} of {made_by} has no fixed shape. Report the model: its graph is not static.")
    if tensor.elem_type not in types:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(f"{path}: {name} of {made_by} is {kind}; expected FLOAT, FLOAT16 or INT64.")
