"""Runs with files for a device: what is damaged is made again, what is linked stays, what is given is done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from test_cli_evaluate import eyas

from eyas.deploy import edge_recipe
from eyas.errors import RecipeError
from eyas.estimates import BITS
from eyas.export import formats
from eyas.recipe import BenchStage, ExportStage, Format, ModelSpec, parse_recipe
from eyas.report.deployment import Deployed, figure_ratios
from eyas.stages import export
from eyas.stages.export import published_name
from eyas.stats import PairedDifference
from eyas.storage.artifacts import damaged_files, open_artifact, read_json, write_json

RECIPE = """
name: edge
student: builtin:nano-student
teacher: builtin:nano-teacher
thinking: qwen3
stages:
  - {type: prepare, source: {type: arithmetic, terms: [3]}, labelled: 4, validation: 2, test: 4}
  - type: evaluate
    models: {distilled: student}
    modes: [fast]
    sampling: {temperature: 0, max_completion_tokens: 4}
    divergence_prompts: 0
  - {type: export, models: [distilled], formats: [onnx-fp32], context_length: 96, prefill_lengths: [32]}
"""
GPT2 = "student: {config: {model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2}, tokenizer: builtin:tokenizer}"
EXPORT = "export.distilled.onnx-fp32"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose recipe exports graphs, and neither measures nor reports them."""
    root = tmp_path_factory.mktemp("edge")
    (root / "edge.yaml").write_text(RECIPE)
    assert eyas("run", root / "edge.yaml", "--out", root / "runs")[0] == 0
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "edge", symlinks=True))


def test_a_context_too_small_for_the_answers_is_no_loss_of_the_format(root: Path) -> None:
    recipe = root / "edge.yaml"
    recipe.write_text(RECIPE.replace("context_length: 96", "context_length: 17"))
    status, _, error = eyas("run", recipe, "--out", root / "runs")
    assert status == 1
    assert "ExportError: the file holds 17 tokens of prompt and answer" in error
    assert "in stage 'export'" in error


def test_a_context_is_not_too_small_for_answers_that_nobody_asks_for(root: Path) -> None:
    recipe = root / "edge.yaml"
    recipe.write_text(RECIPE.replace("context_length: 96", "context_length: 17, examples: 0"))
    assert eyas("run", recipe, "--out", root / "runs")[0] == 0


