"""W8A8 by msmodelslim: the description is true, the oracle is the arithmetic, the model is near; damage is an error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from static_models import COMMON, make_model

from eyas.builtin import DIRECTORY
from eyas.errors import ArtifactError, CorruptArtifact, DataError, ExportError
from eyas.export.reference import Reference, parity_with, reference_of
from eyas.export.w8a8 import INDEX, LIMITS, export_w8a8
from eyas.export.w8a8_oracle import W8A8Linear, load_w8a8_oracle
from eyas.export.w8a8_schema import DESCRIPTION, read_w8a8
from eyas.parity import require_parity
from eyas.recipe import ModelSpec
from eyas.storage.models import load_model, materialise
from eyas.storage.tokenization import load_tokenizer

NANO = DIRECTORY / "nano-student"


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in student, a Llama."""
    return export_w8a8(NANO, out=tmp_path_factory.mktemp("nano") / "w8a8").files[0].parent


def test_oracle_layer_is_the_arithmetic_by_hand() -> None:
    layer = W8A8Linear(
        torch.tensor([[100, -50], [3, 7]], dtype=torch.int8),
        torch.tensor([[0.01], [0.5]]), torch.tensor([[0.0], [1.0]]), torch.tensor([0.25, -1.0]),
    )  # fmt: skip
    inputs = torch.tensor([[2.54, -1.0], [0.0, 0.0], [0.1, 12.7]])
    # token 1: s = 2.54 / 127 = 0.02, x = [127, -50]; row 1: (12,700 + 2,500) * 0.02 * 0.01 + 0.25 = 3.29
    #   row 2, less its offset [2, 6]: (254 - 300) * 0.02 * 0.5 - 1 = -1.46
    # token 3: s = 0.1, x = [1, 127]; row 1: (100 - 6,350) * 0.1 * 0.01 + 0.25 = -6;
    #   row 2: (2 + 762) * 0.1 * 0.5 - 1 = 37.2
    expected = torch.tensor([[3.29, -1.46], [0.25, -1.0], [-6.0, 37.2]])
    torch.testing.assert_close(layer(inputs), expected)
    rounded = layer(torch.tensor([[0.1049, 12.7]]))  # 1.049 steps are one step
    torch.testing.assert_close(rounded, expected[2:])


def test_weights_are_the_models_rounded_to_a_step_of_each_row(nano: Path) -> None:
    written, own = read_w8a8(nano), load_model(NANO).state_dict()
    assert len(written.linears) == 3 * 7
    for name in written.linears:
        scale = written.tensors[f"{name}.weight_scale"]
        dequantised = (written.tensors[f"{name}.weight"] - written.tensors[f"{name}.weight_offset"]) * scale
        assert (abs(dequantised - own[f"{name}.weight"]) <= 0.501 * scale).all()
    for name in set(written.tensors) - {f"{layer}.{part}" for layer in written.linears for part in
                                        ("weight", "weight_scale", "weight_offset")}:  # fmt: skip
        assert torch.equal(written.tensors[name].float(), own[name].half().float()), name
        assert written.tensors[name].dtype == torch.float16
    index = json.loads((nano / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in written.tensors.values())
    assert set(index["weight_map"]) == set(written.tensors)
    assert json.loads((nano / "config.json").read_text())["dtype"] == "float16"
    kinds = json.loads((nano / DESCRIPTION).read_text())
    assert (kinds["lm_head.weight"], kinds["model_quant_type"]) == ("FLOAT", "W8A8_DYNAMIC")


def test_builtin_student_passes_its_gate_on_real_prompts(
    nano: Path, nano_references: list[Reference], record_property: Callable[[str, object], None]
) -> None:
    with load_w8a8_oracle(nano) as runtime:
        parity = parity_with(runtime, nano_references)
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS)
    assert parity.kl_nats > 1e-6  # eight bits: it is no copy


def test_doubled_scales_of_one_layer_fail_the_gate(nano: Path, tmp_path: Path) -> None:
    broken = _copy(nano, tmp_path)
    (file,) = broken.glob("*.safetensors")
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.weight_scale"] *= 2
    save_file(tensors, file)
    reference = reference_of(load_model(NANO), list(range(40, 70)))
    with load_w8a8_oracle(broken) as runtime:
        parity = parity_with(runtime, [reference])
    with pytest.raises(ExportError, match="another model than the one it was made from"):
        require_parity(parity, limits=LIMITS)


