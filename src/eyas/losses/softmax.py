"""A chunk's softmax in place: a few log-probs per token out of it, and their gradient back into the same memory.

Every objective looks at the student through the log-probs of the teacher's entries s_k, of everything else together
s_tail, and of the label s_y. With e = exp(z - max), M = sum of e, R = the part of M outside the entries:

    s_k = z_k - max - log M      s_tail = log R - log M      s_y = z_y - max - log M

    dL/dz_j = -(sum_k g_k + g_tail + g_y) e_j / M
              + g_k at entry k, + g_tail e_j / R outside the entries, + g_y at the label

R is summed over the rest itself, never 1 minus the entries, so that a tail of 1e-12 keeps all its digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """What objectives see of the student: natural log-probs per token."""

    entries_NK: Tensor
    """Of the teacher's entries; padding repeats the first."""
    tail_N: Tensor
    """Of all ids outside the entries together; -inf where there are none."""
    label_N: Tensor
    """Of the completion token."""

    def detached(self) -> Statistics:
        """The same as leaves that can be differentiated by."""
        parts = (self.entries_NK, self.tail_N, self.label_N)
        return Statistics(*(part.detach().requires_grad_() for part in parts))


@dataclass(frozen=True)
class ChunkSoftmax:
    """Softmax of logits [n, V] whose memory it has taken over: after `of`, e with the entries zeroed."""

    exponentials_NV: Tensor
    ids_NK: Tensor
    present_NK: Tensor
    labels_N1: Tensor
    entries_NK: Tensor
    """z_k - max."""
    label_N1: Tensor
    """z_y - max."""
    rest_N1: Tensor
    """R."""
    total_N1: Tensor
    """M."""

    @classmethod
    def of(cls, logits_NV: Tensor, *, ids_NK: Tensor, present_NK: Tensor, labels_N: Tensor) -> ChunkSoftmax:
        """Overwrite the logits. `present_NK` is false for padding; K may be 0."""
        labels_N1 = labels_N.unsqueeze(-1)
        logits_NV.sub_(logits_NV.amax(dim=-1, keepdim=True))
        entries_NK, label_N1 = logits_NV.gather(-1, ids_NK), logits_NV.gather(-1, labels_N1)
        logits_NV.exp_().scatter_(-1, ids_NK, 0.0)
        rest_N1 = logits_NV.sum(dim=-1, keepdim=True)
        inside_NK = entries_NK.exp().masked_fill(~present_NK, 0.0)
        total_N1 = rest_N1 + inside_NK.sum(dim=-1, keepdim=True)
        return cls(logits_NV, ids_NK, present_NK, labels_N1, entries_NK, label_N1, rest_N1, total_N1)

    def statistics(self) -> Statistics:
        """The log-probs; they do not share memory with the chunk."""
        log_total_N1 = self.total_N1.log()
        return Statistics(
            entries_NK=self.entries_NK - log_total_N1,
            tail_N=(self.rest_N1.log() - log_total_N1).squeeze(-1),
            label_N=(self.label_N1 - log_total_N1).squeeze(-1),
        )

    def gradient_(self, by: Statistics) -> Tensor:
        """dL/dlogits [n, V] from dL/dstatistics, in the chunk's own memory. Padding's part of `by` must be 0."""
        by_tail_N1, by_label_N1 = by.tail_N.unsqueeze(-1), by.label_N.unsqueeze(-1)
        share_N1 = (by.entries_NK.sum(dim=-1, keepdim=True) + by_tail_N1 + by_label_N1) / self.total_N1
        outside_N1 = torch.where(self.rest_N1 > 0, by_tail_N1 / self.rest_N1, 0.0)
        out_NV = self.exponentials_NV.mul_(outside_N1 - share_N1)
        at_entries_NK = by.entries_NK - share_N1 * self.entries_NK.exp()
        if at_entries_NK.shape[1]:
            # Padding writes where the first entry stands, so it has to write the same.
            at_entries_NK = torch.where(self.present_NK, at_entries_NK, at_entries_NK[:, :1])
        out_NV.scatter_(-1, self.ids_NK, at_entries_NK)
        # The label may be an entry or outside; either way its exponential's part is there already.
        return out_NV.scatter_add_(-1, self.labels_N1, by_label_N1)
