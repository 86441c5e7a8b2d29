from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from r1lit.functional import entropy, head_logprobs, token_logprobs

M, H, V = 10, 6, 9


class LargestTensor(TorchDispatchMode):
    """The most elements any tensor has that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = out if isinstance(out, (tuple, list)) else [out]
        self.elements = max([self.elements, *(item.numel() for item in made if isinstance(item, torch.Tensor))])
        return out


@pytest.fixture
def head() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in [(M, H), (V, H), (V,)])
    return {
        "hidden": hidden.requires_grad_(),
        "head_weight": weight.requires_grad_(),
        "bias": bias.requires_grad_(),
        "ids": torch.randint(V, (M,)),
    }


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


@pytest.mark.parametrize("chunk", [None, 1, 3, 5, M, 99])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_head_agrees_with_plain_logits(head, chunk, softcap):
    logits = head["hidden"] @ head["head_weight"].T + head["bias"]
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    oracle = torch.distributions.Categorical(logits=logits / 0.7)
    logprobs, entropies = head_logprobs(**head, temperature=0.7, softcap=softcap, chunk=chunk)
    torch.testing.assert_close(logprobs, oracle.log_prob(head["ids"]))
    torch.testing.assert_close(entropies, oracle.entropy())
    assert not entropies.requires_grad
    upstream, leaves = torch.randn(M, dtype=torch.float64), [head["hidden"], head["head_weight"], head["bias"]]
    mine = torch.autograd.grad(logprobs, leaves, upstream)
    plain = torch.autograd.grad(oracle.log_prob(head["ids"]), leaves, upstream)
    for gradient, expected in zip(mine, plain, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_head_gradcheck(head):
    def logprobs(hidden, weight, bias):
        return head_logprobs(hidden, weight, head["ids"], bias=bias, softcap=3.0, chunk=4)[0]

    assert torch.autograd.gradcheck(logprobs, (head["hidden"], head["head_weight"], head["bias"]))


@pytest.mark.parametrize("trained", ["hidden", "head_weight", "bias"])
def test_one_trained_input_is_enough_for_a_gradient(head, trained):
    inputs = {name: tensor.detach() for name, tensor in head.items()} | {trained: head[trained]}
    logprobs, _ = head_logprobs(**inputs, chunk=4)
    assert torch.autograd.grad(logprobs.sum(), head[trained])[0].abs().max() > 0


def test_head_without_gradient_or_rows(head):
    with torch.no_grad():
        logprobs, _ = head_logprobs(**head, chunk=3)
    assert not logprobs.requires_grad
    torch.testing.assert_close(logprobs, head_logprobs(**head)[0].detach())
    logprobs, entropies = head_logprobs(head["hidden"][:0], head["head_weight"], head["ids"][:0])
    assert logprobs.shape == entropies.shape == (0,)


def test_no_tensor_is_larger_than_a_chunk_of_logits():
    rows, vocabulary, chunk = 64, 500, 8
    hidden = torch.randn(rows, 4, requires_grad=True)
    weight, ids = torch.randn(vocabulary, 4), torch.randint(vocabulary, (rows,))
    with LargestTensor() as largest:
        head_logprobs(hidden, weight, ids, chunk=chunk)[0].sum().backward()
    assert largest.elements == chunk * vocabulary
    with LargestTensor() as largest:
        head_logprobs(hidden, weight, ids)[0].sum().backward()
    assert largest.elements == rows * vocabulary


def test_no_chunk_of_logits_is_kept_for_the_backward():
    rows, vocabulary, chunk = 64, 500, 8
    hidden = torch.randn(rows, 4, requires_grad=True)
    weight, ids = torch.randn(vocabulary, 4), torch.randint(vocabulary, (rows,))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        head_logprobs(hidden, weight, ids, chunk=chunk)
    assert max(saved) == weight.numel() < chunk * vocabulary


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"temperature=.*pass temperature > 0"):
        token_logprobs(torch.zeros(1, 2), torch.tensor([0]), temperature)


def test_chunk_must_be_positive(head):
    with pytest.raises(ValueError, match=r"chunk=0.*pass chunk >= 1"):
        head_logprobs(**head, chunk=0)
