"""The engine against transformers' own generate and a dense log-softmax."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import STUDENT
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from eyas.engines import decoding, prefill, slot_attention
from eyas.engines.base import Request
from eyas.engines.cache_checks import continues_prompts
from eyas.engines.transformers import TransformersEngine
from eyas.errors import DataError, ModelError, OutOfMemory
from eyas.losses import Head, SparseTeacher, completion_loss
from eyas.recipe import Divergence, ExecutionSpec, LossSpec, ModelSpec, SamplingSpec, ScoreSpec
from eyas.records import SequenceRecord, token_hash
from eyas.sampling import next_tokens, uniform_streams
from eyas.storage.batches import TrainingItem
from eyas.storage.models import load_model, materialise
from eyas.storage.scores import TeacherScores, read_scores, write_scores

STOP = (2,)
PROMPTS = [[5, 6, 7, 8], [9], [10, 11], [12, 13, 14, 15, 16, 17], [18, 19], [9]]


def engine(path: Path, *, batch: int = 64) -> TransformersEngine:
    return TransformersEngine(
        load_model(path), execution=ExecutionSpec(generation_batch_size=batch, scoring_batch_size=3)
    )


def requests() -> list[Request]:
    return [Request(prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def test_greedy_equals_transformers_generate(tiny_student: Path) -> None:
    model = load_model(tiny_student)
    sampling = SamplingSpec(temperature=0, max_completion_tokens=24)
    ours = TransformersEngine(model, execution=ExecutionSpec()).generate(requests(), sampling=sampling, stop=STOP)
    for prompt, made in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=24, do_sample=False,
            eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        assert made.completion_ids == theirs[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("temperature", "top_p", "min_p"),
    [(1.0, 1.0, 0.0), (0.7, 1.0, 0.0), (1.3, 0.8, 0.0), (1.0, 1.0, 0.3), (1.2, 0.9, 0.2)],
)
def test_recorded_logprobs_are_those_of_the_distribution_drawn_from(
    tiny_student: Path, temperature: float, top_p: float, min_p: float
) -> None:
    sampling = SamplingSpec(temperature=temperature, top_p=top_p, min_p=min_p, max_completion_tokens=16)
    model = load_model(tiny_student)
    made = engine(tiny_student).generate(requests(), sampling=sampling, stop=STOP)
    for prompt, result in zip(PROMPTS, made, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + result.completion_ids])).logits[0, len(prompt) - 1 : -1]
        probabilities = (logits / temperature).softmax(-1)
        for position, token in enumerate(result.completion_ids):
            ordered, ids = probabilities[position].sort(descending=True)
            kept = int(((ordered.cumsum(0) - ordered < top_p) & (ordered >= min_p * ordered[0])).sum())
            assert token in ids[:kept].tolist()
            expected = (probabilities[position, token] / ordered[:kept].sum()).log().item()
            assert result.logprobs[position] == pytest.approx(expected, abs=1e-4)


def test_a_sample_depends_on_its_own_seed_alone(tiny_student: Path) -> None:
    sampling = SamplingSpec(max_completion_tokens=16)
    made = engine(tiny_student).generate(requests(), sampling=sampling, stop=STOP)
    assert made == engine(tiny_student).generate(requests(), sampling=sampling, stop=STOP)
    others = [Request(prompt, 100 + seed) for seed, prompt in enumerate(PROMPTS)]
    others[3] = requests()[3]
    mixed = engine(tiny_student).generate(others, sampling=sampling, stop=STOP)
    assert mixed[3].completion_ids == made[3].completion_ids
    assert mixed[1].completion_ids != made[1].completion_ids or mixed[4].completion_ids != made[4].completion_ids


def test_few_slots_give_what_many_give(tiny_student: Path) -> None:
    sampling = SamplingSpec(temperature=0, max_completion_tokens=24)
    many = [Request(list(range(n, n + 100 + 5 * (n % 5))), n) for n in range(40)]  # the context ends some early
    wide = engine(tiny_student, batch=64).generate(many, sampling=sampling, stop=STOP)
    assert len({len(made.completion_ids) for made in wide}) > 3
    assert engine(tiny_student, batch=3).generate(many, sampling=sampling, stop=STOP) == wide


def test_a_slot_taken_over_draws_from_its_own_stream(tiny_student: Path) -> None:
    sampling = SamplingSpec(max_completion_tokens=24)
    many = [Request(PROMPTS[n % 6], n) for n in range(40)]
    stop = tuple(range(0, 320, 9))
    wide, narrow = (engine(tiny_student, batch=size).generate(many, sampling=sampling, stop=stop) for size in (64, 5))
    same = sum(one.completion_ids == other.completion_ids for one, other in zip(wide, narrow, strict=True))
    assert same >= 38  # another batch differs in the last bits, which may move a draw


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "gemma3_text", "sliding_window": 4, "num_key_value_heads": 1, "head_dim": 16},
        {"model_type": "mistral", "sliding_window": 4, "num_key_value_heads": 2},
        {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 8},
        {"model_type": "gpt2"},
        {"model_type": "gemma2", "sliding_window": 4, "num_key_value_heads": 1, "head_dim": 16},
    ],
    ids=lambda config: str(config["model_type"]),
)
@pytest.mark.parametrize("run_elements", [1, 10**6])
def test_every_kind_of_attention_decodes_and_scores_as_transformers_does(
    config: dict[str, object], run_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_attention, "RUN_ELEMENTS", run_elements)
    common = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    made = AutoConfig.for_model(**common | {"num_attention_heads": 2, "max_position_embeddings": 128} | config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made).eval()
    ours = TransformersEngine(model, execution=ExecutionSpec(generation_batch_size=4))
    requests = [Request([3 + n, *range(5, 5 + 3 * n)], n) for n in range(6)]
    greedy = SamplingSpec(temperature=0, max_completion_tokens=12)
    sequences = []
    for request, result in zip(requests, ours.generate(requests, sampling=greedy, stop=(95,)), strict=True):
        ids = list(request.prompt_ids)
        for token in result.completion_ids:
            with torch.no_grad():
                assert int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()) == token
            ids.append(token)
        sequences.append((request.prompt_ids, result.completion_ids))
    long = list(range(40))
    shared = [(long, [50, 51, 52]), (long, [60]), (long[3:], [61, 62]), (long[3:], [1, 2, 3, 4])]
    for (prompt, completion), scores in zip(
        sequences + shared, ours.score(sequences + shared, spec=ScoreSpec()), strict=True
    ):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(scores.token_logprobs), own, atol=1e-4, rtol=0)


def test_samples_of_a_prompt_share_its_prefill_however_few_the_slots(
    tiny_student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    states = decoding.cached_states

    def counting(model: PreTrainedModel, ids_BT: torch.Tensor, *rest: object, **named: object) -> torch.Tensor:
        if "mask" not in named:
            computed.append(len(ids_BT))
        return states(model, ids_BT, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "cached_states", counting)
    many = [Request([7, 8, 9 + n // 8, 10], n) for n in range(40)]
    sampling = SamplingSpec(max_completion_tokens=6)
    few = engine(tiny_student, batch=3).generate(many, sampling=sampling, stop=STOP)
    assert sum(computed) == 5
    wide = engine(tiny_student).generate(many, sampling=sampling, stop=STOP)
    assert sum(one.completion_ids == other.completion_ids for one, other in zip(few, wide, strict=True)) >= 38


@pytest.mark.parametrize("kind", ["mpt", "mamba", "lfm2", "bloom", "gpt_neo"])
def test_what_the_caches_cannot_hold_is_scored_without_them_and_not_sampled(kind: str) -> None:
    common = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "d_model": 32, "n_heads": 2, "n_layers": 2}
    mixed: dict[str, object] = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    if kind == "gpt_neo":  # its local attention counts back from the end of the padded row
        mixed = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 2, "window_size": 24}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common | heads | mixed)).eval()
    ours = TransformersEngine(model, execution=ExecutionSpec())
    prompt = list(range(40))
    sequences = [(prompt, [50, 51, 52]), (prompt, [60, 61])]
    assert not continues_prompts(model)
    for (_, completion), scores in zip(sequences, ours.score(sequences, spec=ScoreSpec()), strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(scores.token_logprobs), own, atol=1e-4, rtol=0)
    if kind != "mpt":
        with pytest.raises(ModelError, match="keeps no key-value cache"):
            ours.generate([Request([5], 0)], sampling=SamplingSpec(), stop=STOP)


def test_a_leak_that_bfloat16_could_hide_is_not_taken_for_rounding() -> None:
    shape = {"vocab_size": 96, "d_model": 32, "n_heads": 2, "n_layers": 2}
    for seed in range(3):
        torch.manual_seed(seed)
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model("mpt", **shape)).to(torch.bfloat16).eval()
        assert not continues_prompts(made)


def test_bfloat16_models_use_the_caches_and_score_as_a_plain_pass_does(tiny_student: Path) -> None:
    model = load_model(tiny_student, dtype="bfloat16")
    assert continues_prompts(model)
    prompt = list(range(3, 43))
    sequences = [(prompt, [50, 51, 52]), (prompt, [60, 61, 7, 9])]
    made = TransformersEngine(model, execution=ExecutionSpec()).score(sequences, spec=ScoreSpec())
    for (_, completion), scores in zip(sequences, made, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        own = logits.float().log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(scores.token_logprobs), own, atol=0.1, rtol=0)


def test_a_longrope_model_is_held_to_the_context_in_which_rows_do_not_depend_on_their_neighbours() -> None:
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "rope_type": "longrope", "rope_theta": 10_000.0}
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0}
    heads = {"num_attention_heads": 2, "max_position_embeddings": 256, "original_max_position_embeddings": 64}
    config = AutoConfig.for_model("phi3", **shape, **heads, rope_parameters=factors)
    ours = TransformersEngine(AutoModelForCausalLM.from_config(config).eval(), execution=ExecutionSpec())
    (cut,) = ours.generate([Request([5] * 60, 0)], sampling=SamplingSpec(), stop=STOP)
    assert len(cut.completion_ids) <= 4
    with pytest.raises(DataError, match="context of 64"):
        ours.score([([5] * 60, [6] * 30)], spec=ScoreSpec())


def test_two_models_decode_in_two_threads_as_one_after_another(
    tiny_student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_attention, "RUN_ELEMENTS", 1)
    sampling = SamplingSpec(temperature=0, max_completion_tokens=24)
    sides = [(engine(tiny_student), [Request(list(range(3, 3 + first + n)), n) for n in range(8)]) for first in (3, 60)]
    alone = [maker.generate(wanted, sampling=sampling, stop=STOP) for maker, wanted in sides]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            work = [pool.submit(maker.generate, wanted, sampling=sampling, stop=STOP) for maker, wanted in sides]
            assert [item.result() for item in work] == alone


@pytest.mark.parametrize("spread", [0, 30])
def test_completions_of_several_prompts_are_scored_together_by_length(
    tiny_student: Path, spread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_student)
    prompts = [[3 + prompt, *range(10, 50 + prompt)] for prompt in range(3)]
    sequences = [
        (prompt, [(7 * number + step) % 90 for step in range(1 + (5 * number + index) % (spread + 1))])
        for index, prompt in enumerate(prompts)
        for number in range(6)
    ]
    computed: list[int] = []
    for name in ("cached_states", "hidden_states"):
        states = getattr(prefill, name)

        def counting(
            model: PreTrainedModel, ids: torch.Tensor, *rest: object, states: Any = states, **named: Any
        ) -> Any:
            computed.append(ids.numel())
            return states(model, ids, *rest, **named)

        monkeypatch.setattr(prefill, name, counting)
    made = TransformersEngine(model, execution=ExecutionSpec(scoring_batch_size=4)).score(sequences, spec=ScoreSpec())
    for (prompt, completion), scores in zip(sequences, made, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(scores.token_logprobs), own, atol=1e-4, rtol=0)
    assert sum(computed) <= 0.75 * sum(len(prompt) + len(completion) for prompt, completion in sequences)


def test_logits_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="not finite"):
        next_tokens(torch.full((2, 5), torch.nan), uniform_streams([1, 2], 1)[:, 0], sampling=SamplingSpec())


def test_empty_prompts_and_completions_are_refused(tiny_student: Path) -> None:
    with pytest.raises(DataError, match="empty prompt"):
        engine(tiny_student).generate([Request([], 0)], sampling=SamplingSpec(), stop=STOP)
    with pytest.raises(DataError, match="nothing to score"):
        engine(tiny_student).score([([5], [])], spec=ScoreSpec())


def test_a_cut_completion_has_no_stop_id_and_a_stopped_one_ends_with_it(tiny_student: Path) -> None:
    sampling = SamplingSpec(max_completion_tokens=40)
    many = [Request([5, 6], seed) for seed in range(64)]
    made = engine(tiny_student).generate(many, sampling=sampling, stop=tuple(range(40)))
    assert {result.finish_reason for result in made} == {"stop"}
    for result in made:
        assert result.completion_ids[-1] < 40
        assert all(token >= 40 for token in result.completion_ids[:-1])
    (cut,) = engine(tiny_student).generate(
        [Request([5], 0)], sampling=SamplingSpec(max_completion_tokens=3), stop=(319,)
    )
    assert cut.finish_reason == "length"
    assert len(cut.completion_ids) == 3
    assert 319 not in cut.completion_ids


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(20_000, 1)
    ids, _ = next_tokens(logits, uniform_streams(range(20_000), 1)[:, 0], sampling=SamplingSpec())
    shares = torch.bincount(ids, minlength=3) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.015, rtol=0)


def test_scores_equal_the_dense_top_k(tiny_student: Path) -> None:
    model = load_model(tiny_student)
    sequences = [([5, 6, 7], [8, 9]), ([5], [10, 11, 12, 13]), ([20, 21], [22])]
    made = engine(tiny_student).score(sequences, spec=ScoreSpec(top_k=4, mass=1))
    for (prompt, completion), scores in zip(sequences, made, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        values, ids = logits.log_softmax(-1).topk(4)
        assert scores.ids.tolist() == ids.flatten().tolist()
        torch.testing.assert_close(torch.from_numpy(scores.logprobs), values.flatten(), atol=1e-5, rtol=0)
        own = logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.from_numpy(scores.token_logprobs), own, atol=1e-5, rtol=0)
        rest = 1 - values.double().exp().sum(-1)
        torch.testing.assert_close(torch.from_numpy(scores.tail).double().exp(), rest, atol=1e-6, rtol=0)


def entries_of(scores: TeacherScores) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and log-probs [T, K] where all lists are equally long; each row adds up to 1 minus its tail, in float64."""
    ids = torch.from_numpy(np.array(scores.ids, dtype=np.int64)).view(len(scores.counts), -1)
    logprobs = torch.from_numpy(np.array(scores.logprobs, dtype=np.float64)).view(len(scores.counts), -1)
    captured = torch.log1p(-torch.from_numpy(scores.tail.astype(np.float64)).exp()).unsqueeze(-1)
    return ids, logprobs + captured - torch.logsumexp(logprobs, dim=-1, keepdim=True)


