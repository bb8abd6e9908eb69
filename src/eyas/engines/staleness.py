"""How far a student has come from the policy that sampled its rollouts, in nats per completion token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from eyas.engines.likelihood import load_engine, token_logprobs
from eyas.records import SequenceRecord
from eyas.stats import Floats, TokenMean, token_mean
from eyas.storage.backbone import head_of, hidden_states
from eyas.storage.context import StageContext
from eyas.storage.models import device_of, load_model

SEQUENCES = 128
"""Rollouts on which staleness is estimated: a few prefills of them are little beside the training on thousands."""
FRESH = 0.01
"""Nats up to which the start weights count as those that sampled: a tenth of what NPD (arXiv 2605.05940) holds for
near, above the rounding of bfloat16."""
CHUNK = 64
"""Positions whose logits over the whole vocabulary exist at a time."""


def staleness_sample(sequences: Sequence[SequenceRecord]) -> list[SequenceRecord]:
    """Up to SEQUENCES that a student sampled, chosen by the hash of their tokens, so the same every time."""
    sampled = [item for item in sequences if item.source == "student" and item.sampling_logprobs]
    return sorted(sampled, key=lambda item: item.token_hash)[:SEQUENCES]


def staleness_before(sample: Sequence[SequenceRecord], *, context: StageContext) -> TokenMean:
    """KL(policy q that sampled || the stage's start weights p), from the tokens that q drew.

    The mean of log q(y_t) - log p(y_t), unbiased as long as p has not been trained on these tokens, but negative at
    times (k1 of http://joschu.net/blog/kl-approx.html). q is the distribution as it was sampled, temperature and
    nucleus included, p the model's own at temperature 1: fresh rollouts have 0 only if they were sampled so too.
    """
    return _log_ratio(context.model_path(), sample, context)


def staleness_after(sample: Sequence[SequenceRecord], *, before: TokenMean, context: StageContext) -> TokenMean:
    """KL(policy that sampled || the stage's trained weights), at the prefixes that were sampled.

    A model that was trained on the drawn tokens finds them likely because it has seen them, and their log-ratio may
    sink far below zero. So where the start weights are the policy that sampled (`before` within FRESH of 0), this is
    KL(start || trained) summed over the whole vocabulary at every position: never negative, without the noise of the
    draw, though still at prefixes that were trained on. Otherwise it is the log-ratio, too low by what was learnt by
    heart. The direction is the one that samples of the old policy can estimate; NPD (arXiv 2605.05940) bounds
    KL(current || generating) by about 0.10.
    """
    trained = context.directory / "model"
    if abs(before.value) > FRESH:
        return _log_ratio(trained, sample, context)
    old, new = (  # both resident at once: a student's inference weights are little beside its training
        load_model(path, dtype=context.model_dtype(), device=device_of(context.execution))
        for path in (context.model_path(), trained)
    )
    with torch.inference_mode():
        return token_mean([_divergence(old, new, item) for item in sample])


def _log_ratio(path: Path, sample: Sequence[SequenceRecord], context: StageContext) -> TokenMean:
    engine = load_engine(path, context=context)
    rows = token_logprobs(engine, [(item.prompt_ids, item.completion_ids) for item in sample])
    return token_mean([np.subtract(item.sampling_logprobs, row) for item, row in zip(sample, rows, strict=True)])


def _divergence(old: PreTrainedModel, new: PreTrainedModel, item: SequenceRecord) -> Floats:
    """KL(old || new) at every completion token of one sequence, nats [T]."""
    ids_BT = torch.tensor([item.prompt_ids + item.completion_ids], device=old.device)
    first = len(item.prompt_ids) - 1
    states = [hidden_states(model, ids_BT)[0, first:-1] for model in (old, new)]
    pieces = []
    for start in range(0, len(item.completion_ids), CHUNK):
        old_NV, new_NV = (
            torch.log_softmax(head_of(model)(hidden_ND[start : start + CHUNK]).float(), dim=-1)
            for model, hidden_ND in zip((old, new), states, strict=True)
        )
        pieces.append((old_NV.exp() * (old_NV - new_NV)).sum(dim=-1).double().cpu())
    found: Floats = torch.cat(pieces).numpy()
    return found
