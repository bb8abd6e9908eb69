"""The teacher cache: what a teacher says of each completion token, and its Parquet shards (docs/cache.md).

One row per sequence. `ids` and the codes are lists per completion token, the other columns one value per token; what
the codes mean is in `eyas.logcodes` and, for other readers, in the schema's metadata under `eyas.scores`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eyas.errors import ArtifactError, DataError
from eyas.logcodes import (
    NO_TAIL,
    STEP,
    TOKEN_STEP,
    Floats,
    Ints,
    decode,
    decode_draws,
    draw_counts,
    entry_codes,
    tail_codes,
    token_codes,
)
from eyas.recipe import ScoreSpec
from eyas.storage.shards import shard_paths, write_table

FORMAT = 1
"""Version of the columns and of what they mean; a reader refuses any other."""
METADATA = b"eyas.scores"
LEVEL = 19
"""Of zstd: a tenth smaller than 9, at 0.1 to 0.35 million tokens a second still faster than teachers are."""


@dataclass(frozen=True, eq=False, slots=True)
class TeacherScores:
    """The teacher's view of one sequence's completion of T tokens, all entries E of its tokens one after another.

    A token's entries and its tail add up to one. Arrays may be views of a whole shard, and read-only.
    """

    token_hash: str
    counts: Ints
    """Entries of each token, [T], at least 1."""
    ids: Ints
    """[E], of each token the likeliest first."""
    logprobs: Floats
    """Natural log-probabilities of `ids`, [E]; for random-sampling targets the log of each id's share of the draws."""
    tail: Floats
    """Log of the mass outside a token's entries, [T]; -inf for none."""
    token_logprobs: Floats
    """Log-probability of the completion token itself, [T]."""

    @staticmethod
    def from_top_k(
        token_hash: str,
        ids_TK: NDArray[Any],
        logprobs_TK: NDArray[Any],
        tail_T: NDArray[Any],
        own_T: NDArray[Any],
        *,
        mass: float,
    ) -> TeacherScores:
        """Each list cut where its mass reaches `mass`; what is cut goes into the tail. Ids without mass go too.

        The mass of the first j is 1 minus all after them, summed from the small end, so that it is exact where it is
        nearly 1.

        Raises: DataError, if an id does not fit 32 bits.
        """
        probabilities_TK = np.exp(logprobs_TK.astype(np.float64))
        rest_TK = np.concatenate([probabilities_TK[:, 1:], np.exp(tail_T.astype(np.float64))[:, None]], axis=1)
        after_TK = np.cumsum(rest_TK[:, ::-1], axis=1)[:, ::-1]
        wanted_TK = probabilities_TK > 0
        if mass < 1:
            wanted_TK[:, 1:] &= 1 - after_TK[:, :-1] < mass
        wanted_TK[:, 0] = True
        counts_T = wanted_TK.sum(axis=1)
        with np.errstate(divide="ignore"):
            left_T = np.log(np.take_along_axis(after_TK, counts_T[:, None] - 1, axis=1)[:, 0])
        return _scores(token_hash, counts_T, ids_TK[wanted_TK], logprobs_TK[wanted_TK], left_T, own_T)

    @staticmethod
    def from_draws(token_hash: str, ids_TS: NDArray[Any], draws_TS: NDArray[Any], own_T: NDArray[Any]) -> TeacherScores:
        """From drawn ids and how often each was drawn (0 for padding): their shares, and no tail.

        Raises: DataError, if an id does not fit 32 bits.
        """
        drawn_TS = draws_TS > 0
        share_TS = draws_TS / draws_TS.sum(axis=1, keepdims=True)
        nothing_T = np.full(len(own_T), -np.inf)
        return _scores(token_hash, drawn_TS.sum(axis=1), ids_TS[drawn_TS], np.log(share_TS[drawn_TS]), nothing_T, own_T)


def _scores(token_hash: str, counts_T: Any, ids_E: Any, logprobs_E: Any, tail_T: Any, own_T: Any) -> TeacherScores:
    if len(ids_E) and not (ids_E.min() >= 0 and ids_E.max() < 2**31):
        wrong = ids_E.min() if ids_E.min() < 0 else ids_E.max()
        raise DataError(f"token id {wrong}: the teacher cache holds ids from 0 to 2147483647. Check the tokenizer.")
    floats = [np.asarray(part, dtype=np.float32) for part in (logprobs_E, tail_T, own_T)]
    return TeacherScores(token_hash, counts_T.astype(np.int32), ids_E.astype(np.int32), *floats)


