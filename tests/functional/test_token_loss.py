from __future__ import annotations

import pytest
import torch

from r1lit.functional import token_weights

MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [False] * 4, [False, True, True, False]])


@pytest.mark.parametrize(
    ("how", "by_row"),
    [
        ("sequence", [1 / 16, 1 / 8, 0, 1 / 8]),
        ("token", [1 / 8, 1 / 8, 0, 1 / 8]),
        ("constant", [1 / 40, 1 / 40, 0, 1 / 40]),
        ("sum", [1 / 4, 1 / 4, 0, 1 / 4]),
    ],
)
def test_weights_by_hand(how, by_row):
    expected = torch.tensor(by_row).unsqueeze(-1) * MASK
    torch.testing.assert_close(token_weights(MASK, how, constant=10), expected)


@pytest.mark.parametrize("how", ["sequence", "token", "constant", "sum"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_ranks_add_up_to_the_whole(how, as_tensor):
    totals = {"total_rows": 4, "total_tokens": 8}
    totals = {name: torch.tensor(value) for name, value in totals.items()} if as_tensor else totals
    halves = [token_weights(half, how, 10, **totals) for half in MASK.split(2)]
    torch.testing.assert_close(torch.cat(halves), token_weights(MASK, how, 10))


@pytest.mark.parametrize("how", ["sequence", "token", "constant", "sum"])
def test_nothing_to_train_weighs_nothing(how):
    assert token_weights(torch.zeros(2, 3, dtype=torch.bool), how, 10).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert token_weights(torch.zeros(0, 3, dtype=torch.bool), how, 10).shape == (0, 3)


@pytest.mark.parametrize("constant", [None, 0, -5])
def test_constant_needs_a_constant(constant):
    with pytest.raises(ValueError, match=f"constant={constant}.*longest completion"):
        token_weights(MASK, "constant", constant)


def test_a_misspelt_aggregation_is_named():
    with pytest.raises(ValueError, match="how='tokens' is no variant; did you mean token"):
        token_weights(MASK, "tokens")
