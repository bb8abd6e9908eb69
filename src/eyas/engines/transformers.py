"""The embedded engine: any transformers model, in this process, nothing else needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eyas.engines.base import Ids, Request, Sampled
from eyas.engines.decoding import Decoder
from eyas.engines.packed_weights import packed_weights
from eyas.errors import DataError, OutOfMemory
from eyas.losses import CHUNK_ELEMENTS, Head, sparse_divergence
from eyas.packing import padded_rows
from eyas.recipe import ExecutionSpec, SamplingSpec
from eyas.records import TeacherScores, token_hash
from eyas.storage.backbone import head_of, hidden_states
from eyas.storage.batches import TrainingItem, collate
from eyas.storage.hardware import is_out_of_memory

class TransformersEngine:
    """Generates and scores with a model in memory; see `Engine`.

    `vocabulary` is the number of ids its tokenizer has (`tokenization.vocabulary_size`); the head's padded rows
    beyond it are never drawn or scored, so that ids stay valid for a student whose head is padded less.
    """

    def __init__(self, model: PreTrainedModel, *, execution: ExecutionSpec, vocabulary: int | None = None) -> None:
        self._model, self._execution = model, execution
        self._context = int(getattr(model.config, "max_position_embeddings", None) or 2**31)
        self._vocabulary = vocabulary

    def _head(self) -> Head:
        head = head_of(self._model)
        return lambda hidden_ND: head(hidden_ND)[..., : self._vocabulary]

    def generate(self, requests: Sequence[Request], *, sampling: SamplingSpec, stop: tuple[int, ...]) -> list[Sampled]:
        """As `Engine.generate`, by continuous batching (engines/decoding.py).

        Raises: DataError, if a prompt leaves no room for a completion; ModelError, if the model has no
            key-value cache; OutOfMemory.
        """
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if longest + 1 > self._context:
            raise DataError(
                f"a prompt of {longest} tokens does not fit the model's context of {self._context}. Shorten or drop it."
            )
        if not requests:
            return []
        decoder = Decoder(self._model, self._head(), sampling=sampling, stop=stop, context=self._context)
        slots = min(self._execution.generation_batch_size, len(requests))
        with self._evaluating("execution.generation_batch_size"), packed_weights(self._model, rows=slots):
            made = dict(decoder.run(requests, slots=slots))
        return [made[index] for index in range(len(requests))]

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
