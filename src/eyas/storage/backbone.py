"""A causal language model seen as backbone and head, with the loss inside its own forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.losses import Head, LossSums, completion_loss
from eyas.recipe import LossSpec


def hidden_states(model: PreTrainedModel, input_ids_BT: Tensor, position_ids_BT: Tensor | None = None) -> Tensor:
    """Last hidden states [B, T, D] of right-padded or packed rows, without cache and without attention mask.

    Right padding needs no mask under causal attention; packed rows are told apart by positions that restart,
    which transformers honours only without a cache.
    """
    output = model.get_decoder()(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


def head_of(model: PreTrainedModel) -> Head:
    """[n, D] to logits [n, V], with the model's own bias, scale and soft cap."""
    config = model.config
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def head(hidden_ND: Tensor) -> Tensor:
        logits: Tensor = model.get_output_embeddings()(hidden_ND)
        if scale != 1.0:
            logits = logits * scale
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return head


def attach_loss(model: PreTrainedModel, loss: LossSpec) -> None:
    """Replace the instance's forward by one that takes a collated micro-batch and returns its LossSums.

    Backbone, head and loss then run inside whatever wraps the model (DDP, FSDP, peft), so that sharded
    weights are gathered for them and nothing reads the head's weight from outside.
    """
    head = head_of(model)

    def forward(
        input_ids: Tensor,
        positions_N: Tensor,
        labels_N: Tensor,
        weights_N: Tensor,
        ce_mask_N: Tensor,
        position_ids: Tensor | None = None,
        teacher_ids_NK: Tensor | None = None,
        teacher_logprobs_NK: Tensor | None = None,
        **_peft: Any,
    ) -> LossSums:
        hidden_BTD = hidden_states(model, input_ids, position_ids)
        return completion_loss(
            hidden_BTD.flatten(0, 1)[positions_N],
            labels_N,
            weights_N,
            ce_mask_N,
            teacher_ids_NK,
            teacher_logprobs_NK,
            head=head,
            vocabulary=model.config.vocab_size,
            kd_weight=loss.kd_weight if teacher_ids_NK is not None else 0.0,
            divergence=loss.divergence,
            tail=loss.tail,
        )

    model.forward = forward


def detach_loss(model: PreTrainedModel) -> None:
    """Give the instance its class's forward back."""
    model.__dict__.pop("forward", None)