def test_a_damaged_evaluation_is_made_again_before_an_export_of_it(root: Path) -> None:
    (evaluated,) = (root / "runs" / "artifacts").glob("evaluat*")
    shard = next(path for path in evaluated.rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    recipe = root / "edge.yaml"
    recipe.write_text(RECIPE.replace("context_length: 96", "context_length: 95"))
    assert eyas("run", recipe, "--out", root / "runs")[0] == 0
    assert damaged_files(open_artifact(evaluated)) == []


def test_what_a_format_misses_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edge.yaml").write_text(RECIPE)
    monkeypatch.setitem(formats.PACKAGES, "onnx-fp32", ("onnx", ("onnx", "onnxruntime_that_nobody_has")))
    status, _, error = eyas("run", tmp_path / "edge.yaml", "--out", tmp_path / "runs")
    assert status == 1
    assert error.startswith("MissingExtra: ")
    assert "onnxruntime-that-nobody-has" in error
    assert "eyas[onnx]" in error
    assert not (tmp_path / "runs" / "artifacts").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("context_length: 96", "context_length: 4"), "ExportError: the file holds 4 tokens of prompt and answer"),
        (("context_length: 96", "context_length: 999"), "ModelError: a context of 999 tokens: the model has 1 to 256"),
        (("student: builtin:nano-student", GPT2), "ModelError: model type 'gpt2' has no static graph"),
    ],
)
def test_graphs_that_cannot_be_are_said_before_anything_is_made(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    (tmp_path / "edge.yaml").write_text(RECIPE.replace(*change))
    status, _, error = eyas("run", tmp_path / "edge.yaml", "--out", tmp_path / "runs")
    assert (status, error.startswith(said)) == (1, True)
    assert not (tmp_path / "runs" / "artifacts").exists()


def test_deploy_keeps_the_recipe_as_it_was_written(root: Path) -> None:
    run = root / "runs" / "edge"
    for _ in range(2):
        assert eyas("deploy", run, "--format", "safetensors")[0] == 0
        assert (run / "recipe.original.yaml").read_text() == RECIPE
        assert (run / "recipe.yaml").read_text().startswith("# What was run, every default written out")


def run_again(root: Path) -> int:
    return eyas("run", root / "edge.yaml", "--out", root / "runs")[0]


def test_a_damaged_file_within_an_exported_directory_is_made_again(root: Path) -> None:
    run = root / "runs" / "edge"
    weights = run / "exports" / "distilled-onnx-fp32" / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run_again(root) == 0
    assert weights.read_bytes() == whole
    artifact = open_artifact(run / read_json(run / "index.json")[EXPORT])
    assert "distilled-onnx-fp32/weights.bin" in artifact.files
    assert not damaged_files(artifact)


def test_a_file_cut_between_two_attempts_is_made_again(root: Path) -> None:
    run = root / "runs" / "edge"
    artifact = run / read_json(run / "index.json")[EXPORT]
    (artifact / "manifest.json").unlink()  # as after kill -9, before the stage's end
    (artifact / "distilled-onnx-fp32" / "decode.onnx").write_bytes(b"cut")
    write_json(artifact / "exported.json", {"file": "distilled-onnx-fp32"})  # an older version's, without checksums
    assert run_again(root) == 0
    assert (artifact / "distilled-onnx-fp32" / "decode.onnx").stat().st_size > 1000


def test_running_one_stage_alone_keeps_the_links_to_the_files(root: Path) -> None:
    assert eyas("evaluate", root / "edge.yaml", "--out", root / "runs")[0] == 0
    assert (root / "runs" / "edge" / "exports" / "distilled-onnx-fp32" / "manifest.json").is_file()


def test_a_finished_file_needs_nothing_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.PACKAGES, "onnx-fp32", ("onnx", ("onnxruntime_that_nobody_has",)))
    assert run_again(root) == 0


def test_another_max_loss_judges_the_answers_that_are_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(max_loss: float) -> tuple[int, str, str]:
        said = RECIPE.replace("prefill_lengths: [32]", f"prefill_lengths: [16], max_loss: {max_loss}")
        (root / "edge.yaml").write_text(said)
        return eyas("run", root / "edge.yaml", "--out", root / "runs")

    lost = PairedDifference(difference=-0.1, low=-0.15, high=-0.06, n=200, wins=0, losses=20, p_value=2e-6)
    monkeypatch.setattr(export, "against_model", lambda *_: {"fast": lost})
    status, _, error = run(0.02)
    assert (status, "distilled as onnx-fp32: -10.0 points" in error) == (1, True)
    monkeypatch.setattr(export, "export_checked", None)  # nothing is written or asked from here on
    monkeypatch.setattr(export, "open_fastest", None)
    assert run(0.1)[0] == 0
    status, _, error = run(0.03)
    assert (status, "distilled as onnx-fp32: -10.0 points" in error) == (1, True)
    assert run(0.1)[0] == 0


def test_a_card_for_others_names_no_directory_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert published_name(ModelSpec(from_=str(tmp_path / "mine"))) == "mine"
    assert published_name(ModelSpec(from_="somebody/small")) == "somebody/small"
    assert published_name(ModelSpec(from_="builtin:nano-student")) == "builtin:nano-student"


def test_a_plan_knows_every_format(tmp_path: Path) -> None:
    assert set(BITS) == set(get_args(Format))
    said: dict[str, Any] = yaml.safe_load(RECIPE)
    said["stages"][2]["formats"] = list(get_args(Format))
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(said))
    status, out, error = eyas("plan", tmp_path / "all.yaml", "--out", tmp_path)
    assert (status, error) == (0, "")
    assert all(f"export.distilled.{name}" in out for name in get_args(Format))


