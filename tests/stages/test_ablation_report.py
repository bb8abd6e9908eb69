"""What an ablation shows: pooled means and differences, shared models once, verdicts on claims."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from pydantic import ValidationError

from eyas.proportions import wilson
from eyas.recipe import AblationSpec, ClaimSpec
from eyas.report.ablation import Ablation, Measured, accuracy, against_baseline, judge, rows, title, within_variants
from eyas.report.ablation_page import as_dict, markdown, render
from eyas.report.ablation_words import answer, caveats


def measured(grades: Sequence[float], evaluation: str) -> Measured:
    return Measured({(f"e{n}", "reasoning"): grade for n, grade in enumerate(grades)}, evaluation, seconds=2.0)


def ablation(*claims: ClaimSpec, failures: Mapping[tuple[str, int], str] | None = None) -> Ablation:
    """Variant a is right on 3 and 2 of 4, b on all; both have the same SFT model; 40 examples, as 4 would be few."""
    rates = {"a": ([1, 1, 1, 0] * 10, [1, 1, 0, 0] * 10), "b": ([1] * 40, [1] * 40)}
    runs = {
        (name, seed): {
            "sft": measured([0, 0, 0, 1] * 10, f"sft{seed}"),
            "distilled": measured(by_seed[seed], f"{name}{seed}"),
        }
        for name, by_seed in rates.items()
        for seed in (0, 1)
    }
    names = {"a": "first", "b": "second", "c": "<b>third</b>"}
    return Ablation(
        name="t", description="", seeds=(0, 1), variants=names, changes={name: {"k": name} for name in names},
        measured=runs, failures=failures or {("c", 0): "TrainingError: <oh>", ("c", 1): "TrainingError: no"},
        claims=claims,
    )  # fmt: skip


def test_a_shared_model_is_one_row() -> None:
    found = ablation()
    made = rows(found)
    assert [(row.key, row.variants, row.main) for row in made] == [
        ("a.sft", ("first", "second"), False), ("a.distilled", ("first",), True), ("b.distilled", ("second",), True),
    ]  # fmt: skip
    assert [title(found, row) for row in made] == ["first, second: SFT", "first", "second"]


def test_the_mean_weighs_seeds_alike_and_its_interval_is_never_empty() -> None:
    _, first, second = rows(ablation())
    found = accuracy(first, "reasoning")
    assert found is not None
    assert found.value == pytest.approx((0.75 + 0.5) / 2)
    assert found.per_seed == {0: 0.75, 1: 0.5}
    assert found.n == 80
    assert found.low < 0.5 < 0.75 < found.high  # two seeds say little about seeds
    certain = accuracy(second, "reasoning")
    assert certain is not None
    assert (certain.value, certain.high) == (1.0, 1.0)
    assert certain.low == pytest.approx(40 / (40 + 1.96**2), abs=1e-3)  # Wilson's lower end of 40 in 40
    assert accuracy(first, "fast") is None


def test_differences_are_paired_and_pooled() -> None:
    found = ablation()
    made = rows(found)
    (item,) = against_baseline(found, made)
    assert (item.a.key, item.b.key, item.seeds) == ("b.distilled", "a.distilled", (0, 1))
    assert item.result.difference == pytest.approx((0.25 + 0.5) / 2)
    assert item.result.per_seed == (0.25, 0.5)
    assert item.result.n == 80
    assert [(pair.a.key, pair.b.key) for pair in within_variants(found, made)] == [
        ("a.distilled", "a.sft"), ("b.distilled", "a.sft"),
    ]  # fmt: skip


def test_a_variant_without_the_baselines_role_is_compared_by_what_it_is_about() -> None:
    found = ablation()
    alone = replace(found, measured={
        (name, seed): {"seqkd" if name == "b" and role == "distilled" else role: made for role, made in run.items()}
        for (name, seed), run in found.measured.items()
    })  # fmt: skip
    assert alone.main_role("b") == "seqkd"
    assert [(item.a.key, item.b.key) for item in against_baseline(alone, rows(alone))] == [("b.seqkd", "a.distilled")]


def claim(a: str, b: str, **more: object) -> ClaimSpec:
    return ClaimSpec.model_validate({"claim": f"{a} beats {b}", "a": a, "b": b, "mode": "reasoning", **more})


def test_claims_are_held_contradicted_not_shown_or_not_run() -> None:
    claims = [
        claim("b", "a.sft"), claim("a.sft", "b"), claim("b", "a"), claim("b", "c"), claim("b", "b"),
        claim("b", "b", expect="not_worse"), claim("b", "a.sft", expect="not_worse"),
    ]  # fmt: skip
    found = ablation(*claims)
    outcomes = [item.outcome for item in judge(found, rows(found))]
    # b − a is +25 and +50 points: two seeds leave the interval open below 0. A model is no evidence against itself.
    assert outcomes == ["held", "contradicted", "not shown", "not run", "not shown", "not shown", "held"]


def test_what_so_few_examples_cannot_tell_is_not_held() -> None:
    """Two models that are right on all of 40 examples may still differ by 8.8 points (Tango), four wins by luck."""
    grades: dict[str, list[float]] = {"a": [1.0] * 40, "b": [1.0] * 40, "c": [1.0] * 36 + [0.0] * 4}
    runs = {(name, 0): {"distilled": measured(own, name)} for name, own in grades.items()}
    names = {name: name for name in grades}
    claims = (
        claim("a", "b", expect="not_worse"), claim("a", "b", expect="not_worse", margin=0.09),
        claim("c", "a", expect="not_worse", margin=0.001), claim("a", "c"),
    )  # fmt: skip
    found = Ablation(
        name="t", description="", seeds=(0,), variants=names, changes={}, measured=runs, claims=claims
    )  # fmt: skip
    verdicts = judge(found, rows(found))
    assert [item.outcome for item in verdicts] == ["not shown", "held", "not shown", "not shown"]
    last = verdicts[-1].difference
    assert last is not None
    assert (last.result.low > 0, last.result.p_value, last.outcome) == (True, 0.125, "level")
    share = accuracy(rows(found)[2], "reasoning")
    assert share is not None
    assert (share.low, share.high) == wilson(36, 40)  # of one seed


def test_the_page_begins_with_the_answer_and_its_caveats() -> None:
    found = ablation(claim("b", "a.sft"), claim("b", "a"), claim("b", "b", expect="not_worse"))
    text = re.sub(r"\s+", " ", render(found))
    head = text[: text.index("<section")]
    assert "Of 3 claims 1 held and 2 are not shown." in head
    assert "3 variants, 2 seeds, 2 of 6 runs failed." in head
    assert "2 differences, none corrected for their number" in text
    assert "the same model" in text
    assert text.index('id="claims"') < text.index('id="baseline"') < text.index('id="accuracy"')
    assert "✓</span> held" in text  # not by colour alone
    nothing = ablation(claim("b", "a"))
    assert answer(nothing, rows(nothing), judge(nothing, rows(nothing))) == "Of one claim none held and 1 is not shown."
    unclaimed = ablation()
    assert answer(unclaimed, rows(unclaimed), []) == (
        "In reasoning mode between first and second no difference is shown."
    )


def test_equal_variants_a_single_seed_and_equal_errors_are_told() -> None:
    grades = [1.0] * 40
    runs = {(name, 0): {"distilled": measured(grades, "one")} for name in "ab"}
    runs |= {("c", 0): {"distilled": measured([0.0] * 40, "other")}}
    failures = {("d", seed): "TrainingError: no" for seed in (0,)}
    found = Ablation(
        name="t", description="", seeds=(0,), variants={name: name for name in "abcd"}, changes={}, measured=runs,
        failures=failures,
    )  # fmt: skip
    told = caveats(found, rows(found))
    assert told[0] == "4 variants, 1 seed, 1 of 4 runs failed."
    assert told[1].startswith("One seed: the intervals cover the choice of test examples")
    assert told[2].startswith("a and b made one and the same model")
    assert answer(found, rows(found), []) == "In reasoning mode c (−100.0 points) is behind a."


def test_length_and_truncation_stand_beside_each_accuracy() -> None:
    runs = {
        ("", seed): {"sft": replace(measured([1.0] * 4, f"e{seed}"), lengths={"reasoning": (10.0 + seed, 0.5 * seed)})}
        for seed in (0, 1)
    }
    found = Ablation(name="t", description="", seeds=(0, 1), variants={"": "t"}, changes={}, measured=runs)
    (row,) = rows(found)
    share = accuracy(row, "reasoning")
    assert share is not None
    assert share.lengths == (10.5, 0.25)
    assert "10.5&nbsp;tokens, 25.0&nbsp;%&nbsp;cut" in render(found)


def test_the_page_escapes_and_names_what_failed() -> None:
    page = render(ablation(claim("b", "a.sft")))
    assert "&lt;oh&gt;" in page
    assert "<b>third</b>" not in page
    assert "b beats a.sft" in page
    assert "held" in page


def test_table_and_json_say_the_same() -> None:
    found = ablation(claim("b", "a.sft"))
    result, table = as_dict(found), markdown(found)
    assert result["differences"][0]["difference"] == pytest.approx(0.375)
    assert "| second − first | reasoning | +37.5 [" in table
    assert "- FAILED: <b>third</b>, seed 0: TrainingError: <oh>" in table
    assert result["claims"][0]["verdict"] == "held"
    assert ["| b beats a.sft | reasoning | +75.0 ", "+63.8, +86.2] | held |"][0] in table


def test_a_claim_about_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"names no variant in 'z\.sft'; variants: a"):
        AblationSpec.model_validate({"variants": [{"name": "a"}], "claims": [claim("a", "z.sft").model_dump()]})
    with pytest.raises(ValidationError, match="each variant needs a name of its own"):
        AblationSpec.model_validate({"variants": [{"name": "a"}, {"name": "a"}]})
