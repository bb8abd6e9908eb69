"""`eyas export MODEL`: files of any model, each with its figures, or one clear error."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from test_cli_evaluate import eyas
from transformers import AutoModelForCausalLM

from eyas.errors import MissingExtra
from eyas.export import checked, formats
from eyas.exporting import export_model, file_name
from eyas.parity import Limits
from eyas.runtimes.llama_c import VARIABLE


def test_a_model_becomes_files_and_what_they_are_is_written_down(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{n}+{n}", "answer": f"{2 * n}"}) + "\n" for n in range(10, 20)))
    asked = ("--format", "onnx-fp32", "--format", "safetensors", "--data", prompts, "--prompts", "4")
    made = ("--to", tmp_path / "out", "--context-length", "96")
    status, out, error = eyas("export", "builtin:nano-student", *asked, *made)
    assert (status, error) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines()] == [
        str(tmp_path / "out" / f"builtin-nano-student-{name}") for name in ("onnx-fp32", "safetensors")
    ]
    kept = json.loads((tmp_path / "out" / "exports.json").read_text())
    graphs, weights = kept["builtin-nano-student-onnx-fp32"], kept["builtin-nano-student-safetensors"]
    assert graphs["parity"]["max_error_nats"] < 0.005
    assert graphs["parity"]["greedy_agreed"] == graphs["parity"]["greedy_tokens"] > 4
    assert (graphs["bits_per_weight"], graphs["details"]["context_length"]) == (32.0, 96)
    assert weights["parity"] is None
    assert (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "builtin-nano-student-safetensors").num_parameters()
        == (weights["parameters"])
    )


def test_two_runs_models_keep_files_of_their_own(tiny_student: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run / "models").mkdir(parents=True)
        (tmp_path / run / "resolved.json").write_text("{}")
        (tmp_path / run / "models" / "distilled").symlink_to(tiny_student)
    assert [file_name(str(tmp_path / run / "models" / "distilled")) for run in ("a", "b")] == [
        "a-distilled", "b-distilled"
    ]  # fmt: skip
    assert file_name("Qwen/Qwen3-0.6B") == "Qwen-Qwen3-0.6B"


def test_another_models_file_is_not_replaced(tiny_student: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "out", {"x-m-safetensors": {"model": "/gone/x/m"}}
    out.mkdir()
    (out / "exports.json").write_text(json.dumps(kept))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "m").symlink_to(tiny_student)
    (out / "x-m-safetensors").mkdir()
    status, _, error = eyas("export", tmp_path / "x" / "m", "--format", "safetensors", "--to", out)
    assert (status, error.startswith("ExportError: ")) == (1, True)
    assert "is of /gone/x/m, and" in error
    assert json.loads((out / "exports.json").read_text()) == kept
    (out / "x-m-safetensors").rmdir()  # what is gone is nobody's, and a longer name another file's
    (out / "exports.json").write_text(json.dumps(kept | {"x-m-safetensors-of-more": {"model": "/gone/x/m"}}))
    assert eyas("export", tmp_path / "x" / "m", "--format", "safetensors", "--to", out)[0] == 0
    assert json.loads((out / "exports.json").read_text())["x-m-safetensors"]["model"] == str(tmp_path / "x" / "m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("builtin:nano-student", "--format", "gguf-q8"), "RecipeError: --format gguf-q8: .*did you mean 'gguf-q8_0'?"),
        (
            ("builtin:nano-student", "--format", "onnx-fp32", "--context-length", "4"),
            "ExportError: .*with a longer",
        ),
        (("gone/model", "--format", "onnx-fp32"), "ModelError: "),
    ],
)
def test_what_cannot_be_exported_is_one_error(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    status, out, error = eyas("export", *arguments, "--to", tmp_path)
    assert (status, out) == (1, "")
    assert len(error.splitlines()) == 1
    assert re.match(message, error)


def test_a_file_beyond_its_limits_is_an_error_and_neither_kept_nor_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ("export", "builtin:nano-student", "--format", "onnx-fp32", "--context-length", "96", "--to", tmp_path)
    assert eyas(*made)[0] == 0
    monkeypatch.setattr(checked, "limits_of", lambda _: Limits(error_nats=0, kl_nats=0, gap_nats=0))
    status, _, error = eyas(*made)
    assert status == 1
    assert error.startswith("ExportError: the file is another model than the one it was made from: log-probs up to 0.0")
    assert json.loads((tmp_path / "exports.json").read_text()) == {}  # nor that of an earlier attempt
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "exports.json"]


def test_an_export_cut_short_leaves_no_file_and_no_figures_and_its_draft_goes_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ("export", "builtin:nano-student", "--format", "safetensors", "--to", tmp_path)
    assert eyas(*made)[0] == 0
    monkeypatch.setattr(checked, "export_as", interrupt)
    exports = export_model(
        "builtin:nano-student", formats=["safetensors"], out=tmp_path, data=None, prompts=1, choices=formats.Choices()
    )
    with pytest.raises(KeyboardInterrupt):
        next(exports)
    monkeypatch.undo()
    assert json.loads((tmp_path / "exports.json").read_text()) == {}
    assert not (tmp_path / "builtin-nano-student-safetensors").exists()
    for left in (".builtin-nano-student-safetensors.7.tmp", "..other-w8a8.7.tmp.7.tmp"):  # as after kill -9
        (tmp_path / left / "model").mkdir(parents=True)
    (tmp_path / ".other-Q8_0.gguf.7.tmp").write_bytes(b"GGUF")
    (tmp_path / ".mine.7.tmp").touch()
    assert eyas(*made)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", ".mine.7.tmp", "builtin-nano-student-safetensors", "exports.json"
    ]  # fmt: skip


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_missing_program_is_said_before_the_first_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = ("--format", "onnx-fp32", "--format", "gguf-q4_k_m")
    status, out, error = eyas("export", "builtin:nano-student", *asked, "--to", tmp_path / "out")
    assert (status, out) == (1, "")
    assert error.startswith("ExportError: Q4_K_M needs llama.cpp's `llama-quantize`")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("own", [None, "libllama.so"])
def test_a_library_of_the_users_own_takes_the_place_of_the_package(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "PACKAGE", "xllamacpp_that_nobody_has")
    monkeypatch.setitem(formats.PACKAGES, "gguf-f16", ("gguf", ("gguf", "xllamacpp_that_nobody_has")))
    monkeypatch.setattr(formats, "converter_directory", lambda: None)
    if own is None:
        monkeypatch.delenv(VARIABLE, raising=False)
        with pytest.raises(MissingExtra, match=r"eyas\[gguf\]"):
            formats.require_available("gguf-f16")
    else:
        monkeypatch.setenv(VARIABLE, own)
        formats.require_available("gguf-f16")