def test_deploy_measures_and_reports_what_a_recipe_only_exports(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "runs" / "edge")
    status, out, error = eyas("deploy", ".", "--rounds", "2")
    assert (status, error) == (0, "")
    assert "ship Distilled onnx-fp32" in out
    (row,) = read_json(root / "runs" / "edge" / "summary.json")["deployment"]
    assert row["tpot_s"]["value"] > 0


def test_deploy_refuses_a_run_under_another_name(root: Path) -> None:
    (root / "runs" / "edge").rename(root / "runs" / "mine")
    status, _, error = eyas("deploy", root / "runs" / "mine")
    assert (status, "was made as 'edge'" in error) == (1, True)


def deploying(root: Path, *stages: dict[str, Any], **given: Any) -> list[Any]:
    """The export and bench stages of a run whose recipe has these stages at its end."""
    run = root / "runs" / "edge"
    resolved = read_json(run / "resolved.json")
    write_json(run / "resolved.json", {**resolved, "stages": [*resolved["stages"][:2], *stages]})
    recipe, _ = edge_recipe(run, **({"formats": (), "examples": None, "rounds": None, "context_length": None} | given))
    return [stage for stage in recipe.stages if isinstance(stage, ExportStage | BenchStage)]


def test_what_deploy_is_given_takes_the_place_of_what_the_recipe_says(root: Path) -> None:
    export = {"type": "export", "name": "files", "models": ["distilled"], "formats": ["gguf-q4_0", "gguf-f16"]}
    bench = {"type": "bench", "exports": ["files"], "rounds": 4}
    made = deploying(root, export, bench, formats=["gguf-q8_0"], examples=7, rounds=3, context_length=96)
    assert (made[0].formats, made[0].examples, made[1].rounds) == (("gguf-q8_0",), 7, 3)
    assert made[0].context_length == 96
    made = deploying(root, export, bench)
    assert (made[0].formats, made[0].examples, made[1].rounds) == (("gguf-q4_0", "gguf-f16"), None, 4)
    made = deploying(root, export)
    assert (made[1].exports, made[1].rounds) == (("files",), 5)


def test_deploy_measures_nothing_where_no_runtime_runs_the_format(root: Path) -> None:
    (export,) = deploying(root, formats=["safetensors"])
    assert export.formats == ("safetensors",)
    resolved = read_json(root / "runs" / "edge" / "resolved.json")
    resolved["stages"] += [{"type": "export", "models": ["distilled"], "formats": ["w8a8"]}, {"type": "bench"}]
    with pytest.raises(RecipeError, match="'bench' has nothing to measure"):
        parse_recipe(resolved)


def test_deploy_takes_the_trained_student_whatever_its_role_and_greedy_answers(root: Path) -> None:
    evaluate = {"type": "evaluate", "models": {"base": "student", "sft": "student"}, "divergence_prompts": 0}
    drawn = {**evaluate, "name": "drawn", "sampling": {"temperature": 0.7}}
    (export, _) = deploying(root, {**evaluate, "name": "greedy"}, drawn)
    assert (export.models, export.evaluation) == (("sft",), "greedy")


def test_figures_of_separate_bench_stages_are_not_divided_by_one_another() -> None:
    def file(bench: str, rounds: int) -> Deployed:
        measured = {"tpot_s": {"rounds": [0.01] * rounds}}
        return Deployed(f"export.{bench}", "distilled", "gguf-f16", {"bytes": 8}, measured, bench)

    assert set(figure_ratios(file("a", 2), file("a", 2))) == {"tpot_s"}
    assert figure_ratios(file("a", 2), file("b", 3)) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "--format", "gguf-f16"), "whose export stages say all that themselves. Drop --format."),
        (("bench", "--rounds", "3"), "whose bench stages say all that themselves. Drop --rounds."),
    ],
)
def test_what_a_recipe_says_itself_is_refused_not_ignored(arguments: tuple[str, ...], message: str) -> None:
    command, *options = arguments
    status, _, error = eyas(command, "edge.yaml", *options)
    assert (status, message in error) == (1, True)
