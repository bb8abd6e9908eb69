"""The head of a GGUF file, against the `gguf` package's own reader, and files that are not whole."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest

from eyas.errors import ModelError
from eyas.storage.gguf import read_gguf_head, seal_gguf


def write(
    path: Path, *, tokens: tuple[str, ...] = ("a", "b"), layers: int | None = None, texts: tuple[str, ...] = ()
) -> Path:
    """`texts` are keys whose value is a text instead of what belongs there."""
    writer = gguf.GGUFWriter(path, "llama")
    known = {
        "tokenizer.ggml.tokens": lambda: writer.add_token_list(list(tokens)),
        "tokenizer.ggml.scores": lambda: writer.add_token_scores([0.5] * len(tokens)),
        "tokenizer.ggml.eos_token_id": lambda: writer.add_eos_token_id(1),
    }
    if layers is not None:
        known["llama.block_count"] = lambda: writer.add_block_count(layers)
    for key in texts:
        known[key] = partial(writer.add_string, key, "three")
    for add in known.values():
        add()
    writer.add_bool("general.flag", True)
    writer.add_float64("general.wide", 0.1)
    writer.add_tensor("half", np.arange(96, dtype=np.float16).reshape(3, 32))
    writer.add_tensor("norm", np.ones(5, np.float32))
    blocks = gguf.quants.quantize(np.ones((4, 64), np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "small.gguf")


def test_head_is_what_the_formats_own_reader_reads(file: Path) -> None:
    head, reader = read_gguf_head(file), gguf.GGUFReader(file)
    assert [(t.name, t.type, t.offset, t.bytes) for t in head.tensors] == [
        (t.name, t.tensor_type.name, t.data_offset, t.n_bytes) for t in reader.tensors
    ]
    assert [t.shape for t in head.tensors] == [tuple(t.shape.tolist()) for t in reader.tensors]
    assert head.metadata["tokenizer.ggml.tokens"] == ("a", "b")
    assert (head.metadata["general.flag"], head.metadata["general.wide"]) == (True, 0.1)
    assert head.architecture == "llama"
    assert head.bytes == file.stat().st_size


def test_bits_per_weight_count_scales_but_no_metadata(file: Path) -> None:
    # 96 numbers of 16 bits, 5 of 32, and 256 in blocks of 32 with 34 bytes each.
    assert read_gguf_head(file).bits_per_weight == pytest.approx((96 * 16 + 5 * 32 + 8 * 34 * 8) / (96 + 5 + 256))
    assert read_gguf_head(file).types == {"F16": 1, "F32": 1, "Q8_0": 1}


def test_only_a_file_that_awaits_its_seal_is_sealed(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ModelError, match=r"eyas\.tensors\.seal is None, expected '0"):
        seal_gguf(file)
    assert file.read_bytes() == before


def test_a_file_cut_anywhere_is_one_clear_error(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    end = max(tensor.offset + tensor.bytes for tensor in read_gguf_head(file).tensors)
    for length in range(0, end, 7):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(data[:length])
        with pytest.raises(ModelError, match=r"damaged GGUF file|not a GGUF file"):
            read_gguf_head(cut)


def test_random_bytes_in_the_head_never_raise_anything_else(file: Path, tmp_path: Path) -> None:
    data, stream, refused = file.read_bytes(), random.Random(5), 0
    start = min(tensor.offset for tensor in read_gguf_head(file).tensors)
    for _ in range(500):
        changed = bytearray(data)
        at = stream.randrange(start - 8)
        changed[at : at + 8] = stream.randbytes(8)
        (tmp_path / "changed.gguf").write_bytes(changed)
        try:
            read_gguf_head(tmp_path / "changed.gguf")
        except ModelError:
            refused += 1
    assert refused > 250


@pytest.mark.parametrize("content", [b"", b"GG", b"\x08\x07\x12\x07pytorch", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_other_files_are_named_as_no_gguf(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(ModelError, match="not a GGUF file"):
        read_gguf_head(tmp_path / "other")


def test_a_missing_file_or_a_directory_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_gguf_head(tmp_path / "nowhere.gguf")
    with pytest.raises(ModelError, match="GGUF file"):
        read_gguf_head(tmp_path)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("tokenizer.ggml.tokens", "no vocabulary"),
        ("tokenizer.ggml.scores", "no list of 2 entries"),
        ("tokenizer.ggml.eos_token_id", "eos_token_id is three"),
        ("llama.block_count", "'three' layers"),
    ],
)
def test_a_value_of_another_type_is_a_damaged_file(key: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        read_gguf_head(write(tmp_path / "text.gguf", texts=(key,)))


def test_numbers_for_tokens_are_a_damaged_file(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "numbers.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", [1, 2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="no vocabulary"):
        read_gguf_head(tmp_path / "numbers.gguf")


def test_what_would_end_llama_cpp_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="two tokens with one text"):
        read_gguf_head(write(tmp_path / "twice.gguf", tokens=("a", "a")))
    with pytest.raises(ModelError, match="two tokens with one text"):
        read_gguf_head(write(tmp_path / "zero.gguf", tokens=("a\0b", "a")))
    with pytest.raises(ModelError, match=r"eos_token_id is 1, of 1 tokens"):
        read_gguf_head(write(tmp_path / "eos.gguf", tokens=("a",)))
    with pytest.raises(ModelError, match="2113929219 layers announced"):
        read_gguf_head(write(tmp_path / "layers.gguf", layers=2113929219))
