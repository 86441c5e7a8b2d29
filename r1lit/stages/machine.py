"""What a run's settings ask of this machine, and of the processes that were started on it, that they have not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from r1lit.data.splits import HELD_OUT_SHARE
from r1lit.distributed.launch import Launch, launched
from r1lit.models.attention import needs_cuda
from r1lit.models.files import EMBEDDED, path_problem
from r1lit.models.memory import compiler_problem
from r1lit.modules.optimizer import lossy_problem
from r1lit.rewards.neural_rules import NEURAL
from r1lit.rewards.spec import RewardSettings
from r1lit.settings import Settings
from r1lit.stages.settings import TrainerSettings

TRAINS = frozenset({"fit", "sft", "reward_model"})
"""Stages that update a model's weights."""

SHARED_OUT = frozenset({"fit", "sft", "reward_model", "evaluate", "preflight", "profile"})
"""Stages that several processes can run together."""


def machine_problems(
    stage: str, sections: Mapping[str, Settings], rewards: Mapping[str, RewardSettings]
) -> Iterator[str]:
    """All of it; ``sections`` and ``rewards`` are those whose settings could be read."""
    yield from _device_problems(sections)
    profiled = sections.get("profile")
    stage_of = profiled.of if stage == "profile" and profiled is not None else stage
    yield from _training_problems(stage_of, sections)
    if (trainer := sections.get("trainer")) is not None:
        yield from _launch_problems(stage, trainer, launched())
        yield from _gathering_problems(stage_of, trainer, sections)
        yield from _sharded_problems(stage, trainer, sections, rewards)


def _device_problems(sections: Mapping[str, Settings]) -> Iterator[str]:
    """What the settings ask of this machine and of the model that it has not."""
    model, data, trainer = (sections.get(name) for name in ("model", "data", "trainer"))
    if model is not None and (problem := path_problem(model.path)):
        yield problem
    if trainer is not None and trainer.accelerator == "gpu" and not torch.cuda.is_available():
        yield "trainer.accelerator=gpu, but torch sees no GPU; set trainer.accelerator=auto"
    cuda = torch.cuda.is_available() and (trainer is None or trainer.accelerator != "cpu")
    if model is not None and needs_cuda(model.attention) and not cuda:
        yield f"model.attention={model.attention}, but its kernel runs on CUDA alone; set model.attention=auto"
    if (rollout := sections.get("rollout")) is not None and rollout.decode == "compiled":
        device = torch.device("cuda" if cuda else "cpu")
        if problem := compiler_problem(device, "rollout.decode=compiled", "rollout.decode=eager"):
            yield problem
    generated = data is not None and any(source.generator for source in data.training_sources.values())
    if generated and model is not None and model.path in EMBEDDED and data.validation > HELD_OUT_SHARE:
        yield (
            f"data.validation={data.validation}, but the tiny model was trained on all but a share of {HELD_OUT_SHARE} "
            f"of these problems; set data.validation={HELD_OUT_SHARE} or less"
        )


def _training_problems(stage: str, sections: Mapping[str, Settings]) -> Iterator[str]:
    """Settings of model, optimiser and trainer that cannot train together, or not on this machine."""
    model, optimizer, trainer = (sections.get(name) for name in ("model", "optimizer", "trainer"))
    if stage not in TRAINS or model is None or optimizer is None or trainer is None:
        return
    # Whatever the weights are loaded as, this precision makes them bfloat16.
    if trainer.precision == "bf16-true" and optimizer.kind == "adamw":
        yield lossy_problem("trainer.precision=bf16-true with optimizer.kind=adamw")
    device = "cuda" if trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    if model.compile and (problem := compiler_problem(torch.device(device))):
        yield problem


