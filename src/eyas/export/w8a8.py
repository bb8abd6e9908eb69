"""W8A8 weights for vllm-ascend and MindIE, by Huawei's msmodelslim on this CPU. Not run on hardware.

Source: msmodelslim 26.1.0, `quant` with its ascendv1 saver; vllm-ascend's documentation on quantisation.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from eyas.errors import ExportError
from eyas.export.exported import Exported
from eyas.export.isolated import isolated_directory, run_program
from eyas.export.w8a8_schema import DESCRIPTION, FLOAT, QUANTISED, read_w8a8
from eyas.parity import Limits
from eyas.storage.artifacts import atomic_path, read_json, write_json
from eyas.storage.models import parameter_count
from eyas.storage.origins import link_model, read_config

QUANTISER = "msmodelslim"
QUANTISER_VERSION = "26.1.0"
INDEX = "quant_model_weights.safetensors.index.json"
REQUIREMENTS = (
    f"{QUANTISER}=={QUANTISER_VERSION}",
    "bracex==3.2.3", "certifi", "charset-normalizer", "easydict==1.13", "einops==0.8.2", "idna", "pygtrie==2.6.2",
    "requests", "scipy==1.17.1", "urllib3", "wcmatch==12.0.1",
)  # fmt: skip
"""All that the quantiser needs and this environment may lack; torch, transformers and numpy are shared."""
ARCHITECTURES = ("llama", "qwen2", "qwen3")
LIMITS = Limits(error_nats=12.0, kl_nats=0.12, gap_nats=2.5)
"""Of the oracle. Set after seeing docs/export-w8a8.md's figures, 3 times those of SmolLM2-135M: a trained model has a
few activations far above the others, which take most of a token's 8 bits. One layer's scales doubled are found."""
CONFIG = """apiversion: modelslim_v1
spec:
  process:
    - type: linear_quant
      qconfig:
        act: {scope: per_token, dtype: int8, symmetric: true, method: minmax}
        weight: {scope: per_channel, dtype: int8, symmetric: true, method: minmax}
      include: ["*"]
  runner: model_wise
  save:
    - type: ascendv1_saver
      part_file_size: 4
"""
"""W8A8_DYNAMIC: scales of activations are found as they come, so nothing has to be calibrated. Given as a file, since
msmodelslim asks a question on the terminal without one. It leaves the head in floating point by itself."""


def quantiser_directory(cache: Path | None = None) -> Path:
    """msmodelslim's directory, as `isolated_directory`; 180 MB.

    Raises: ExportError, if it has to be installed and cannot be.
    """
    return isolated_directory(
        f"{QUANTISER}-{QUANTISER_VERSION}", requirements=REQUIREMENTS, cache=cache, what="the W8A8 quantiser"
    )


def export_w8a8(model_dir: Path, *, out: Path, cache: Path | None = None) -> Exported:
    """Write `out`: int8 weights with a scale per row, quant_model_description.json, config, tokenizer and a README.md.

    Embeddings, norms, biases and head become float16. Activations become int8 in the device's kernels, token by token.
    msmodelslim is installed on first use, as `quantiser_directory` says. Not a check of the logits: that is parity, by
    `eyas.export.w8a8_oracle`.

    Raises: ExportError, for another architecture, or if msmodelslim cannot be installed, or fails; ModelError, if the
    directory cannot be read; CorruptArtifact, if what it wrote is not what it describes.
    """
    with tempfile.TemporaryDirectory() as scratch, atomic_path(out) as draft:
        source = Path(scratch) / model_dir.resolve().name
        link_model(model_dir.resolve(), source)
        kind = read_config(source).get("model_type")
        if kind not in ARCHITECTURES:
            raise ExportError(
                f"{model_dir}: {kind!r} has no W8A8 export; there is one for {', '.join(ARCHITECTURES)} and "
                "openPangu-Embedded. Export it to GGUF or ONNX."
            )
        _quantise(source, draft, config=Path(scratch) / "w8a8.yaml", cache=cache, name=str(model_dir))
        _narrow(draft, name=str(model_dir))
        written = read_w8a8(draft)
        (draft / "README.md").write_text(device_readme(model_dir.name))
    parameters = parameter_count(model_dir)
    first = out / DESCRIPTION
    files = (first, *sorted(path for path in out.iterdir() if path != first))
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    return Exported(
        files=files,
        format="w8a8",
        quantisation=QUANTISED,
        bytes=sum(path.stat().st_size for path in files),
        facts={
            "parameters": parameters,
            "bits_per_weight": round(8 * weights / parameters, 3),
            "quantised_layers": len(written.linears),
            "quantiser": f"{QUANTISER} {QUANTISER_VERSION}",
            "run_on_hardware": False,
        },
    )


def _quantise(source: Path, out: Path, *, config: Path, cache: Path | None, name: str) -> None:
    packages = quantiser_directory(cache)
    config.write_text(CONFIG)
    arguments = ["--device", "cpu", "--model_type", "default", "--trust_remote_code", "False"]
    paths = ["--model_path", str(source), "--save_path", str(out), "--config_path", str(config)]
    done = run_program(
        [sys.executable, "-P", "-m", "msmodelslim.cli", "quant", *arguments, *paths],
        environment={"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode or not (out / DESCRIPTION).is_file():
        raise ExportError(
            f"{name}: {QUANTISER} {QUANTISER_VERSION} cannot quantise it: {_complaint(done.stdout + done.stderr)}."
        )


def _narrow(directory: Path, *, name: str) -> None:
    """What is not quantised becomes float16, in which `--dtype float16` serves it. Scales keep msmodelslim's float32.

    Only now, for in a float16 checkpoint msmodelslim computes the scales in float16 too, and rounds by them.

    Raises: ExportError, if a value does not fit.
    """
    kinds, total = read_json(directory / DESCRIPTION), 0
    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        for key in [key for key in tensors if kinds.get(key) == FLOAT]:
            tensors[key] = tensors[key].to(torch.float16)
            if not torch.isfinite(tensors[key]).all():
                raise ExportError(f"{name}: {key} holds values beyond float16. Export it as onnx-fp32.")
        save_file(tensors, file, metadata={"format": "pt"})
        total += sum(tensor.nbytes for tensor in tensors.values())
    index, config = read_json(directory / INDEX), read_json(directory / "config.json")
    write_json(directory / INDEX, index | {"metadata": index["metadata"] | {"total_size": total}})
    write_json(directory / "config.json", config | {"dtype": "float16"})


def _complaint(output: str) -> str:
    """Its last error, which it logs and then goes on talking."""
    lines = [line.strip() for line in output.splitlines() if "Error" in line or "ERROR" in line]
    return lines[-1][:300].rstrip(".") if lines else "it gave no reason"


def device_readme(name: str) -> str:
    """README.md of the directory."""
    return f"""# {name}, W8A8 for Ascend

**Not run on hardware.** Weights of all linear layers are int8 with a scale per row, activations become int8 token by
token in the device's kernels; embeddings, norms and head are in floating point. Made by {QUANTISER}
{QUANTISER_VERSION}; `{DESCRIPTION}` says what each tensor is. What was checked is arithmetic on a CPU.

On Atlas 300I Duo (310P) or Atlas A2 (910B), with vllm-ascend (needs CANN and torch-npu):

```
vllm serve . --quantization ascend --dtype float16 --max-model-len 4096
```

Always give `--max-model-len`: on 310P the default runs out of memory. 310P has no bfloat16. vllm-ascend does not
support 310B (Atlas 200I A2): export the ONNX graphs for that. Of the architectures, it lists Qwen3-Dense for 310P;
others may or may not load there.
"""
