"""llama.cpp as a runtime: the protocol's promises, and no file that ends the process."""

from __future__ import annotations

import _ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

import eyas
from eyas.errors import DataError, MissingExtra, ModelError
from eyas.export.converter import Converter
from eyas.export.gguf import export_gguf
from eyas.runtimes import llama_c
from eyas.runtimes.facts import file_facts
from eyas.runtimes.llamacpp import LlamaCpp, kv_cache_bytes
from eyas.runtimes.runtime import SCORED
from eyas.storage.gguf import SEAL, UNSEALED, read_gguf_head

PROMPT = [1, 19, 20, 13, 21, 18, 2]
"""<|im_start|>12+30<|im_end|>"""


@pytest.fixture
def runtime(nano_gguf: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(nano_gguf, threads=1) as opened:
        yield opened


def test_generation_is_greedy_ends_with_the_stop_id_and_starts_afresh(runtime: LlamaCpp) -> None:
    first = list(runtime.generate(PROMPT, max_tokens=100, stop_ids={2}))
    assert first[-1] == 2
    assert 2 not in first[:-1]
    assert list(runtime.generate(PROMPT, max_tokens=100, stop_ids={2})) == first
    assert list(runtime.generate(PROMPT, max_tokens=3, stop_ids={2})) == first[:3]
    tops = runtime.top_logprobs([*PROMPT, *first], k=1)
    assert tops.ids_TK[len(PROMPT) - 1 :, 0].tolist() == first


def test_a_seed_draws_the_same_tokens_and_another_draws_others(runtime: LlamaCpp) -> None:
    def drawn(seed: int) -> list[int]:
        return list(runtime.generate(PROMPT, max_tokens=40, stop_ids=(), temperature=3.0, seed=seed))

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(4)}) == 4


def test_ids_come_one_by_one_and_the_callers_time_is_not_counted(runtime: LlamaCpp) -> None:
    for seen, _ in enumerate(runtime.generate(PROMPT, max_tokens=4, stop_ids=()), 1):
        assert runtime.timings().completion_tokens == seen
        time.sleep(0.2)
    timings = runtime.timings()
    assert (timings.prompt_tokens, len(timings.decode_s)) == (len(PROMPT), 3)
    assert timings.load_s > 0
    assert timings.prefill_s + sum(timings.decode_s) < 0.2
    assert 0 < runtime.session.graph_s <= timings.prefill_s + sum(timings.decode_s)