def write_scores(directory: Path, index: int, scores: Sequence[TeacherScores], *, spec: ScoreSpec) -> Path:
    """Write one shard atomically, as `write_table` does."""
    counts, ids, logprobs, tail, own = (
        np.concatenate([np.asarray(getattr(item, name)) for item in scores])
        for name in ("counts", "ids", "logprobs", "tail", "token_logprobs")
    )
    described: dict[str, Any] = {"format": FORMAT, "target": spec.target, "temperature": spec.temperature}
    if spec.target == "top_k":
        described |= {"top_k": spec.top_k, "mass": spec.mass, "step": STEP, "no_tail": NO_TAIL}
        lists: dict[str, NDArray[Any]] = {"ids": ids, "codes": entry_codes(logprobs)}
        single: dict[str, NDArray[Any]] = {"tail_codes": tail_codes(tail)}
    else:
        described |= {"samples": spec.samples}
        lists, single = {"ids": ids, "draws": draw_counts(logprobs, samples=spec.samples)}, {}
    described |= {"token_step": TOKEN_STEP}
    single |= {"token_codes": token_codes(own)}
    tokens_S = _offsets([len(item.counts) for item in scores])
    entries_T = _offsets(counts)
    columns: dict[str, pa.Array] = {"token_hash": pa.array([item.token_hash for item in scores])}
    for name, values_E in lists.items():
        columns[name] = _lists(tokens_S, _lists(entries_T, pa.array(values_E)))
    for name, values_T in single.items():
        columns[name] = _lists(tokens_S, pa.array(values_T))
    schema = pa.schema(
        [pa.field(name, column.type, nullable=False) for name, column in columns.items()],
        metadata={METADATA: json.dumps(described)},
    )
    encodings = {_leaf(field): "BYTE_STREAM_SPLIT" for field in schema if field.name != "token_hash"}
    table = pa.Table.from_arrays(list(columns.values()), schema=schema)
    return write_table(directory, index, table, level=LEVEL, encodings=encodings)


def _offsets(lengths: Any) -> pa.Array:
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if ends[-1] >= 2**31:
        raise DataError(
            f"{ends[-1]} teacher entries in one shard, at most {2**31 - 1} fit. Lower score.top_k or .mass."
        )
    return pa.array(ends, type=pa.int32())


def _lists(offsets: pa.Array, values: pa.Array) -> pa.Array:
    kind = pa.list_(pa.field("element", values.type, nullable=False))
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _leaf(field: pa.Field) -> str:
    depth = 2 if pa.types.is_list(field.type.value_type) else 1
    return f"{field.name}{depth * '.list.element'}"


def read_scores(directory: Path) -> Iterator[TeacherScores]:
    """Every sequence's scores of every shard, in order: views of one decoded array per column and shard.

    Raises: CorruptArtifact, as `shard_paths`; ArtifactError, if a shard is in a format that this version cannot read.
    """
    for path in shard_paths(directory):
        yield from _read(path)


def _read(path: Path) -> Iterator[TeacherScores]:
    table = pq.read_table(path)
    described = json.loads((table.schema.metadata or {}).get(METADATA, b"{}"))
    if described.get("format") != FORMAT:
        raise ArtifactError(
            f"{path}: teacher scores in format {described.get('format', 'unknown')}, this version of eyas reads "
            f"{FORMAT}. Delete {path.parent.parent} and run the recipe again, or use the version that wrote it."
        )
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    tokens_S, own = _bounds(columns["token_codes"]), columns["token_codes"].values.to_numpy()
    entries_T = _bounds(columns["ids"].values)
    counts = np.diff(entries_T)
    ids = columns["ids"].values.values.to_numpy()
    if described["target"] == "top_k":
        codes, tails = columns["codes"].values.values.to_numpy(), columns["tail_codes"].values.to_numpy()
        logprobs, tail = decode(codes, tails, counts, step=described["step"])
    else:
        logprobs = decode_draws(columns["draws"].values.values.to_numpy(), samples=described["samples"])
        tail = np.full(len(own), -np.inf, dtype=np.float32)
    token_logprobs = (own * np.float32(-described["token_step"])).astype(np.float32)
    for row, token_hash in enumerate(columns["token_hash"].to_pylist()):
        tokens = slice(tokens_S[row], tokens_S[row + 1])
        entries = slice(entries_T[tokens.start], entries_T[tokens.stop])
        yield TeacherScores(
            token_hash, counts[tokens], ids[entries], logprobs[entries], tail[tokens], token_logprobs[tokens]
        )


def _bounds(lists: pa.Array) -> Ints:
    bounds: Ints = lists.offsets.to_numpy()
    return bounds


def column_bytes(directory: Path) -> dict[str, int]:
    """Compressed bytes of each column over all shards, and `other`: footers and whatever else is in the files."""
    found: dict[str, int] = {}
    paths = shard_paths(directory)
    for path in paths:
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                name = column.path_in_schema.partition(".")[0]
                found[name] = found.get(name, 0) + column.total_compressed_size
    return found | {"other": sum(path.stat().st_size for path in paths) - sum(found.values())}
