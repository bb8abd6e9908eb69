"""The directory for Ascend devices: scripts to the letter, and what stands beside them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from eyas import builtin
from eyas.export.ascend import SOCS, atc_script, export_ascend
from eyas.export.exported import Exported
from eyas.export.onnx import MASKED
from eyas.runtimes.manifest import GraphSpec, StaticManifest, TensorSpec, read_manifest

NANO = builtin.DIRECTORY / "nano-student"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The embedded student, 64 slots."""
    return export_ascend(NANO, out=tmp_path_factory.mktemp("a") / "ascend", context_length=64, prefill_lengths=(16,))


def _pangu() -> StaticManifest:
    """Shapes of openPangu-Embedded-1B: 26 layers, 6 key/value heads of 128; one graph of one token."""
    half = "float16"
    inputs = (
        TensorSpec(name="input_ids", dtype="int64", shape=(1, 1)),
        TensorSpec(name="attn_bias", dtype=half, shape=(1, 1, 1, 1025)),
        TensorSpec(name="position_ids", dtype="int64", shape=(1, 1)),
        TensorSpec(name="past_kv", dtype=half, shape=(52, 1, 6, 1024, 128)),
    )
    graph = GraphSpec(name="decode", length=1, file="decode.onnx", inputs=inputs, outputs=())
    return StaticManifest(
        model_type="llama", dtype=half, layers=26, kv_heads=6, head_dim=128, vocabulary=153376, context_length=1024,
        window=None, masked=MASKED, stop_ids=(45892,), opset=14, graphs=(graph,), tokenizer=(), notes=(), files={},
    )  # fmt: skip


SCRIPT_310B1 = r"""#!/usr/bin/env bash
# Compile the graphs beside this script for Ascend 310B1 into om/310B1/. Needs CANN, no device. Not run on hardware.
# CANN elsewhere than in /usr/local/Ascend/cann: CANN=/path/to/it ./atc_310B1.sh
set -eo pipefail
cd "$(dirname "$0")"
source "${CANN:-/usr/local/Ascend/cann}/set_env.sh"
export TE_PARALLEL_COMPILER=1 MAX_COMPILE_CORE_NUMBER=1  # one compiler process: each takes much memory
mkdir -p om/310B1
atc --framework=5 --model=decode.onnx --output=om/310B1/decode --input_format=ND \
 --input_shape="input_ids:1,1;attn_bias:1,1,1,1025;position_ids:1,1;past_kv:52,1,6,1024,128" \
 --soc_version=Ascend310B1 --precision_mode_v2=mixed_float16 --modify_mixlist=ops_info.json
"""


CHOICE_910B = r"""SOC_VERSION=${1:-}
if [[ ! $SOC_VERSION =~ ^Ascend910B[0-9] ]]; then
  echo "usage: $0 Ascend910B4    (Ascend and the name that npu-smi info shows)" >&2
  exit 2
fi
"""


def test_the_script_is_the_known_command_with_our_tensors() -> None:
    assert atc_script(_pangu(), soc="310B1") == SCRIPT_310B1
    for soc in ("310B4", "310P3"):
        assert atc_script(_pangu(), soc=soc) == SCRIPT_310B1.replace("310B1", soc)


def test_the_script_for_910b_asks_which_one(tmp_path: Path) -> None:
    script = atc_script(_pangu(), soc="910B")
    expected = SCRIPT_310B1.replace("Ascend310B1", "$SOC_VERSION").replace("310B1", "910B")
    assert script == expected.replace("source ", CHOICE_910B + "source ")
    path = tmp_path / "atc_910B.sh"
    path.write_text(script)
    for argument in ([], ["910B4"], ["Ascend310P3"]):
        refused = subprocess.run(["bash", path, *argument], capture_output=True, text=True, check=False)
        assert (refused.returncode, refused.stderr[:6]) == (2, "usage:")


def _fake_cann(directory: Path) -> Path:
    """A CANN whose atc writes down its arguments and makes the file."""
    directory.mkdir()
    (directory / "set_env.sh").write_text(f'export PATH="{directory}:$PATH"\n')
    (directory / "atc").write_text(
        """#!/usr/bin/env bash
printf '%s\\n' "$@" --- "$TE_PARALLEL_COMPILER" >> "$(dirname "$0")/calls"
for argument; do if [[ $argument == --output=* ]]; then touch "${argument#--output=}.om"; fi; done
"""
    )
    (directory / "atc").chmod(0o755)
    return directory


@pytest.mark.parametrize("soc", SOCS)
def test_scripts_run_and_compile_every_graph(done: Exported, tmp_path: Path, soc: str) -> None:
    directory = done.files[0].parent
    script = directory / f"atc_{soc}.sh"
    subprocess.run(["bash", "-n", script], check=True)
    cann = _fake_cann(tmp_path / "cann")
    argument = ["Ascend910B4"] if soc == "910B" else []
    subprocess.run([script, *argument], env={"CANN": str(cann), "PATH": "/usr/bin:/bin"}, check=True)
    assert sorted(path.name for path in (directory / "om" / soc).iterdir()) == ["decode.om", "prefill_16.om"]
    calls = (cann / "calls").read_text().splitlines()
    assert calls.count("--framework=5") == calls.count("1") == 2
    assert f"--soc_version=Ascend{'910B4' if soc == '910B' else soc}" in calls
    assert "--input_shape=input_ids:1,16;attn_bias:1,1,16,80;position_ids:1,16;past_kv:6,1,4,64,16" in calls
    for line in calls:
        if line.startswith(("--model=", "--modify_mixlist=")):
            assert (directory / line.partition("=")[2]).is_file()


def test_the_directory_is_whole_and_says_it_is_untried(done: Exported) -> None:
    directory = done.files[0].parent
    manifest = read_manifest(directory)
    assert manifest.dtype == "float16"
    assert all(path.is_file() for path in done.files)
    written = {path for path in directory.rglob("*") if path.is_file() and "om" not in path.parts}
    assert set(done.files) == written
    assert done.bytes == sum(path.stat().st_size for path in done.files)
    mixlist = json.loads((directory / "ops_info.json").read_text())
    assert mixlist == {"black-list": {"to-add": ["Pow", "Square", "ReduceMean", "ReduceMeanD"]}}
    readme = (directory / "README.md").read_text()
    # 6 rows x 4 heads x 64 slots x 16 x 2 bytes = 49,152 = 0.047 MiB
    for words in (
        "Not run on hardware",
        "KV cache 0.05 MiB",
        "`prefill_16.onnx` | 16",
        f"stop_ids={{{manifest.stop_ids[0]}}}",
    ):
        assert words in readme
