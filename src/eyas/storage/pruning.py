"""Which decoder layers a model can best do without, measured on calibration sequences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eyas.errors import ModelError
from eyas.importance import block_distances, block_influence, least_important, nearest_block
from eyas.losses.head import chunks
from eyas.recipe import PruneSpec, ThinkingSpec
from eyas.records import MODES, Example
from eyas.storage.backbone import head_of, hidden_states
from eyas.storage.depth import decoder_layers, passed_by, recorded_stream
from eyas.storage.tokenization import encode_prompt, end_of_turn, label_sequence

VERSION = 1
"""Of the way layers are chosen, part of a pruned model's fingerprint: raise it when the same examples choose others."""


@dataclass(frozen=True)
class Calibration:
    """What layers are measured on."""

    examples: Sequence[Example]
    thinking: ThinkingSpec
    device: torch.device


@dataclass(frozen=True)
class CalibrationSequence:
    """Token ids, of which those from `first` on are to be predicted."""

    ids: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Pruning:
    """Which layers were kept, and why. Layers are counted from 0, as in the unpruned model's weights."""

    by: str
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    """In the order of removal where they went one after the other, else ascending."""
    measured: tuple[float, ...]
    """By angular_distance: the mean distance across each block of as many layers as were removed, by its first layer.
    By block_influence: each layer's. By perplexity: by how many nats per token the NLL rises without each layer. By
    perplexity_greedy: by how many it has risen after each removal."""
    sequences: int
    tokens: int
    """Of the calibration sequences, prompts included."""

    def facts(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return asdict(self)


def calibration_sequences(
    tokenizer: PreTrainedTokenizerBase, calibration: Calibration, *, max_length: int
) -> list[CalibrationSequence]:
    """Each example as training would see it, cut to `max_length` tokens: prompt and reference, else the prompt alone.

    The mode is the first, reasoning or fast, that the example has a reference for. Of a reference the completion is
    to be predicted, of a prompt alone, or one that leaves no room for the completion, all tokens but the first.

    Raises: ModelError, as `render_prompt`, or if the tokenizer has no EOS, or no example makes two tokens.
    """
    turn = end_of_turn(tokenizer)
    stop_id = tokenizer.eos_token_id if turn is None else turn
    if stop_id is None:
        raise ModelError(f"{tokenizer.name_or_path}: the tokenizer has no EOS token, so no answer has an end. Set one.")
    made = []
    for example in calibration.examples:
        ids, first = _rendered(tokenizer, example, thinking=calibration.thinking, stop_id=int(stop_id))
        ids = ids[:max_length]
        made.append(CalibrationSequence(tuple(ids), first if first < len(ids) else 1))
    made = [sequence for sequence in made if len(sequence.ids) > 1]
    if not made:
        raise ModelError("`prune` has no calibration example: its `data` gives none. Choose another source.")
    return made


def _rendered(
    tokenizer: PreTrainedTokenizerBase, example: Example, *, thinking: ThinkingSpec, stop_id: int
) -> tuple[list[int], int]:
    """Token ids, and where the completion begins; 1 where there is none."""
    for mode in MODES:
        label = label_sequence(tokenizer, example, mode, thinking=thinking, stop_id=stop_id)
        if label is not None:
            return [*label.prompt_ids, *label.completion_ids], len(label.prompt_ids)
    return encode_prompt(tokenizer, example, MODES[0], thinking=thinking), 1


def choose_layers(model: PreTrainedModel, sequences: Sequence[CalibrationSequence], *, by: str, keep: int) -> Pruning:
    """The `keep` layers that stay, by a criterion of `PruneSpec.by`; the model is as before.

    Sequences go through the model one at a time, so nothing depends on padding. Per sequence angular distance and
    block influence take one forward pass, perplexity about half as many as there are layers, perplexity_greedy that
    for every removed layer: the stream up to a removed layer is computed once.

    Raises: ModelError, if the model has fewer layers, or its layers cannot be measured.
    """
    layers = list(decoder_layers(model, keep=keep))
    count = len(layers) - keep
    removed: tuple[int, ...] = ()
    measured: tuple[float, ...] = ()
    with torch.inference_mode():
        if count and by == "angular_distance":
            measured = _mean_block_distances(model, layers, sequences, size=count)
            removed = nearest_block(measured, size=count)
        elif count and by == "block_influence":
            measured = _block_influences(model, layers, sequences)
            removed = least_important(measured, count=count)
        elif count and by == "perplexity":
            whole = mean_nll(model, sequences)
            measured = tuple(nll - whole for nll in _nlls_without(model, layers, sequences, removed=()).values())
            removed = least_important(measured, count=count)
        elif count:
            removed, measured = _one_after_the_other(model, layers, sequences, count=count)
    return Pruning(
        by=by,
        kept=tuple(index for index in range(len(layers)) if index not in removed),
        removed=removed,
        measured=measured,
        sequences=len(sequences),
        tokens=sum(len(sequence.ids) for sequence in sequences),
    )


def prune(
    spec: PruneSpec,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    calibration: Calibration,
    *,
    keep: int,
) -> Pruning:
    """Measure on the calibration's device and bring the model back.

    Raises: as `calibration_sequences` and `choose_layers`.
    """
    sequences = calibration_sequences(tokenizer, calibration, max_length=spec.max_length)
    home = model.device
    model.eval()
    model.to(calibration.device)  # type: ignore[arg-type]
    chosen = choose_layers(model, sequences, by=spec.by, keep=keep)
    model.to(home)  # type: ignore[arg-type]
    return chosen


def _mean_block_distances(
    model: PreTrainedModel, layers: Sequence[nn.Module], sequences: Sequence[CalibrationSequence], *, size: int
) -> tuple[float, ...]:
    """At the last position that predicts a token of its sequence: an end of turn says little, being always the same."""
    total = torch.zeros(len(layers) - size + 1, dtype=torch.float64)
    for sequence in sequences:
        stream = _stream(model, layers, sequence)
        total += block_distances(torch.stack([state[0, -2] for state in stream]), size=size).cpu()
    return tuple((total / len(sequences)).tolist())


def _block_influences(
    model: PreTrainedModel, layers: Sequence[nn.Module], sequences: Sequence[CalibrationSequence]
) -> tuple[float, ...]:
    total = torch.zeros(len(layers), dtype=torch.float64)
    for sequence in sequences:
        stream = _stream(model, layers, sequence)
        for index in range(len(layers)):
            total[index] += block_influence(stream[index][0], stream[index + 1][0]).sum().cpu()
    return tuple((total / sum(len(sequence.ids) for sequence in sequences)).tolist())


def _one_after_the_other(
    model: PreTrainedModel, layers: Sequence[nn.Module], sequences: Sequence[CalibrationSequence], *, count: int
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Remove the layer without which the NLL is least, measure again, and so on.

    Source: SLEB, arXiv 2402.09025, algorithm 1.
    """
    whole = mean_nll(model, sequences)
    removed: list[int] = []
    risen: list[float] = []
    for _ in range(count):
        found = _nlls_without(model, layers, sequences, removed=removed)
        least = min(found, key=lambda index: (found[index], index))
        removed.append(least)
        risen.append(found[least] - whole)
    return tuple(removed), tuple(risen)


def _nlls_without(
    model: PreTrainedModel,
    layers: Sequence[nn.Module],
    sequences: Sequence[CalibrationSequence],
    *,
    removed: Collection[int],
) -> dict[int, float]:
    """Mean NLL in nats per token without the `removed` layers and, in turn, each of the others.

    Its exponential is the perplexity that arXiv 2402.02834 ranks blocks by ("PPL" criterion), over the tokens that
    are to be predicted instead of all of them.
    """
    total = {index: 0.0 for index in range(len(layers)) if index not in removed}
    for sequence in sequences:
        with passed_by([layers[index] for index in removed]):
            stream = _stream(model, layers, sequence)
            for index in total:
                with passed_by(layers[: index + 1], by=stream[index]):
                    total[index] += float(token_nll(model, sequence).sum())
    tokens = sum(len(sequence.ids) - sequence.first for sequence in sequences)
    return {index: nats / tokens for index, nats in total.items()}


def mean_nll(model: PreTrainedModel, sequences: Sequence[CalibrationSequence]) -> float:
    """Mean NLL in nats per token, over the tokens of all sequences that are to be predicted."""
    with torch.inference_mode():
        total = sum(float(token_nll(model, sequence).sum()) for sequence in sequences)
    return total / sum(len(sequence.ids) - sequence.first for sequence in sequences)


def token_nll(model: PreTrainedModel, sequence: CalibrationSequence) -> Tensor:
    """NLL in nats of each token to be predicted, float64 [N]."""
    ids_T = torch.tensor(sequence.ids, device=model.device)
    hidden_ND = hidden_states(model, ids_T.unsqueeze(0))[0, sequence.first - 1 : -1]
    targets_N = ids_T[sequence.first :]
    found = []
    for piece, logits_NV in chunks(hidden_ND, head=head_of(model)):
        own_N1 = logits_NV.gather(1, targets_N[piece].unsqueeze(1))
        found.append((logits_NV.logsumexp(dim=1) - own_N1[:, 0]).double())
    return torch.cat(found)


def _stream(model: PreTrainedModel, layers: Sequence[nn.Module], sequence: CalibrationSequence) -> list[Tensor]:
    """The residual stream [1, T, D] before every layer and after the last one."""
    stream: list[Tensor] = []
    with recorded_stream(layers, stream):
        hidden_states(model, torch.tensor([sequence.ids], device=model.device))
    return stream
