from __future__ import annotations

import math

import pytest
import torch

from r1lit.functional import (
    Objective,
    cispo,
    clipped,
    importance_ratio,
    kl_estimate,
    policy_loss,
    sapo,
    token_weights,
)

ROWS, TOKENS = 6, 5
MASK = torch.arange(TOKENS) < torch.tensor([5, 1, 3, 0, 4, 2]).unsqueeze(-1)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    logprobs = -torch.rand(ROWS, TOKENS, dtype=torch.float64) - 0.2
    return {
        "logprobs": logprobs.requires_grad_(),
        "old_logprobs": logprobs.detach() + 0.4 * torch.randn(ROWS, TOKENS, dtype=torch.float64),
        "ref_logprobs": logprobs.detach() + 0.5 * torch.randn(ROWS, TOKENS, dtype=torch.float64),
        "advantages": torch.randn(ROWS, dtype=torch.float64),
        "mask": MASK,
    }


def test_ratio_of_tokens_and_of_sequences_by_hand():
    logprobs = torch.tensor([[0.8, 0.9, 0.5], [0.5, 0.5, 0.5]]).log()
    old = torch.tensor([[0.4, 0.1, 0.1], [0.1, 0.1, 0.1]]).log()
    mask = torch.tensor([[True, True, False], [False, False, False]])
    torch.testing.assert_close(importance_ratio(logprobs, old, mask), torch.tensor([[2.0, 9.0, 1.0], [1.0, 1.0, 1.0]]))
    by_row = torch.tensor([[math.sqrt(18)], [1.0]])
    torch.testing.assert_close(importance_ratio(logprobs, old, mask, "sequence"), by_row)


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "expected"),
    [
        (1.1, 2.0, None, 2.2),
        (1.5, 2.0, None, 2.56),
        (0.5, 2.0, None, 1.0),
        (1.5, -2.0, None, -3.0),
        (0.5, -2.0, None, -1.6),
        (9.0, -2.0, None, -18.0),
        (9.0, -2.0, 4.0, -8.0),
        (9.0, 2.0, 4.0, 2.56),
    ],
)
def test_clip_higher_and_dual_clip_by_hand(ratio, advantage, dual, expected):
    got = clipped(column(ratio), column(advantage), low=0.2, high=0.28, dual=dual)
    torch.testing.assert_close(got, column(expected))


@pytest.mark.parametrize(("ratio", "expected"), [(0.001, 0.001), (10.9, 10.9), (12.0, 11.0)])
def test_the_clip_of_r1_cuts_at_11_only(ratio, expected):
    torch.testing.assert_close(clipped(column(ratio), column(1.0), 10, 10), column(expected))


@pytest.mark.parametrize(
    ("ratio", "advantage", "dual", "slope"),
    [(1.5, 1.0, None, 0), (0.5, 1.0, None, 1), (0.5, -1.0, None, 0), (1.5, -1.0, None, -1), (5.0, -1.0, 3.0, 0)],
)
def test_where_the_clip_lets_the_gradient_through(ratio, advantage, dual, slope):
    ratio = column(ratio).requires_grad_()
    clipped(ratio, column(advantage), 0.2, 0.2, dual).sum().backward()
    assert ratio.grad.item() == slope


def test_cispo_by_hand_keeps_the_gradient_of_every_token():
    logprobs = column(-0.5, -2.0).requires_grad_()
    value = cispo(column(3.0, 9.0), logprobs, column(2.0, -1.0), high=5.0)
    torch.testing.assert_close(value, column(-3.0, 10.0))
    value.sum().backward()
    torch.testing.assert_close(logprobs.grad, column(6.0, -5.0))


def test_sapo_by_hand_has_slope_a_on_policy():
    ratio = column(1.0, 1.0, 2.0).requires_grad_()
    value = sapo(ratio, column(0.5, -0.5, 3.0), positive=1.0, negative=1.25)
    torch.testing.assert_close(value, column(1.0, -0.8, 12 / (1 + math.exp(-1))))
    value.sum().backward()
    torch.testing.assert_close(ratio.grad[:2], column(0.5, -0.5))


