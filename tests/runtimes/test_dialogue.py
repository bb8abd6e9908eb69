"""What an exported file makes of chat messages is what the model's own directory makes of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from eyas.builtin import DIRECTORY
from eyas.errors import ModelError
from eyas.export.onnx import export_onnx
from eyas.export.ort_genai import export_ort_genai
from eyas.recipe import THINKING_FORMATS
from eyas.records import MODES, Example, Mode
from eyas.runtimes.dialogue import GGUFDialogue, GraphsDialogue, open_dialogue, texts
from eyas.runtimes.llamacpp import LlamaCpp
from eyas.runtimes.opening import open_runtime
from eyas.storage.tokenization import encode_prompt, encode_text, load_tokenizer
from eyas.thinking import format_of_template

NANO = DIRECTORY / "nano-student"
TALK = (("user", "12+30-5"), ("assistant", "37"), ("user", "Größe 🦅, 你好\n\n <|im_end|> x"))
TEXT = "Größe 🦅, 你好 <think>\n1</think>  <|im_end|>"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graphs") / "onnx"
    export_onnx(NANO, out=out, context_length=64, prefill_lengths=())
    return out


@pytest.fixture(scope="module")
def genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("genai") / "genai"
    export_ort_genai(NANO, out=out, precision="fp32")
    return out


@pytest.fixture
def gguf(nano_gguf: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(nano_gguf, threads=1, context_length=64) as runtime:
        yield runtime


def theirs(mode: Mode, template: str | None = None) -> list[int]:
    tokenizer = load_tokenizer(NANO)
    tokenizer.chat_template = template or tokenizer.chat_template
    thinking = THINKING_FORMATS[format_of_template(str(tokenizer.chat_template))]
    return encode_prompt(tokenizer, Example(key="k", prompt=TALK), mode, thinking=thinking)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["gguf", "graphs", "genai"])
def test_ids_and_texts_are_those_of_the_models_own_tokenizer(
    kind: str, mode: Mode, nano_gguf: Path, graphs: Path, genai: Path
) -> None:
    path = {"gguf": nano_gguf, "graphs": graphs, "genai": genai}[kind]
    with open_runtime(path, threads=1) as runtime:
        dialogue = open_dialogue(path, runtime)
        assert dialogue.encode_chat(TALK, mode) == theirs(mode)
        assert dialogue.thinking == THINKING_FORMATS["qwen3"]
        tokenizer = load_tokenizer(NANO)
        ids = encode_text(tokenizer, TEXT)
        assert dialogue.decode(ids) == tokenizer.decode(ids) == TEXT
        assert 2 in dialogue.stop_ids <= {0, 2}
        pieces = list(texts(ids, dialogue=dialogue))
        assert "".join(pieces) == TEXT
        assert not any("\ufffd" in piece for piece in pieces)
        assert len(ids) > len(pieces) >= 20
        eagle = encode_text(tokenizer, "🦅")
        assert list(texts(eagle[:-1], dialogue=dialogue)) == ["\ufffd"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "gemma3", "qwen3_5_think", "phi3"])
def test_any_models_template_gives_the_ids_it_gives_in_transformers(name: str, mode: Mode, gguf: LlamaCpp) -> None:
    spec = find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    template = (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text()
    gguf.head.metadata["tokenizer.chat_template"] = template
    assert GGUFDialogue(Path("m.gguf"), gguf).encode_chat(TALK, mode) == theirs(mode, template)


def test_a_file_that_asks_for_a_first_token_gets_it_once(gguf: LlamaCpp) -> None:
    gguf.head.metadata["tokenizer.chat_template"] = "{{ messages[0].content }}"
    gguf.head.metadata["tokenizer.ggml.add_bos_token"] = True
    dialogue = GGUFDialogue(Path("m.gguf"), gguf)
    assert dialogue.encode_chat([("user", "12")], "reasoning") == [1, 19, 20]
    assert dialogue.encode_chat([("user", "<|im_start|>12")], "reasoning") == [1, 19, 20]


def test_a_file_without_a_chat_template_says_so(gguf: LlamaCpp, graphs: Path, tmp_path: Path) -> None:
    del gguf.head.metadata["tokenizer.chat_template"]
    with pytest.raises(ModelError, match=r"m.gguf: no chat template inside \(tokenizer.chat_template\)"):
        GGUFDialogue(Path("m.gguf"), gguf)
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(ModelError, match=r"tokenizer: no usable tokenizer .*No such file"):
        GraphsDialogue(tmp_path / "tokenizer", stop_ids=())
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no usable tokenizer.json \("):
        GraphsDialogue(tmp_path / "tokenizer", stop_ids=())
    (tmp_path / "tokenizer" / "tokenizer.json").write_text((graphs / "tokenizer" / "tokenizer.json").read_text())
    with pytest.raises(ModelError, match="tokenizer: no chat template"):
        GraphsDialogue(tmp_path / "tokenizer", stop_ids=())
    (tmp_path / "tokenizer" / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"chat_template.jinja: no usable chat template \("):
        GraphsDialogue(tmp_path / "tokenizer", stop_ids=())
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json is no object"):
        GraphsDialogue(tmp_path / "tokenizer", stop_ids=())


@pytest.mark.parametrize(
    "template", ["{{ messages + 1 }}", "{{ 1 // 0 }}", "{{ messages[9].content + 'x' }}", "{{ range(9999999) }}"]
)
def test_a_template_that_breaks_off_is_one_error(template: str, gguf: LlamaCpp) -> None:
    gguf.head.metadata["tokenizer.chat_template"] = template
    with pytest.raises(ModelError, match=r"m.gguf: the chat template refuses messages of the roles user \("):
        GGUFDialogue(Path("m.gguf"), gguf).encode_chat([("user", "12")], "reasoning")


def test_bytes_of_a_template_that_are_no_text_are_llama_cpps_to_replace(gguf: LlamaCpp) -> None:
    gguf.head.metadata["tokenizer.chat_template"] = "\udce9{{ messages[0].content }}"
    ids = GGUFDialogue(Path("m.gguf"), gguf).encode_chat([("user", "12")], "reasoning")
    assert b"".join(map(gguf.piece, ids)) == "\ufffd12".encode()


def test_talking_to_a_file_loads_neither_torch_nor_transformers(nano_gguf: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eyas.runtimes.opening import open_runtime\n"
        "from eyas.runtimes.dialogue import open_dialogue, texts\n"
        "path = Path(sys.argv[1]); runtime = open_runtime(path, threads=1); dialogue = open_dialogue(path, runtime)\n"
        "ids = runtime.generate(dialogue.encode_chat([('user', '12+30')], 'fast'), max_tokens=9,"
        " stop_ids=dialogue.stop_ids)\n"
        "print(''.join(texts(ids, dialogue=dialogue)), {'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(nano_gguf)], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+<\|im_end\|> set\(\)\n", done.stdout)
