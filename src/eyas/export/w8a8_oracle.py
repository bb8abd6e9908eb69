"""W8A8 weights computed on the CPU as an Ascend device would: what tells their quality where no device is.

Suffixes: T tokens, D inputs, N outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from eyas.engines.cache import cache_argument
from eyas.errors import CorruptArtifact, DataError
from eyas.export.w8a8_schema import W8A8Weights, read_w8a8
from eyas.runtimes.runtime import Runtime
from eyas.runtimes.session import Logits

INT8 = 127
"""Largest magnitude of a symmetric int8 activation."""


class W8A8Linear(nn.Module):
    """y = (round(x / s) · (W − o)ᵀ) · s · w + b, with s = max|x| / 127 of each token and w, o of each row of W.

    The integer product is computed in float32, exact while it is below 2^24: at least up to 1,040 inputs, and beyond
    it rounds in the last bits. Not how a device orders its sums or rounds its outputs, which are float16 there.
    Source: torch_npu's npu_dynamic_quant and npu_quant_matmul, as vllm-ascend's W8A8_DYNAMIC calls them.
    """

    def __init__(self, weight_ND: Tensor, scale_N1: Tensor, offset_N1: Tensor, bias_N: Tensor | None) -> None:
        super().__init__()
        self.weight_ND: Tensor
        self.scale_N: Tensor
        self.bias_N: Tensor | None
        self.register_buffer("weight_ND", weight_ND.float() - offset_N1.float())
        self.register_buffer("scale_N", scale_N1.float()[:, 0])
        self.register_buffer("bias_N", None if bias_N is None else bias_N.float())

    def forward(self, inputs_TD: Tensor) -> Tensor:
        """float32 [..., N] of float32 [..., D]."""
        scale_T1 = inputs_TD.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / INT8
        integers_TD = (inputs_TD / scale_T1).round()
        outputs_TN = (integers_TD @ self.weight_ND.T) * scale_T1 * self.scale_N
        return outputs_TN if self.bias_N is None else outputs_TN + self.bias_N


def load_w8a8_oracle(directory: Path) -> Runtime:
    """What `export_w8a8` wrote as a runtime, for its log-probs; its timings say nothing of a device.

    Raises: ArtifactError and CorruptArtifact, if the files are not as described.
    """
    started = time.perf_counter()
    session = OracleSession(w8a8_model(directory, read_w8a8(directory)), directory)
    load_s = time.perf_counter() - started
    return Runtime(session, name="w8a8-oracle", version=torch.__version__, load_s=load_s)


def w8a8_model(directory: Path, weights: W8A8Weights) -> PreTrainedModel:
    """The Hugging Face model in float32 with these layers in place of its own.

    Raises: CorruptArtifact, if there is no config of a model, or the weights are not all that its model has.
    """
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise CorruptArtifact(
            f"{directory}: no config of a causal language model ({str(error).splitlines()[0]}). Export it again."
        ) from error
    tensors, used = weights.tensors, set()
    for name in weights.linears:
        try:
            own = model.get_submodule(name)
        except AttributeError as error:
            raise CorruptArtifact(f"{directory}: the config's model has no layer {name}. Export it again.") from error
        parts = [f"{name}.{part}" for part in ("weight", "weight_scale", "weight_offset")]
        bias = tensors.get(f"{name}.bias")
        weight, scale, offset = (tensors[part] for part in parts)
        layer = W8A8Linear(weight, scale, offset, bias)
        if (
            not isinstance(own, nn.Linear)
            or own.weight.shape != layer.weight_ND.shape
            or (own.bias is None) != (bias is None)
        ):
            raise CorruptArtifact(f"{directory}: {name} is not the layer of the config's model. Export it again.")
        model.set_submodule(name, layer)
        used |= {*parts, f"{name}.bias"}
    rest = {name: tensor.float() for name, tensor in tensors.items() if name not in used}
    found = model.load_state_dict(rest, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith(("weight_ND", "scale_N", "bias_N"))]
    if missing or found.unexpected_keys:
        raise CorruptArtifact(
            f"{directory}: {len(missing)} weights are missing and {len(found.unexpected_keys)} are of no layer of the "
            f"config's model, the first is {[*missing, *found.unexpected_keys][0]}. Export it again."
        )
    model.tie_weights()
    model.eval()
    return model


class OracleSession:
    """Session over a Hugging Face model and its cache."""

    def __init__(self, model: PreTrainedModel, directory: Path) -> None:
        self._model, self._path = model, directory
        self.context_length = int(model.config.max_position_embeddings)
        self._vocabulary = int(model.config.vocab_size)
        self.graph_s = 0.0
        self.reset()

    def prefill(self, ids: Sequence[int], *, every: bool) -> Logits:
        if not ids or self._count + len(ids) > self.context_length or not 0 <= min(ids) <= max(ids) < self._vocabulary:
            raise DataError(
                f"{self._path}: {len(ids)} tokens after {self._count}, expected at least one, {self.context_length} in "
                f"all and ids below {self._vocabulary}."
            )
        started = time.perf_counter()
        with torch.inference_mode():
            given = {cache_argument(self._model): self._cache}
            made = self._model(input_ids=torch.tensor([list(ids)]), use_cache=True, **given)
        self.graph_s += time.perf_counter() - started
        self._count += len(ids)
        logits_TV: Logits = made.logits[0].numpy()
        return logits_TV if every else logits_TV[-1:]

    def decode(self, token_id: int) -> Logits:
        logits_V: Logits = self.prefill((token_id,), every=False)[0]
        return logits_V

    def reset(self) -> None:
        self._cache = DynamicCache(config=self._model.config)
        self._count = 0

    def close(self) -> None:
        self.reset()
        del self._model
