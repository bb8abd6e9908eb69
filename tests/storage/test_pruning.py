"""Layers that matter least are found, taken out, and the model computes as if they had been skipped."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from eyas import builtin
from eyas.errors import ModelError
from eyas.recipe import ArithmeticSource, ModelSpec, PruneSpec, ThinkingSpec
from eyas.records import Example
from eyas.storage.depth import keep_only, passed_by
from eyas.storage.models import load_model, materialise, save_model
from eyas.storage.pruning import Calibration, CalibrationSequence, calibration_sequences, choose_layers, mean_nll
from eyas.storage.tokenization import load_tokenizer
from eyas.tasks.calibration import calibration_examples

TEACHER = builtin.DIRECTORY / "nano-teacher"
METHODS = ("angular_distance", "block_influence", "perplexity", "perplexity_greedy")
USELESS = 2


def calibration(**fields: Any) -> Calibration:
    prune = PruneSpec.model_validate({"by": "perplexity", "examples": 8} | fields)
    examples = calibration_examples(prune, ArithmeticSource(type="arithmetic"))
    return Calibration(examples, thinking=ThinkingSpec(), device=torch.device("cpu"))


@pytest.fixture(scope="module")
def sequences() -> list[CalibrationSequence]:
    return calibration_sequences(load_tokenizer(TEACHER), calibration(), max_length=512)


@pytest.fixture
def with_a_useless_layer() -> PreTrainedModel:
    """The trained nano-teacher with one more layer, which adds nothing to the residual stream."""
    model = load_model(TEACHER)
    layers = list(model.model.layers)
    useless = copy.deepcopy(layers[1])
    with torch.no_grad():
        useless.self_attn.o_proj.weight.zero_()
        useless.mlp.down_proj.weight.zero_()
    model.model.layers = torch.nn.ModuleList([*layers[:USELESS], useless, *layers[USELESS:]])
    model.config.num_hidden_layers = len(layers) + 1
    for position, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = position
    return model.eval()


@pytest.mark.parametrize("by", METHODS)
def test_a_layer_that_does_nothing_is_the_first_to_go(
    with_a_useless_layer: PreTrainedModel, sequences: list[CalibrationSequence], by: str
) -> None:
    model = with_a_useless_layer
    layers = len(model.model.layers)
    before = mean_nll(model, sequences)
    found = choose_layers(model, sequences, by=by, keep=layers - 1)
    assert found.removed == (USELESS,)
    assert found.kept == tuple(index for index in range(layers) if index != USELESS)
    assert min(found.measured) == pytest.approx(0.0, abs=1e-7)
    assert mean_nll(model, sequences) == before  # measuring left the model as it was
    keep_only(model, found.kept)
    assert mean_nll(model, sequences) == before


@pytest.mark.parametrize("by", METHODS)
def test_the_same_examples_choose_the_same_layers(sequences: list[CalibrationSequence], by: str) -> None:
    first, second = (choose_layers(load_model(TEACHER), sequences, by=by, keep=1) for _ in range(2))
    assert first == second
    assert len(first.kept) == 1
    assert first.tokens == sum(len(sequence.ids) for sequence in sequences)


def test_perplexity_without_a_layer_is_that_of_the_model_cut_by_it(sequences: list[CalibrationSequence]) -> None:
    whole = load_model(TEACHER)
    layers = len(whole.model.layers)
    measured = choose_layers(whole, sequences, by="perplexity", keep=layers - 1).measured
    for index, risen in enumerate(measured):
        cut = load_model(TEACHER)
        keep_only(cut, [other for other in range(layers) if other != index])
        assert risen == pytest.approx(mean_nll(cut, sequences) - mean_nll(whole, sequences), abs=1e-6)


def test_greedy_removal_measures_anew_after_each_layer(sequences: list[CalibrationSequence]) -> None:
    model = load_model(TEACHER)
    layers = len(model.model.layers)
    found = choose_layers(model, sequences, by="perplexity_greedy", keep=layers - 2)
    first, second = found.removed
    by_cutting = {}
    for other in set(range(layers)) - {first}:
        with passed_by([model.model.layers[index] for index in (first, other)]):
            by_cutting[other] = mean_nll(model, sequences) - found.measured[1]
    assert min(by_cutting, key=lambda index: by_cutting[index]) == second
    assert by_cutting[second] == pytest.approx(mean_nll(model, sequences), abs=1e-6)


def test_keeping_all_layers_measures_nothing(sequences: list[CalibrationSequence]) -> None:
    model = load_model(TEACHER)
    found = choose_layers(model, sequences, by="perplexity", keep=len(model.model.layers))
    assert (found.removed, found.measured) == ((), ())


def test_more_layers_than_there_are_is_an_error(sequences: list[CalibrationSequence]) -> None:
    with pytest.raises(ModelError, match=r"keep_layers 99: this model has \d decoder layers to keep"):
        choose_layers(load_model(TEACHER), sequences, by="perplexity", keep=99)


def test_completions_are_to_be_predicted_and_of_prompts_alone_all_tokens() -> None:
    tokenizer = load_tokenizer(TEACHER)
    examples = [
        Example(key="a", prompt=(("user", "1+2"),), answer="3", reasoning="1+2=3"),
        Example(key="b", prompt=(("user", "1+2"),)),
    ]
    given = Calibration(examples, thinking=ThinkingSpec(), device=torch.device("cpu"))
    answered, alone = calibration_sequences(tokenizer, given, max_length=512)
    assert tokenizer.decode(answered.ids[answered.first :]) == "<think>\n1+2=3\n</think>\n\n3<|im_end|>"
    assert alone.first == 1
    assert alone.ids == answered.ids[: len(alone.ids)]
    (cut, _) = calibration_sequences(tokenizer, given, max_length=3)
    assert (cut.ids, cut.first) == (answered.ids[:3], 1)
    with pytest.raises(ModelError, match="no calibration example"):
        calibration_sequences(tokenizer, Calibration([], ThinkingSpec(), torch.device("cpu")), max_length=8)


def spec(**fields: object) -> ModelSpec:
    return ModelSpec.model_validate(fields)


def test_a_pruned_model_is_the_whole_one_with_layers_skipped_and_says_which(tmp_path: Path) -> None:
    prune = {"by": "block_influence", "examples": 8}
    wanted = spec(**{"from": str(TEACHER), "keep_layers": 2, "prune": prune})
    found = materialise(wanted, tmp_path, seed=0, calibration=calibration(**prune))
    assert found is not None
    whole, pruned = load_model(TEACHER), load_model(tmp_path / "model")
    assert pruned.config.num_hidden_layers == len(pruned.model.layers) == 2
    ids = torch.tensor([[5, 6, 7, 8]])
    with passed_by([whole.model.layers[index] for index in found.removed]):
        assert torch.equal(pruned(ids).logits, whole(ids, use_cache=False).logits)
    assert len(found.facts()["measured"]) == len(whole.model.layers)
    json.dumps(found.facts())


def test_layers_cannot_be_chosen_without_examples(tmp_path: Path) -> None:
    wanted = spec(**{"from": str(TEACHER), "keep_layers": 2, "prune": {"by": "perplexity"}})
    with pytest.raises(ModelError, match="needs calibration examples"):
        materialise(wanted, tmp_path, seed=0)


SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "num_hidden_layers": 4, "max_position_embeddings": 64, "sliding_window": 4, "tie_word_embeddings": True,
}  # fmt: skip
LOCAL, WHOLE = "sliding_attention", "full_attention"
PATTERNS = {
    "gemma3_text": {"layer_types": [LOCAL, LOCAL, WHOLE, LOCAL], "query_pre_attn_scalar": 16},
    "qwen2": {"layer_types": [WHOLE, WHOLE, LOCAL, LOCAL], "use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"layer_types": [WHOLE, LOCAL, WHOLE, LOCAL], "use_sliding_window": True, "max_window_layers": 0},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0], "layer_types": [WHOLE] * 4},
}


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize("kept", [(0, 2), (1, 3), (0, 2, 3)])
def test_attention_patterns_are_cut_with_the_layers(kind: str, kept: tuple[int, ...], tmp_path: Path) -> None:
    config = {"model_type": kind, **SMALL, **PATTERNS[kind]}
    materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path / "whole", seed=0)
    whole, pruned = (load_model(tmp_path / "whole" / "model") for _ in range(2))
    keep_only(pruned, kept)
    for name, value in PATTERNS[kind].items():
        if isinstance(value, list):
            assert getattr(pruned.config, name) == [value[index] for index in kept]
    save_model(pruned, load_tokenizer(tmp_path / "whole" / "model"), tmp_path / "pruned", card="")
    ids = torch.arange(3, 15).unsqueeze(0)  # longer than the window
    with torch.inference_mode(), passed_by([whole.model.layers[index] for index in set(range(4)) - set(kept)]):
        expected = whole(ids, use_cache=False).logits
    reloaded = load_model(tmp_path / "pruned")
    with torch.inference_mode():
        assert torch.equal(pruned(ids, use_cache=False).logits, expected)
        assert torch.equal(reloaded(ids, use_cache=False).logits, expected)
        made = reloaded.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        again = reloaded.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, use_cache=False
        )
    assert made.tolist() == again.tolist()  # the cache has one place for each layer left


def test_a_config_that_counts_layers_by_a_period_is_refused_where_the_cut_breaks_it(tmp_path: Path) -> None:
    config = {
        "model_type": "qwen3_moe", **SMALL, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
        "decoder_sparse_step": 2, "mlp_only_layers": [], "sliding_window": None,
    }  # fmt: skip
    materialise(spec(config=config, tokenizer="builtin:tokenizer"), tmp_path, seed=0)
    model = load_model(tmp_path / "model")  # layers 1 and 3 are sparse
    with pytest.raises(ModelError, match=r"cut to 2 layers: its config would make layer 0 with .*Choose another"):
        keep_only(model, (1, 3))
