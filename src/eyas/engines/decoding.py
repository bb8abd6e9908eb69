"""Continuous batching: a fixed number of slots, each given to the next request as soon as its sequence has ended.

The requests of one call are a closed unit: who is admitted when follows from the requests and the settings alone, so
the same call gives the same bits, also after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Request, Sampled
from eyas.engines.cache import SlotCache, cached_states
from eyas.recipe import SamplingSpec
from eyas.records import FinishReason
from eyas.sampling import next_tokens, uniform_streams

FREE = -1
ADMIT = 1 / 8
"""Share of the slots that must be free before waiting requests are admitted: a prefill of few rows is slow."""
KEEP = 3 / 4
"""With nobody waiting, free slots are forgotten once fewer than this share of them is in use."""
PREFILL_TOKENS = 768
"""Prompt tokens per forward pass, about: 5,900 took 5.3 s at 768, 5.6 s at 512, 6.1 s at 1,024 (SmolLM2, 2 cores)."""


class Slots:
    """What each slot is decoding, in arrays over the slots S and the completion's tokens L."""

    def __init__(self, count: int, *, longest: int) -> None:
        self.request = np.full(count, FREE)
        """Index of the request, FREE where there is none."""
        self.length, self.limit = np.zeros((2, count), dtype=np.int64)
        self.uniforms = np.zeros((count, longest))
        self.ids = np.zeros((count, longest), dtype=np.int64)
        self.logprobs = np.zeros((count, longest), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.request)

    def used(self) -> NDArray[np.int64]:
        """Slots that decode something."""
        return np.flatnonzero(self.request != FREE)

    def free(self) -> NDArray[np.int64]:
        """Slots that decode nothing."""
        return np.flatnonzero(self.request == FREE)

    def admit(self, slot: int, index: int, request: Request, *, limit: int, sampled: bool) -> None:
        """Give a free slot to a request whose completion may have `limit` tokens."""
        self.request[slot], self.length[slot], self.limit[slot] = index, 0, limit
        if sampled:
            self.uniforms[slot, :limit] = uniform_streams([request.seed], limit)[0]

    def append(self, slots: NDArray[np.int64], ids: NDArray[np.int64], logprobs: NDArray[np.float32]) -> None:
        """One more token for each of these slots."""
        self.ids[slots, self.length[slots]] = ids
        self.logprobs[slots, self.length[slots]] = logprobs
        self.length[slots] += 1

    def take(self, slot: int, reason: FinishReason) -> tuple[int, Sampled]:
        """Free a slot whose sequence has ended: (index of the request, its completion)."""
        index, end = int(self.request[slot]), self.length[slot]
        self.request[slot] = FREE
        return index, Sampled(self.ids[slot, :end].tolist(), self.logprobs[slot, :end].tolist(), reason)

    def keep(self, slots: NDArray[np.int64]) -> None:
        """Forget all slots but these."""
        for name, array in vars(self).items():
            setattr(self, name, array[slots])


