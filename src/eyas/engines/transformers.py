"""The embedded engine: any transformers model, in this process, nothing else needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Ids, Request, Sampled
from eyas.engines.cache import PreallocatedCache, left_pad
from eyas.engines.sampling import next_tokens, uniform_streams
from eyas.errors import DataError, ModelError, OutOfMemory
from eyas.losses import CHUNK_ELEMENTS, Head, sparse_divergence
from eyas.packing import padded_rows
from eyas.recipe import ExecutionSpec, SamplingSpec, ScoreSpec
from eyas.records import seed_for, token_hash
from eyas.storage.backbone import head_of, hidden_states
from eyas.storage.batches import TrainingItem, collate
from eyas.storage.hardware import is_out_of_memory
from eyas.storage.scores import TeacherScores
from eyas.targets import draw_targets

COMPACT_BELOW = 0.75
"""Finished rows leave the batch once fewer than this share of its rows are still being decoded."""


class TransformersEngine:
    """Generates and scores with a model in memory; see `Engine`.

    `vocabulary` is the number of ids its tokenizer has (`tokenization.vocabulary_size`); the head's padded rows
    beyond it are never drawn or scored, so that ids stay valid for a student whose head is padded less.
    """

    def __init__(self, model: PreTrainedModel, *, execution: ExecutionSpec, vocabulary: int | None = None) -> None:
        self._model, self._execution = model, execution
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
        self._vocabulary = vocabulary
        parameters = inspect.signature(model.get_decoder().forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        """Renamed in transformers 5; the other name would be swallowed, and decoding see the last token alone."""

    def _head(self) -> Head:
        head = head_of(self._model)
        return lambda hidden_ND: head(hidden_ND)[..., : self._vocabulary]

    def generate(self, requests: Sequence[Request], *, sampling: SamplingSpec, stop: tuple[int, ...]) -> list[Sampled]:
        """As `Engine.generate`. Batches are cut from requests sorted by prompt length.

        Raises: DataError, if a prompt leaves no room for a completion; ModelError, if the model has no
            key-value cache; OutOfMemory.
        """
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if longest + 1 > self._context:
            raise DataError(
                f"a prompt of {longest} tokens does not fit the model's context of {self._context}. Shorten or drop it."
            )
        order = sorted(range(len(requests)), key=lambda index: (len(requests[index].prompt_ids), index))
        made: dict[int, Sampled] = {}
        size = self._execution.generation_batch_size
        with self._evaluating("execution.generation_batch_size"):
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                results = self._decode([requests[index] for index in batch], sampling=sampling, stop=stop)
                made |= dict(zip(batch, results, strict=True))
        return [made[index] for index in range(len(requests))]

    def _decode(self, requests: list[Request], *, sampling: SamplingSpec, stop: tuple[int, ...]) -> list[Sampled]:
        device = self._model.device
        ids_BT, mask_BT = left_pad([request.prompt_ids for request in requests], pad_id=stop[0], device=device)
        width = ids_BT.shape[1]
        limits = torch.tensor(
            [min(sampling.max_completion_tokens, self._context - len(item.prompt_ids)) for item in requests]
        )
        limit = int(limits.max())
        padded = bool((mask_BT == 0).any())
        positions_BT = (mask_BT.cumsum(dim=-1) - 1).clamp(min=0)
        uniforms = uniform_streams([request.seed for request in requests], limit) if sampling.temperature > 0 else None
        cache = PreallocatedCache(self._model, capacity=width + limit)
        head = self._head()
        rows = torch.arange(len(requests))
        ended, stopped = torch.zeros(2, len(requests), dtype=torch.bool)
        ids = torch.zeros(len(requests), limit, dtype=torch.long)
        logprobs = torch.zeros(len(requests), limit)
        lengths = limits.clone()
        stops = torch.tensor(stop)
        inputs, positions = ids_BT, positions_BT
        for step in range(limit):
            hidden_BTD = self._model.get_decoder()(
                input_ids=inputs,
                attention_mask=mask_BT if padded else None,
                position_ids=positions,
                use_cache=True,
                **{self._cache_name: cache},
            ).last_hidden_state
            if cache.get_seq_length() != width + step:
                raise ModelError(
                    f"{type(self._model).__name__} keeps no key-value cache that eyas can preallocate, so it cannot "
                    "be sampled from. Use a decoder with full or sliding-window attention."
                )
            drawn = None if uniforms is None else uniforms[rows, step]
            tokens, scores = next_tokens(head(hidden_BTD[:, -1]), drawn, sampling=sampling)
            ids[rows, step], logprobs[rows, step] = tokens.cpu(), scores.float().cpu()
            now_stopped = rows[torch.isin(tokens.cpu(), stops) & ~ended[rows]]
            lengths[now_stopped] = step + 1
            stopped[now_stopped] = True
            ended = stopped | (limits <= step + 1)
            alive = ~ended[rows]
            if not alive.any():
                break
            if alive.float().mean() < COMPACT_BELOW:
                keep = alive.nonzero().squeeze(-1)
                cache.keep_rows(keep.to(device))
                rows, tokens = rows[keep], tokens[keep.to(device)]
                positions, mask_BT = positions[keep.to(device)], mask_BT[keep.to(device)]
            inputs = tokens.unsqueeze(-1)
            positions = positions[:, -1:] + 1
            if padded:
                mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(mask_BT), 1)], dim=-1)
        return [
            Sampled(
                completion_ids=ids[row, : lengths[row]].tolist(),
                logprobs=logprobs[row, : lengths[row]].tolist(),
                finish_reason="stop" if stopped[row] else "length",
            )
            for row in range(len(requests))
        ]

    def score(self, sequences: Sequence[tuple[Ids, Ids]], *, spec: ScoreSpec, seed: int = 0) -> list[TeacherScores]:
        """As `Engine.score`.

        Raises: DataError, if a sequence is longer than the context; OutOfMemory.
        """
        head = self._head()
        hashes = [token_hash(*sequence) for sequence in sequences]
        made: dict[int, TeacherScores] = {}
        with self._evaluating("execution.scoring_batch_size"):
            for batch, hidden_ND, labels_N in self._completions(sequences):
                parts = [(hashes[index], len(sequences[index][1])) for index in batch]
                uniforms_NS = _uniforms(parts, seed=seed, spec=spec)
                size = max(1, CHUNK_ELEMENTS // self._model.config.vocab_size)
                pieces = []
                for start in range(0, len(hidden_ND), size):
                    rows = slice(start, start + size)
                    logits = head(hidden_ND[rows]).float() / spec.temperature
                    pieces.append(_described(logits, labels_N[rows], uniforms_NS[rows], spec=spec))
                columns = [torch.cat(part).cpu().numpy() for part in zip(*pieces, strict=True)]
                end = 0
                for index, (key, length) in zip(batch, parts, strict=True):
                    start, end = end, end + length
                    made[index] = _teacher_scores(key, [part[start:end] for part in columns], spec=spec)
        return [made[index] for index in range(len(sequences))]

    def divergence(self, items: Sequence[TrainingItem]) -> tuple[float, int]:
        """(sum of KL(teacher || model) with the tail in a bucket, nats; completion tokens) on scored sequences."""
        head = head_of(self._model)
        total, count = 0.0, 0
        with self._evaluating("execution.scoring_batch_size"):
            for micro_batch in self._collated(items):
                hidden_ND = hidden_states(self._model, micro_batch["input_ids"]).flatten(0, 1)[
                    micro_batch["positions_N"]
                ]
                size = max(1, CHUNK_ELEMENTS // self._model.config.vocab_size)
                for start in range(0, len(hidden_ND), size):
                    kd = sparse_divergence(
                        head(hidden_ND[start : start + size]).float(),
                        micro_batch["teacher_ids_NK"][start : start + size],
                        micro_batch["teacher_logprobs_NK"][start : start + size],
                        divergence="forward_kl",
                        tail="bucket",
                    )
                    total += float(kd.sum())
                count += len(hidden_ND)
        return total, count

    def nll(self, sequences: Sequence[tuple[Ids, Ids]]) -> tuple[float, int]:
        """(sum of the completions' negative log-likelihood, nats; completion tokens)."""
        scores = self.score(sequences, spec=ScoreSpec(top_k=1))
        return -sum(float(item.token_logprobs.sum()) for item in scores), sum(len(item.counts) for item in scores)

    def _collated(self, items: Sequence[TrainingItem]) -> Iterator[dict[str, Tensor]]:
        lengths = [item.length for item in items]
        for rows in padded_rows(lengths, micro_batch_size=self._execution.scoring_batch_size):
            batch = collate(items, rows, pad_id=0, packed=False)
            yield {name: tensor.to(self._model.device) for name, tensor in batch.items()}

    def _completions(self, sequences: Sequence[tuple[Ids, Ids]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Length-sorted batches: (indices, hidden states [N, D] that predict the completions, their ids [N])."""
        lengths = [len(prompt) + len(completion) for prompt, completion in sequences]
        if max(lengths, default=0) > self._context:
            raise DataError(
                f"a sequence of {max(lengths)} tokens does not fit the model's context of {self._context}. "
                "Lower sampling.max_completion_tokens or drop long prompts."
            )
        device = self._model.device
        for rows in padded_rows(lengths, micro_batch_size=self._execution.scoring_batch_size):
            batch = [index for (index,) in rows]
            width = max(lengths[index] for index in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            positions: list[int] = []
            labels: list[int] = []
            for row, index in enumerate(batch):
                prompt, completion = sequences[index]
                ids[row, : lengths[index]] = torch.tensor(prompt + completion)
                first = row * width + len(prompt) - 1
                positions += range(first, first + len(completion))
                labels += completion
            hidden_BTD = hidden_states(self._model, ids.to(device))
            yield batch, hidden_BTD.flatten(0, 1)[positions], torch.tensor(labels, device=device)

    @contextmanager
    def _evaluating(self, setting: str) -> Iterator[None]:
        """Without gradients and dropout; memory running out names the setting to lower."""
        training = self._model.training
        self._model.eval()
        try:
            with torch.inference_mode():
                yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"out of memory: lower {setting} and run the same command again.") from error
        finally:
            self._model.train(training)


def _uniforms(parts: Sequence[tuple[str, int]], *, seed: int, spec: ScoreSpec) -> Tensor:
    """[N, samples] for (token hash, tokens) one after another, each from its own stream; [N, 0] where none is drawn."""
    if spec.target == "top_k":
        return torch.empty(sum(length for _, length in parts), 0)
    streams = [uniform_streams([seed_for(seed, key)], length * spec.samples) for key, length in parts]
    return torch.cat(streams, dim=-1).view(-1, spec.samples)


def _described(logits_NV: Tensor, labels_N: Tensor, uniforms_NS: Tensor, *, spec: ScoreSpec) -> tuple[Tensor, ...]:
    """(ids, log-probs, tail, the labels' log-probs), or (ids, draws, the labels' log-probs) of a sampled target."""
    normaliser_N1 = torch.logsumexp(logits_NV, dim=-1, keepdim=True)
    own_N = (logits_NV.gather(-1, labels_N[:, None]) - normaliser_N1).squeeze(-1)
    if spec.target == "random_sampling":
        return *draw_targets(logits_NV, uniforms_NS.to(logits_NV.device)), own_N
    values_NK, ids_NK = logits_NV.topk(min(spec.top_k, logits_NV.shape[-1]), dim=-1)
    tail_N1 = torch.logsumexp(logits_NV.scatter(-1, ids_NK, -torch.inf), dim=-1, keepdim=True)
    return ids_NK, values_NK - normaliser_N1, (tail_N1 - normaliser_N1).squeeze(-1), own_N


def _teacher_scores(key: str, columns: Sequence[NDArray[Any]], *, spec: ScoreSpec) -> TeacherScores:
    if spec.target == "random_sampling":
        ids_TS, draws_TS, own_T = columns
        return TeacherScores.from_draws(key, ids_TS, draws_TS, own_T)
    ids_TK, logprobs_TK, tail_T, own_T = columns
    return TeacherScores.from_top_k(key, ids_TK, logprobs_TK, tail_T, own_T, mass=spec.mass)
