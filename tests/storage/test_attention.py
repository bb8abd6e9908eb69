"""Packed rows compute, in values and gradients, what each sequence alone does; a model that cannot is found out."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from eyas.storage import attention, probe
from eyas.storage.attention import packed_attention
from eyas.storage.backbone import hidden_states
from eyas.storage.hardware import CPU_OUT_OF_MEMORY
from eyas.storage.probe import TOLERANCE, probe_packing

SHAPE: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
GPT2 = {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "attn_pdrop": 0.0}
PACKABLE: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "smollm3": SHAPE,
    "mistral": {**SHAPE, "sliding_window": 5},
    "qwen2": SHAPE,
    "qwen2 window": {**SHAPE, **WINDOW, "use_sliding_window": True},
    "qwen3": SHAPE,
    "gemma2": {**SHAPE, **WINDOW, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**SHAPE, **WINDOW, "query_pre_attn_scalar": 8},
    "gpt2": {**GPT2, "bos_token_id": 1, "eos_token_id": 2},
    "phi3": SHAPE,
    "olmo2": SHAPE,
    "granite": SHAPE,
}
RECURRENT = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
UNPACKABLE: dict[str, dict[str, Any]] = {
    "mamba": RECURRENT,
    "bloom": {"vocab_size": 100, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt_oss": {**SHAPE, **WINDOW, "num_local_experts": 2, "num_experts_per_tok": 1},
    "lfm2": {**SHAPE, "layer_types": ["conv", "full_attention", "conv"]},
}
LENGTHS = (9, 9, 12, 4, 1)


def model_of(name: str, config: dict[str, Any]) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(name.split()[0], **config))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)  # biases and norms are no longer trivial
    return made.eval()


def sequences(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 100, (length,), generator=generator).tolist() for length in lengths]


def gradient(model: PreTrainedModel, states_TD: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    (states_TD * torch.linspace(-1, 1, states_TD.numel()).view_as(states_TD)).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", PACKABLE)
def test_a_packed_row_has_the_states_and_gradients_of_its_sequences_alone(name: str) -> None:
    model = model_of(name, PACKABLE[name])
    before = model.config._attn_implementation
    ids = sequences()
    alone_TD = torch.cat([hidden_states(model, torch.tensor([one]))[0] for one in ids])
    row = torch.tensor([list(chain.from_iterable(ids))])
    positions = torch.tensor([[position for one in ids for position in range(len(one))]])
    packed_TD = hidden_states(model, row, positions)[0]
    torch.testing.assert_close(packed_TD, alone_TD, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(gradient(model, packed_TD), gradient(model, alone_TD), rtol=1e-3, atol=2e-4)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("name", PACKABLE)
def test_the_probe_packs_what_can_be_packed(name: str) -> None:
    found = probe_packing(model_of(name, PACKABLE[name]), sequences())
    assert found.equal, found.reason
    assert found.difference is not None
    assert found.difference < 0.05 * TOLERANCE


@pytest.mark.parametrize("name", UNPACKABLE)
def test_the_probe_finds_out_what_cannot(name: str) -> None:
    found = probe_packing(model_of(name, UNPACKABLE[name]), sequences())
    assert not found.equal
    assert found.difference is None or found.difference > 20 * TOLERANCE, found.difference
    assert "refuses" in found.reason or "differs" in found.reason


@pytest.mark.parametrize(("name", "packable"), [("llama", True), ("gemma2", True), ("lfm2", False)])
def test_a_leak_below_the_rounding_of_half_precision_is_found(
    name: str, packable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "packed_implementation", lambda *_: probe.FLASH)
    found = probe_packing(model_of(name, (PACKABLE | UNPACKABLE)[name]), sequences(), precision="bfloat16")
    assert found.equal is packable, found.reason


def test_a_leak_of_half_precision_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaking(model: PreTrainedModel, ids_BT: torch.Tensor, positions_1T: torch.Tensor | None = None) -> torch.Tensor:
        leak = 0.2 if positions_1T is not None and torch.is_autocast_enabled("cpu") else 0.0
        return hidden_states(model, ids_BT, positions_1T) + leak

    monkeypatch.setattr(probe, "packed_implementation", lambda *_: probe.FLASH)
    monkeypatch.setattr(probe, "hidden_states", leaking)
    assert probe_packing(model_of("llama", SHAPE), sequences(), precision="float16").equal is False


def test_flash_attention_takes_packed_rows_in_half_precision_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    cuda = torch.device("cuda")
    assert attention.packed_implementation(cuda, torch.bfloat16) == "flash_attention_2"
    assert attention.packed_implementation(cuda, torch.float32) is None


@pytest.mark.parametrize("kind", [IndexError, AttributeError, KeyError, AssertionError, NotImplementedError])
def test_a_model_refuses_packed_rows_with_whatever_error(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise kind

    monkeypatch.setattr(probe, "hidden_states", refuse)
    found = probe_packing(model_of("llama", SHAPE), sequences())
    assert not found.equal
    assert found.reason == f"the model refuses packed rows ({kind.__name__})"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError(CPU_OUT_OF_MEMORY)])
def test_memory_that_runs_out_is_no_refusal(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(probe, "hidden_states", full)
    with pytest.raises(type(error)):
        probe_packing(model_of("llama", SHAPE), sequences())


def test_attention_of_a_packed_row_is_that_of_a_block_mask() -> None:
    """Against transformers' own packing, whose mask is quadratic in the row."""
    model = model_of("llama", SHAPE)
    ids = sequences()
    row = torch.tensor([list(chain.from_iterable(ids))])
    positions = torch.tensor([[position for one in ids for position in range(len(one))]])
    decoder = model.get_decoder()
    blocked = decoder(input_ids=row, position_ids=positions, use_cache=False).last_hidden_state
    with packed_attention(decoder, positions):
        assert decoder.config._attn_implementation == "eyas_packed"
        ours = decoder(input_ids=row, position_ids=positions, use_cache=False).last_hidden_state
    torch.testing.assert_close(ours, blocked, rtol=1e-4, atol=1e-5)