class Decoder:
    """Decodes requests with one model; see the module."""

    def __init__(
        self,
        model: PreTrainedModel,
        head: Callable[[Tensor], Tensor],
        *,
        sampling: SamplingSpec,
        stop: Sequence[int],
        context: int,
    ) -> None:
        self._model, self._head, self._sampling = model, head, sampling
        self._stop, self._context = np.array(stop), context
        self._last: tuple[list[int], int, Tensor] | None = None
        """The prompt that was prefilled last, its slot and its last hidden state [D]: samples of it may still wait."""

    def run(self, requests: Sequence[Request], *, slots: int) -> Iterator[tuple[int, Sampled]]:
        """(index, completion) of every request, as they end.

        Requests are admitted by length of prompt, longest first, and equal prompts are prefilled once.
        """
        waiting = sorted(
            range(len(requests)), key=lambda i: (-len(requests[i].prompt_ids), requests[i].prompt_ids, i), reverse=True
        )
        limits = [self._limit(request) for request in requests]
        capacity = max(len(item.prompt_ids) + limit for item, limit in zip(requests, limits, strict=True))
        state = Slots(min(slots, len(waiting)), longest=max(limits))
        cache = SlotCache(self._model, slots=len(state), capacity=capacity)
        tokens = torch.zeros(len(state), dtype=torch.long, device=self._model.device)
        while waiting or len(state.used()):
            free = state.free()
            if waiting and len(free) >= max(1, min(ADMIT * len(state), len(waiting))):
                admitted = [waiting.pop() for _ in range(min(len(free), len(waiting)))]
                chosen = free[: len(admitted)]
                for slot, index in zip(chosen.tolist(), admitted, strict=True):
                    state.admit(
                        slot, index, requests[index], limit=limits[index], sampled=self._sampling.temperature > 0
                    )
                hidden_BD = self._prefill(cache, chosen, [requests[index].prompt_ids for index in admitted])
                yield from self._draw(state, tokens, self._head(hidden_BD), chosen)
                continue
            used = state.used()
            if not waiting and len(used) < KEEP * len(state):
                state.keep(used)
                cache.keep(torch.from_numpy(used).to(tokens.device))
                tokens = tokens[used]
                used = np.arange(len(used))
            logits_SV = self._head(cache.decode(tokens))
            cache.lengths[used] += 1
            yield from self._draw(state, tokens, logits_SV if len(used) == len(state) else logits_SV[used], used)

    def _limit(self, request: Request) -> int:
        return min(self._sampling.max_completion_tokens, self._context - len(request.prompt_ids))

    def _prefill(self, cache: SlotCache, slots: NDArray[np.int64], prompts: list[list[int]]) -> Tensor:
        """Fill the slots with their prompts, each distinct one computed once; the last hidden states [B, D].

        Equal prompts are neighbours, so those that an earlier admission began are the first ones here.
        """
        begun = 0
        if self._last is not None:
            prompt, slot, last_D = self._last
            begun = next((n for n, other in enumerate(prompts) if other != prompt), len(prompts))
            if begun:
                cache.copy(slot, torch.from_numpy(slots[:begun]).to(last_D.device), len(prompt))
        if begun == len(prompts):
            return last_D.expand(begun, -1)
        computed_BD = self._compute(cache, slots[begun:], prompts[begun:])
        firsts_BD = last_D.expand(begun, -1) if begun else computed_BD[:0]
        self._last = (prompts[-1], int(slots[-1]), computed_BD[-1])
        return torch.cat([firsts_BD, computed_BD])

    def _compute(self, cache: SlotCache, slots: NDArray[np.int64], prompts: list[list[int]]) -> Tensor:
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        row_of = {prompt: row for row, prompt in enumerate(distinct)}
        found: list[Tensor] = []
        for batch in _batches(distinct):
            device = self._model.device
            ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
            for row, prompt in enumerate(batch):
                ids[row, : len(prompt)] = torch.tensor(prompt)
            first = row_of[batch[0]]
            rows = np.array([row_of[tuple(prompt)] - first for prompt in prompts])
            takers = np.flatnonzero((rows >= 0) & (rows < len(batch)))
            cache.fill(
                torch.from_numpy(slots[takers]).to(device),
                torch.from_numpy(rows[takers]).to(device),
                torch.tensor([len(prompts[taker]) for taker in takers], device=device),
            )
            hidden_BTD = cached_states(self._model, ids.to(device), cache)
            found.append(hidden_BTD[range(len(batch)), [len(prompt) - 1 for prompt in batch]])
        return torch.cat(found)[[row_of[tuple(prompt)] for prompt in prompts]]

    def _draw(
        self, state: Slots, tokens: Tensor, logits_BV: Tensor, slots: NDArray[np.int64]
    ) -> Iterator[tuple[int, Sampled]]:
        """One token for each of these slots; yields the sequences that end with it and frees their slots."""
        drawn = None
        if self._sampling.temperature > 0:
            drawn = torch.from_numpy(state.uniforms[slots, state.length[slots]])
        ids_B, logprobs_B = next_tokens(logits_BV, drawn, sampling=self._sampling)
        tokens[slots] = ids_B
        ids = ids_B.cpu().numpy()
        state.append(slots, ids, logprobs_B.float().cpu().numpy())
        stopped = np.isin(ids, self._stop)
        for place in np.flatnonzero(stopped | (state.length[slots] == state.limit[slots])).tolist():
            slot = int(slots[place])
            yield state.take(slot, "stop" if stopped[place] else "length")


def _batches(prompts: list[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Runs of the prompts, longest first, of about PREFILL_TOKENS with their padding."""
    start = 0
    while start < len(prompts):
        size = max(1, PREFILL_TOKENS // len(prompts[start]))
        yield prompts[start : start + size]
        start += size
