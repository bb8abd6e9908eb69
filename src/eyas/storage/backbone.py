"""A causal language model seen as backbone and head, with the loss inside its own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.losses import Head, LossSums, completion_loss
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


def attach_loss(model: PreTrainedModel, loss: LossSpec, *, compiled: bool = False) -> None:
    """Replace the instance's forward by one that takes a collated micro-batch and returns its LossSums.

    Backbone, head and loss then run inside whatever wraps the model (DDP, FSDP, peft), so that sharded
    weights are gathered for them and nothing reads the head's weight from outside. With `compiled` the backbone goes
    through torch.compile, for any row length at once; only here, since decoding with a cache would compile it anew.
    """
    head = head_of(model)
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
        **_peft: Any,
    ) -> LossSums:
        hidden_BTD = hidden_states(model, input_ids, position_ids, compiled=decoder)
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
