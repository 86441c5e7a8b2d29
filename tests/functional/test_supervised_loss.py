from __future__ import annotations

import math

import pytest
import torch

from r1lit.functional import head_logprobs, head_predictions, supervised_loss


def test_the_loss_by_hand():
    logprobs = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64).log()
    total = 6 * math.log(2)
    whole = {"total_tokens": 3, "total_rows": 2}
    assert supervised_loss(logprobs, **whole).item() == pytest.approx(total / 3)
    assert supervised_loss(logprobs, "constant", tokens_per_row=10, **whole).item() == pytest.approx(total / 20)


@pytest.mark.parametrize("normalize", ["tokens", "constant"])
def test_the_shares_of_micro_batches_add_up(normalize):
    logprobs = -torch.rand(7, dtype=torch.float64)
    whole = {"total_tokens": 7, "total_rows": 3, "tokens_per_row": 5}
    parts = [supervised_loss(part, normalize, **whole) for part in logprobs.split([1, 4, 2])]
    torch.testing.assert_close(sum(parts), supervised_loss(logprobs, normalize, **whole))


def test_nothing_to_learn_is_no_loss_and_an_unknown_norm_is_refused():
    assert supervised_loss(torch.zeros(0), total_tokens=0, total_rows=1).item() == 0
    with pytest.raises(ValueError, match="normalize='token' is no variant; did you mean tokens"):
        supervised_loss(torch.zeros(1), "token", total_tokens=1, total_rows=1)


@pytest.mark.parametrize("chunk", [None, 3])
def test_the_likeliest_token_is_told_beside_the_log_probabilities(chunk):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(10, 6).double(), torch.randn(9, 6).double(), torch.randn(9).double()
    logits = 2 * torch.tanh((hidden @ weight.T + bias) / 2)
    ids = torch.where(torch.arange(10) % 2 == 0, logits.argmax(-1), logits.argmin(-1))
    hidden.requires_grad_()
    logprobs, entropy, right = head_predictions(hidden, weight, ids, bias=bias, softcap=2.0, chunk=chunk)
    same = head_logprobs(hidden, weight, ids, bias=bias, softcap=2.0)
    torch.testing.assert_close((logprobs, entropy), same)
    assert right.tolist() == [True, False] * 5
    (got,) = torch.autograd.grad(logprobs.sum(), hidden)
    torch.testing.assert_close(got, torch.autograd.grad(same[0].sum(), hidden)[0])
