"""A causal language model seen as backbone and head, with the loss inside its own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from eyas.errors import ModelError
from eyas.losses import Head, LossSums, SparseTeacher, completion_loss
from eyas.recipe import LossSpec
from eyas.storage.attention import packed_attention


def hidden_states(
    model: PreTrainedModel,
    input_ids_BT: Tensor,
    position_ids_1T: Tensor | None = None,
    *,
    compiled: Callable[..., Any] | None = None,
) -> Tensor:
    """Last hidden states [B, T, D] of right-padded rows, or of the one packed row whose positions are given.

    Without cache and without attention mask: right padding needs none under causal attention, and the sequences of a
    packed row are told apart by positions that restart (see attention.py; transformers honours them only without a
    cache). `compiled` is called instead of the decoder.
    """
    decoder = model.get_decoder()
    with nullcontext() if position_ids_1T is None else packed_attention(decoder, position_ids_1T):
        run = decoder if compiled is None else compiled
        output = run(input_ids=input_ids_BT, position_ids=position_ids_1T, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


def head_of(model: PreTrainedModel) -> Head:
    """The output layer's weight and bias with the model's own scale and soft cap, to be asked for inside forward.

    The loss multiplies by the weight itself, so the layer must be nothing but one.

    Raises: ModelError, if it is something else: absent, quantised, adapted or sharded on its own.
    """
    layer = model.get_output_embeddings()
    weight_VD = getattr(layer, "weight", None)
    if not isinstance(weight_VD, Tensor) or weight_VD.ndim != 2 or not weight_VD.is_floating_point():
        raise ModelError(
            f"the output layer of {type(model).__name__} is {type(layer).__name__}, expected a linear one in a "
            "floating-point type. Load the model unquantised, or choose another."
        )
    if hasattr(layer, "lora_A"):
        raise ModelError("the output layer carries LoRA adapters, which the loss would pass over. Adapt other layers.")
    if isinstance(weight_VD, DTensor):
        raise ModelError(
            "the output layer's weight is still sharded inside the model's forward pass. Shard that layer with the "
            "model's root (fully_shard(model)), not on its own."
        )
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(weight_VD, layer.bias, scale=scale, soft_cap=getattr(config, "final_logit_softcapping", None))


def require_known_head(model: PreTrainedModel) -> None:
    """Compare the logits of `head_of` with the model's own on a few tokens.

    Raises: ModelError, where they differ: the architecture does something to its logits that eyas does not know.
    """
    ids_BT = torch.arange(4, device=model.device).unsqueeze(0) % model.config.vocab_size
    with torch.inference_mode():
        own_NV = model(input_ids=ids_BT, use_cache=False).logits[0].float()
        ours_NV = head_of(model)(hidden_states(model, ids_BT)[0])
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 3e-2
    if (own_NV - ours_NV).abs().max() > tolerance * own_NV.abs().max().clamp(min=1.0):
        raise ModelError(
            f"{type(model).__name__} changes its logits in a way that eyas does not know (known: a bias, logit_scale, "
            "logits_scaling, final_logit_softcapping), so losses and scores would be wrong. Choose another model."
        )


def attach_loss(model: PreTrainedModel, loss: LossSpec, *, temperature: float = 1.0, compiled: bool = False) -> None:
    """Replace the instance's forward by one that takes a collated micro-batch and returns its LossSums.

    Backbone, head and loss then run inside whatever wraps the model (DDP, FSDP2, peft), so that sharded
    weights are gathered for them and nothing reads the head's weight from outside. With `compiled` the backbone goes
    through torch.compile, for any row length at once; only here, since decoding with a cache would compile it anew.

    `temperature` is the one that the teacher was scored at.
    """
    decoder = torch.compile(model.get_decoder(), dynamic=True) if compiled else None

    def forward(
        input_ids: Tensor,
        positions_N: Tensor,
        labels_N: Tensor,
        weights_N: Tensor,
        ce_mask_N: Tensor,
        position_ids: Tensor | None = None,
        teacher_ids_NK: Tensor | None = None,
        teacher_logprobs_NK: Tensor | None = None,
        teacher_tail_N: Tensor | None = None,
        teacher_token_logprobs_N: Tensor | None = None,
        **_peft: Any,
    ) -> LossSums:
        hidden_BTD = hidden_states(model, input_ids, position_ids, compiled=decoder)
        return completion_loss(
            hidden_BTD.flatten(0, 1)[positions_N],
            labels_N,
            weights_N,
            ce_mask_N,
            teacher_of(teacher_ids_NK, teacher_logprobs_NK, teacher_tail_N, teacher_token_logprobs_N),
            head=head_of(model),
            loss=loss,
            temperature=temperature,
        )

    model.forward = forward


def teacher_of(
    ids_NK: Tensor | None, logprobs_NK: Tensor | None, tail_N: Tensor | None, token_logprobs_N: Tensor | None
) -> SparseTeacher | None:
    """The teacher columns of a micro-batch as one; None without them, all of which come together."""
    if ids_NK is None or logprobs_NK is None or tail_N is None or token_logprobs_N is None:
        return None
    return SparseTeacher(ids_NK, logprobs_NK, tail_N, token_logprobs_N)


def detach_loss(model: PreTrainedModel) -> None:
    """Give the instance its class's forward back."""
    model.__dict__.pop("forward", None)
