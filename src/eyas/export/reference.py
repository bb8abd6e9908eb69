"""The model's own log-probs and greedy tokens, and a runtime's parity with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, cycle, islice

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache, PreTrainedModel

from eyas.engines.cache import cache_argument
from eyas.parity import Likeness, Limits, Parity, likeness, parity_of, require_parity
from eyas.runtimes.runtime import Runtime
from eyas.runtimes.static import StaticSession

GREEDY_TOKENS = 64
TOP = 50
SLACK = 10
"""Of a single graph's limits. It reads prompts one after another, which few models have learnt: the built-in teacher in
float16 then comes to 0.8 nats and a KL of 4e-4, 2 and 5 times what its prompts alone do. Graphs share their weights, so
that a single one is wrong by its structure, and by far."""


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
    A prompt of 1,000 tokens and a vocabulary of 150,000 take 0.6 GB, and once more while the prompt is read.
    """
    room = getattr(model.config, "max_position_embeddings", len(prompt_ids) + tokens) - len(prompt_ids)
    most = min(tokens, room)
    ids, cache = torch.tensor([list(prompt_ids)], device=model.device), DynamicCache(config=model.config)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    logprobs_TV = np.empty((len(prompt_ids) + most - 1, vocabulary), np.float32)
    greedy: list[int] = []
    taken, name = 0, cache_argument(model)
    while len(greedy) < most:
        logits_TV = model(input_ids=ids, use_cache=True, **{name: cache}).logits[0].float().cpu()
        rows_TV = torch.from_numpy(logprobs_TV[taken : taken + len(logits_TV)])
        torch.log_softmax(logits_TV, dim=-1, out=rows_TV)
        taken += len(logits_TV)
        greedy.append(int(logits_TV[-1].argmax()))
        if greedy[-1] in stop_ids:
            break
        ids = torch.tensor([greedy[-1:]], device=model.device)
    return Reference(tuple(prompt_ids), tuple(greedy), logprobs_TV[:taken])


def parity_with(runtime: Runtime, references: Iterable[Reference], *, top: int = TOP) -> Parity:
    """Compare a runtime with the model on the references' prompts and their greedy continuations.

    References may be made one by one: none is kept while the next one is made.

    Raises: as the runtime's methods; ShapeError, without references.
    """
    return parity_of([*map(partial(_likeness, runtime, top=top), references)])  # a loop's variable would keep one


def _likeness(runtime: Runtime, reference: Reference, *, top: int) -> Likeness:
    tops = runtime.top_logprobs([*reference.prompt_ids, *reference.greedy_ids], k=top)
    found = list(runtime.generate(reference.prompt_ids, max_tokens=len(reference.greedy_ids), stop_ids=()))
    return likeness(
        reference.logprobs_TV, tops.ids_TK, tops.logprobs_TK, greedy=reference.greedy_ids, found=found
    )  # fmt: skip


def require_every_graph(
    runtime: Runtime, model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, limits: Limits
) -> None:
    """Compare each graph of fixed shapes alone with the model; another runtime has none, and passes.

    A prompt's tokens go through whichever graphs take them at the least cost, so that some may never be run. Here each
    reads the prompts, one after the other and again: twice the tokens that it takes, so that it sees keys of its own,
    and 64 at least. In a context too short for that the rest goes through others.

    Raises: ExportError, which names the graph; as the runtime's methods.
    """
    if not isinstance(runtime.session, StaticSession):
        return
    counts = {length: min(max(2 * length, GREEDY_TOKENS), runtime.context_length) for length in runtime.session.lengths}
    ids = list(islice(cycle(chain.from_iterable(prompts)), max(counts.values()) + 1))
    logprobs_TV = _logprobs(model, ids[:-1])
    allowed = Limits(**{name: SLACK * limit for name, limit in asdict(limits).items()})
    for length, count in counts.items():
        tops = runtime.top_logprobs(ids[: count + 1], k=TOP, at_once=length)
        found = likeness(logprobs_TV[:count], tops.ids_TK, tops.logprobs_TK, greedy=(), found=())
        require_parity(
            parity_of([found]),
            limits=allowed,
            what=f"the graph of {length} token{'s'[: length - 1]}",
            advice="No finer format mends that: export to GGUF, and report it."
            if length == 1
            else f"No finer format mends that: leave {length} out of `prefill_lengths`, and report it.",
        )


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, ids: Sequence[int]) -> NDArray[np.float32]:
    """Natural-log probabilities [T, V] after every token."""
    logits_TV = model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0].float()
    logprobs_TV: NDArray[np.float32] = logits_TV.log_softmax(dim=-1).cpu().numpy()
    return logprobs_TV