def test_log_probs_are_of_the_whole_vocabulary_and_do_not_depend_on_the_pieces(runtime: LlamaCpp) -> None:
    ids = np.random.default_rng(0).integers(3, 276, 3 * SCORED // 2).tolist()
    every = runtime.top_logprobs(ids, k=runtime.vocabulary_size)
    assert every.ids_TK.shape == (len(ids) - 1, runtime.vocabulary_size)
    assert np.exp(every.logprobs_TK).sum(axis=-1) == pytest.approx(np.ones(len(ids) - 1), abs=1e-5)
    assert (np.diff(every.logprobs_TK, axis=-1) <= 0).all()
    few = runtime.top_logprobs(ids[: SCORED // 2], k=5)
    assert few.logprobs_TK == pytest.approx(every.logprobs_TK[: SCORED // 2 - 1, :5], abs=0.02)


def test_generation_ends_with_the_context(runtime: LlamaCpp) -> None:
    assert runtime.context_length == 256
    prompt = [1, *[20] * 249]
    assert len(list(runtime.generate(prompt, max_tokens=100, stop_ids=()))) == 256 - 250 + 1
    assert len(list(runtime.generate([1] * 256, max_tokens=100, stop_ids=()))) == 1


def test_a_smaller_context_is_reserved_if_asked_for(nano_gguf: Path) -> None:
    with LlamaCpp(nano_gguf, context_length=8, threads=1) as small:
        assert len(list(small.generate(PROMPT, max_tokens=100, stop_ids=()))) == 2
    with pytest.raises(DataError, match="a context of 257 tokens, the model was trained for 256"):
        LlamaCpp(nano_gguf, context_length=257)


@pytest.mark.parametrize(
    ("ids", "words"),
    [([], "0 tokens"), ([1] * 257, "257 tokens"), ([1, 320], "ids from 1 to 320"), ([-1, 4], "ids from -1")],
)
def test_what_does_not_fit_the_model_is_one_clear_error(ids: list[int], words: str, runtime: LlamaCpp) -> None:
    with pytest.raises(DataError, match=words):
        next(runtime.generate(ids, max_tokens=1, stop_ids=()))
    with pytest.raises(DataError, match=r"tokens|ids from"):
        runtime.top_logprobs([*ids, 1], k=5)


def test_a_closed_or_unused_runtime_says_so(runtime: LlamaCpp) -> None:
    with pytest.raises(DataError, match="nothing was generated yet"):
        runtime.timings()
    stream = runtime.generate(PROMPT, max_tokens=3, stop_ids=())
    next(stream)
    runtime.close()
    runtime.close()
    uses = (
        lambda: next(stream), lambda: runtime.top_logprobs(PROMPT, k=1), lambda: runtime.tokenize("a"),
        lambda: runtime.ends(2),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(DataError, match="was closed"):
            use()


def test_texts_are_tokenized_as_they_stand(runtime: LlamaCpp) -> None:
    assert runtime.tokenize("<|im_start|>12+30<|im_end|>") == PROMPT
    assert runtime.tokenize("") == []


def test_nothing_is_written_to_the_terminal(nano_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaCpp(nano_gguf, threads=1) as opened:
        list(opened.generate(PROMPT, max_tokens=2, stop_ids=()))
    assert capfd.readouterr() == ("", "")


def test_a_file_that_contradicts_itself_gets_llama_cpps_own_reason(nano_gguf: Path, tmp_path: Path) -> None:
    data = nano_gguf.read_bytes()
    assert read_gguf_head(nano_gguf).metadata["llama.embedding_length"] == 64
    key = b"llama.embedding_length" + int(gguf.GGUFValueType.UINT32).to_bytes(4, "little")
    assert data.count(key + (64).to_bytes(4, "little")) == 1
    (tmp_path / "m.gguf").write_bytes(data.replace(key + (64).to_bytes(4, "little"), key + (96).to_bytes(4, "little")))
    with pytest.raises(ModelError, match=r"cannot load it: .*wrong shape"):
        LlamaCpp(tmp_path / "m.gguf")


def test_a_weight_of_another_value_is_found_by_the_files_seal(nano_gguf: Path, tmp_path: Path) -> None:
    data, tensors = nano_gguf.read_bytes(), read_gguf_head(nano_gguf).tensors
    for tensor in (tensors[0], tensors[-1]):
        changed = bytearray(data)
        changed[tensor.offset + tensor.bytes // 2] ^= 1
        (tmp_path / "m.gguf").write_bytes(changed)
        with pytest.raises(ModelError, match=r"m\.gguf: its weights are not what was exported"):
            LlamaCpp(tmp_path / "m.gguf", threads=1)
    seal = read_gguf_head(nano_gguf).metadata[SEAL].encode()
    for other in (b"%016d" % 7 + seal[16:], UNSEALED.encode()):  # quantised anew by another program, or never sealed
        (tmp_path / "m.gguf").write_bytes(bytes(changed).replace(seal, other))
        with LlamaCpp(tmp_path / "m.gguf", threads=1) as opened:
            assert len(list(opened.generate(PROMPT, max_tokens=2, stop_ids=()))) == 2


def test_an_architecture_that_llama_cpp_lacks_is_named(nano_gguf: Path, tmp_path: Path) -> None:
    data = nano_gguf.read_bytes()
    (tmp_path / "m.gguf").write_bytes(data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lhama"))
    with pytest.raises(ModelError, match="unknown model architecture: 'lhama'"):
        LlamaCpp(tmp_path / "m.gguf")


DAMAGE = """
import random, sys
from pathlib import Path
from eyas.errors import EyasError
from eyas.runtimes.llamacpp import LlamaCpp
source, target = Path(sys.argv[1]), Path(sys.argv[2])
data, stream, outcomes = source.read_bytes(), random.Random(11), {"refused": 0, "ran": 0}
for number in range(150):
    changed = bytearray(data)
    if number % 4 == 0:
        del changed[stream.randrange(len(data)):]
    else:
        at = stream.randrange(9000)
        changed[at:at + 4] = stream.choice([stream.randbytes(4), bytes(4), b"\\xff" * 4])
    target.write_bytes(changed)
    try:
        with LlamaCpp(target, context_length=8, threads=1) as runtime:
            list(runtime.generate([1, 19], max_tokens=2, stop_ids=()))
        outcomes["ran"] += 1
    except EyasError:
        outcomes["refused"] += 1
print(outcomes["refused"], outcomes["ran"])
"""


def test_damaged_files_are_refused_or_run_but_never_end_the_process(nano_gguf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DAMAGE, str(nano_gguf), str(tmp_path / "damaged.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, ran = map(int, done.stdout.split())
    assert refused > 60
    assert refused + ran == 150


def test_the_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_c, "PACKAGE", "xllamacpp-that-nobody-has")
    with pytest.raises(MissingExtra, match=r"eyas\[gguf\]"):
        llama_c.library.__wrapped__()


def test_another_layout_of_llama_cpp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_c, "DEFAULTS", (512, 2048, 512, 64))
    with pytest.raises(ModelError, match=r"context parameters \(512, 2048, 512, 1, "):
        llama_c.library.__wrapped__()


def test_a_library_of_the_users_own_is_run_and_named(nano_gguf: Path) -> None:
    carried = llama_c.library().call._name
    code = f"with LlamaCpp(Path({str(nano_gguf)!r})) as it:"
    code += f"print(it.name, it.version, *it.generate({PROMPT}, max_tokens=8, stop_ids=()))"
    code = f"from pathlib import Path\nfrom eyas.runtimes.llamacpp import LlamaCpp\n{code}"
    environment = os.environ | {llama_c.VARIABLE: carried}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    with LlamaCpp(nano_gguf) as packaged:
        ids = " ".join(map(str, packaged.generate(PROMPT, max_tokens=8, stop_ids=())))
    assert re.fullmatch(rf"{re.escape(Path(carried).name)} \(ggml [0-9.]+, \w+\) {ids}\n", done.stdout)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(None, "no library that can be loaded", id="nothing-there"),
        pytest.param("text", "no library that can be loaded", id="no-library"),
        pytest.param("another", "no llama.cpp, or an old one", id="another-library"),
    ],
)
def test_what_is_no_llama_cpp_is_refused(
    made: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "libllama.so"
    if made == "text":
        path.write_text("no library")
    elif made == "another":
        path.symlink_to(_ctypes.__file__)
    monkeypatch.setenv(llama_c.VARIABLE, str(path))
    with pytest.raises(ModelError, match=f"EYAS_LLAMA_LIBRARY=.*{said}.*unset EYAS_LLAMA_LIBRARY"):
        llama_c.library.__wrapped__()


def test_heads_narrower_than_a_vector_have_a_float32_cache(
    nano_gguf: Path, gguf_converter: Converter, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher.gguf"
    export_gguf(Path(eyas.__file__).parent / "builtin" / "nano-teacher", out=teacher, converter=gguf_converter)
    narrow, wide = read_gguf_head(nano_gguf), read_gguf_head(teacher)
    assert (narrow.head_width, wide.head_width) == (16, 32)
    assert (kv_cache_bytes(narrow), kv_cache_bytes(wide)) == (4, 2)
    # keys and values of a token: 3 layers x 4 heads x 16 x 4 bytes, of the teacher its layers x 4 x 32 x 2 bytes
    assert file_facts(nano_gguf).kv_bytes_per_token == 2 * 3 * 4 * 16 * 4
    assert file_facts(teacher).kv_bytes_per_token == 2 * int(wide.metadata["llama.block_count"]) * 4 * 32 * 2
