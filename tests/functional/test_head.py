"""The memory-lean head against plain logits, in value, gradient and size."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from r1lit.functional import entropy, head_logprobs, head_predictions, token_logprobs

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
def test_temperature_must_be_positive(head, temperature):
    with pytest.raises(ValueError, match=r"temperature=.*pass temperature > 0"):
        head_logprobs(**head, temperature=temperature)


def test_chunk_must_be_positive(head):
    with pytest.raises(ValueError, match=r"chunk=0.*pass chunk >= 1"):
        head_logprobs(**head, chunk=0)


@pytest.mark.parametrize("chunk", [3, M])
def test_a_graph_can_be_gone_through_twice_and_the_incoming_gradient_is_honoured(head, chunk):
    logprobs, _ = head_logprobs(**head, chunk=chunk)
    leaves = [head["hidden"], head["head_weight"], head["bias"]]
    once = torch.autograd.grad(logprobs.sum(), leaves, retain_graph=True)
    scaled = torch.autograd.grad((logprobs * -2.5).sum(), leaves)
    for first, second in zip(once, scaled, strict=True):
        torch.testing.assert_close(second, first * -2.5)


def test_a_tied_head_adds_to_the_embeddings_gradient():
    """The embedding and the head are one matrix: its gradient is the sum of what both uses give."""
    torch.manual_seed(0)
    tied, ids = torch.randn(V, H, dtype=torch.float64, requires_grad=True), torch.randint(V, (M + 1,))
    hidden = F.embedding(ids[:-1], tied).tanh()
    head_logprobs(hidden, tied, ids[1:], chunk=4)[0].sum().backward()
    mine, tied.grad = tied.grad, None
    token_logprobs(F.embedding(ids[:-1], tied).tanh() @ tied.T, ids[1:]).sum().backward()
    torch.testing.assert_close(mine, tied.grad)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("chunk", [7, 64])
@pytest.mark.parametrize("masters", [torch.float32, torch.bfloat16])
def test_bf16_is_as_near_to_the_truth_as_the_plain_way(masters, chunk, softcap):
    """float32 parameters under autocast, and parameters that are bf16 themselves, against float64."""
    torch.manual_seed(0)
    leaves = [torch.randn(*shape).to(masters).requires_grad_() for shape in [(64, 32), (50, 32), (50,)]]
    ids, upstream = torch.randint(50, (64,)), torch.randn(64)

    def logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        made = F.linear(hidden, weight, bias)
        return (made if softcap is None else softcap * (made / softcap).tanh()) / 0.7

    def gradients(logprobs: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        return [logprobs.detach(), *torch.autograd.grad(logprobs, leaves, upstream.to(logprobs.dtype))]

    with torch.autocast("cpu", torch.bfloat16, enabled=masters == torch.float32):
        hidden, weight, bias = leaves
        lean = head_logprobs(hidden, weight, ids, bias=bias, temperature=0.7, softcap=softcap, chunk=chunk)[0]
        plain = token_logprobs(logits(*leaves), ids)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    truth = gradients(token_logprobs(logits(*exact), ids), exact)
    assert lean.dtype == torch.float32
    for mine, theirs, true in zip(gradients(lean, leaves), gradients(plain, leaves), truth, strict=True):
        assert mine.dtype == theirs.dtype
        assert (mine - true).abs().mean() <= 1.2 * (theirs - true).abs().mean()


def test_predictions_are_those_of_the_logits(head):
    logits = head["hidden"] @ head["head_weight"].T + head["bias"]
    logprobs, entropies, right = head_predictions(**head, chunk=3)
    assert right.tolist() == (logits.argmax(-1) == head["ids"]).tolist() and 0 < right.sum() < M
    torch.testing.assert_close(logprobs, token_logprobs(logits, head["ids"]))
    torch.testing.assert_close(entropies, entropy(logits).detach())


def test_a_forbidden_token_has_no_part_in_it():
    bias = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    logprobs, entropies = head_logprobs(torch.zeros(2, 1), torch.zeros(3, 1), torch.tensor([0, 2]), bias=bias)
    assert logprobs[0].item() == pytest.approx(math.log(0.5)) and logprobs[1].item() == -math.inf
    torch.testing.assert_close(entropies, torch.full((2,), math.log(2)))
    (gradient,) = torch.autograd.grad(logprobs[0], bias)
    torch.testing.assert_close(gradient, torch.tensor([0.5, -0.5, 0.0]))


def test_very_large_logits_stay_exact():
    weight = torch.tensor([[1e4], [1e4 + 1]])
    logprobs, _ = head_logprobs(torch.ones(1, 1), weight, torch.tensor([0]))
    torch.testing.assert_close(logprobs, torch.tensor([-math.log1p(math.e)]))
