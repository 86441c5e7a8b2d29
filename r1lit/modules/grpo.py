"""Group Relative Policy Optimization (DeepSeekMath, arXiv 2402.03300) as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import lightning
import torch
from torch import Tensor, nn

from r1lit.distributed.passes import own_passes
from r1lit.distributed.plan import frozen_reference
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.functional import Metrics, group_advantages, has_variance, policy_loss
from r1lit.models.logprobs import completion_logprobs
from r1lit.models.packing import Packed, Packing
from r1lit.models.reference import make_reference, reference_model, refresh
from r1lit.modules.ahead import Ahead
from r1lit.modules.compute import Cost, Work, step_work
from r1lit.modules.experience import Experience, concatenate, take, trajectories
from r1lit.modules.metrics import Means, rollout_metrics
from r1lit.modules.mismatch import Mismatch
from r1lit.modules.optimizer import apply_settings, build_optimizer
from r1lit.modules.settings import AlgorithmSettings, OptimizerSettings
from r1lit.modules.timing import PhaseTimer
from r1lit.modules.update import Updates
from r1lit.rollout.sampler import Sampler
from r1lit.types import Group, Minibatch, Prompt, Rollout, Sampling, Scored, Trajectory


class Rewards(Protocol):
    """Scores groups: ``submit`` while others are still being sampled, ``gather`` for the whole table, with the weights
    that hold at a share ``progress`` of the run."""

    def submit(self, index: int, group: Group) -> None: ...

    def gather(self, rollout: Rollout, progress: float = 1.0) -> Scored: ...


class GRPO(lightning.LightningModule):
    """The policy, and one step of the algorithm: sample, score, compare within groups, update.

    Args:
        policy: a causal LM, its parameters in the dtype they are to be updated in.
        sampler: draws completions from the policy.
        rewards: scores them.
        extra_prompts: ``(step, round) -> prompts`` in place of those whose groups are uniform, where the algorithm
            resamples them.
        algorithm: the algorithm's settings.
        optimizer: the optimiser's settings.
        sampling: how completions are drawn while training.
        packing: whether sequences share the rows of a pass.
        staleness: S: a step learns from completions of the policy as it was S steps before; the sampler then holds
            weights of its own. 0: from its own.
        prompts_at: any step's prompts, which sampling ahead asks for.
        seed: with the step's number it decides every random choice of a step, so a resumed run needs no state.
        ranks: the processes that share a step's work; its rewards give the same table to all of them.
    """

    def __init__(
        self,
        policy: nn.Module,
        sampler: Sampler,
        rewards: Rewards,
        algorithm: AlgorithmSettings,
        optimizer: OptimizerSettings,
        sampling: Sampling,
        extra_prompts: Callable[[int, int], Sequence[Prompt]] | None = None,
        packing: Packing = "auto",
        seed: int = 0,
        staleness: int = 0,
        prompts_at: Callable[[int], Sequence[Prompt]] | None = None,
        ranks: Ranks = ALONE,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.ranks = ranks
        self.reference = make_reference(policy, frozen_reference) if algorithm.kl_coef > 0 else None
        self.sampler, self.rewards, self.extra_prompts = sampler, rewards, extra_prompts
        self.algorithm, self.optimizer, self.sampling, self.seed = algorithm, optimizer, sampling, seed
        self.packing, self.timer = packing, PhaseTimer()
        self.ahead = Ahead(self.sample, sampler, policy, staleness, prompts_at, algorithm.steps, self.timer)
        self.mismatch = Mismatch(algorithm, sampler, staleness)
        self.experience: Experience | None = None
        self.metrics: dict[str, float] = {}
        self.work: dict[str, Work] = {}
        self.updates = Updates(algorithm.max_grad_norm, algorithm.max_skipped_updates, "algorithm", ranks)

    def on_train_start(self) -> None:
        # transformers loads models in evaluation mode, in which they would not checkpoint their activations.
        self.policy.train()
        # A resumed run goes by the settings it is given, not by those its checkpoint was saved under.
        apply_settings(self.optimizers().optimizer, self.lr_schedulers(), self.optimizer)
        # A checkpoint's weights have reached the policy, and no engine yet.
        self.sampler.load_weights(self.policy)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Keep the rollouts that wait for their steps, which older weights drew."""
        checkpoint["ahead"] = self.ahead.state_dict()

    optional_weights = ("reference.",)
    """What a checkpoint may lack."""

    def configure_model(self) -> None:
        """Whoever made the models has sharded them, where they are."""

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Let a run resume with a KL that it did not have before, from the initial model, or without the one it had."""
        self.ahead.load_state_dict(checkpoint.get("ahead", []), self.asked)
        if "state_dict" not in checkpoint:
            # Of shards, each was put where it belongs already.
            return
        state = checkpoint["state_dict"]
        mine = {} if self.reference is None else self.reference.state_dict(prefix="reference.")
        for name in [name for name in state if name.startswith("reference.") and name not in mine]:
            del state[name]
        for name, value in mine.items():
            state.setdefault(name, value)

    def training_step(self, batch: tuple[int, Sequence[Prompt]], batch_idx: int) -> None:
        """One step of GRPO on B prompts; leaves its ``metrics`` and ``experience`` for the callbacks."""
        step, prompts = batch
        scored, staleness = self.ahead.take(step, prompts)
        metrics = rollout_metrics(scored) | {"rollout/staleness": float(staleness)}
        self.experience = self.annotate(scored, self.trained_groups(scored, len(prompts)))
        means = Means()
        self.updates.reset()
        for minibatch in self.experience.minibatches(
            self.algorithm.minibatches,
            self.algorithm.epochs,
            self.algorithm.aggregation,
            self.sampling.max_tokens,
            generator=torch.Generator().manual_seed(self.step_seed(step)),
        ):
            with self.timer.phase("update"):
                self.update(minibatch, means)
        with self.timer.phase("other"):
            if self.reference is not None and self._refresh_due(step):
                refresh(self.reference, self.policy)
            self.ahead.follow()
            self.work = self.count_work()
            flops = sum(work.flops for work in self.work.values())
            metrics |= means.read(self.ranks) | self.mismatch.read(self.ranks)
            metrics |= {"updates_skipped": float(self.updates.skipped), "perf/flops": flops}
        self.metrics = metrics | self.timer.pop()

    def sample(self, step: int, prompts: Sequence[Prompt]) -> Scored:
        """G scored completions of each prompt; where the algorithm resamples, of further prompts too, in bounded
        rounds, until as many groups have something to teach as there were prompts."""
        progress = step / self.total_steps
        rounds = [self.score(prompts, self.step_seed(step), progress)]
        if self.algorithm.uniform_groups == "resample":
            for extra in range(self.algorithm.max_resamples):
                if sum(int(self.varied(scored).sum()) for scored in rounds) >= len(prompts):
                    break
                rounds.append(self.score(self.extra_prompts(step, extra), self.step_seed(step, 1 + extra), progress))
        return concatenate(rounds)

    def asked(self, step: int, count: int) -> list[Prompt]:
        """The first ``count`` prompts that a step may sample, further ones of resampling included."""
        prompts = list(self.ahead.prompts_at(step)) if self.ahead.prompts_at else []
        extra = 0
        while prompts and len(prompts) < count and self.extra_prompts is not None:
            prompts += self.extra_prompts(step, extra)
            extra += 1
        return prompts[:count]

    def trained_groups(self, scored: Scored, wanted: int) -> Tensor:
        """bool, one a group, True where it takes part in the update; ``wanted`` is how many resampling is after."""
        if self.algorithm.uniform_groups == "keep":
            return torch.ones(len(scored.rollout.groups), dtype=torch.bool)
        varied = self.varied(scored)
        return varied & (varied.cumsum(0) <= wanted)

    def score(self, prompts: Sequence[Prompt], seed: int, progress: float = 1.0) -> Scored:
        """Sample a group for each prompt; rewards judge each group as soon as its last completion has ended."""
        with self.timer.phase("sample"):
            rollout = self.sampler.generate(
                prompts, self.algorithm.group_size, self.sampling, seed=seed, on_group=self.rewards.submit
            )
        with self.timer.phase("score"):
            return self.rewards.gather(rollout, progress)

    def annotate(self, scored: Scored, trained_groups: Tensor) -> Experience:
        """Advantages, and the log-probs under the sampling policy and the reference where the objective needs them."""
        rollout, size = scored.rollout, scored.rollout.group_size
        rows = trained_groups.repeat_interleave(size).nonzero()[:, 0]
        advantages = torch.zeros(len(scored.columns), dtype=torch.float32)
        if len(rows):
            advantages[rows] = group_advantages(
                scored.columns[rows], scored.weights, size, scale=self.algorithm.advantage_scale
            )
        rows = rows.to(self.device)
        trained = rollout.completion_mask
        if self.algorithm.mask_truncated:
            trained = trained & ~rollout.truncated.to(self.device)[:, None]
        with self.timer.phase("logprobs"):
            old = None if self.algorithm.on_policy else self.sampling_logprobs(rollout, rows)
            with reference_model(self.reference, self.policy) as model:
                ref = None if model is None else self.logprobs_under(model, rollout, rows)
        drawn = rollout.logprobs if self.mismatch.wanted else None
        return Experience(scored, rows, advantages.to(self.device), trained, old, ref, drawn)

    def sampling_logprobs(self, rollout: Rollout, rows: Tensor) -> Tensor:
        """float32 [N, T] of the policy that sampled: the sampler's own where nothing was cut off the distribution, and
        where decoding rounds as training does, which takes float32."""
        rounds_alike = self.policy.dtype == torch.float32 and not torch.is_autocast_enabled(self.device.type)
        if self.mismatch.exact and rollout.sampling.full_support and rounds_alike:
            return rollout.logprobs
        return self.logprobs_under(self.policy, rollout, rows)

    @torch.no_grad()
    def logprobs_under(self, model: nn.Module, rollout: Rollout, rows: Tensor) -> Tensor:
        """float32 [N, T], the log-probs of some rows' completions under a model; 0 for the others."""
        table = torch.zeros_like(rollout.logprobs)
        for part, counts in self.passes(model, trajectories(rollout, rows)) if len(rows) else ():
            places = rows[list(part.places)]
            mask = rollout.completion_mask[places]
            width = int(mask.sum(-1).max())
            logprobs, _ = completion_logprobs(model, part, mask[:, :width], temperature=self.temperature)
            if counts:
                table[places, :width] = logprobs.float()
        return self.ranks.sum(table)

    def passes(self, model: nn.Module, items: Sequence[Trajectory]) -> Iterator[tuple[Packed, bool]]:
        """This process's trajectories in passes through a model that fit into memory, and whether a pass counts."""
        return own_passes(model, items, self.algorithm.micro_batch_tokens, self.packing, self.ranks)

    def update(self, minibatch: Minibatch, means: Means) -> None:
        """One optimiser step on a minibatch, in micro-batches; skipped where loss or gradient is not finite."""
        losses = (
            self.loss(part, minibatch) if counts else self.nothing(part, minibatch)
            for part, counts in self.passes(self.policy, minibatch.trajectories)
        )
        self.updates.take(self, self.policy, losses, means)

    def loss(self, packed: Packed, minibatch: Minibatch) -> tuple[Tensor, Metrics]:
        """A micro-batch's share of its update's loss, and its metrics as sums and counts."""
        part = take(minibatch, packed.places)
        logprobs, entropy = completion_logprobs(self.policy, packed, part.completion_mask, self.temperature)
        trained = part.weights > 0
        old = logprobs.detach() if part.old_logprobs is None else part.old_logprobs
        loss, sums = policy_loss(
            logprobs,
            part.old_logprobs,
            part.ref_logprobs,
            part.advantages,
            part.weights,
            trained,
            self.algorithm.objective,
            self.mismatch.correction(old, part.sampling_logprobs, trained),
        )
        return loss, sums | {"entropy": (entropy.sum(), part.completion_mask.sum())}

    def nothing(self, packed: Packed, minibatch: Minibatch) -> tuple[Tensor, Metrics]:
        """A pass that adds nothing to the update, for what it lets other processes do."""
        mask = take(minibatch, packed.places).completion_mask
        logprobs, _ = completion_logprobs(self.policy, packed, mask, temperature=self.temperature)
        return 0.0 * logprobs.sum(), {}

    def varied(self, scored: Scored) -> Tensor:
        """bool [B], True where the group's completions did not all get the same reward."""
        return has_variance(scored.columns, scored.weights, scored.rollout.group_size)

    def count_work(self) -> dict[str, Work]:
        """What the step asked of the model, by phase."""
        experience, device = self.experience, self.device.type
        annotated = (experience.ref_logprobs is not None) + (
            experience.old_logprobs is not None
            and experience.old_logprobs is not experience.scored.rollout.logprobs
        )
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.policy.dtype
        return step_work(Cost.of(self.policy), experience, annotated, self.algorithm.epochs, dtype.itemsize)

    @property
    def total_steps(self) -> int:
        return self.algorithm.steps

    @property
    def temperature(self) -> float:
        return self.sampling.temperature

    def step_seed(self, step: int, resample: int = 0) -> int:
        """The seed of everything random in a step."""
        return hash((self.seed, step, resample)) & 0x7FFF_FFFF_FFFF_FFFF

    def _refresh_due(self, step: int) -> bool:
        every = self.algorithm.reference_refresh
        return every > 0 and (step + 1) % every == 0

    def configure_optimizers(self):
        updates = self.algorithm.steps * self.algorithm.minibatches * self.algorithm.epochs
        optimizer, schedule = build_optimizer(self.policy, self.optimizer, updates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
