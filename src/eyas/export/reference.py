"""The model's own log-probs and greedy tokens, and a runtime's parity with them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from eyas.engines.cache import cache_argument
from eyas.parity import Likeness, Parity, likeness, parity_of
from eyas.runtimes.runtime import Runtime

GREEDY_TOKENS = 64
TOP = 50


@dataclass(frozen=True)
class Reference:
    """What the Hugging Face model does after one prompt."""

    prompt_ids: tuple[int, ...]
    greedy_ids: tuple[int, ...]
    """Its likeliest continuation, up to and with a stop id."""
    logprobs_TV: NDArray[np.float32]
    """Natural-log probabilities after every token of both but the last."""


@torch.inference_mode()
def reference_of(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    *,
    tokens: int = GREEDY_TOKENS,
    stop_ids: Collection[int] = (),
) -> Reference:
    """Continue a prompt greedily by `tokens` tokens, to a stop id or to the end of the model's context.

    What would come after a stop id is never shown, and a trained model never learnt it: formats differ there far more.
    """
    room = getattr(model.config, "max_position_embeddings", len(prompt_ids) + tokens) - len(prompt_ids)
    ids, rows, cache = torch.tensor([list(prompt_ids)], device=model.device), [], DynamicCache(config=model.config)
    greedy: list[int] = []
    name = cache_argument(model)
    for _ in range(min(tokens, room)):
        logits_TV = model(input_ids=ids, use_cache=True, **{name: cache}).logits[0].float()
        rows.append(logits_TV.log_softmax(dim=-1).cpu().numpy())
        greedy.append(int(logits_TV[-1].argmax()))
        if greedy[-1] in stop_ids:
            break
        ids = torch.tensor([greedy[-1:]], device=model.device)
    return Reference(tuple(prompt_ids), tuple(greedy), np.concatenate(rows))


def parity_with(runtime: Runtime, references: Sequence[Reference], *, top: int = TOP) -> Parity:
    """Compare a runtime with the model on the references' prompts and their greedy continuations.

    Raises: as the runtime's methods; ShapeError, without references.
    """
    return parity_of([_likeness(runtime, reference, top=top) for reference in references])


def _likeness(runtime: Runtime, reference: Reference, *, top: int) -> Likeness:
    tops = runtime.top_logprobs([*reference.prompt_ids, *reference.greedy_ids], k=top)
    found = list(runtime.generate(reference.prompt_ids, max_tokens=len(reference.greedy_ids), stop_ids=()))
    return likeness(
        reference.logprobs_TV, tops.ids_TK, tops.logprobs_TK, greedy=reference.greedy_ids, found=found
    )  # fmt: skip
