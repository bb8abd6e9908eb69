"""A directory of ONNX graphs of fixed shapes, one per number of tokens, for compilers that allow nothing else."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from eyas.errors import MissingExtra, ModelError
from eyas.export.decoder import StaticDecoder, require_static, window_of
from eyas.export.exported import Exported
from eyas.export.onnx_check import OPSET, require_static_graph
from eyas.export.onnx_weights import SharedWeights
from eyas.parity import Limits
from eyas.runtimes.manifest import (
    MANIFEST,
    WEIGHTS,
    DType,
    GraphSpec,
    StaticManifest,
    file_spec,
    graph_tensors,
)
from eyas.storage.artifacts import atomic_path
from eyas.storage.models import load_model
from eyas.storage.origins import DESCRIBING
from eyas.storage.tokenization import load_tokenizer, stop_ids

if TYPE_CHECKING:
    import onnx

CONTEXT = 1024
"""Default of slots, where the model has as many positions: a cache that a 4 GB board can hold and copy."""
PREFILL_LENGTHS = (64, 256)
TOKENIZER = "tokenizer"
LIMITS: dict[DType, Limits] = {
    "float32": Limits(error_nats=0.005, kl_nats=1e-6, gap_nats=0.001),
    "float16": Limits(error_nats=1.0, kl_nats=5e-4, gap_nats=0.05),
}
"""Set after seeing docs/export-onnx.md's figures. float32 differs by the order of sums alone: its limits are 60 (error)
and 30 times (KL) the largest. float16 has 11 bits, and its limits are 4 to 8 times the largest; a tenth more on one
norm of the built-in student is found."""
MASKED = -30000.0
"""Hides a key: float16 holds it with room for a score, and exp of it is 0 in float32 and float16."""
NOTES = (
    "S: tokens of a graph; C: context_length; n: tokens taken in so far. Start with n = 0 and past_kv all 0.",
    "past_kv [2 * layers, 1, kv_heads, C, head_dim]: row 2i holds layer i's keys, row 2i + 1 its values, slot j "
    "those of token j.",
    "To take in m <= S tokens: input_ids = them, padded with the last; position_ids = n, n + 1, ..., padded likewise.",
    "attn_bias [1, 1, S, C + S]: 0 where row r may look, `masked` elsewhere. Column j < C is slot j: 0 if j < n. "
    "Column C + c is this call's token c: 0 if c <= r.",
    "attn_bias_sliding, where there is one: as attn_bias, and only tokens less than `window` positions back.",
    "logits [S, vocabulary]: row r belongs to token r; rows from m on mean nothing.",
    "Then past_kv[:, :, :, n : n + m] = new_kv[:, :, :, : m] and n = n + m. Nothing else of new_kv may be kept.",
)


def export_onnx(
    model_dir: Path,
    *,
    out: Path,
    dtype: DType = "float32",
    context_length: int | None = None,
    prefill_lengths: Sequence[int] = PREFILL_LENGTHS,
) -> Exported:
    """Write decode.onnx (one token), a prefill_S.onnx per length, weights.bin, tokenizer/ and manifest.json to `out`.

    `model_dir` is in Hugging Face layout, openPangu-Embedded as Llama (`eyas.storage.models.materialise`). A prefill
    length beyond the context becomes the context. `out` is replaced as a whole.

    Raises: MissingExtra, without onnx; ModelError, for a model that has no static graph, or a context beyond its own.
    """
    with atomic_path(out) as draft:
        draft.mkdir()
        manifest = write_graphs(
            model_dir, draft, dtype=dtype, context_length=context_length, prefill_lengths=prefill_lengths
        )
    return exported(out, manifest, format_="onnx")


def exported(
    out: Path,
    manifest: StaticManifest,
    *,
    format_: str,
    others: Sequence[str] = (),
    facts: Mapping[str, Any] | None = None,
) -> Exported:
    """What was written to a directory of graphs; `others` are files, and `facts` are facts, that the format adds."""
    files = tuple(out / name for name in (MANIFEST, *manifest.files, *others))
    return Exported(
        files=files,
        format=format_,
        quantisation=manifest.dtype,
        bytes=sum(file.stat().st_size for file in files),
        facts={
            "context_length": manifest.context_length,
            "prefill_lengths": [graph.length for graph in manifest.graphs[1:]],
            "opset": manifest.opset,
            "kv_bytes": manifest.cache_bytes,
            **(facts or {}),
        },
    )


def write_graphs(
    model_dir: Path, directory: Path, *, dtype: DType, context_length: int | None, prefill_lengths: Sequence[int]
) -> StaticManifest:
    """All that `export_onnx` writes, into an existing directory, the manifest last.

    Raises: as `export_onnx`.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", extra="onnx", purpose="exporting ONNX graphs") from error
    model = load_model(model_dir, dtype=dtype)
    require_static(model.config)
    slots = slots_of(model.config, context_length)
    lengths = sorted({1, *(min(length, slots) for length in prefill_lengths)})
    if lengths[0] < 1:
        raise ModelError(f"prefill lengths {list(prefill_lengths)}: expected positive numbers of tokens.")
    specs = [graph_spec(model, length=length, slots=slots, dtype=dtype) for length in lengths]
    decoder = StaticDecoder(model, context_length=slots).eval()
    with (directory / WEIGHTS).open("wb") as file:
        weights = SharedWeights(directory / WEIGHTS, file)
        for spec in specs:
            traced = _trace(decoder, spec)
            weights.move(traced)
            onnx.save(traced, directory / spec.file)
    for spec in specs:
        require_static_graph(directory / spec.file)
    manifest = _describe(model, model_dir, directory, specs=specs, slots=slots, dtype=dtype)
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
    return manifest


