"""The embedded engine: any transformers model, in this process, nothing else needed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Ids, Request, Sampled
from eyas.engines.cache import PreallocatedCache, left_pad
from eyas.engines.sampling import next_tokens, uniform_streams
from eyas.errors import DataError, ModelError, OutOfMemory
from eyas.losses import CHUNK_ELEMENTS, Head, sparse_divergence
from eyas.packing import padded_rows
from eyas.recipe import ExecutionSpec, SamplingSpec
from eyas.records import TeacherScores, token_hash
from eyas.storage.backbone import head_of, hidden_states
from eyas.storage.batches import TrainingItem, collate
from eyas.storage.hardware import is_out_of_memory

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

    def score(
        self, sequences: Sequence[tuple[Ids, Ids]], *, top_k: int, mass: float, temperature: float
    ) -> list[TeacherScores]:
        """As `Engine.score`. Log-probs are rounded to float16; the captured mass is 1 minus the tail's own sum.

        Raises: DataError, if a sequence is longer than the context; OutOfMemory.
        """
        head = self._head()
        made: dict[int, TeacherScores] = {}
        with self._evaluating("execution.scoring_batch_size"):
            for batch, hidden_ND, labels_N in self._completions(sequences):
                pieces = []
                size = max(1, CHUNK_ELEMENTS // self._model.config.vocab_size)
                for start in range(0, len(hidden_ND), size):
                    logits = head(hidden_ND[start : start + size]).float() / temperature
                    normaliser = torch.logsumexp(logits, dim=-1, keepdim=True)
                    values, ids = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
                    own = logits.gather(-1, labels_N[start : start + size, None])
                    tail = torch.logsumexp(logits.scatter(-1, ids, -torch.inf), dim=-1, keepdim=True)
                    pieces.append((ids, *(part - normaliser for part in (values, tail, own))))
                columns = [torch.cat(part).cpu() for part in zip(*pieces, strict=True)]
                start = 0
                for index in batch:
                    end = start + len(sequences[index][1])
                    made[index] = _teacher_scores(*sequences[index], *(part[start:end] for part in columns), mass=mass)
                    start = end
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
        scores = self.score(sequences, top_k=1, mass=1.0, temperature=1.0)
        return -sum(sum(item.token_logprobs) for item in scores), sum(len(item.token_logprobs) for item in scores)

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


def _teacher_scores(
    prompt_ids: Ids, completion_ids: Ids, ids_TK: Tensor, logprobs_TK: Tensor, tail_T1: Tensor, own_T1: Tensor, *,
    mass: float,
) -> TeacherScores:  # fmt: skip
    """Cut each list where its mass reaches `mass`. The mass of the first j is 1 minus all after them, tail included:
    summed from the small end, so that it is exact where it is nearly 1."""
    after_TK = torch.cat([logprobs_TK[:, 1:], tail_T1], dim=-1).double().exp().flip(-1).cumsum(dim=-1).flip(-1)
    captured_TK = (1.0 - after_TK).clamp(min=0.0)
    width = ids_TK.shape[-1]
    wanted_TK = captured_TK < mass if mass < 1 else torch.ones_like(captured_TK, dtype=torch.bool)
    counts = (wanted_TK.sum(dim=-1) + 1).clamp(max=width).tolist()
    ids, logprobs = ids_TK.tolist(), logprobs_TK.half().float().tolist()
    return TeacherScores(
        token_hash=token_hash(prompt_ids, completion_ids),
        ids=[row[:count] for row, count in zip(ids, counts, strict=True)],
        logprobs=[row[:count] for row, count in zip(logprobs, counts, strict=True)],
        token_logprobs=own_T1.squeeze(-1).tolist(),
        captured_mass=[float(captured_TK[row, count - 1]) for row, count in enumerate(counts)],
    )