def _launch_problems(stage: str, trainer: TrainerSettings, launch: Launch) -> Iterator[str]:
    """What the settings ask of the processes that were started, or cannot do with them."""
    found = f"{launch.by} has started {launch.size} processes"
    if launch.size > 1 and stage not in SHARED_OUT:
        yield f"stage={stage} is done by one process, but {found}; start it without {launch.by}"
    elif launch.size > 1 and trainer.strategy == "single":
        yield (
            f"trainer=single is one process, but {found}; set trainer=ddp (the model in each) or trainer=fsdp (in "
            f"shards over all), or start r1lit without {launch.by}"
        )
    replicas = trainer.replicas_of(launch)
    if launch.size % replicas:
        yield f"trainer.replicas={replicas} does not divide the {launch.size} processes; set a divisor"
    if trainer.accelerator != "cpu" and 0 < torch.cuda.device_count() < launch.local_size:
        yield (
            f"{launch.by} has started {launch.local_size} processes on a node with {torch.cuda.device_count()} GPUs, "
            "but each needs one of its own; start as many as there are GPUs, or set trainer.accelerator=cpu"
        )


BATCHES: Mapping[str, str] = {
    "fit": "algorithm.prompts_per_step",
    "sft": "sft.batch_size",
    "reward_model": "reward_model.batch_size",
}
"""By stage: the setting of what its processes share out in each step."""


def launch_notes(stage: str, trainer: TrainerSettings, batch: int, launch: Launch) -> Iterator[str]:
    """What of the processes that were started is idle, or is missing; ``batch`` is the value of the stage's setting."""
    if launch.size == 1 and trainer.strategy != "single":
        yield (
            f"trainer={trainer.strategy} in one process, which is all that {launch.by} has started; for N of them: "
            "torchrun --nproc-per-node N -m r1lit ..."
        )
    if batch < launch.size:
        yield (
            f"{BATCHES[stage]}={batch} is less than the {launch.size} processes, so some have nothing to do in a step; "
            f"set {BATCHES[stage]}={launch.size} or more, or start fewer"
        )


def _gathering_problems(stage: str, trainer: TrainerSettings, sections: Mapping[str, Settings]) -> Iterator[str]:
    """Ways to sample that a model in shards has not."""
    rollout = sections.get("rollout")
    if rollout is None or rollout.kind != "transformers" or stage not in SHARED_OUT or trainer.strategy != "fsdp":
        return
    if rollout.decode != "eager":
        yield (
            f"rollout.decode={rollout.decode}, but its steps read weights where they stand, and trainer=fsdp gathers "
            "them anew; set rollout.decode=eager, or trainer=ddp"
        )
    if rollout.staleness and stage == "fit":
        yield (
            f"rollout.staleness={rollout.staleness}, but with trainer=fsdp rollout=transformers the same shards are "
            "gathered to sample and to learn, in turn; set rollout=vllm_server, rollout=vllm, trainer=ddp, or "
            "rollout.staleness=0"
        )


def _sharded_problems(
    stage: str, trainer: TrainerSettings, sections: Mapping[str, Settings], rewards: Mapping[str, RewardSettings]
) -> Iterator[str]:
    """Rewards held in shards that cannot be."""
    sharded = {name: reward for name, reward in rewards.items() if reward.sharded}
    for name, reward in sharded.items():
        asked = f"reward.{name}.sharded=true"
        if not reward.dotted_path.startswith(NEURAL):
            yield f"{asked}, but {reward.dotted_path} is no model of {NEURAL.rstrip('.')}; set it to false"
        if trainer.strategy != "fsdp" or stage not in SHARED_OUT:
            yield (
                f"{asked}, but trainer={trainer.strategy} with stage={stage} holds nothing in shards; set it to false, "
                "or trainer=fsdp"
            )
        if (device := reward.keywords.get("device", "auto")) != "auto":
            yield f"{asked} with reward.{name}.device={device}, but shards are where the policy's are; set device=auto"
        rollout = sections.get("rollout")
        if rollout is not None and rollout.staleness:
            yield (
                f"{asked} with rollout.staleness={rollout.staleness}: the processes would score and learn at once; set "
                "the former to false, or the latter to 0"
            )
    if sharded and len(sharded) == len(rewards):
        yield (
            f"every reward is held in shards ({', '.join(sharded)}), but completions go by the worker processes too; "
            "add a rule such as format, or set one's sharded=false"
        )
