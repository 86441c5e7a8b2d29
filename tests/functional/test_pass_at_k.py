from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from r1lit.functional import majority_vote, mean_interval, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(n):
    for correct in range(n + 1):
        right = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            draws = [any(draw) for draw in combinations(right, k)]
            assert pass_at_k(n, correct, k).item() == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_pass_at_k_of_many_prompts_is_stable_where_the_binomials_are_not_floats():
    got = pass_at_k(torch.tensor([2000, 64, 64]), torch.tensor([1, 0, 64]), k=64)
    torch.testing.assert_close(got, torch.tensor([64 / 2000, 0, 1], dtype=torch.float64))
    exact = 1 - math.comb(1700, 1000) / math.comb(2000, 1000)
    assert pass_at_k(2000, 300, 1000).item() == pytest.approx(exact, abs=1e-12)


def test_pass_at_1_is_the_mean():
    assert pass_at_k(8, [0, 2, 8], 1).tolist() == [0, 0.25, 1]


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts_are_refused(n, c, k):
    with pytest.raises(ValueError, match="pass"):
        pass_at_k(n, [c], k)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["1", "2", "2"], "2"),
        (["b", "a", "a", "b"], "b"),
        ([None, None, None, "x"], "x"),
        ([None, None], None),
        ([], None),
        ([0, 0, 1], 0),
    ],
)
def test_majority_vote(answers, winner):
    assert majority_vote(answers) == winner


def test_interval_of_single_samples_is_wilsons_own():
    # 10 prompts of one sample, 7 right. Wilson's interval with the n_eff by hand: p (1 - p) / (s^2 / 10) = 9.
    p, n, z = 0.7, 9, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert mean_interval([1.0] * 7 + [0.0] * 3) == pytest.approx((p, centre - half, centre + half))


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0.0, 0.0, 0.277533), (1.0, 0.722467, 1.0), (0.5, 0.236593, 0.763407)]
)
def test_equal_values_count_as_one_sample_a_prompt(value, low, high):
    # The published Wilson intervals of 0, 10 and 5 of 10.
    assert mean_interval([value] * 10) == pytest.approx((value, low, high), abs=1e-5)


def test_equal_values_that_binary_floats_cannot_hold():
    mean, low, high = mean_interval([0.1] * 10)
    assert mean == 0.1
    assert high - low > 0.3


def test_more_samples_of_the_same_prompts_do_not_shrink_the_interval():
    # All spread lies between prompts: 20 prompts, each always or never solved.
    few, many = mean_interval([1.0, 0.0] * 10), mean_interval(torch.tensor([[1.0] * 64, [0.0] * 64] * 10).mean(-1))
    assert few == many


def test_the_interval_holds_the_truth_as_often_as_it_says():
    # Prompts' solve rates are uniform, mean 0.5; 4 samples of 40 prompts. 95 % of 2,000 runs is 1,900; four standard
    # deviations (9.7 each) and the approximation's own error of a percent are allowed.
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(2000, 40, 1, generator=generator)
    values = (torch.rand(2000, 40, 4, generator=generator) < rates).double().mean(-1)
    held = sum(low <= 0.5 <= high for _, low, high in map(mean_interval, values))
    assert 1840 <= held <= 1960


def test_level():
    narrow, wide = mean_interval([1.0, 0.0, 0.5], level=0.5), mean_interval([1.0, 0.0, 0.5], level=0.99)
    assert wide.low < narrow.low < narrow.mean == 0.5 < narrow.high < wide.high


@pytest.mark.parametrize("values", [[], [1.5], [-0.1], [math.nan]])
def test_values_are_shares(values):
    with pytest.raises(ValueError, match="pass at least one, each a share"):
        mean_interval(values)


def test_level_is_a_probability():
    with pytest.raises(ValueError, match="level=95"):
        mean_interval([0.5], level=95)
