from __future__ import annotations

import math

import pytest
import torch

from r1lit.functional import group_advantages, has_variance

NAN = math.nan
ONE = torch.ones(1)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).unsqueeze(-1)


def test_group_scale_by_hand():
    # Mean 0.5, unbiased std sqrt(4 * 0.25 / 3).
    std = math.sqrt(1 / 3)
    expected = torch.tensor([0.5, -0.5, 0.5, -0.5]) / (std + 1e-4)
    torch.testing.assert_close(group_advantages(column(1, 0, 1, 0), ONE, 4), expected)


def test_no_scale_is_the_deviation_from_the_groups_mean():
    rewards = column(1, 0, 0, 0, 5, 7, 6, 6)
    expected = torch.tensor([0.75, -0.25, -0.25, -0.25, -1, 1, 0, 0])
    torch.testing.assert_close(group_advantages(rewards, ONE, 4, "none"), expected)


def test_batch_scale_by_hand():
    # Totals 1, 0, 6, 7: mean 3.5, unbiased variance (6.25 + 12.25 + 6.25 + 12.25) / 3.
    expected = torch.tensor([0.5, -0.5, -0.5, 0.5]) / (math.sqrt(37 / 3) + 1e-4)
    torch.testing.assert_close(group_advantages(column(1, 0, 6, 7), ONE, 2, "batch"), expected)


def test_rewards_are_weighted_and_weight_0_is_a_metric_only():
    columns = torch.tensor([[1.0, 0.0, 9.0], [0.0, 1.0, NAN]])
    got = group_advantages(columns, torch.tensor([1.0, 0.5, 0.0]), 2, "none")
    torch.testing.assert_close(got, torch.tensor([0.25, -0.25]))


def test_a_missing_reward_neither_helps_nor_harms():
    # First reward: mean 0.5 over four rows. Second: rows 0 and 1 alone have it, mean 0.5.
    columns = torch.tensor([[1, 1], [0, 0], [1, NAN], [0, NAN]])
    deviation = torch.tensor([1.0, -1.0, 0.5, -0.5])
    weights = torch.ones(2)
    torch.testing.assert_close(group_advantages(columns, weights, 4, "none"), deviation)
    std = math.sqrt((1 + 1 + 0.25 + 0.25) / 3)
    torch.testing.assert_close(group_advantages(columns, weights, 4), deviation / (std + 1e-4))
    # In the batch's spread a missing reward counts at its group's mean: totals 2, 0, 1.5, 0.5.
    spread = math.sqrt((1 + 1 + 0.25 + 0.25) / 3)
    torch.testing.assert_close(group_advantages(columns, weights, 4, "batch"), deviation / (spread + 1e-4))


def test_a_reward_all_rows_agree_on_where_they_have_it_gives_nothing():
    columns = torch.tensor([[1, 5], [1, NAN], [1, NAN], [1, 5]])
    for scale in ("group", "batch", "none"):
        assert group_advantages(columns, torch.ones(2), 4, scale).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_unjudged_rows_get_0_and_leave_the_others_alone(scale):
    with_gap = group_advantages(column(1, NAN, 0), ONE, 3, scale)
    without = group_advantages(column(1, 0), ONE, 2, scale)
    assert with_gap[1] == 0
    torch.testing.assert_close(with_gap[[0, 2]], without)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", [(NAN, NAN, NAN), (NAN, 1, NAN), (NAN, NAN, 1)])
def test_fewer_than_two_judged_rows_teach_nothing(scale, rewards):
    assert group_advantages(column(*rewards), ONE, 3, scale).tolist() == [0, 0, 0]


def test_a_reward_of_weight_0_does_not_make_a_row_judged():
    # Row 2 has only the metric: n = 2 in the std, not 3.
    columns = torch.tensor([[1, 0.3], [0, 0.3], [NAN, 0.3]])
    got = group_advantages(columns, torch.tensor([1.0, 0.0]), 3)
    expected = 0.5 / (math.sqrt(0.5) + 1e-4)
    torch.testing.assert_close(got, torch.tensor([expected, -expected, 0]))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 1e6 + 0.1])
@pytest.mark.parametrize("group_size", [3, 7, 16])
def test_equal_rewards_give_exactly_0(value, group_size):
    rewards = torch.full((group_size, 1), value)
    assert (group_advantages(rewards, ONE, group_size) == 0).all()
    assert has_variance(rewards, ONE, group_size).tolist() == [False]


def test_advantages_of_a_group_sum_to_0_with_any_gaps():
    torch.manual_seed(0)
    columns = torch.randn(8 * 6, 3).masked_fill(torch.rand(8 * 6, 3) < 0.4, NAN)
    for scale in ("group", "batch", "none"):
        sums = group_advantages(columns, torch.tensor([1.0, 0.5, 2.0]), 6, scale).view(8, 6).sum(-1)
        torch.testing.assert_close(sums, torch.zeros(8), atol=1e-5, rtol=0)


def test_has_variance():
    columns = torch.tensor([[1, 0.1], [0, 0.1], [1, 0.1], [1, 0.9], [NAN, NAN], [1, 0], [1, 1], [0, 0]])
    assert has_variance(columns, torch.tensor([1.0, 0.0]), 2).tolist() == [True, False, False, True]
    assert has_variance(columns, torch.tensor([1.0, 1.0]), 2).tolist() == [True, True, False, True]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="5 rows and group_size=2"):
        group_advantages(torch.ones(5, 1), ONE, 2)
    with pytest.raises(ValueError, match="infinite"):
        group_advantages(column(math.inf, 0), ONE, 2)
    with pytest.raises(ValueError, match="scale='groups' is no variant; did you mean group"):
        group_advantages(column(1, 0), ONE, 2, "groups")
