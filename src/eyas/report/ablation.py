"""What an ablation shows: accuracy of every variant, differences pooled over seeds, and verdicts on claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, Literal

from eyas.proportions import wilson
from eyas.recipe import ClaimSpec
from eyas.records import MODES, Mode
from eyas.report import compare
from eyas.report.evidence import ROLES
from eyas.report.words import label
from eyas.stats import PooledDifference, pooled_difference, shown_below

Grades = Mapping[tuple[str, Mode], float]
"""(example id, mode) -> grade of a model's answer; what was not graded is not in it."""
NAMED_VARIANTS = 3
"""A model that more variants share is not headed by their names: they would not fit into a table."""
Outcome = Literal["held", "contradicted", "not shown", "not run"]


@dataclass(frozen=True)
class Measured:
    """One evaluated model of one run."""

    grades: Grades
    evaluation: str
    """Fingerprint of its evaluation: two runs that share it share the model."""
    seconds: float
    """Wall clock of everything that made the model out of the student, rollouts and scoring included, as if alone."""
    lengths: Mapping[Mode, tuple[float, float]] = field(default_factory=dict)
    """Mean completion tokens, and share of answers cut at the length limit."""


@dataclass(frozen=True)
class Row:
    """One model of one variant, over the seeds that finished."""

    variant: str
    """Name of the first variant that has it."""
    role: str
    variants: tuple[str, ...]
    """Labels of all variants that have this very model."""
    runs: Mapping[int, Measured]
    main: bool
    """Whether it is what its variant is about."""

    @property
    def key(self) -> str:
        """As in a claim."""
        return f"{self.variant}.{self.role}" if self.variant else self.role

    @property
    def seconds(self) -> float:
        """Mean over the seeds."""
        return sum(run.seconds for run in self.runs.values()) / len(self.runs)


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over seeds, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Graded answers, over all seeds."""
    per_seed: Mapping[int, float]
    lengths: tuple[float, float] | None
    """Mean over the seeds of mean completion tokens and of the share of answers cut at the length limit, if known."""


@dataclass(frozen=True)
class Difference:
    """Accuracy of row `a` minus that of row `b` in one mode, on the same examples, pooled over their common seeds."""

    a: Row
    b: Row
    mode: Mode
    result: PooledDifference
    seeds: tuple[int, ...]

    @property
    def outcome(self) -> compare.Outcome:
        """Of `a`."""
        return compare.outcome_of(self.result)

    @property
    def same_model(self) -> bool:
        """Whether both sides are one and the same model: then nothing was compared."""
        return self.a is self.b


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it."""

    claim: ClaimSpec
    difference: Difference | None
    outcome: Outcome


@dataclass(frozen=True)
class Ablation:
    """Everything that the page, the table and `ablation.json` say."""

    name: str
    description: str
    seeds: tuple[int, ...]
    variants: Mapping[str, str]
    """Name -> label, the baseline first."""
    changes: Mapping[str, Mapping[str, Any]]
    """Name -> what the variant changes."""
    measured: Mapping[tuple[str, int], Mapping[str, Measured]]
    """(variant, seed) -> role -> what was measured, of the runs that finished."""
    failures: Mapping[tuple[str, int], str] = field(default_factory=dict)
    """(variant, seed) -> error."""
    claims: Sequence[ClaimSpec] = ()
    hardware: Mapping[str, Any] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """Name of the first variant."""
        return next(iter(self.variants))

    @property
    def modes(self) -> list[Mode]:
        """Modes that anything was graded in."""
        found = {mode for run in self.measured.values() for made in run.values() for _, mode in made.grades}
        return [mode for mode in MODES if mode in found]

    def main_role(self, variant: str) -> str | None:
        """`distilled`, or the last role but the teacher; None where no seed finished."""
        roles = self.roles(variant)
        own = [role for role in roles if role != "teacher"] or roles
        return "distilled" if "distilled" in own else own[-1] if own else None

    def roles(self, variant: str) -> list[str]:
        """Evaluated roles of a variant's finished runs, the report's order."""
        runs = [run for (name, _), run in self.measured.items() if name == variant]
        found = list(dict.fromkeys(role for run in runs for role in run))
        known = [role for role in ROLES[:-1] if role in found]
        return known + [role for role in found if role not in ROLES] + [role for role in ROLES[-1:] if role in found]

    def runs(self, variant: str, role: str) -> dict[int, Measured]:
        """Seed -> what was measured of a role."""
        found = {seed: self.measured.get((variant, seed), {}).get(role) for seed in self.seeds}
        return {seed: run for seed, run in found.items() if run is not None}


def rows(ablation: Ablation) -> list[Row]:
    """Every model once: what several variants share is a row of the first of them."""
    found: dict[tuple[Any, ...], Row] = {}
    for variant, shown in ablation.variants.items():
        for role in ablation.roles(variant):
            runs = ablation.runs(variant, role)
            main = role == ablation.main_role(variant)
            key = (role, *((seed, run.evaluation) for seed, run in runs.items()))
            before = found.get(key)
            found[key] = (
                Row(variant, role, (shown,), runs, main)
                if before is None
                else Row(before.variant, role, (*before.variants, shown), before.runs, before.main or main)
            )
    return list(found.values())


