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
from r1lit.settings import Settings
from r1lit.stages.settings import TrainerSettings

TRAINS = frozenset({"fit", "sft", "reward_model"})
"""Stages that update a model's weights."""

SHARED_OUT = frozenset({"fit", "sft", "reward_model", "evaluate", "preflight"})
"""Stages that several processes can run together."""


def machine_problems(stage: str, sections: Mapping[str, Settings]) -> Iterator[str]:
    """All of it; ``sections`` are those whose settings could be read."""
    yield from _device_problems(sections)
    profiled = sections.get("profile")
    stage_of = profiled.of if stage == "profile" and profiled is not None else stage
    yield from _training_problems(stage_of, sections)
    if (trainer := sections.get("trainer")) is not None:
        if stage == "profile" and trainer.strategy != "single":
            yield f"trainer={trainer.strategy}, but stage=profile looks at one process; set trainer=single"
        yield from _launch_problems(stage, trainer, launched())
        yield from _alone_problems(stage_of, trainer, sections)


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


def _alone_problems(stage: str, trainer: TrainerSettings, sections: Mapping[str, Settings]) -> Iterator[str]:
    """What is done with whole models alone, and refused in shards."""
    model, rollout, optimizer = (sections.get(name) for name in ("model", "rollout", "optimizer"))
    if model is None or rollout is None or optimizer is None or stage not in SHARED_OUT:
        return
    if trainer.strategy == "fsdp" and stage in TRAINS:
        if model.lora.rank:
            yield f"model.lora.rank={model.lora.rank}, but trainer=fsdp shards whole weights; set trainer=ddp"
        if optimizer.kind != "adamw":
            yield (
                f"optimizer.kind={optimizer.kind}, but with trainer=fsdp its state could not be resumed; set "
                "optimizer.kind=adamw, or trainer=ddp"
            )
    if trainer.strategy == "fsdp" and stage == "fit" and rollout.staleness and rollout.kind == "transformers":
        yield (
            f"rollout.staleness={rollout.staleness}, but with trainer=fsdp rollout=transformers the same shards are "
            "gathered to sample and to learn, in turn; set rollout=vllm_server, rollout=vllm, trainer=ddp, or "
            "rollout.staleness=0"
        )
    if trainer.strategy == "fsdp" and model.lora.rank and rollout.kind != "transformers" and stage != "reward_model":
        yield (
            f"rollout.kind={rollout.kind} takes whole weights, but with trainer=fsdp those that model.lora.rank="
            f"{model.lora.rank} adapts are in shards; set trainer=ddp, or rollout=transformers"
        )
