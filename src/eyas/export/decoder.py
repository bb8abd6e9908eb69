"""A causal language model as a graph of fixed shapes: fixed-length KV in, new KV and logits out.

Transformers' own modules run, with three parts replaced by ones that static compilers take: attention, which sees the
cached keys as an input and masks by an addend; rotary tables, looked up by position instead of computed; and the head,
which reads its weight in the embedding's layout, so that tied weights stay one.
Suffixes: S tokens of this call, C slots of the cache, L layers, G key/value heads, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from eyas.errors import ModelError

ATTENTION = "eyas_static"
MODEL_TYPES = ("llama", "qwen2", "qwen3", "gemma3_text")
"""Whose layers were compared with the graph; SmolLM2 is a Llama, openPangu-Embedded one with biases."""
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary tables that do not depend on how long the prompt is, unlike dynamic and longrope."""
Layers = list[tuple[Tensor, Tensor]]


def static_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    past_KV: Tensor,
    new_KV: Layers,
    **_unused: Any,
) -> tuple[Tensor, None]:
    """Attention of S queries [1, H, S, D] over C cached keys and their own, as [1, S, H, D].

    Scores of the two parts are joined, not the keys: nothing as large as the cache is copied. The heads that share
    a key/value head are rows of one product. The softmax is in float32, as in transformers' eager attention.
    """
    layer: int = module.layer_idx  # type: ignore[assignment]
    new_KV.append((key, value))
    past_key, past_value = past_KV[2 * layer], past_KV[2 * layer + 1]
    _, heads, length, size = query.shape
    groups, slots = key.shape[1], past_KV.shape[3]
    rows = query.reshape(1, groups, heads // groups * length, size) * scaling
    scores = torch.cat([rows @ past_key.transpose(2, 3), rows @ key.transpose(2, 3)], dim=-1)
    masked = scores.reshape(1, heads, length, slots + length) + attention_mask
    weights = nn.functional.softmax(masked, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = weights.reshape(1, groups, heads // groups * length, slots + length)
    mixed = weights[..., :slots] @ past_value + weights[..., slots:] @ value
    return mixed.reshape(1, heads, length, size).transpose(1, 2), None


class RotaryTable(nn.Module):
    """Stands in for a model's rotary embedding: cosines and sines of every position, looked up.

    Positions are not multiplied in the graph: float16, which compilers for NPUs prefer, holds no integer above 2,048.
    """

    def __init__(self, rotary: nn.Module, *, slots: int, layer_types: tuple[str, ...], dtype: torch.dtype) -> None:
        super().__init__()
        positions = torch.arange(slots).unsqueeze(0)
        for name in layer_types or ("",):
            cosines, sines = rotary(torch.zeros(1), positions, *([name] if name else []))
            self.register_buffer(f"cosines_{name}", cosines[0].to(dtype))
            self.register_buffer(f"sines_{name}", sines[0].to(dtype))

    def forward(self, _states: Tensor, position_ids: Tensor, layer_type: str = "") -> tuple[Tensor, Tensor]:
        cosines: Tensor = getattr(self, f"cosines_{layer_type}")
        sines: Tensor = getattr(self, f"sines_{layer_type}")
        return cosines[position_ids], sines[position_ids]


class StaticDecoder(nn.Module):
    """forward(input_ids [1, S], attn_bias [1, 1, S, C + S], position_ids [1, S], past_kv [2L, 1, G, C, D]
    [, attn_bias_sliding]) -> (logits [S, V], new_kv [2L, 1, G, S, D]).

    Row 2i of past_kv holds layer i's keys, row 2i + 1 its values. The model is changed; use it for nothing else.

    Raises: ModelError, for an architecture, rotary embedding or head that the graph does not reproduce.
    """  # fmt: skip

    def __init__(self, model: PreTrainedModel, *, context_length: int) -> None:
        super().__init__()
        require_static(model.config)
        AttentionInterface.register(ATTENTION, static_attention)
        model.config._attn_implementation = ATTENTION
        self.decoder: Any = model.get_decoder()
        types = tuple(sorted(set(layer_types(model.config)))) if model.config.model_type == "gemma3_text" else ()
        rotary: nn.Module = self.decoder.rotary_emb.float()
        self.decoder.rotary_emb = RotaryTable(rotary, slots=context_length, layer_types=types, dtype=model.dtype)
        head: Any = model.get_output_embeddings()
        self.weight_VD = head.weight
        bias = head.bias if head.bias is not None else torch.zeros(len(head.weight), dtype=model.dtype)
        self.bias_V = nn.Parameter(bias, requires_grad=False)

    def forward(
        self,
        input_ids: Tensor,
        attn_bias: Tensor,
        position_ids: Tensor,
        past_kv: Tensor,
        attn_bias_sliding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        new_KV: Layers = []
        sliding = attn_bias if attn_bias_sliding is None else attn_bias_sliding
        several = hasattr(self.decoder.config, "layer_types")
        output = self.decoder(
            input_ids=input_ids,
            attention_mask={"full_attention": attn_bias, "sliding_attention": sliding} if several else attn_bias,
            position_ids=position_ids,
            use_cache=False,
            past_KV=past_kv,
            new_KV=new_KV,
        )
        logits = torch.addmm(self.bias_V, output.last_hidden_state[0], self.weight_VD.t())
        return logits, torch.stack([part for layer in new_KV for part in layer])


def layer_types(config: PreTrainedConfig) -> list[str]:
    """Kind of attention of each layer."""
    return list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)


def window_of(config: PreTrainedConfig, *, context_length: int) -> int | None:
    """Tokens that a sliding layer looks back on, itself included; None where no layer's window is shorter than that."""
    window: int | None = config.sliding_window if "sliding_attention" in layer_types(config) else None
    return window if window is not None and window < context_length else None


def require_static(config: PreTrainedConfig) -> None:
    """Refuse what the graph would not reproduce.

    Raises: ModelError, which names it.
    """
    if config.model_type not in MODEL_TYPES:
        raise ModelError(
            f"model type {config.model_type!r} has no static graph; known: {', '.join(MODEL_TYPES)} (SmolLM2 and "
            "openPangu-Embedded are llama). Export it to GGUF or safetensors instead."
        )
    parameters = dict(config.rope_parameters)
    each = [value for value in parameters.values() if isinstance(value, dict)] or [parameters]
    for rope in each:
        if rope.get("rope_type", "default") not in FIXED_ROPE:
            raise ModelError(
                f"rotary embedding {rope['rope_type']!r} changes with the prompt's length, which a static graph "
                f"cannot; known: {', '.join(FIXED_ROPE)}. Export it to GGUF or safetensors instead."
            )
    for name in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        if getattr(config, name, None):
            raise ModelError(f"{name} = {getattr(config, name)} is not in the static graph. Export to GGUF instead.")
