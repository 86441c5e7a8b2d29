from __future__ import annotations

import pytest
import torch

from r1lit.rollout.draw import UniformStream, draw
from r1lit.types import Sampling

CHI2_ODDS = 1e-6


def chi2_bound(freedom: int) -> float:
    """The value that a chi-square variable exceeds with probability ``CHI2_ODDS``, by bisection on the tail."""
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        half = torch.tensor([freedom / 2, middle / 2], dtype=torch.float64)
        tail = torch.special.gammaincc(half[0], half[1])
        low, high = (middle, high) if tail > CHI2_ODDS else (low, middle)
    return high


def test_chi2_bound_agrees_with_a_table():
    # Exact for two degrees of freedom, where the tail is exp(-x / 2).
    assert chi2_bound(2) == pytest.approx(27.631021, abs=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.6), Sampling(0.6, 0.8), Sampling(1.5, 0.95)])
def test_draws_follow_the_exact_distribution(sampling):
    """Chi-square over 200,000 draws from one distribution; a correct sampler fails with probability 1e-6 a case."""
    logits = torch.tensor([1.2, -0.3, 0.0, 2.0, -1.5, 0.7, -torch.inf, 0.4], dtype=torch.float64)
    exact = (logits / sampling.temperature).softmax(0)
    kept, reached = torch.zeros_like(exact), 0.0
    for i in exact.argsort(descending=True).tolist():
        if reached < sampling.top_p:
            kept[i] = exact[i]
            reached += float(exact[i])
    exact = kept / kept.sum()
    draws = 200_000
    uniforms = torch.rand(draws, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ids, logprobs = draw(logits.float().expand(draws, -1), uniforms, sampling)
    counts = ids.bincount(minlength=len(exact)).double()
    live = exact > 0
    assert counts[~live].sum() == 0
    statistic = ((counts - draws * exact)[live] ** 2 / (draws * exact[live])).sum()
    assert statistic < chi2_bound(int(live.sum()) - 1)
    torch.testing.assert_close(logprobs.double(), exact.log()[ids], atol=1e-6, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.3, 1 - 2**-53])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_token_of_probability_zero_is_never_drawn(uniform, top_p):
    no = -torch.inf
    logits = torch.tensor([[no, 0.1, no, 0.3, no], [no, no, no, no, 5.0], [7.0, no, -200.0, no, no]])
    ids, logprobs = draw(logits, torch.full((3,), uniform, dtype=torch.float64), Sampling(top_p=top_p))
    assert logits.gather(1, ids[:, None]).isfinite().all()
    assert ids.tolist()[1:] == [4, 0]
    assert logprobs.isfinite().all()


def test_greedy_takes_the_likeliest_and_scores_it_at_temperature_1():
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    ids, logprobs = draw(logits, torch.tensor([0.999], dtype=torch.float64), Sampling(temperature=0))
    assert ids.tolist() == [1]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[:, 1])


def test_top_p_below_the_likeliest_token_keeps_that_token():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    ids, logprobs = draw(logits, torch.tensor([0.999], dtype=torch.float64), Sampling(top_p=1e-9))
    assert ids.tolist() == [1]
    assert logprobs.tolist() == [0.0]


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_show_in_the_log_probability(broken):
    ids, logprobs = draw(torch.tensor([[0.0, broken, 1.0]]), torch.tensor([0.5], dtype=torch.float64), Sampling())
    assert 0 <= int(ids) < 3
    assert logprobs.isnan().all()


def test_random_numbers_depend_on_seed_row_and_step_alone():
    every = [UniformStream(5, 4, "cpu").step(t) for t in (0, 1, 63, 64, 200)]
    stream = UniformStream(5, 4, "cpu")
    for t, expected in zip((0, 1, 63, 64, 200), every, strict=True):
        assert torch.equal(stream.step(t), expected)
    assert len(torch.cat(every).unique()) == 20
    assert not torch.equal(UniformStream(6, 4, "cpu").step(0), every[0])
