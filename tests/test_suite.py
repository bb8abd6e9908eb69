"""`--tasks` and `--suite paper`: lm-evaluation-harness on this machine's files, and what it says of the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path

import pytest

from eyas import harness
from eyas.errors import MissingExtra
from eyas.measurement import Measure, evaluate_model
from eyas.proportions import wilson
from eyas.recipe import ExecutionSpec, FileSource, SamplingSpec
from eyas.storage.context import SilentProgress
from eyas.suite import PAPER, Benchmark

MODEL = Path(__file__).parents[1] / "src/eyas/builtin/nano-teacher"
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
unsafe_code: {unsafe}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{completion}}}}"
generation_kwargs: {{until: ["\\n\\n\\n\\n"], do_sample: false, max_gen_toks: 32}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
num_fewshot: 0
metadata: {{version: 7}}
"""
CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{[completion, 'no sum of two numbers']}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""


def evaluate(*arguments: str | Path) -> str:
    """Output of the command line in a process of its own: the harness's imports warn."""
    command = [sys.executable, "-m", "eyas", "evaluate", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=OFFLINE, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_local_task_is_run_without_a_network_and_agrees_with_our_own_evaluation(tmp_path: Path) -> None:
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{a}+{b}", "completion": str(a + b)} for a in (12, 31, 45, 50) for b in (11, 13, 20)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours = evaluate_model(
        str(MODEL),
        Measure(
            data=FileSource(type="file", path=str(data), test_path=str(data)),
            sampling=SamplingSpec(temperature=0, max_completion_tokens=32),
            execution=ExecutionSpec(threads=1),
            modes=("fast",),
        ),
        workspace=tmp_path / "ours",
        shown=lambda label: nullcontext(SilentProgress()),
    ).facts["accuracy"]["fast"]
    for name, unsafe in (("sums", "false"), ("sums_code", "true")):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name=name, data=data, unsafe=unsafe))
    (tmp_path / "choice.yaml").write_text(CHOICE.format(data=data))
    (tmp_path / "absent.yaml").write_text(TASK.format(name="absent", data=tmp_path / "no.jsonl", unsafe="false"))
    wrong = TASK.replace("{{{{prompt", "{{{{promt").format(name="misspelt", data=data, unsafe="false")
    (tmp_path / "misspelt.yaml").write_text(wrong)
    out = evaluate(
        MODEL,
        "--tasks",
        "sums,sums_code,choice,absent,misspelt",
        "--include-path",
        tmp_path,
        "--out",
        tmp_path / "runs",
    )
    assert "The hub is out of reach" in out
    (results,) = (tmp_path / "runs/evaluations").glob("*-harness-*/sums.json")
    (found,) = json.loads(results.read_text())
    assert (found["status"], found["version"], found["metric"]) == ("measured", "7", "exact_match,none")
    assert ours["value"] > 0
    assert [found[name] for name in ("value", "low", "high", "n")] == pytest.approx(
        [ours[name] for name in ("value", "low", "high", "n")]
    )
    assert re.search(r"sums_code +– .*needs --unsafe-code", out)
    assert "sums: sums v7, exact_match,none" in out
    assert "absent: failed: the task cannot be loaded: FileNotFoundError" in out
    assert "misspelt: failed: the task cannot be loaded: UndefinedError: 'promt' is undefined" in out
    (choice,) = json.loads((results.parent / "choice.json").read_text())
    assert (choice["value"], choice["n"], choice["metric"]) == (1.0, 12, "acc,none")
    assert (choice["low"], choice["high"]) == wilson(12, 12)


def test_the_paper_suite_says_what_needs_the_hub(tmp_path: Path) -> None:
    out = evaluate(MODEL, "--suite", "paper", "--limit", "2", "--out", tmp_path)
    for benchmark in PAPER:
        (row,) = (line for line in out.splitlines() if line.strip().startswith(benchmark.name + " "))
        assert len(row.rstrip()) <= 80
        if benchmark.task is None:
            assert "CLUEWSC: no task: not in lm-evaluation-harness" in out
        elif benchmark.runs_code:
            assert "needs --unsafe-code" in row
        else:
            assert re.search("needs the hub|needs packages", row)  # MATH-500's task wants lm-eval[math] before its data
    assert "accept its terms" in re.sub(r"\s+", " ", out)


def test_every_task_and_shot_count_of_the_table_is_the_harness_own() -> None:
    found = find_spec("lm_eval")
    assert found is not None
    assert found.submodule_search_locations is not None
    root = Path(found.submodule_search_locations[0]) / "tasks"
    texts = [path.read_text() for path in root.rglob("*.yaml")]
    known = {name for text in texts for name in re.findall(r"^(?:task|group): *([\w-]+) *$", text, re.MULTILINE)}
    wanted = {task for item in PAPER for task in (item.task, item.chat_task) if task}
    assert wanted - known == set()
    assert len(PAPER) == 11
    unsafe = {
        name for text in texts if "unsafe_code: true" in text for name in re.findall(r"^task: *(\w+)", text, re.M)
    }
    assert {item.task for item in PAPER if item.runs_code} == wanted & unsafe - {"mbpp_instruct"}


def test_a_result_with_other_shots_or_another_metric_is_another_file() -> None:
    (mmlu,) = (item for item in PAPER if item.name == "MMLU")
    plain, three = Benchmark("mmlu", "mmlu"), Benchmark("MMLU", "mmlu", shots=3, metric="acc,none")
    names = [harness.result_file(item, "mmlu") for item in (mmlu, plain, three)]
    assert names[1] == "mmlu.json"
    assert len({name.lower() for name in names}) == 3


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(harness, "version", absent)
    with pytest.raises(MissingExtra, match=r"eyas\[lm-eval\]"):
        harness.require_harness()


@pytest.mark.parametrize(("value", "metric", "interval"), [(0.5, "acc,none", (4, 8)), (1.5, "perplexity,none", None)])
def test_a_group_is_one_row_over_the_documents_of_all_its_tasks(
    value: float, metric: str, interval: tuple[int, int] | None
) -> None:
    results = {
        "results": {"both": {"alias": "both", metric: value, f"{metric.replace(',', '_stderr,')}": "N/A"}},
        "n-samples": {"a": {"original": 9, "effective": 5}, "b": {"original": 3, "effective": 3}},
        "n-shot": {"a": 5, "b": 5},
        "versions": {"both": 2},
    }
    (found,) = harness.outcomes_of("Both", "both", None, results)
    assert (found.n, found.shots, found.version, found.value, found.metric) == (8, 5, "2", value, metric)
    assert (found.low, found.high) == ((None, None) if interval is None else wilson(*interval))
