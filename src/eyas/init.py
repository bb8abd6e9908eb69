"""`eyas init`: a commented recipe with defaults that fit the sizes of the two models."""

from __future__ import annotations

LEARNING_RATES = ((10e6, 1e-3), (300e6, 1e-4), (1e9, 2e-5), (float("inf"), 1e-5))
"""(largest student, SFT learning rate): NPD (arXiv 2605.05940) uses 1e-5 at 1 B; smaller models take more."""