def test_kl_estimates_by_hand():
    # pi = 0.8, reference = 0.2: the log-ratio d is log(1/4).
    logprobs, reference = column(0.8).log(), column(0.2).log()
    expected = {"k1": math.log(4), "k2": math.log(4) ** 2 / 2, "k3": 0.25 - 1 + math.log(4)}
    for name, value in expected.items():
        torch.testing.assert_close(kl_estimate(logprobs, reference, name), column(value))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator):
    policy, reference = torch.randn(2, 20, dtype=torch.float64).log_softmax(-1)
    exact = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * kl_estimate(policy, reference, estimator)).sum(), exact)


def test_k3_is_exact_close_to_the_reference():
    assert kl_estimate(torch.tensor([0.0]), torch.tensor([1e-4]), "k3").item() == pytest.approx(5e-9, rel=0.01)


def test_loss_by_hand(rows):
    expected = 0.0
    for i, length in enumerate(MASK.sum(-1).tolist()):
        for t in range(length):
            new, old, ref = (rows[name][i, t].item() for name in ("logprobs", "old_logprobs", "ref_logprobs"))
            ratio, advantage = math.exp(new - old), rows["advantages"][i].item()
            gain = min(ratio * advantage, min(max(ratio, 0.9), 1.3) * advantage)
            kl = math.exp(ref - new) - (ref - new) - 1
            expected += (0.05 * kl - gain) / length / ROWS
    objective = Objective(clip_low=0.1, clip_high=0.3, kl_coef=0.05)
    loss, _ = policy_loss(**rows, weights=token_weights(MASK).double(), objective=objective)
    assert loss.item() == pytest.approx(expected, abs=1e-7)


VARIANTS = [
    Objective(surrogate=surrogate, ratio_level=level, kl_coef=0.1, clip_high=high, **more)
    for surrogate, high in (("clip", 0.2), ("clip", 0.28), ("cispo", 1.2), ("sapo", 0.2))
    for level in ("token", "sequence")
    for more in (
        {"kl_estimator": "k1"},
        {"kl_estimator": "k2"},
        {"kl_estimator": "k3", "kl_corrected": True},
        {"dual_clip": 1.5},
    )
]


@pytest.mark.parametrize("objective", [variant for variant in VARIANTS if variant.surrogate != "cispo"], ids=str)
def test_gradcheck(rows, objective):
    weights = token_weights(MASK).double()

    def loss(logprobs):
        return policy_loss(**(rows | {"logprobs": logprobs}), weights=weights, objective=objective)[0]

    assert torch.autograd.gradcheck(loss, rows["logprobs"])


@pytest.mark.parametrize("how", ["sequence", "token", "constant", "sum"])
@pytest.mark.parametrize("objective", VARIANTS, ids=str)
def test_the_micro_batch_changes_nothing(rows, objective, how):
    rows["weights"] = token_weights(MASK, how, constant=TOKENS).double()
    whole, metrics = policy_loss(**rows, objective=objective)
    (expected,) = torch.autograd.grad(whole, rows["logprobs"])
    for size in (1, 4):
        pieces = [
            policy_loss(**{name: tensor[i : i + size] for name, tensor in rows.items()}, objective=objective)
            for i in range(0, ROWS, size)
        ]
        loss = sum(piece for piece, _ in pieces)
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(torch.autograd.grad(loss, rows["logprobs"])[0], expected)
        for name, (total, count) in metrics.items():
            torch.testing.assert_close(sum(part[name][0] for _, part in pieces), total)
            assert sum(part[name][1] for _, part in pieces) == count


