"""Settings of the learning algorithm and of its optimiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from r1lit.functional import Objective
from r1lit.settings import JOINT, Settings


class AlgorithmSettings(Settings):
    """GRPO and its descendants: a composition of independent choices; ``conf/algorithm/*.yaml`` names the known ones.

    Attributes:
        steps: rollouts; each gives ``minibatches * epochs`` updates.
        prompts_per_step: B, prompts a rollout.
        group_size: G, completions a prompt.
        minibatches: parts that a rollout's rows are split into at random, one update each.
        epochs: passes over a rollout.
        micro_batch_tokens: tokens a forward and backward pass holds at once, padding included, or one row (prompt and
            completion) that is longer; it changes memory, never the gradient.
        advantage_scale: divide by the group's standard deviation, by the batch's, or not at all.
        ratio_level: importance ratio a token or a sequence.
        surrogate: ``clip`` (PPO's), ``cispo`` or ``sapo``.
        clip_low: the ratio's lower bound is ``1 - clip_low``.
        clip_high: the upper bound is ``1 + clip_high`` (for ``cispo`` it is the bound itself).
        dual_clip: upper bound of the ratio where the advantage is negative; none without it.
        kl_coef: weight of the KL to the reference; 0 leaves the reference out of memory altogether.
        kl_estimator: k1, k2 or k3 (Schulman 2020).
        kl_corrected: multiply the KL by the importance ratio, which makes its gradient unbiased (TRL's default).
        sapo_positive, sapo_negative: temperatures of SAPO's gate where the advantage is above 0, and elsewhere.
        aggregation: how tokens make one loss: mean per ``sequence``, mean over all tokens of the update (``token``),
            sum over a ``constant`` (B x G x max_tokens), or plain ``sum`` per sequence.
        reference_refresh: replace the reference by the policy every so many steps; 0 never.
        uniform_groups: groups whose completions all got the same reward: ``keep`` them (they count in the mean and
            carry KL alone), ``skip`` them, or ``resample`` other prompts in their place (DAPO's dynamic sampling).
        max_resamples: further rollouts a step at the most when resampling.
        mask_truncated: leave completions that ran into the length limit out of the loss.
        max_grad_norm: clip the gradient's norm to this; 0 does not clip.
        max_skipped_updates: stop the run after so many updates in a row with a loss or gradient that is not finite.
    """

    steps: int = Field(1000, ge=1)
    prompts_per_step: int = Field(32, ge=1)
    group_size: int = 16
    minibatches: int = Field(1, ge=1)
    epochs: int = Field(1, ge=1)
    micro_batch_tokens: int = Field(32768, ge=1)
    advantage_scale: Literal["group", "batch", "none"] = "group"
    ratio_level: Literal["token", "sequence"] = "token"
    surrogate: Literal["clip", "cispo", "sapo"] = "clip"
    clip_low: float = Field(0.2, ge=0)
    clip_high: float = Field(0.2, ge=0)
    dual_clip: float | None = Field(None, gt=1)
    kl_coef: float = Field(0.0, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_corrected: bool = False
    sapo_positive: float = Field(1.0, gt=0)
    sapo_negative: float = Field(1.05, gt=0)
    aggregation: Literal["sequence", "token", "constant", "sum"] = "sequence"
    reference_refresh: int = Field(0, ge=0)
    uniform_groups: Literal["keep", "skip", "resample"] = "keep"
    max_resamples: int = Field(3, ge=1)
    mask_truncated: bool = False
    max_grad_norm: float = Field(1.0, ge=0)
    max_skipped_updates: int = Field(5, ge=1)

    @field_validator("group_size")
    @classmethod
    def _a_group_compares(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                f"group_size={value}, but GRPO compares completions of one prompt; set algorithm.group_size >= 2"
            )
        return value

    @model_validator(mode="after")
    def _every_minibatch_has_rows(self) -> AlgorithmSettings:
        rows, problems = self.prompts_per_step * self.group_size, []
        if self.minibatches > rows:
            problems.append(
                f"algorithm.minibatches={self.minibatches}, but a rollout has only prompts_per_step * group_size = "
                f"{rows} rows; set algorithm.minibatches <= {rows}"
            )
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            problems.append(
                f"algorithm.dual_clip={self.dual_clip}, but it bounds ratios beyond the upper clip; set it above "
                f"1 + clip_high = {1 + self.clip_high}"
            )
        try:
            self.objective  # noqa: B018  (checks what the loss itself asks of its arguments)
        except ValueError as error:
            problems.append(f"algorithm: {error}")
        if problems:
            raise ValueError(JOINT.join(problems))
        return self

    @property
    def on_policy(self) -> bool:
        """True where a rollout makes a single update, so that the sampling policy is the one being updated."""
        return self.minibatches == 1 and self.epochs == 1

    @property
    def objective(self) -> Objective:
        """The loss's own choices, for ``functional.policy_loss``."""
        return Objective(
            ratio_level=self.ratio_level,
            surrogate=self.surrogate,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
            kl_coef=self.kl_coef,
            kl_estimator=self.kl_estimator,
            kl_corrected=self.kl_corrected,
            sapo_positive=self.sapo_positive,
            sapo_negative=self.sapo_negative,
        )


class OptimizerSettings(Settings):
    """AdamW with a warm-up and a schedule, counted in updates.

    Attributes:
        lr: peak learning rate.
        betas: AdamW's decay rates.
        eps: AdamW's epsilon.
        weight_decay: applied to matrices only; biases and norms are left alone.
        warmup_steps: updates over which the rate rises linearly from 0.
        schedule: what follows the warm-up.
        min_lr_ratio: the rate at the end of a cosine or linear schedule, as a share of ``lr``.
    """

    lr: float = Field(3e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    min_lr_ratio: float = Field(0.1, ge=0, le=1)


class SFTSettings(Settings):
    """Supervised fine-tuning on demonstrations.

    Attributes:
        loss_on: ``responses``, every assistant turn; ``last_response``, the last one alone; ``text``, every token of
            raw text: plain language modelling.
        epochs: passes over the demonstrations, which come in an order of their own in each; the batch that ends an
            epoch is filled up from the next one. Where a source has a weight, the sources come in these shares.
        steps: updates; it wins over ``epochs``.
        batch_size: demonstrations an update.
        max_tokens: longer demonstrations are left out, and counted.
        micro_batch_tokens: tokens a forward and backward pass holds at once, padding included, or one demonstration
            that is longer; it changes memory, never the gradient.
        normalize: an update's loss is divided by its trained ``tokens``, or by a ``constant``: ``tokens_per_sample``
            for each demonstration, so that the tokens of short ones weigh no more than those of long ones.
        tokens_per_sample: that constant.
        max_grad_norm: clip the gradient's norm to this; 0 does not clip.
        max_skipped_updates: stop the run after so many updates in a row with a loss or gradient that is not finite.
    """

    loss_on: Literal["responses", "last_response", "text"] = "responses"
    epochs: int = Field(2, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(128, ge=1)
    max_tokens: int = Field(32768, ge=2)
    micro_batch_tokens: int = Field(32768, ge=1)
    normalize: Literal["tokens", "constant"] = "tokens"
    tokens_per_sample: int = Field(512, ge=1)
    max_grad_norm: float = Field(1.0, ge=0)
    max_skipped_updates: int = Field(5, ge=1)

    def updates(self, rows: int) -> int:
        """How many updates a run over so many demonstrations makes: as many an epoch as make it whole.

        >>> SFTSettings(batch_size=32, epochs=2).updates(100), SFTSettings(steps=5).updates(100)
        (8, 5)
        """
        return self.steps or self.epochs * -(-rows // self.batch_size)


class RewardModelSettings(Settings):
    """A reward model: a policy's backbone with a scalar head.

    Attributes:
        kind: ``pairwise``, Bradley-Terry over chosen and rejected replies; ``pointwise``, one label a reply.
        part: what of a reply it sees: its final ``answer``, or the whole ``response``, reasoning included.
        balance_lengths: leave out pairs until the longer reply is chosen as often as the shorter one.
        head_std: the fresh head is drawn with this standard deviation; 0 begins with a score of 0 for everything.
        epochs: passes over the data.
        steps: updates; it wins over ``epochs``.
        batch_size: pairs or labelled replies an update.
        micro_batch_rows: replies a forward and backward pass holds at once, one pair at least; it changes memory,
            never the gradient.
        max_tokens: longer rows, prompt and reply together, are left out, and counted.
        max_grad_norm: clip the gradient's norm to this; 0 does not clip.
        max_skipped_updates: stop the run after so many updates in a row with a loss or gradient that is not finite.
    """

    kind: Literal["pairwise", "pointwise"] = "pairwise"
    part: Literal["answer", "response"] = "answer"
    balance_lengths: bool = False
    head_std: float = Field(0.02, ge=0)
    epochs: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    micro_batch_rows: int = Field(16, ge=1)
    max_tokens: int = Field(8192, ge=2)
    max_grad_norm: float = Field(1.0, ge=0)
    max_skipped_updates: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _balances_pairs(self) -> RewardModelSettings:
        if self.balance_lengths and self.kind != "pairwise":
            raise ValueError(
                f"reward_model.balance_lengths=true, but reward_model.kind={self.kind} has no pairs whose lengths "
                "could be compared; set balance_lengths=false"
            )
        return self

    def updates(self, rows: int) -> int:
        """How many updates a run over so many pairs or labelled replies makes.

        >>> RewardModelSettings(batch_size=32, epochs=2).updates(100), RewardModelSettings(steps=5).updates(100)
        (7, 5)
        """
        return self.steps or -(-self.epochs * rows // self.batch_size)