def divergence_of(
    logits_NV: torch.Tensor,
    ids_NK: torch.Tensor,
    logprobs_NK: torch.Tensor,
    tail_N: torch.Tensor,
    divergence: Divergence = "forward_kl",
) -> torch.Tensor:
    """Sum over tokens of D(teacher || student) with the tail in a bucket, of given student logits."""
    ones_N = torch.ones(len(ids_NK))
    teacher = SparseTeacher(ids_NK, logprobs_NK, tail_N, ones_N)
    head = Head(torch.eye(logits_NV.shape[1], dtype=logits_NV.dtype))
    loss = LossSpec(divergence=divergence)
    return completion_loss(logits_NV, ids_NK[:, 0], ones_N, ones_N, teacher, head=head, loss=loss).divergence


def confident(path: Path) -> PreTrainedModel:
    """A model whose tails outside the top 3 are between 1e-10 and 0.2: rounding to float16 hides most of them."""
    model = load_model(path)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40.0)
    return model


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_stored_score_gives_the_divergence_of_an_unrounded_one(
    tiny_student: Path, tmp_path: Path, divergence: Divergence
) -> None:
    teacher = confident(tiny_student)
    sequences = [([5, 6, 7], list(range(8, 40))), ([5], list(range(100, 140)))]
    spec = ScoreSpec(top_k=3, mass=1)
    made = TransformersEngine(teacher, execution=ExecutionSpec()).score(sequences, spec=spec)
    assert max(scores.tail.max() for scores in made) < 0.0
    assert min(scores.tail.min() for scores in made) < np.log(1e-6)
    write_scores(tmp_path, 0, made, spec=spec)
    total = torch.zeros(2, dtype=torch.float64)
    for (prompt, completion), scores in zip(sequences, read_scores(tmp_path), strict=True):
        with torch.no_grad():
            logits = teacher(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
            student = 0.7 * logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
        ids, stored = entries_of(scores)
        exact_NV = logits.double().log_softmax(-1)
        exact_tail = exact_NV.scatter(-1, ids, -torch.inf).logsumexp(-1)
        kept_tail = torch.from_numpy(scores.tail.copy())
        for column, (values, tail) in enumerate(((stored, kept_tail), (exact_NV.gather(-1, ids), exact_tail))):
            total[column] += divergence_of(student, ids, values, tail, divergence)
    torch.testing.assert_close(total[0], total[1], rtol=5e-2, atol=0)


def test_mass_one_keeps_all_k(tiny_student: Path) -> None:
    made = TransformersEngine(confident(tiny_student), execution=ExecutionSpec()).score(
        [([5], list(range(100, 140)))], spec=ScoreSpec(mass=1)
    )
    assert set(made[0].counts.tolist()) == {10}


def test_an_entry_list_ends_where_its_mass_is_reached(tiny_student: Path) -> None:
    (scores,) = engine(tiny_student).score([([5], [6, 7])], spec=ScoreSpec(top_k=50, mass=0.05))
    for logprobs in np.split(scores.logprobs, np.cumsum(scores.counts)[:-1]):
        assert np.exp(logprobs).sum() >= 0.05
        assert np.exp(logprobs[:-1]).sum() < 0.05


def test_temperature_divides_the_teachers_logits(tiny_student: Path) -> None:
    model = load_model(tiny_student)
    (scores,) = engine(tiny_student).score([([5], [6])], spec=ScoreSpec(top_k=3, mass=1, temperature=2))
    with torch.no_grad():
        values, _ = (model(torch.tensor([[5]])).logits[0, -1] / 2.0).log_softmax(-1).topk(3)
    torch.testing.assert_close(torch.from_numpy(scores.logprobs), values, atol=1e-5, rtol=0)


def test_drawn_ids_are_shares_of_a_stream_of_the_sequences_own(tiny_student: Path) -> None:
    sequences = [([5, 6, 7], [8, 9]), ([5], [10, 11, 12, 13]), ([20, 21], [22])]
    spec = ScoreSpec(target="random_sampling", samples=4000)
    made = engine(tiny_student).score(sequences, spec=spec, seed=3)
    model = load_model(tiny_student)
    for (prompt, completion), scores in zip(sequences, made, strict=True):
        with torch.no_grad():
            exact = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].softmax(-1)
        rows = torch.repeat_interleave(torch.arange(len(completion)), torch.from_numpy(scores.counts))
        shares = torch.zeros_like(exact)
        shares[rows, torch.from_numpy(scores.ids).long()] = torch.from_numpy(scores.logprobs).exp()
        torch.testing.assert_close(shares.sum(-1), torch.ones(len(completion)))
        torch.testing.assert_close(shares, exact, atol=0.02, rtol=0)
        assert np.isneginf(scores.tail).all()
    alone = engine(tiny_student).score(sequences[1:2], spec=spec, seed=3)[0]
    assert alone.token_hash == made[1].token_hash == token_hash(*sequences[1])
    assert np.intersect1d(alone.ids[: alone.counts[0]], made[1].ids[: made[1].counts[0]]).size >= 0.95 * alone.counts[0]
    other = engine(tiny_student).score(sequences[1:2], spec=spec, seed=4)[0]
    assert alone.ids.tolist() != other.ids.tolist()