def test_metrics_are_sums_and_counts_by_hand():
    logprobs = torch.tensor([[1.0, 3.0, 0.5], [0.5, 3.0, 9.0]]).log()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    common = {
        "logprobs": logprobs,
        "old_logprobs": torch.zeros(2, 3),
        "ref_logprobs": torch.zeros(2, 3),
        "advantages": torch.tensor([1.0, -1.0]),
        "weights": token_weights(mask),
        "mask": mask,
    }
    _, metrics = policy_loss(**common, objective=Objective(kl_coef=1.0, kl_estimator="k1"))
    clips = {name.removeprefix("clip_ratio/"): (total.item(), n.item()) for name, (total, n) in metrics.items()}
    kl = math.log(3) + math.log(0.5) + math.log(0.5) + math.log(3)
    assert clips.pop("kl") == (pytest.approx(kl), 5)
    assert clips == {"low_mean": (1, 5), "high_mean": (1, 5), "region_mean": (2, 5)}
    _, metrics = policy_loss(**common, objective=Objective(surrogate="cispo", clip_high=2.0))
    assert {name: (total.item(), n.item()) for name, (total, n) in metrics.items()} == {"cispo_clip_ratio": (1, 5)}
    # Rows' ratios: 1.5^(1/3) = 1.14 and 1.5^(1/2) = 1.22.
    _, metrics = policy_loss(**common, objective=Objective(ratio_level="sequence", clip_high=0.1))
    assert metrics["clip_ratio/high_mean"][0] == 1
    assert metrics["clip_ratio/high_mean"][1] == 2


def test_on_policy_the_gradient_is_that_of_reinforce(rows):
    weights = token_weights(MASK).double()
    expected = -(weights * rows["advantages"].unsqueeze(-1))
    rows |= {"old_logprobs": None, "ref_logprobs": None}
    for objective in (Objective(), Objective(surrogate="cispo", clip_high=5), Objective(surrogate="sapo")):
        loss, _ = policy_loss(**rows, weights=weights, objective=objective)
        torch.testing.assert_close(torch.autograd.grad(loss, rows["logprobs"])[0], expected)


@pytest.mark.parametrize("objective", VARIANTS, ids=str)
@pytest.mark.parametrize("junk", [math.nan, math.inf, -1e30])
def test_what_stands_at_untrained_positions_reaches_nothing(rows, objective, junk):
    weights = token_weights(MASK).double()
    clean, clean_metrics = policy_loss(**rows, weights=weights, objective=objective)
    (expected,) = torch.autograd.grad(clean, rows["logprobs"])
    for name in ("logprobs", "old_logprobs", "ref_logprobs"):
        rows[name] = rows[name].detach().masked_fill(~MASK, junk)
    rows["logprobs"].requires_grad_()
    dirty, dirty_metrics = policy_loss(**rows, weights=weights, objective=objective)
    torch.testing.assert_close(dirty, clean)
    torch.testing.assert_close(torch.autograd.grad(dirty, rows["logprobs"])[0], expected)
    torch.testing.assert_close(dirty_metrics, clean_metrics)


def test_metrics_carry_no_graph(rows):
    objective = Objective(kl_coef=0.1, kl_corrected=True)
    _, metrics = policy_loss(**rows, weights=token_weights(MASK), objective=objective)
    assert not any(part.requires_grad for pair in metrics.values() for part in pair)


@pytest.mark.parametrize("off", [{"kl_coef": 0.0}, {"kl_coef": 0.1, "ref": None}])
def test_no_kl_without_coefficient_or_reference(rows, off):
    rows["ref_logprobs"] = off.pop("ref", rows["ref_logprobs"])
    weights = token_weights(MASK)
    loss, metrics = policy_loss(**rows, weights=weights, objective=Objective(**off))
    plain, _ = policy_loss(**(rows | {"ref_logprobs": None}), weights=weights, objective=Objective())
    assert loss == plain
    assert "kl" not in metrics


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"ratio_level": "tokens"}, "ratio_level='tokens' is no variant; did you mean token"),
        ({"surrogate": "clipp"}, "surrogate='clipp' is no variant; did you mean clip"),
        ({"kl_estimator": "k4"}, "kl_estimator='k4' is no variant"),
        ({"clip_low": -0.1}, "clip_low=-0.1"),
        ({"kl_coef": math.nan}, "kl_coef=nan"),
        ({"surrogate": "cispo"}, "clip_high=0.2, but cispo"),
        ({"dual_clip": 1.0}, "dual_clip=1.0"),
        ({"sapo_negative": 0.0}, "sapo_negative=0.0"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ValueError, match=message):
        Objective(**mistake)
