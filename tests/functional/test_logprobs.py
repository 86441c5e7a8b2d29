from __future__ import annotations

import math

import pytest
import torch

from r1lit.functional import entropy, token_logprobs

V = 9


def test_logprobs_and_entropy_by_hand():
    logits = torch.tensor([[math.log(1), math.log(3)], [math.log(4), math.log(1)]])
    logprobs = token_logprobs(logits, torch.tensor([1, 1]))
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.75), math.log(0.2)]))
    by_hand = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))]
    torch.testing.assert_close(entropy(logits), torch.tensor(by_hand))


def test_temperature_divides_the_logits():
    logits = torch.tensor([[0.0, math.log(4)]])
    # sqrt(4) = 2: probabilities 1/3 and 2/3.
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([1]), 2.0), torch.tensor([math.log(2 / 3)]))
    torch.testing.assert_close(entropy(logits, 2.0), torch.tensor([math.log(3) - 2 / 3 * math.log(2)]))


def test_leading_dimensions_are_kept_and_half_precision_is_widened():
    logits, ids = torch.randn(2, 3, V).bfloat16(), torch.randint(V, (2, 3))
    logprobs = token_logprobs(logits, ids)
    assert logprobs.dtype == entropy(logits).dtype == torch.float32
    oracle = torch.distributions.Categorical(logits=logits.double())
    torch.testing.assert_close(logprobs.double(), oracle.log_prob(ids), atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy(logits).double(), oracle.entropy(), atol=1e-5, rtol=0)


def test_forbidden_tokens_do_not_make_the_entropy_nan():
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    torch.testing.assert_close(entropy(logits), torch.tensor([math.log(2)]))
    assert token_logprobs(logits, torch.tensor([2])).item() == -math.inf


def test_very_large_logits_stay_exact():
    logits = torch.tensor([[1e4, 1e4 + 1]])
    torch.testing.assert_close(token_logprobs(logits, torch.tensor([0])), torch.tensor([-math.log1p(math.e)]))


def test_gradients():
    logits = torch.randn(3, V, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([0, 4, 8])
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x, ids, 0.7), logits)
    assert torch.autograd.gradcheck(lambda x: entropy(x, 0.7), logits)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"temperature=.*pass temperature > 0"):
        token_logprobs(torch.zeros(1, 2), torch.tensor([0]), temperature)
