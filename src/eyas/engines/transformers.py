"""The embedded engine: any transformers model, in this process, nothing else needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Ids, Request, Sampled
from eyas.engines.cache_checks import require_slots
from eyas.engines.decoding import Decoder
from eyas.engines.packed_weights import packed_head, packed_weights
from eyas.engines.prefill import completion_states
from eyas.engines.scoring import described, target_uniforms, teacher_scores
from eyas.errors import DataError, OutOfMemory
from eyas.losses import Head, chunks, completion_loss
from eyas.packing import padded_rows
from eyas.recipe import ExecutionSpec, LossSpec, SamplingSpec, ScoreSpec
from eyas.records import token_hash
from eyas.storage.backbone import head_of, hidden_states, teacher_of
from eyas.storage.batches import TrainingItem, collate
from eyas.storage.hardware import is_out_of_memory
from eyas.storage.scores import TeacherScores


class TransformersEngine:
    """Generates and scores with a model in memory; see `Engine`.

    `vocabulary` is the number of ids its tokenizer has (`tokenization.vocabulary_size`); the head's padded rows
    beyond it are never drawn or scored, so that ids stay valid for a student whose head is padded less.
    """

    def __init__(self, model: PreTrainedModel, *, execution: ExecutionSpec, vocabulary: int | None = None) -> None:
        self._model, self._execution = model, execution
        self._context = _context(model)
        self._vocabulary = vocabulary

    def _head(self) -> Head:
        return replace(head_of(self._model), vocabulary=self._vocabulary)

    @property
    def context(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self._context

    def generate(self, requests: Sequence[Request], *, sampling: SamplingSpec, stop: tuple[int, ...]) -> list[Sampled]:
        """As `Engine.generate`, by continuous batching (engines/decoding.py).

        Raises: DataError, if a prompt leaves no room for a completion; ModelError, if the model has no
            key-value cache; OutOfMemory.
        """
        lengths = [len(request.prompt_ids) for request in requests]
        if 0 in lengths:
            raise DataError("an empty prompt: a model needs at least one token to go on from.")
        longest = max(lengths, default=0)
        if longest + 1 > self._context:
            raise DataError(
                f"a prompt of {longest} tokens does not fit the model's context of {self._context}. Shorten or drop it."
            )
        if not requests:
            return []
        with self._evaluating("execution.generation_batch_size"):
            require_slots(self._model)
        slots = min(self._execution.generation_batch_size, len(requests))
        with self._evaluating("execution.generation_batch_size"), packed_weights(self._model.get_decoder(), rows=slots):
            head = packed_head(self._head(), rows=slots)
            decoder = Decoder(self._model, head, sampling=sampling, stop=stop, context=self._context)
            made = dict(decoder.run(requests, slots=slots))
        return [made[index] for index in range(len(requests))]

    def score(self, sequences: Sequence[tuple[Ids, Ids]], *, spec: ScoreSpec, seed: int = 0) -> list[TeacherScores]:
        """As `Engine.score`.

        Raises: DataError, if a sequence is longer than the context; OutOfMemory.
        """
        longest = max((len(prompt) + len(completion) for prompt, completion in sequences), default=0)
        if longest > self._context:
            raise DataError(
                f"a sequence of {longest} tokens does not fit the model's context of {self._context}. "
                "Lower sampling.max_completion_tokens or drop long prompts."
            )
        if not all(prompt and completion for prompt, completion in sequences):
            raise DataError("a sequence without prompt or without completion tokens has nothing to score.")
        head = self._head()
        hashes = [token_hash(*sequence) for sequence in sequences]
        made: dict[int, TeacherScores] = {}
        size = self._execution.scoring_batch_size
        with self._evaluating("execution.scoring_batch_size"):
            for batch, hidden_ND, labels_N in completion_states(self._model, sequences, batch_size=size):
                parts = [(hashes[index], len(sequences[index][1])) for index in batch]
                uniforms_NS = target_uniforms(parts, seed=seed, spec=spec)
                pieces = [
                    described(logits_NV, labels_N[rows], uniforms_NS[rows], spec=spec)
                    for rows, logits_NV in chunks(hidden_ND, head=head)
                ]
                columns = [torch.cat(part).cpu().numpy() for part in zip(*pieces, strict=True)]
                end = 0
                for index, (key, length) in zip(batch, parts, strict=True):
                    start, end = end, end + length
                    made[index] = teacher_scores(key, [part[start:end] for part in columns], spec=spec)
        return [made[index] for index in range(len(sequences))]

    def divergence(self, items: Sequence[TrainingItem]) -> tuple[float, int]:
        """(sum of KL(teacher || model) with the tail in a bucket, nats; completion tokens) on scored sequences."""
        head = head_of(self._model)
        total, count = 0.0, 0
        with self._evaluating("execution.scoring_batch_size"):
            for batch in self._collated(items):
                hidden_ND = hidden_states(self._model, batch["input_ids"]).flatten(0, 1)[batch["positions_N"]]
                teacher = teacher_of(
                    batch["teacher_ids_NK"],
                    batch["teacher_logprobs_NK"],
                    batch["teacher_tail_N"],
                    batch["teacher_token_logprobs_N"],
                )
                sums = completion_loss(
                    hidden_ND,
                    batch["labels_N"],
                    batch["weights_N"],
                    batch["ce_mask_N"],
                    teacher,
                    head=head,
                    loss=LossSpec(),
                )
                total += float(sums.divergence)
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


def _context(model: PreTrainedModel) -> int:
    """Tokens that a sequence may have. Of a `longrope` model those it was trained on first: beyond them it turns all
    positions of a batch by other angles, so that a sequence would depend on its neighbours.
    """
    config = model.get_decoder().config
    rope = getattr(config, "rope_parameters", None) or {}
    longest = int(getattr(config, "max_position_embeddings", None) or 2**31)
    if rope.get("rope_type") != "longrope":
        return longest
    original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return min(longest, int(original or longest))
