"""A session over graphs of fixed shapes: the KV cache lives here, in numpy, and a graph sees it as an input.

Suffixes: S tokens of a graph, C slots of the cache, T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eyas.errors import CorruptArtifact, DataError
from eyas.runtimes.manifest import GraphSpec, StaticManifest
from eyas.runtimes.session import Logits

CALL_TOKENS = 8
"""What a call costs beside its tokens, in tokens: reading all weights once. A guess of the order of x86 cores; it only
decides between one padded call and several smaller ones."""

Array = NDArray[Any]


class Graph(Protocol):
    """A loaded graph, bound to the arrays that it was opened with."""

    def run(self) -> tuple[Array, Array]:
        """(logits [S, V], new_kv) for what its input arrays hold now; may be overwritten by the next run."""

    def close(self) -> None: ...


OpenGraph = Callable[[GraphSpec, Mapping[str, Array]], Graph]
"""Loads one graph of the manifest; the arrays keep their place and are read at every run."""


@dataclass(frozen=True)
class _Call:
    """A graph and the arrays that it reads, past_kv shared with all others."""

    graph: Graph
    ids_1S: Array
    positions_1S: Array
    bias_SC: Array
    """The columns of the cached slots; those of the tokens themselves never change."""
    sliding_SC: Array | None


class StaticSession:
    """Session over one graph per number of tokens. Padding changes nothing: it is masked and never written back."""

    def __init__(
        self, manifest: StaticManifest, open_graph: OpenGraph, *, lengths: Sequence[int] | None = None
    ) -> None:
        """Open the graphs of these prefill lengths (all by default) and the one for single tokens.

        Raises: DataError, for a length that the export lacks.
        """
        self.context_length = manifest.context_length
        self.graph_s = 0.0
        self._manifest = manifest
        self._count = 0
        specs = {spec.length: spec for spec in manifest.graphs}
        wanted = {1, *(specs if lengths is None else lengths)}
        if not wanted <= set(specs):
            raise DataError(f"no graph takes {sorted(wanted - set(specs))} tokens; the export has {sorted(specs)}.")
        shape = (2 * manifest.layers, 1, manifest.kv_heads, manifest.context_length, manifest.head_dim)
        self._past = np.zeros(shape, dtype=manifest.dtype)
        self.lengths = tuple(sorted(wanted))
        """Tokens that each graph takes; exactly so many go through it alone, which `best_lengths` finds cheapest."""
        self._calls = {length: self._open(specs[length], open_graph) for length in self.lengths}
        self._best = best_lengths(self.context_length, self.lengths)

    def _open(self, spec: GraphSpec, open_graph: OpenGraph) -> _Call:
        made, length, slots = self._manifest, spec.length, self.context_length
        arrays: dict[str, Array] = {
            "input_ids": np.zeros((1, length), np.int64),
            "attn_bias": np.full((1, 1, length, slots + length), made.masked, made.dtype),
            "position_ids": np.zeros((1, length), np.int64),
            "past_kv": self._past,
        }
        back = np.arange(length)[:, None] - np.arange(length)  # how far behind its query each key of this call is
        arrays["attn_bias"][0, 0, :, slots:][back >= 0] = 0
        if made.window is not None:
            arrays["attn_bias_sliding"] = np.full_like(arrays["attn_bias"], made.masked)
            arrays["attn_bias_sliding"][0, 0, :, slots:][(back >= 0) & (back < made.window)] = 0
        sliding = arrays["attn_bias_sliding"][0, 0, :, :slots] if made.window is not None else None
        return _Call(
            graph=open_graph(spec, arrays),
            ids_1S=arrays["input_ids"],
            positions_1S=arrays["position_ids"],
            bias_SC=arrays["attn_bias"][0, 0, :, :slots],
            sliding_SC=sliding,
        )

    def prefill(self, ids: Sequence[int], *, every: bool) -> Logits:
        self._require(ids)
        parts: list[Array] = []
        done = 0
        for length in calls_for(len(ids), self._best):
            rows = self._run(length, ids[done : done + length])
            parts = [*parts, rows.copy()] if every else [rows[-1:]]
            done += length
        made: Logits = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return made

    def decode(self, token_id: int) -> Logits:
        self._require((token_id,))
        row: Logits = self._run(1, (token_id,))[0]
        return row

    def reset(self) -> None:
        self._count = 0

    def close(self) -> None:
        for call in self._calls.values():
            call.graph.close()

    def _require(self, ids: Sequence[int]) -> None:
        if not ids or self._count + len(ids) > self.context_length:
            raise DataError(
                f"{len(ids)} tokens after {self._count}: expected at least one and at most {self.context_length} in "
                "all, the context that was exported. Shorten the prompt, or export with a longer context."
            )
        if min(ids) < 0 or max(ids) >= self._manifest.vocabulary:
            raise DataError(
                f"token ids from {min(ids)} to {max(ids)}, the model's vocabulary has {self._manifest.vocabulary}. "
                "Use the tokenizer beside the manifest."
            )

    def _run(self, length: int, ids: Sequence[int]) -> Array:
        """Logits of the ids, padded to `length` by their last; their keys and values go into the cache."""
        call, begin, end = self._calls[length], self._count, self._count + len(ids)
        call.ids_1S[0, : len(ids)] = ids
        call.bias_SC[:, :begin] = 0
        call.bias_SC[:, begin:] = self._manifest.masked
        if length == 1:
            call.positions_1S[0, 0] = begin
        else:
            call.ids_1S[0, len(ids) :] = ids[-1]
            np.minimum(np.arange(begin, begin + length), end - 1, out=call.positions_1S[0])
        if call.sliding_SC is not None and self._manifest.window is not None:
            _hide_behind_window(
                call.sliding_SC, call.bias_SC, begin=begin, window=self._manifest.window, masked=self._manifest.masked
            )
        started = time.perf_counter()
        logits_SV, new_kv = call.graph.run()
        self.graph_s += time.perf_counter() - started
        self._past[:, :, :, begin:end] = new_kv[:, :, :, : len(ids)]
        self._count = end
        return logits_SV[: len(ids)]


def _hide_behind_window(sliding_SC: Array, bias_SC: Array, *, begin: int, window: int, masked: float) -> None:
    """The full mask, with the slots hidden that lie `window` or more behind a row's token."""
    length, slots = sliding_SC.shape
    behind = (begin + np.arange(length))[:, None] - np.arange(slots)
    np.copyto(sliding_SC, bias_SC)
    sliding_SC[behind >= window] = masked


