"""Drawing tokens: distributions, borders, and that a weight of zero is never drawn."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.recipe import SamplingSpec
from eyas.sampling import inverse_cdf, next_tokens, uniform_streams


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(2, 700), zeros=st.floats(0, 0.9))
def test_the_inverse_cdf_is_that_of_one_long_sum(seed: int, size: int, zeros: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(3, size, generator=generator)
    weights = weights.masked_fill(torch.rand(3, size, generator=generator) < zeros, 0.0)
    weights[:, seed % size] = 0.5
    uniforms = torch.cat([torch.rand(3, 20, generator=generator).double(), torch.tensor([[0.0, 1 - 2**-53]] * 3)], 1)
    found = inverse_cdf(weights, uniforms)
    assert (weights.gather(-1, found) > 0).all()
    cumulated = weights.double().cumsum(-1)
    targets = uniforms * cumulated[:, -1:]
    upper = cumulated.gather(-1, found)
    slack = 1e-5 * cumulated[:, -1:]
    assert (targets <= upper + slack).all()
    assert (targets >= upper - weights.gather(-1, found).double() - slack).all()


def test_a_nucleus_larger_than_the_first_look_is_found() -> None:
    logits = torch.zeros(2, 4096)
    logits[1, 7] = 12.0
    uniforms = uniform_streams([1, 2], 1)[:, 0]
    _, logprobs = next_tokens(logits, uniforms, sampling=SamplingSpec(top_p=0.5))
    assert abs(float(logprobs[0].exp()) - 1 / 4096) < 1e-6  # all equally likely: none is below the last one kept
    assert float(logprobs[1]) == 0.0
