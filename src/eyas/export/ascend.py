"""A directory for Ascend devices: static ONNX graphs and, per chip, the script that compiles them. Not run on hardware.

Sources: CANN's atc manual (--modify_mixlist, --precision_mode_v2); the layout of github.com/Tlntin/qwen-ascend-llm.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eyas.export.exported import Exported
from eyas.export.onnx import PREFILL_LENGTHS, exported, write_graphs
from eyas.runtimes.manifest import DType, GraphSpec, StaticManifest
from eyas.storage.artifacts import atomic_path, write_json

SOCS = ("310B1", "310B4", "310P3", "910B")
"""Atlas 200I A2 with 20 and 8 TOPS (Orange Pi AIpro too), 300I Duo, Atlas A2 servers and cards."""
MIXLIST = "ops_info.json"
FLOAT32_OPS = ("Pow", "Square", "ReduceMean", "ReduceMeanD")
"""Of RMSNorm, by their names in Ascend IR: squares of activations overflow float16, so they stay in float32."""


def export_ascend(
    model_dir: Path,
    *,
    out: Path,
    dtype: DType = "float16",
    context_length: int | None = None,
    prefill_lengths: Sequence[int] = PREFILL_LENGTHS,
) -> Exported:
    """Write what `export_onnx` does, an atc_SOC.sh per chip, ops_info.json and a README.md for the device to `out`.

    `out` is replaced as a whole. The .om files do not exist yet: atc makes them, with CANN.

    Raises: as `export_onnx`.
    """
    with atomic_path(out) as draft:
        draft.mkdir()
        manifest = write_graphs(
            model_dir, draft, dtype=dtype, context_length=context_length, prefill_lengths=prefill_lengths
        )
        write_json(draft / MIXLIST, {"black-list": {"to-add": list(FLOAT32_OPS)}})
        for soc in SOCS:
            script = draft / f"atc_{soc}.sh"
            script.write_text(atc_script(manifest, soc=soc))
            script.chmod(0o755)
        (draft / "README.md").write_text(device_readme(manifest, name=model_dir.name))
    return exported(
        out,
        manifest,
        format_="ascend",
        others=(MIXLIST, "README.md", *(f"atc_{soc}.sh" for soc in SOCS)),
        facts={"socs": list(SOCS), "run_on_hardware": False},
    )


def atc_script(manifest: StaticManifest, *, soc: str) -> str:
    """The shell script that compiles every graph for one chip into om/SOC/."""
    name, choice = f"Ascend{soc}", ""
    if soc == "910B":  # the chips are called 910B1 to 910B4, and atc wants the one that is there
        name = "$SOC_VERSION"
        choice = """SOC_VERSION=${1:-}
if [[ ! $SOC_VERSION =~ ^Ascend910B[0-9] ]]; then
  echo "usage: $0 Ascend910B4    (Ascend and the name that npu-smi info shows)" >&2
  exit 2
fi
"""
    commands = "\n".join(_command(graph, soc=soc, soc_version=name) for graph in manifest.graphs)
    return f"""#!/usr/bin/env bash
# Compile the graphs beside this script for Ascend {soc} into om/{soc}/. Needs CANN, no device. Not run on hardware.
# CANN elsewhere than in /usr/local/Ascend/cann: CANN=/path/to/it {"./atc_" + soc + ".sh"}
set -eo pipefail
cd "$(dirname "$0")"
{choice}source "${{CANN:-/usr/local/Ascend/cann}}/set_env.sh"
export TE_PARALLEL_COMPILER=1 MAX_COMPILE_CORE_NUMBER=1  # one compiler process: each takes much memory
mkdir -p om/{soc}
{commands}
"""


def _command(graph: GraphSpec, *, soc: str, soc_version: str) -> str:
    shapes = ";".join(f"{tensor.name}:{','.join(map(str, tensor.shape))}" for tensor in graph.inputs)
    return f"""atc --framework=5 --model={graph.file} --output=om/{soc}/{graph.name} --input_format=ND \\
 --input_shape="{shapes}" \\
 --soc_version={soc_version} --precision_mode_v2=mixed_float16 --modify_mixlist={MIXLIST}"""


def device_readme(manifest: StaticManifest, *, name: str) -> str:
    """README.md of the directory."""
    graphs = "\n".join(f"| `{graph.file}` | {graph.length} |" for graph in manifest.graphs)
    return f"""# {name} for Ascend devices

**Not run on hardware.** That graphs of this kind equal the original is tested by onnxruntime on a CPU; `atc`, the `.om`
files, their accuracy, speed and memory are not, for want of CANN and a device.

| graph | tokens a call |
|---|---|
{graphs}

{manifest.model_type}, {manifest.layers} layers, {manifest.dtype}, vocabulary {manifest.vocabulary:,}, context
{manifest.context_length:,} tokens, KV cache {manifest.cache_bytes / 2**20:,.2f} MiB.

1. On any machine with CANN (8.5 or newer: with the ops package of the *target* chip), compile for the chip that
   `npu-smi info` shows:

   | chip | board | command |
   |---|---|---|
   | 310B1 | Atlas 200I A2, 20 TOPS | `./atc_310B1.sh` |
   | 310B4 | Atlas 200I DK A2, Orange Pi AIpro, 8 TOPS | `./atc_310B4.sh` |
   | 310P3 | Atlas 300I Duo | `./atc_310P3.sh` |
   | 910B1 to 910B4 | Atlas A2 | `./atc_910B.sh Ascend910B4` |

2. Copy this directory to the device, `om/` included.
3. On the device: CANN's runtime, `aclruntime` and `ais_bench` (wheels of Ascend's msit tools), then

   ```
   pip install numpy pydantic tokenizers && pip install --no-deps eyas
   python - <<'END'
   from pathlib import Path
   from tokenizers import Tokenizer
   from eyas.runtimes.ascend import load_ascend

   tokenizer = Tokenizer.from_file("tokenizer/tokenizer.json")
   prompt = tokenizer.encode("Hello", add_special_tokens=False).ids
   with load_ascend(Path("."), soc="310B1") as runtime:
       made = list(runtime.generate(prompt, max_tokens=64, stop_ids={set(manifest.stop_ids)}))
       print(tokenizer.decode(made), runtime.timings())
   END
   ```

   A program in another language finds all it needs in `manifest.json`; `notes` there says how the graphs are fed.

`ops_info.json` keeps {", ".join(FLOAT32_OPS)} in float32, where squares of activations could overflow
float16. If `atc` does not know one of these names, take it out. Logits that are not finite are an error of the host
loop, never an answer.
"""
