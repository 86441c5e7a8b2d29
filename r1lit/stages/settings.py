"""Settings of the command itself, and of what its stages do around the training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from r1lit.data.settings import SourceSettings
from r1lit.distributed.launch import Launch
from r1lit.settings import Settings
from r1lit.types import Sampling


class PreflightSettings(Settings):
    """How many prompts are tried before a run, a group of completions each."""

    enabled: bool = True
    prompts: int = Field(16, ge=1)


class ProfileSettings(Settings):
    """What ``stage=profile`` runs.

    Attributes:
        of: the stage that is profiled; experiments name theirs.
        warmup: steps before anything is measured.
        steps: steps that are timed, without the profiler, which slows down what it looks at.
        traced: steps under the profiler after these, beside one in which it warms up.
    """

    of: Literal["fit", "sft", "reward_model"] = "fit"
    warmup: int = Field(1, ge=0)
    steps: int = Field(3, ge=1)
    traced: int = Field(1, ge=1)

    @property
    def total_steps(self) -> int:
        return self.warmup + self.steps + 1 + self.traced


class EvaluationSettings(Settings):
    """How a model is measured.

    Attributes:
        enabled: measure before and after training.
        before: measure before training too.
        sources: what to measure on, by name; without any, on the run's own held-out prompts.
        metric: the reward that says whether a completion is right (above one half).
        prompts: at most so many held-out prompts.
        max_prompt_tokens: longer prompts of ``sources`` are left out, and counted; null: data.max_prompt_tokens.
        k: samples a prompt.
        temperature: 0 is greedy.
        top_p: 1 keeps the whole distribution.
        max_tokens: longest completion.
        batch_prompts: prompts decoded together.
        every: steps between evaluations while training; 0 for none.
    """

    enabled: bool = True
    before: bool = True
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    metric: str = "accuracy"
    prompts: int = Field(500, ge=1)
    max_prompt_tokens: int | None = Field(None, ge=1)
    k: int = Field(16, ge=1)
    temperature: float = Field(0.6, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(2048, ge=1)
    batch_prompts: int = Field(32, ge=1)
    every: int = Field(0, ge=0)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens)


class CompletionsSettings(Settings):
    """Which steps' completions are saved; 0 for none."""

    every: int = Field(10, ge=0)


class TrainerSettings(Settings):
    """Where the training runs, in how many processes, and how often it saves its state.

    Attributes:
        strategy: ``single``, one process; ``ddp``, the model in each of several processes; ``fsdp``, the model in
            shards over all of them. torchrun or srun start the processes.
        replicas: whole models that the processes of ``fsdp`` hold together; ``nodes`` shards each over one node.
        cpu_offload: ``fsdp`` keeps shards, gradients and the optimiser's state in the host's memory.
        gather_for_sampling: whether ``fsdp`` gathers the whole model to sample from it, or each layer for each token;
            ``auto`` gathers it where it takes at most half of the memory that the training leaves.
        accelerator: ``auto``, ``cpu`` or ``gpu``.
        precision: Lightning's name of an arithmetic; ``auto`` is bf16-mixed on CUDA and 32-true elsewhere.
        checkpoint_every: steps between checkpoints; 0 for none.
        keep_checkpoints: how many of the newest are kept.
        peak_tflops: what the device can do at best, in 10^12 dense bfloat16 operations a second, which ``perf/mfu`` is
            measured against; null: what is known of the GPU, and of a CPU nothing.
        peak_bandwidth_gbs: of its memory, in 10^9 bytes a second, for ``perf/mbu_sample``; null likewise.
    """

    strategy: Literal["single", "ddp", "fsdp"] = "single"
    replicas: Literal["nodes"] | Annotated[int, Field(ge=1)] = 1
    cpu_offload: bool = False
    gather_for_sampling: bool | Literal["auto"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed", "bf16-true"] = "auto"
    checkpoint_every: int = Field(50, ge=0)
    keep_checkpoints: int = Field(2, ge=1)
    peak_tflops: float | None = Field(None, gt=0)
    peak_bandwidth_gbs: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _shards(self) -> TrainerSettings:
        asked = {"replicas": self.replicas != 1, "cpu_offload": self.cpu_offload}
        if wrong := [name for name, on in asked.items() if on and self.strategy != "fsdp"]:
            raise ValueError(
                f"{wrong[0]} is of a sharded model, which trainer={self.strategy} has not; set trainer=fsdp"
            )
        return self

    def replicas_of(self, launch: Launch) -> int:
        """How many whole models so many processes hold."""
        return launch.size // launch.local_size if self.replicas == "nodes" else self.replicas


class LoggerSettings(Settings):
    """Where metrics go beside the run's metrics.jsonl; all but ``kind`` speak of Weights & Biases.

    Attributes:
        kind: which logger.
        mode: ``auto`` is what WANDB_MODE or ``wandb offline`` say; else online where there is a key, and offline.
        project: the W&B project.
        entity: the user or team; W&B's default without it.
        group: runs of one group are shown together.
        tags: labels of the run.
        notes: a remark about the run.
        table_rows: completions sent at a time, in whole groups; all are in ``completions/``.
    """

    kind: Literal["csv", "tensorboard", "wandb", "none"] = "csv"
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "r1lit"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = Field(default_factory=list)
    notes: str | None = None
    table_rows: int = Field(256, ge=1, le=10_000)


class CommandSettings(Settings):
    """What the command does, under which name, from which seed."""

    stage: Literal[
        "fit",
        "sft",
        "reward_model",
        "collect",
        "reject",
        "pipeline",
        "evaluate",
        "preflight",
        "profile",
        "try_reward",
        "export",
    ] = "fit"
    name: str = "run"
    runs: str = "runs"
    seed: int = Field(0, ge=0)
    resume: str | None = None
    force: bool = False
    dry_run: bool = False
    workers: int = Field(1, ge=1)
