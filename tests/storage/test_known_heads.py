"""Which architectures are loaded: those whose logits are the head's that eyas knows, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_backbone import SIZE
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from eyas.errors import ModelError
from eyas.storage.models import load_model

KNOWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 0.5},
    "granite": {"logits_scaling": 3.0},
    "cohere2": {"logit_scale": 4.0},
    "hyperclovax": {"logits_scaling": 1.0},
}


def saved(model_type: str, directory: Path, **changes: Any) -> Path:
    """Random weights of a tiny model with logits of about 1."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**SIZE, initializer_range=0.3, **changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", KNOWN)
def test_heads_that_eyas_knows_are_accepted(model_type: str, dtype: str, tmp_path: Path) -> None:
    model = load_model(saved(model_type, tmp_path, **KNOWN[model_type]), dtype=dtype)
    assert model.config.model_type == model_type


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("factor", [0.5, 1.25])
def test_a_model_that_multiplies_its_logits_where_others_divide_is_refused(
    factor: float, dtype: str, tmp_path: Path
) -> None:
    """HyperCLOVA X calls its factor `logits_scaling`, as Granite does its divisor."""
    with pytest.raises(ModelError, match=r"HyperCLOVAXForCausalLM changes its logits .* Choose another model"):
        load_model(saved("hyperclovax", tmp_path, logits_scaling=factor), dtype=dtype)


def test_a_factor_under_a_name_that_eyas_does_not_know_is_refused(tmp_path: Path) -> None:
    small = {"mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8, "mamba_d_state": 4}
    with pytest.raises(ModelError, match="FalconH1ForCausalLM changes its logits"):
        load_model(saved("falcon_h1", tmp_path, lm_head_multiplier=0.5, **small))