@pytest.mark.parametrize("name", ["qwen3", "openpangu"])
def test_an_architecture_passes_its_gate(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model_dir = make_model(tmp_path, name)
    export_w8a8(model_dir, out=tmp_path / "out")
    prompt = torch.randint(3, 276, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    with load_w8a8_oracle(tmp_path / "out") as runtime:
        parity = parity_with(runtime, [reference_of(load_model(model_dir), prompt)])
    record_property("parity", str(parity))
    require_parity(parity, limits=LIMITS)


def test_a_directory_is_whole_and_says_how_it_is_served(nano: Path) -> None:
    assert load_tokenizer(nano).chat_template == load_tokenizer(NANO).chat_template
    readme = (nano / "README.md").read_text()
    assert "--quantization ascend --dtype float16 --max-model-len" in readme
    assert "Not run on hardware" in readme


def test_weights_beyond_float16_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    shutil.copytree(NANO, tmp_path / "big")
    weights = {name: value.float() for name, value in load_file(tmp_path / "big" / "model.safetensors").items()}
    weights["model.norm.weight"][0] = 1e5
    save_file(weights, tmp_path / "big" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"model.norm.weight holds values beyond float16"):
        export_w8a8(tmp_path / "big", out=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_oracle_forgets_and_knows_its_limits(nano: Path) -> None:
    ids = [int(index) for index in np.random.default_rng(1).integers(3, 270, 40)]
    with load_w8a8_oracle(nano) as runtime:
        first = list(runtime.generate(ids, max_tokens=8, stop_ids=()))
        list(runtime.generate(ids[::-1], max_tokens=8, stop_ids=()))
        assert list(runtime.generate(ids, max_tokens=8, stop_ids=())) == first
        for bad in ([], [320], [3] * 257):
            runtime.session.reset()
            with pytest.raises(DataError, match=r"256 in all and ids below 320"):
                runtime.session.prefill(bad, every=True)


def _copy(nano: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nano, tmp_path / "copy"))


def test_a_damaged_description_is_a_clear_error(nano: Path, tmp_path: Path) -> None:
    broken = _copy(nano, tmp_path)
    path = broken / DESCRIPTION
    kinds = json.loads(path.read_text())
    norm = "model.norm.weight"
    for text, words in (
        (path.read_text()[:100], "not a description"),
        ("[]", "not a description"),
        (json.dumps(kinds | {"model_quant_type": "W8A8"}), "describes 'W8A8'"),
        (json.dumps({name: kind for name, kind in kinds.items() if name != norm}), f"not in both: {norm}"),
        (json.dumps(kinds | {"lm_head.weight": "W8A8_DYNAMIC"}), "lm_head.weight is described as 'W8A8_DYNAMIC'"),
    ):
        path.write_text(text)
        with pytest.raises(CorruptArtifact, match=words):
            load_w8a8_oracle(broken)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"no {DESCRIPTION}"):
        load_w8a8_oracle(broken)


def test_damaged_weights_are_a_clear_error(nano: Path, tmp_path: Path) -> None:
    broken = _copy(nano, tmp_path)
    (file,) = broken.glob("*.safetensors")
    whole, tensors = file.read_bytes(), load_file(file)
    layer = "model.layers.0.mlp.up_proj"
    save_file(tensors | {f"{layer}.weight_scale": tensors[f"{layer}.weight_scale"][:3].contiguous()}, file)
    with pytest.raises(CorruptArtifact, match=rf"{layer}.weight_scale .* is float32 \[3, 1\], expected W8A8_DYNAMIC"):
        load_w8a8_oracle(broken)
    file.write_bytes(whole[:-100])
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        load_w8a8_oracle(broken)
    file.write_bytes(whole)
    config = json.loads((broken / "config.json").read_text())
    for changes, words in (
        ({"num_hidden_layers": 2, "layer_types": None}, "no layer"),
        ({"attention_bias": True}, "not the layer"),
    ):
        (broken / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(CorruptArtifact, match=words):
            load_w8a8_oracle(broken)
    for text in ("{", "{}", json.dumps(config | {"hidden_size": "x"})):
        (broken / "config.json").write_text(text)
        with pytest.raises(CorruptArtifact, match="no config of a causal language model"):
            load_w8a8_oracle(broken)


def test_other_architectures_and_a_failing_quantiser_are_clear_errors(tmp_path: Path) -> None:
    gemma = make_model(tmp_path / "gemma", "gemma3")
    with pytest.raises(ExportError, match=r"'gemma3_text' has no W8A8 export; there is one for llama, qwen2, qwen3"):
        export_w8a8(gemma, out=tmp_path / "out")
    spec = ModelSpec.model_validate({"config": COMMON | {"model_type": "qwen2"}, "tokenizer": "builtin:tokenizer"})
    materialise(spec, tmp_path / "broken", seed=0)
    weights = tmp_path / "broken" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"msmodelslim 26\.1\.0 cannot quantise it: .*[A-Z]\w+Error"):
        export_w8a8(weights.parent, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