def slots_of(config: PreTrainedConfig, context_length: int | None) -> int:
    """Slots of the cache that graphs of a model get.

    Raises: ModelError, for more than the model has positions.
    """
    own = int(config.max_position_embeddings)
    if context_length is None:
        return min(CONTEXT, own)
    if not 1 <= context_length <= own:
        raise ModelError(f"a context of {context_length} tokens: the model has 1 to {own} positions. Choose fewer.")
    return context_length


def graph_spec(model: PreTrainedModel, *, length: int, slots: int, dtype: DType) -> GraphSpec:
    """Names, types and shapes of the graph that takes `length` tokens."""
    inputs, outputs = graph_tensors(
        length,
        layers=model.config.num_hidden_layers,
        kv_heads=model.config.num_key_value_heads,
        head_dim=head_dim(model),
        vocabulary=model.get_output_embeddings().weight.shape[0],
        context_length=slots,
        dtype=dtype,
        sliding=window_of(model.config, context_length=slots) is not None,
    )
    name = "decode" if length == 1 else f"prefill_{length}"
    return GraphSpec(name=name, length=length, file=f"{name}.onnx", inputs=inputs, outputs=outputs)


def head_dim(model: PreTrainedModel) -> int:
    """Width of one head, which older configs do not say."""
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _trace(decoder: StaticDecoder, spec: GraphSpec) -> onnx.ModelProto:
    """The graph with its weights in memory, by the TorchScript exporter: the other one writes opset 18 and IR 10."""
    import onnx

    arguments = tuple(torch.zeros(tensor.shape, dtype=getattr(torch, tensor.dtype)) for tensor in spec.inputs)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        path = Path(scratch) / "graph.onnx"
        torch.onnx.export(
            decoder,
            arguments,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
        )
        return onnx.load(path)


def _describe(
    model: PreTrainedModel, model_dir: Path, directory: Path, *, specs: Sequence[GraphSpec], slots: int, dtype: DType
) -> StaticManifest:
    """Copy the tokenizer's files, tokenizer.json written where there is none, and say all there is to know."""
    tokenizer, target = load_tokenizer(model_dir), directory / TOKENIZER
    target.mkdir()
    for source in sorted(model_dir.iterdir()):
        if source.suffix in DESCRIBING and not source.name.endswith(".index.json"):
            shutil.copyfile(source, target / source.name)
    if not (target / "tokenizer.json").is_file():
        tokenizer.save_pretrained(target)
    names = [f"{TOKENIZER}/{file.name}" for file in sorted(target.iterdir())]
    files = [spec.file for spec in specs] + [WEIGHTS, *names]
    return StaticManifest(
        model_type=model.config.model_type,
        dtype=dtype,
        layers=model.config.num_hidden_layers,
        kv_heads=model.config.num_key_value_heads,
        head_dim=head_dim(model),
        vocabulary=specs[0].outputs[0].shape[1],
        context_length=slots,
        window=window_of(model.config, context_length=slots),
        masked=MASKED,
        stop_ids=stop_ids(tokenizer, model_dir),
        opset=OPSET,
        graphs=tuple(specs),
        tokenizer=tuple(names),
        notes=NOTES,
        files={name: file_spec(directory / name) for name in files},
    )