def best_lengths(limit: int, lengths: Sequence[int]) -> list[int]:
    """For 0 to `limit` tokens, a graph of the cheapest calls that take them in; 0 for no tokens.

    A call costs its length, padding included, and CALL_TOKENS.
    """
    costs, best = [0], [0]
    for count in range(1, limit + 1):
        cost, length = min((costs[max(0, count - length)] + length + CALL_TOKENS, length) for length in lengths)
        costs.append(cost)
        best.append(length)
    return best


def calls_for(count: int, best: Sequence[int]) -> list[int]:
    """The lengths of those calls, longest first.

    Only the last one is padded: a call that the others make superfluous would not be the least cost.
    """
    found = []
    while count > 0:
        found.append(best[count])
        count -= best[count]
    return sorted(found, reverse=True)


Shapes = Sequence[tuple[str, tuple[int, ...]]]


def require_same(path: Path, spec: GraphSpec, *, inputs: Shapes, outputs: Shapes) -> None:
    """Compare what a loaded graph takes and gives, in order, with the manifest.

    Raises: CorruptArtifact, which names the first difference.
    """
    for kind, found, expected in (("input", inputs, spec.inputs), ("output", outputs, spec.outputs)):
        wanted = [(tensor.name, tensor.shape) for tensor in expected]
        if list(found) != wanted:
            pairs = zip_longest(found, wanted)
            is_, should = next(pair for pair in pairs if pair[0] != pair[1])
            raise CorruptArtifact(
                f"{path}: {kind} {is_}, the manifest says {should}. The file belongs to another export: copy the "
                "whole directory again."
            )
