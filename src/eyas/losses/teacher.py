"""What is known of the teacher at each completion token, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from eyas.errors import ShapeError


@dataclass(frozen=True)
class SparseTeacher:
    """Entries of the teacher's distribution per token, ragged; natural logarithms.

    Padding repeats the row's first id with log-prob -inf, so that it neither adds mass nor hides another id.

    Raises: ShapeError, if the parts disagree in shape or a row has no entry.
    """

    ids_NK: Tensor
    """int64."""
    logprobs_NK: Tensor
    """float32. For random-sampling targets the log of each id's share of the draws (arXiv 2503.16870)."""
    tail_N: Tensor
    """Log of the mass outside the entries, float32; -inf for none. Kept apart: 1 - sum(p) would round it away."""
    token_logprobs_N: Tensor
    """Log-prob of the completion token itself, float32."""

    def __post_init__(self) -> None:
        count = len(self.ids_NK)
        rows = (count,)
        fits = self.ids_NK.ndim == 2 and self.ids_NK.shape[1] > 0 and self.ids_NK.shape == self.logprobs_NK.shape
        if not fits or self.tail_N.shape != rows or self.token_logprobs_N.shape != rows:
            shapes = [tuple(part.shape) for part in (self.ids_NK, self.logprobs_NK, self.tail_N, self.token_logprobs_N)]
            raise ShapeError(
                f"teacher ids, log-probs, tails and token log-probs have shapes {shapes}; they must be [N, K], [N, K], "
                "[N] and [N] with K at least 1."
            )

    def __len__(self) -> int:
        return len(self.ids_NK)

    def __getitem__(self, rows: slice) -> SparseTeacher:
        """The same of some tokens."""
        return SparseTeacher(self.ids_NK[rows], self.logprobs_NK[rows], self.tail_N[rows], self.token_logprobs_N[rows])
