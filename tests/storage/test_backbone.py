"""The loss inside real models' forward passes: tied, biased, scaled and capped heads, LoRA, FSDP2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from eyas.errors import ModelError
from eyas.losses import LossSums
from eyas.recipe import LossSpec
from eyas.storage.backbone import attach_loss, detach_loss, head_of

PEFT_WARNING = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""peft 0.21 asks transformers 5.24 by an old name."""
HERE = Path(__file__).parent
SIZE: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0,
}  # fmt: skip
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {"tie_word_embeddings": False}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "tied and capped": ("gemma2", {"head_dim": 8, "final_logit_softcapping": 0.5}),
    "tied and scaled": ("cohere", {"logit_scale": 4.0}),
    "divided": ("granite", {"logits_scaling": 3.0, "tie_word_embeddings": False}),
    "biased": ("phi", {"num_key_value_heads": 2}),
}


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model_type, changes = HEADS[kind]
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**SIZE | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()  # so that nothing but the mathematics can differ


def batch_of(rows: int = 4, *, first: int = 0) -> dict[str, Tensor]:
    """Rows of 6 tokens from a fixed stream, the last 4 of them the completion."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, 61, (8, 6), generator=generator)
    logprobs, ids = torch.randn(8, 4, 61, generator=generator).double().log_softmax(-1).topk(5, -1)
    keep = slice(first, first + rows)
    logprobs_NK = logprobs[keep].flatten(0, 1)
    return {
        "input_ids": input_ids[keep],
        "positions_N": torch.cat([torch.arange(1, 5) + 6 * row for row in range(rows)]),
        "labels_N": input_ids[keep, 2:].flatten(),
        "weights_N": torch.ones(4 * rows),
        "ce_mask_N": torch.ones(4 * rows),
        "teacher_ids_NK": ids[keep].flatten(0, 1),
        "teacher_logprobs_NK": logprobs_NK,
        "teacher_tail_N": torch.log1p(-logprobs_NK.exp().sum(-1)),
        "teacher_token_logprobs_N": logprobs_NK[:, 0],
    }


def dense(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """The default loss from the logits that the model itself returns."""
    logits_NV = model(input_ids=batch["input_ids"]).logits[:, 1:-1].flatten(0, 1)
    log_q_NV = logits_NV.log_softmax(-1)
    p_NK, log_q_NK = batch["teacher_logprobs_NK"].exp(), log_q_NV.gather(-1, batch["teacher_ids_NK"])
    inside = (p_NK * (batch["teacher_logprobs_NK"] - log_q_NK)).sum()
    tail = batch["teacher_tail_N"].exp() * (batch["teacher_tail_N"] - torch.log1p(-log_q_NK.exp().sum(-1)))
    return 0.1 * cross_entropy(logits_NV, batch["labels_N"], reduction="sum") + 0.9 * (inside + tail.sum())


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=1e-5, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("kind", HEADS)
def test_the_loss_is_that_of_the_models_own_logits(kind: str) -> None:
    model, batch = model_of(kind), batch_of()
    wanted = dense(model, batch)
    wanted.backward()
    expected = gradients(model)
    attach_loss(model, LossSpec())
    sums: LossSums = model(**batch)
    sums.total.backward()
    torch.testing.assert_close(sums.total, wanted, rtol=1e-6, atol=0)
    assert_close(gradients(model), expected)


@PEFT_WARNING
def test_lora_trains_the_adapters_and_makes_no_gradient_of_the_head() -> None:
    results = []
    for fused in (False, True):
        model = model_of("plain")
        if fused:
            attach_loss(model, LossSpec())
        torch.manual_seed(1)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = get_peft_model(model, config)
        assert not model.get_output_embeddings().weight.requires_grad
        total = adapted(**batch_of()).total if fused else dense(adapted, batch_of())
        total.backward()
        results.append(gradients(adapted))
    assert results[0]
    assert all("lora" in name for name in results[1])
    assert_close(*results)


@PEFT_WARNING
def test_a_head_that_is_not_one_matrix_is_refused() -> None:
    model = model_of("plain")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with pytest.raises(ModelError, match="carries LoRA adapters"):
        head_of(adapted.get_base_model())
    whole = model_of("plain")
    whole.lm_head.weight = torch.nn.Parameter(torch.zeros(61, 16, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelError, match="expected a linear one in a floating-point type"):
        head_of(whole)


def test_detaching_gives_the_models_own_forward_back() -> None:
    model, batch = model_of("tied"), batch_of()
    before = model(input_ids=batch["input_ids"]).logits
    attach_loss(model, LossSpec())
    detach_loss(model)
    torch.testing.assert_close(model(input_ids=batch["input_ids"]).logits, before)


def sharded(path: Path) -> None:
    """Run by each of 2 processes: FSDP2 over half of the rows each, twice, whole gradients saved by rank 0."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank = int(os.environ["RANK"])
    mesh = init_device_mesh("cpu", (2,))
    for kind in ("plain", "tied"):
        model = model_of(kind)
        attach_loss(model, LossSpec())
        for layer in model.model.layers if kind == "plain" else ():  # the other one is sharded as a whole
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        for _ in range(2):  # gradients add up over micro-batches
            sums = model(**batch_of(4, first=4 * rank))
            sums.total.backward()
        whole = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
        if rank == 0:
            torch.save(whole, path / f"{kind}.pt")
    torch.distributed.destroy_process_group()


def test_fsdp2_on_two_processes_equals_one_process(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "import test_backbone\n"
        f"test_backbone.sharded(Path({str(tmp_path)!r}))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in ("plain", "tied"):
        model = model_of(kind)
        attach_loss(model, LossSpec())
        for first in (0, 4):
            model(**batch_of(4, first=first)).total.backward()
        # FSDP averages over the 2 ranks, and each did its rows twice.
        assert_close(torch.load(tmp_path / f"{kind}.pt", weights_only=True), gradients(model))
