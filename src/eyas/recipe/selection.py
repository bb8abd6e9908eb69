"""Which of the given sequences a training stage uses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from eyas.recipe.specs import Spec


class SelectionSpec(Spec):
    """Which sequences are trained on; each one left out is counted under the first reason that holds.

    Not `loss.ce_on`, which keeps a sequence and takes only its cross-entropy term away.
    """

    truncated: Literal["keep", "drop"] = "drop"
    """What happens to completions that were cut at their length limit. As text to imitate they are answers without an
    end, so `sft` drops them; a teacher's probabilities are as good on them as on others, so `distill` keeps them."""
    repetition: float | None = Field(default=None, gt=0, lt=1)
    """Drop a completion of whose tokens more than this share stands in runs of 10 that it has written before; None
    keeps all. A loop goes to 1. 0.5 is data-juicer's default for runs of 10 characters: no solution of GSM8K's
    training set exceeds 0.37 (see LOG.md), but 4.5 % exceed 0.10, which Gopher takes for 10-grams of words on web
    pages (arXiv 2112.11446, table A1)."""
    grade: Literal["all", "correct", "incorrect"] = "all"
    """Train on what was graded right or wrong only; what has no grade is then dropped too. The evidence is split: the
    teacher's guidance is best on wrong rollouts (arXiv 2605.10889), distilling oneself on them alone costs 7 to 10
    points (arXiv 2605.06188)."""


class DistillSelectionSpec(SelectionSpec):
    """The selection of a distill stage: cut completions stay, and the two models' views of a sequence can count."""

    truncated: Literal["keep", "drop"] = "keep"
    """What happens to completions that were cut at their length limit; see `SelectionSpec.truncated`."""
    delta_ifd: tuple[float, float] | None = None
    """Keep sequences whose IFD under the teacher exceeds that under the student by an amount in this window, ends
    included; [0, 0.8] is NPD's (arXiv 2605.05940, where it gave +1.15 points). Costs a prefill of the completions by
    the teacher and two by the student. See `eyas.selection.ifd` for the formula, which in NPD is not known to us."""

    @model_validator(mode="after")
    def _ordered(self) -> DistillSelectionSpec:
        if self.delta_ifd is not None and not self.delta_ifd[0] < self.delta_ifd[1]:
            low, high = self.delta_ifd
            raise ValueError(f"`delta_ifd` is [low, high] with low < high, found [{low:g}, {high:g}]")
        return self
