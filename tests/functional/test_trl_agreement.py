"""Loss, gradients, metrics and advantages against TRL's own GRPOTrainer, run on a tiny random model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from r1lit.functional import (
    Objective,
    entropy,
    group_advantages,
    head_logprobs,
    policy_loss,
    sampling_ratio,
    token_logprobs,
    token_weights,
)
from r1lit.modules.mismatch import Mismatch
from r1lit.modules.settings import AlgorithmSettings

ROWS, TOKENS, VOCABULARY, TEMPERATURE, GROUP = 8, 7, 40, 0.7, 4
NAN = float("nan")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(VOCABULARY - 2))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")),
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=ROWS,
        num_generations=GROUP,
        max_completion_length=TOKENS,
        temperature=TEMPERATURE,
        max_steps=1,
    )
    torch.manual_seed(0)
    trainer = GRPOTrainer(
        model=Qwen2ForCausalLM(config),
        reward_funcs=[lambda k=k, **_: trainer.columns[:, k].tolist() for k in range(2)],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["w1 w2 w3"] * 4}),
        processing_class=tokenizer,
    )
    with torch.no_grad():
        trainer.model.lm_head.weight[tokenizer.eos_token_id] *= 4  # sampled completions end early now and then
    return trainer


@pytest.fixture(scope="module")
def experience(trainer) -> SimpleNamespace:
    """A made-up update: ragged completions, off-policy enough that both sides of every clip are met."""
    torch.manual_seed(1)
    lengths = torch.tensor([7, 1, 4, 5, 7, 2, 6, 3])
    made = SimpleNamespace(
        prompt_ids=torch.randint(2, VOCABULARY, (ROWS, 3)),
        prompt_mask=torch.ones(ROWS, 3, dtype=torch.long),
        completion_ids=torch.randint(1, VOCABULARY, (ROWS, TOKENS)),
        mask=torch.arange(TOKENS) < lengths.unsqueeze(-1),
        advantages=torch.tensor([1.5, -0.5, 0.0, -1.0, 0.7, 0.3, -1.8, 0.8]),
    )
    logprobs = current_logprobs(trainer.model, made, made.mask)[0].detach()
    made.old = logprobs + 0.4 * torch.randn(ROWS, TOKENS)
    made.ref = logprobs + 0.5 * torch.randn(ROWS, TOKENS)
    return made


def current_logprobs(model, made: SimpleNamespace, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n, T] through the chunked head, and logits [n, T, V]."""
    inputs = torch.cat([made.prompt_ids, made.completion_ids], 1)
    attention = torch.cat([made.prompt_mask, mask.long()], 1)
    hidden = model.model(input_ids=inputs, attention_mask=attention).last_hidden_state[:, -TOKENS - 1 : -1]
    ids, weight = made.completion_ids.flatten(), model.lm_head.weight
    logprobs, _ = head_logprobs(hidden.flatten(0, 1), weight, ids, temperature=TEMPERATURE, chunk=20)
    return logprobs.view(ROWS, TOKENS), hidden @ weight.T