def accuracy(row: Row, mode: Mode) -> Accuracy | None:
    """Mean over seeds; None where nothing was graded in this mode.

    Of one seed the interval is Wilson's. Of several it is that of `pooled_difference` against zeros, never narrower
    than Wilson's on one seed's examples, which all seeds share: it stays honest at 0 % and at 100 %, where a bootstrap
    has no width.
    """
    grades = {seed: [grade for (_, own), grade in sorted(run.grades.items()) if own == mode]
              for seed, run in row.runs.items()}  # fmt: skip
    graded = {seed: values for seed, values in grades.items() if values}
    if not graded:
        return None
    keys = {tuple(sorted(key for key in row.runs[seed].grades if key[1] == mode)) for seed in graded}
    pooled = pooled_difference([(values, [0.0] * len(values)) for values in graded.values()],
                               same_examples=len(keys) == 1)  # fmt: skip
    examples = min(len(values) for values in graded.values())
    value = min(1.0, max(0.0, pooled.difference))
    low, high = wilson(value * examples, examples)
    if len(graded) > 1:
        low, high = max(0.0, min(low, pooled.low)), min(1.0, max(high, pooled.high))
    return Accuracy(
        value=value, low=low, high=high, n=pooled.n,
        per_seed=dict(zip(graded, pooled.per_seed, strict=True)), lengths=_lengths(row, mode),
    )  # fmt: skip


def _lengths(row: Row, mode: Mode) -> tuple[float, float] | None:
    known = [run.lengths[mode] for run in row.runs.values() if mode in run.lengths]
    return (mean(tokens for tokens, _ in known), mean(cut for _, cut in known)) if known else None


def difference(a: Row, b: Row, mode: Mode) -> Difference | None:
    """Pooled over the seeds that both rows have; None where there is no example that both were graded on."""
    pairs: dict[int, tuple[list[float], list[float]]] = {}
    keys = set()
    for seed in sorted(a.runs.keys() & b.runs.keys()):
        first, second = a.runs[seed].grades, b.runs[seed].grades
        common = sorted(key for key in first.keys() & second.keys() if key[1] == mode)
        if common:
            keys.add(tuple(common))
            pairs[seed] = ([first[key] for key in common], [second[key] for key in common])
    if not pairs:
        return None
    pooled = pooled_difference(list(pairs.values()), same_examples=len(keys) == 1)
    return Difference(a, b, mode, pooled, tuple(pairs))


def against_baseline(ablation: Ablation, made: Sequence[Row]) -> list[Difference]:
    """Every model of a variant's own, minus the baseline's in the same role; what a variant is about minus what the
    baseline is about, where that has no such role."""
    own = {row.role: row for row in made if ablation.variants[ablation.baseline] in row.variants}
    main = own.get(ablation.main_role(ablation.baseline) or "")
    others = ((row, own.get(row.role, main if row.main else None)) for row in made if row.variant != ablation.baseline)
    return _differences(ablation, [(row, other) for row, other in others if other is not None])


def within_variants(ablation: Ablation, made: Sequence[Row]) -> list[Difference]:
    """The report's pairs inside each variant, where it has one of the two for itself."""
    pairs: list[tuple[Row, Row]] = []
    for variant, shown in ablation.variants.items():
        own = {row.role: row for row in made if shown in row.variants}
        pairs += [
            (own[a], own[b]) for a, b in compare.PAIRS
            if a in own and b in own and variant in (own[a].variant, own[b].variant)
        ]  # fmt: skip
    return _differences(ablation, list({(a.key, b.key): (a, b) for a, b in pairs}.values()))


def _differences(ablation: Ablation, pairs: Sequence[tuple[Row, Row]]) -> list[Difference]:
    found = (difference(a, b, mode) for a, b in pairs for mode in ablation.modes)
    return [item for item in found if item is not None]


def judge(ablation: Ablation, made: Sequence[Row]) -> list[Verdict]:
    """Each claim: held where the whole interval lies above its bound, contradicted where it lies below.

    Of a model against itself `not shown`: that there is no difference is no finding. Where the bound is 0, and to
    contradict, p must be below 0.05 as well (`Difference.outcome`).
    """
    verdicts = []
    for claim in ablation.claims:
        a, b = (_find(ablation, made, side) for side in (claim.a, claim.b))
        found = None if a is None or b is None else difference(a, b, claim.mode)
        outcome: Outcome = "not run"
        if found is not None:
            outcome = _outcome(found, claim.bound)
        verdicts.append(Verdict(claim, found, outcome))
    return verdicts


def _outcome(found: Difference, bound: float) -> Outcome:
    if found.same_model or (bound == 0 and found.outcome == "level"):
        return "not shown"
    if found.result.low > bound:
        return "held"
    return "contradicted" if shown_below(found.result, bound) else "not shown"


def _find(ablation: Ablation, made: Sequence[Row], side: str) -> Row | None:
    variant, _, role = side.partition(".")
    role = role or ablation.main_role(variant) or ""
    shown = ablation.variants.get(variant)
    return next((row for row in made if row.role == role and shown in row.variants), None)


def title(ablation: Ablation, row: Row) -> str:
    """A row's heading: its variants and, unless it is what they are about, its role."""
    if len(ablation.variants) == 1:
        return label(row.role)
    shown, every = names(ablation, row), len(row.variants) == len(ablation.variants)
    return shown if row.main and not every else f"{shown}: {label(row.role)}"


def names(ablation: Ablation, row: Row) -> str:
    """A row's variants, by number where there are many."""
    if 1 < len(row.variants) == len(ablation.variants):
        return "all variants"
    return f"{len(row.variants)} variants" if len(row.variants) > NAMED_VARIANTS else ", ".join(row.variants)
