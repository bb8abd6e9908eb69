"""Distillation losses on sparse teacher targets, from hidden states, in three matrix products and one chunk of logits.

Suffixes: N completion tokens, K teacher entries per token, O outcomes (entries and perhaps a tail), V vocabulary,
D hidden. `docs/losses.md` has the formulas and which combinations are legal.
"""

from eyas.losses.completion import LossSums, completion_loss
from eyas.losses.divergences import DIVERGENCES
from eyas.losses.head import CHUNK_ELEMENTS, Head, chunks, finished, narrow_weight
from eyas.losses.objectives import distillation_terms
from eyas.losses.softmax import Statistics
from eyas.losses.teacher import SparseTeacher

__all__ = [
    "CHUNK_ELEMENTS",
    "DIVERGENCES",
    "Head",
    "LossSums",
    "SparseTeacher",
    "Statistics",
    "chunks",
    "completion_loss",
    "distillation_terms",
    "finished",
    "narrow_weight",
]