def test_divergence_is_the_sum_over_completion_tokens(tiny_student: Path, tiny_teacher: Path) -> None:
    sequences = [([5, 6, 7], [8, 9]), ([5], [10, 11, 12, 13])]
    scores = engine(tiny_teacher).score(sequences, spec=ScoreSpec(mass=1))
    items = [item(prompt, completion, s) for (prompt, completion), s in zip(sequences, scores, strict=True)]
    total, count = engine(tiny_student).divergence(items)
    model, expected = load_model(tiny_student), 0.0
    for (prompt, completion), s in zip(sequences, scores, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected += divergence_of(logits, *entries_of(s), torch.from_numpy(s.tail))
    assert count == 6
    assert total == pytest.approx(float(expected), rel=5e-4)
    own, _ = engine(tiny_teacher).divergence(items)
    assert own / count < 1e-3 < total / count


def item(prompt: list[int], completion: list[int], scores: TeacherScores) -> TrainingItem:
    record = SequenceRecord(
        example_id="x", sample=0, mode="fast", source="student", prompt_ids=prompt, completion_ids=completion,
        finish_reason="stop",
    )  # fmt: skip
    return TrainingItem(record, scores=scores)


def test_a_prompt_longer_than_the_context_is_named(tiny_student: Path) -> None:
    with pytest.raises(DataError, match=r"128 tokens does not fit the model's context of 128"):
        engine(tiny_student).generate([Request([5] * 128, 0)], sampling=SamplingSpec(), stop=STOP)


def test_out_of_memory_names_the_setting(tiny_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("eyas.engines.prefill.hidden_states", full)
    with pytest.raises(OutOfMemory, match=r"lower execution.scoring_batch_size"):
        engine(tiny_student).score([([5], [6])], spec=ScoreSpec(top_k=3, mass=1))


def test_a_long_neighbour_does_not_shorten_a_completion(tiny_student: Path) -> None:
    sampling = SamplingSpec(temperature=0, max_completion_tokens=64)
    never = (319,)
    both = [Request([5], 0), Request([6] * 120, 1)]
    short, long = engine(tiny_student).generate(both, sampling=sampling, stop=never)
    (alone,) = engine(tiny_student).generate(both[:1], sampling=sampling, stop=never)
    assert short.completion_ids == alone.completion_ids
    assert (len(short.completion_ids), len(long.completion_ids)) == (64, 8)
    assert (short.finish_reason, long.finish_reason) == ("length", "length")


def test_rows_that_leave_the_batch_do_not_disturb_the_others(tiny_student: Path) -> None:
    sampling = SamplingSpec(max_completion_tokens=40)
    many = [Request(PROMPTS[seed % len(PROMPTS)], seed) for seed in range(48)]
    made = engine(tiny_student).generate(many, sampling=sampling, stop=tuple(range(16)))
    assert len({len(result.completion_ids) for result in made}) > 5
    sequences = [(request.prompt_ids, result.completion_ids) for request, result in zip(many, made, strict=True)]
    scores = engine(tiny_student).score(sequences, spec=ScoreSpec(top_k=1))
    for result, fresh in zip(made, scores, strict=True):
        assert result.logprobs == pytest.approx(fresh.token_logprobs, abs=1e-4)


def test_padded_rows_of_the_head_are_neither_drawn_nor_scored(tmp_path: Path) -> None:
    spec = ModelSpec.model_validate({"config": {**STUDENT, "vocab_size": 352}, "tokenizer": "builtin:tokenizer"})
    materialise(spec, tmp_path, seed=0)
    model = load_model(tmp_path / "model")
    padded = TransformersEngine(model, execution=ExecutionSpec(), vocabulary=320)
    many = [Request([5], seed) for seed in range(64)]
    made = padded.generate(many, sampling=SamplingSpec(max_completion_tokens=16), stop=STOP)
    assert max(token for result in made for token in result.completion_ids) < 320
    (scores,) = padded.score([([5], [6, 7])], spec=ScoreSpec(top_k=352, mass=1))
    assert set(scores.counts.tolist()) == {320}
    assert scores.ids.max() == 319
    assert np.isneginf(scores.tail).all()


def test_the_cpus_allocator_running_out_names_the_setting(tiny_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        torch.empty(2**50)

    monkeypatch.setattr("eyas.engines.prefill.hidden_states", full)
    with pytest.raises(OutOfMemory, match=r"lower execution.scoring_batch_size"):
        engine(tiny_student).score([([5], [6])], spec=ScoreSpec(top_k=3, mass=1))


def test_other_runtime_errors_are_not_called_out_of_memory(tiny_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("eyas.engines.prefill.hidden_states", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine(tiny_student).score([([5], [6])], spec=ScoreSpec(top_k=3, mass=1))


def test_a_model_that_ignores_the_cache_is_refused(tiny_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_student)
    made = TransformersEngine(model, execution=ExecutionSpec())
    forward = model.model.forward

    def forgetful(input_ids: torch.Tensor, position_ids: torch.Tensor, **_: object) -> object:
        return forward(input_ids=input_ids, position_ids=position_ids, use_cache=False)

    monkeypatch.setattr(model.model, "forward", forgetful)
    with pytest.raises(ModelError, match="keeps no key-value cache"):
        made.generate([Request([5], 0)], sampling=SamplingSpec(), stop=STOP)
