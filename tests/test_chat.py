"""`eyas chat` as a user types it: on a GGUF file, on a directory of graphs, on what is neither."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eyas.builtin import DIRECTORY
from eyas.chat import print_stream, speed
from eyas.cli import app
from eyas.errors import DataError, ModelError, RecipeError
from eyas.export.onnx import export_onnx
from eyas.records import MODES
from eyas.runtimes.dialogue import open_dialogue
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.runtimes.opening import open_runtime
from eyas.runtimes.runtime import Timings
from eyas.thinking import parse_completion

TYPED = "12+30-5\n/new\n/fast\n12+30-5\n/help\n" + "9" * 300 + "\n/think\n/quit\n"
SPEED = re.compile(r"\d+ tokens in, first token after \d+ ms \(TTFT\), \d+ out, \d+ tokens/s")


@pytest.fixture(scope="module", params=["gguf", "graphs"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, nano_gguf: Path) -> Path:
    if request.param == "gguf":
        return nano_gguf
    out = tmp_path_factory.mktemp("graphs") / "onnx"
    export_onnx(DIRECTORY / "nano-student", out=out, prefill_lengths=(64,))
    return out


def test_an_exported_file_answers_in_both_modes_as_its_runtime_does(exported: Path) -> None:
    answers = []
    with open_runtime(exported, threads=1) as runtime:
        dialogue = open_dialogue(exported, runtime)
        for mode in MODES:
            ids = dialogue.encode_chat([("user", "12+30-5")], mode)
            made = list(runtime.generate(ids, max_tokens=64, stop_ids=dialogue.stop_ids))[:-1]
            answers.append(parse_completion(dialogue.decode(made), thinking=dialogue.thinking))
    slow, fast = answers
    said = CliRunner().invoke(app, ["chat", str(exported), "--threads", "1"], input=TYPED, catch_exceptions=False)
    lines = [line.rpartition(" > ")[2] for line in said.stdout.splitlines()]
    assert said.exit_code == 0
    begin = lines.index(str(slow.thinking).splitlines()[0])
    assert "\n".join(lines[begin:]).startswith(f"{slow.thinking}\n{slow.answer}\n")
    assert len([line for line in lines if SPEED.fullmatch(line)]) == 2
    assert lines[-2 if lines[-1] == "" else -1].count("Type /new to start over.") == 1
    after = lines[begin + 1 :]
    assert fast.answer in after[after.index(slow.answer) + 1 :]
    assert not any("<|im_end|>" in line or "think>" in line for line in lines)


def test_weights_answer_as_the_file_made_of_them(nano_gguf: Path) -> None:
    typed = "12+30-5\n/new\n/fast\n12+30-5\n/quit\n"
    said = [
        CliRunner().invoke(app, ["chat", str(path)], input=typed, catch_exceptions=False).stdout
        for path in (DIRECTORY / "nano-student", nano_gguf)
    ]
    answers = [[line for line in text.splitlines()[1:] if not SPEED.fullmatch(line)] for text in said]
    assert answers[0] == answers[1]
    assert len(answers[0]) > 3


def test_text_is_written_before_the_next_token_is_made(exported: Path) -> None:
    written = StringIO()
    seen: list[str] = []

    def watched(ids: Iterable[int]) -> Iterator[int]:
        for token in ids:
            seen.append(written.getvalue())
            yield token

    with open_runtime(exported, threads=1) as runtime:
        dialogue = open_dialogue(exported, runtime)
        prompt_ids = dialogue.encode_chat([("user", "12+30-5")], "reasoning")
        ids = runtime.generate(prompt_ids, max_tokens=12, stop_ids=())
        print_stream(
            Console(file=written), watched(ids), prompt_ids=prompt_ids, dialogue=dialogue, runtime=runtime
        )  # fmt: skip
    assert len(set(seen)) > 8
    assert all(written.getvalue().startswith(text) for text in seen)


def test_an_interrupt_stops_the_answer_and_at_the_prompt_ends_the_talk(
    nano_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = LlamaCpp.generate
    asked: list[int] = []

    def interrupted(self: LlamaCpp, prompt_ids: Sequence[int], **options: Any) -> Iterator[int]:
        asked.append(len(prompt_ids))
        ids = made(self, prompt_ids, **options)
        yield next(ids)
        if len(asked) == 1:
            raise KeyboardInterrupt
        yield from ids

    typed = iter(["12+30-5", "12+30-5"])

    def read(*_: object, **__: object) -> str:
        line = next(typed, None)
        if line is None:
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr(LlamaCpp, "generate", interrupted)
    monkeypatch.setattr(Console, "input", read)
    said = CliRunner().invoke(app, ["chat", str(nano_gguf), "--threads", "1"], catch_exceptions=False)
    assert said.exit_code == 0
    assert said.stdout.count("(stopped; not part of the conversation)") == 1
    assert len([line for line in said.stdout.splitlines() if SPEED.fullmatch(line)]) == 1
    assert asked[0] == asked[1]  # the stopped turn is not sent again


def test_bytes_that_are_no_text_are_told(nano_gguf: Path) -> None:
    command = [sys.executable, "-m", "eyas", "chat", str(nano_gguf), "--threads", "1"]
    said = subprocess.run(
        command, input=b"\xff\xfe\n", capture_output=True, check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-300:]
    assert b"What was typed is no utf-8" in said.stdout


def test_what_is_no_exported_file_or_has_no_such_option_is_one_error(nano_gguf: Path, tmp_path: Path) -> None:
    def asked(*words: str) -> None:
        CliRunner().invoke(app, ["chat", *words], input="/quit\n", catch_exceptions=False)

    with pytest.raises(ModelError, match="expected a GGUF file"):
        asked(str(tmp_path))
    with pytest.raises(RecipeError, match=r"is no run .* Drop --model"):
        asked(str(nano_gguf), "--model", "teacher")
    with pytest.raises(DataError, match="a context of 999 tokens, the model was trained for 256"):
        asked(str(nano_gguf), "--context", "999")
    (tmp_path / "resolved.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"is computed by torch, on all cores. Drop --threads"):
        asked(str(tmp_path), "--threads", "1")


def test_speed_is_of_the_tokens_after_the_first() -> None:
    timings = Timings(load_s=9.0, prefill_s=0.25, decode_s=(0.1, 0.1, 0.2), prompt_tokens=7, completion_tokens=4)
    assert speed(timings) == "7 tokens in, first token after 250 ms (TTFT), 4 out, 8 tokens/s"  # 3 / 0.4 s = 7.5
    alone = Timings(load_s=9.0, prefill_s=0.25, decode_s=(), prompt_tokens=7, completion_tokens=1)
    assert speed(alone) == "7 tokens in, first token after 250 ms (TTFT), 1 out"