def gradients(model, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def trl_loss(trainer, made: SimpleNamespace, mask: torch.Tensor, on_policy: bool) -> tuple[torch.Tensor, dict]:
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    trainer._metrics["train"].clear()
    inputs = {
        "prompt_ids": made.prompt_ids,
        "prompt_mask": made.prompt_mask,
        "completion_ids": made.completion_ids,
        "completion_mask": mask.long(),
        "advantages": made.advantages,
        "num_items_in_batch": mask.sum(),
        "ref_per_token_logps": made.ref,
    }
    if not on_policy:
        inputs["old_per_token_logps"] = made.old
    return trainer._compute_loss(trainer.model, inputs), dict(trainer._metrics["train"])


WEIGHTS = {
    "grpo": "sequence",
    "bnpo": "token",
    "dr_grpo": "constant",
    "dapo": "token",
    "luspo": "sum",
    "cispo": "token",
    "sapo": "sequence",
}
CLIPS = [(0.2, 0.2, None), (0.2, 0.28, None), (0.1, 0.3, 1.5), (10.0, 10.0, None)]
CASES = [
    *((loss, *clip) for loss in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo") for clip in CLIPS),
    *(("cispo", 0.2, high, None) for high in (1.1, 5.0)),
    ("sapo", 0.2, 0.2, None),
]


@pytest.mark.parametrize("truncated", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize(("beta", "corrected"), [(0.0, False), (0.04, False), (0.04, True)])
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("loss_type", "low", "high", "dual"), CASES)
def test_loss_gradients_and_metrics(trainer, experience, loss_type, low, high, dual, level, beta, corrected, truncated):
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = loss_type, level, beta
    trainer.epsilon_low, trainer.epsilon_high = low, high
    trainer.args.delta, trainer.args.use_bias_correction_kl = dual, corrected
    objective = Objective(
        ratio_level=level,
        surrogate=loss_type if loss_type in ("cispo", "sapo") else "clip",
        clip_low=low,
        clip_high=high,
        dual_clip=dual,
        kl_coef=beta,
        kl_corrected=corrected,
    )
    mask = experience.mask & (experience.mask.sum(-1, keepdim=True) < TOKENS) if truncated else experience.mask
    assert_agreement(trainer, experience, mask, objective, WEIGHTS[loss_type], on_policy=False)


def assert_agreement(trainer, experience, mask, objective, how, on_policy):
    expected, expected_metrics = trl_loss(trainer, experience, mask, on_policy)
    logprobs, logits = current_logprobs(trainer.model, experience, mask)
    loss, metrics = policy_loss(
        logprobs,
        None if on_policy else experience.old,
        experience.ref,
        experience.advantages,
        token_weights(mask, how, constant=TOKENS),
        mask,
        objective,
    )
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    ours, theirs = gradients(trainer.model, loss), gradients(trainer.model, expected)
    assert max(gradient.abs().max() for gradient in theirs) > 1e-3
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    compared = {name for name in expected_metrics if "clip_ratio" in name and not name.endswith(("_min", "_max"))}
    assert metrics.keys() == compared | ({"kl"} if objective.kl_coef else set())
    for name, (total, count) in metrics.items():
        assert (total / count).item() == pytest.approx(expected_metrics[name][0], abs=1e-5), name
    mean_entropy = entropy(logits, TEMPERATURE)[mask].mean().item()
    assert mean_entropy == pytest.approx(expected_metrics["entropy"][0], abs=1e-5)


def test_the_made_up_update_meets_both_clips(experience, trainer):
    ratio = (current_logprobs(trainer.model, experience, experience.mask)[0] - experience.old).exp()[experience.mask]
    assert (ratio < 0.8).sum() >= 3
    assert (ratio > 1.5).sum() >= 3


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_on_policy_rows_need_no_old_logprobs(trainer, experience, level):
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = "grpo", level, 0.04
    trainer.epsilon_low = trainer.epsilon_high = 0.2
    trainer.args.delta, trainer.args.use_bias_correction_kl = None, False
    objective = Objective(ratio_level=level, kl_coef=0.04)
    assert_agreement(trainer, experience, experience.mask, objective, "sequence", on_policy=True)


def test_logprobs_from_logits_are_those_of_the_chunked_head(trainer, experience):
    logprobs, logits = current_logprobs(trainer.model, experience, experience.mask)
    torch.testing.assert_close(token_logprobs(logits, experience.completion_ids, TEMPERATURE), logprobs)


REWARDS = {
    "plain": [[1, 0.1], [0, 0.2], [1, 0.3], [0, 0.5], [1, 1], [1, 0], [1, 0.5], [0.2, 0.7]],
    "a group without variance": [[1, 0.3]] * 4 + [[1, 1], [1, 0], [1, 0.5], [0.2, 0.7]],
    "an unjudged row": [[1, 0.1], [NAN, NAN], [1, 0.3], [0, 0.5], [1, 1], [1, 0], [1, 0.5], [0.2, 0.7]],
    "a group one reward skips": [[1, NAN], [0, NAN], [1, NAN], [0, NAN], [1, 1], [1, 0], [1, 0.5], [0.2, 0.7]],
    "an unjudged group": [[NAN, NAN]] * 4 + [[1, 1], [1, 0], [1, 0.5], [0.2, 0.7]],
}


def trl_rollout(trainer, columns: torch.Tensor, scale: str) -> dict:
    trainer.beta, trainer.columns = 0.0, columns
    trainer.scale_rewards, trainer.reward_weights = scale, torch.tensor([1.0, 0.5])
    trainer.model.train()
    return trainer._generate_and_score_completions([{"prompt": "w1 w2 w3"}] * GROUP + [{"prompt": "w4 w5"}] * GROUP)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("case", REWARDS)
def test_advantages(trainer, scale, case):
    columns = torch.tensor(REWARDS[case])
    made = trl_rollout(trainer, columns, scale)
    advantages = group_advantages(columns, trainer.reward_weights, GROUP, scale)
    torch.testing.assert_close(advantages, made["advantages"], atol=1e-5, rtol=0)


def test_loss_of_a_sampled_rollout_with_truncated_completions_masked(trainer, monkeypatch):
    monkeypatch.setattr(trainer, "mask_truncated_completions", True)
    torch.manual_seed(3)
    made = SimpleNamespace(**trl_rollout(trainer, torch.tensor(REWARDS["plain"]), "group"))
    mask = made.completion_mask.bool()
    assert mask.shape == (ROWS, TOKENS)
    assert 0 < mask.any(-1).sum() < ROWS
    made.old = made.ref = None
    trainer.loss_type, trainer.importance_sampling_level = "dr_grpo", "token"
    assert_agreement(trainer, made, mask, Objective(), "constant", on_policy=True)


BOUNDS = [(None, 3.0), (None, 1.1), (0.7, 1.3), (0.8, None)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_sampling_correction(trainer, monkeypatch, mode, low, high):
    """The ratio, its metrics and the corrected loss where TRL believes that another engine sampled."""
    generate = trainer._generate
    noise = torch.Generator().manual_seed(5)

    def off(prompt, ids):
        with torch.no_grad():
            logits = trainer.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        exact = token_logprobs(logits, torch.tensor(ids), TEMPERATURE)
        return (exact + 0.2 * torch.randn(len(ids), generator=noise)).tolist()

    def by_another_engine(prompts):
        trainer.use_vllm = False
        made = list(generate(prompts))
        trainer.use_vllm = True
        made[4] = [off(prompt, ids) for prompt, ids in zip(made[0], made[1], strict=True)]
        made[4][2][0] = None  # one that vLLM could not give
        return tuple(made)

    monkeypatch.setattr(trainer, "_generate", by_another_engine)
    for name, value in {"correction": True, "mode": mode, "clip_min": low, "clip_max": high}.items():
        monkeypatch.setattr(trainer, f"vllm_importance_sampling_{name}", value)
    monkeypatch.setattr(trainer, "use_vllm", True)
    trainer._metrics["train"].clear()
    torch.manual_seed(4)
    made = trl_rollout(trainer, torch.tensor(REWARDS["plain"]), "group")
    mask, old, drawn = made["completion_mask"].bool(), made["old_per_token_logps"], made["sampling_per_token_logps"]

    ratio = sampling_ratio(old, drawn, mask, mode, low, high)
    torch.testing.assert_close(ratio.expand_as(old)[mask], made["importance_sampling_ratio"].expand_as(old)[mask])
    algorithm = AlgorithmSettings(
        sampling_correction=mode, sampling_correction_min=low, sampling_correction_max=high, group_size=GROUP
    )
    mismatch = Mismatch(algorithm, SimpleNamespace(exact_logprobs=False))
    for rows in (slice(0, 3), slice(3, None)):
        mismatch.correction(old[rows], drawn[rows], mask[rows])
    theirs = {name: values[0] for name, values in trainer._metrics["train"].items() if name.startswith("sampling/")}
    assert mismatch.read() == pytest.approx(theirs, rel=1e-5)

    trainer.loss_type, trainer.importance_sampling_level = "grpo", "token"
    trainer.current_gradient_accumulation_steps = 1
    trainer.epsilon_low = trainer.epsilon_high = 0.2
    expected = trainer._compute_loss(trainer.model, made)
    loss, _ = policy_loss(old, old, None, made["advantages"], token_weights(mask), mask, Objective(), correction=ratio)
    assert abs(expected.item()) > 1e-4
    torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-5)
