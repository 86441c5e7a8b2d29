"""Run a few steps of a training to see where its time and memory go; no model is kept, and none is measured.

Of several processes all train and are slowed down alike by their profilers, and the first tells what it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, replace

import lightning

from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.storage import replacing
from r1lit.callbacks.tracing import Tracing
from r1lit.data.module import StepDataModule, Stream
from r1lit.data.stream import PromptStream, epochs
from r1lit.modules.reward_model import RewardModel
from r1lit.modules.sft import SFT
from r1lit.modules.timing import parted
from r1lit.stages import reward_model, sft
from r1lit.stages.fit import build_module
from r1lit.stages.performance import performance
from r1lit.stages.profile_advice import Profile
from r1lit.stages.profile_page import page
from r1lit.stages.run import Run
from r1lit.stages.setup import load_model, placed, ranks_of, workbench
from r1lit.stages.summary import Summary
from r1lit.stages.training import build_trainer, peak

Trained = AbstractContextManager[tuple[lightning.LightningModule, Stream]]


def profile(run: Run, summary: Summary) -> None:
    """Leaves ``profile.md``, ``trace.json.gz`` and the same figures in the summary; all processes are to call it.

    Raises:
        ConfigError: where model or data cannot be used.
    """
    run = shortened(run)
    settings = run.profile
    path = str(run.directory / "trace.json.gz") if summary.writes else None
    tracing = Tracing(settings.warmup + settings.steps, settings.traced, path)
    with TRAININGS[settings.of](run) as (module, stream):
        trainer = build_trainer(run, summary, [], settings.total_steps, {}, [tracing], saves=False)
        trainer.fit(module, datamodule=StepDataModule(stream, settings.total_steps))
    ranks = ranks_of(run)
    of_ranks = ranks.gather(parted(seconds_a_step(tracing.untraced_steps[settings.warmup :]))[0])
    if not summary.writes:
        return
    steps = read_metrics(run.directory / "metrics.jsonl")[settings.warmup :][: settings.steps]
    seconds, beside = parted(seconds_a_step(steps))
    found = Profile(
        run=run,
        seconds=seconds,
        beside=beside,
        performance=performance(steps),
        trace=tracing.trace,
        peak=peak(run),
        of_ranks=of_ranks,
    )
    text = page(found)
    with replacing(run.directory / "profile.md") as part:
        part.write_text(text)
    trace = asdict(tracing.trace)
    trace["operators"] = dict(found.top(30))
    summary.add(seconds_a_step=found.seconds, performance=found.performance, trace=trace)
    if beside:
        summary.add(seconds_a_step_beside=beside)
    if ranks.size > 1:
        summary.add(seconds_a_step_by_rank=of_ranks)
    summary.say(text)


def seconds_a_step(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each phase's seconds; a step that lacks a phase has none of it.

    >>> seconds_a_step([{"time/sample": 1.0, "reward": 0.5}, {"time/sample": 2.0, "time/other": 1.0}])
    {'sample': 1.5, 'other': 0.5}
    """
    names = dict.fromkeys(name for step in steps for name in step if name.startswith("time/"))
    return {name.removeprefix("time/"): sum(step.get(name, 0.0) for step in steps) / len(steps) for name in names}


def shortened(run: Run) -> Run:
    """The run as the stage that is profiled sees it: a few steps, and nothing before or after them."""
    steps = {"steps": run.profile.total_steps}
    # Beside the last step too something is sampled.
    ahead = {"steps": run.profile.total_steps + run.rollout.staleness}
    return replace(
        run,
        command=run.command.model_copy(update={"stage": run.profile.of}),
        algorithm=run.algorithm.model_copy(update=ahead),
        sft=run.sft.model_copy(update=steps),
        reward_model=run.reward_model.model_copy(update=steps),
        evaluation=run.evaluation.model_copy(update={"enabled": False, "every": 0}),
    )


@contextmanager
def _fit(run: Run) -> Iterator[tuple[lightning.LightningModule, Stream]]:
    with workbench(run) as bench:
        prompts = bench.prompts
        stream = PromptStream(prompts.sources, prompts.weights, run.algorithm.prompts_per_step, run.data.seed)
        module = build_module(run, bench, stream)
        with closing(module.ahead):
            yield module, stream


@contextmanager
def _sft(run: Run) -> Iterator[tuple[lightning.LightningModule, Stream]]:
    policy, tokenizer = load_model(run.model)
    policy = placed(run, policy)
    demonstrations = sft.load(run, policy, tokenizer)
    rows, steps = len(demonstrations.train), run.profile.total_steps
    module = SFT(policy, run.sft, run.optimizer, steps, rows, run.model.packing, ranks_of(run))
    yield module, epochs(demonstrations, run.data, run.sft.batch_size)


@contextmanager
def _reward_model(run: Run) -> Iterator[tuple[lightning.LightningModule, Stream]]:
    model, tokenizer = reward_model.load_scorer(run)
    judgements = reward_model.load(run, model, tokenizer)
    module = RewardModel(model, run.reward_model, run.optimizer, run.profile.total_steps, ranks_of(run))
    yield module, epochs(judgements, run.data, run.reward_model.batch_size)


TRAININGS: Mapping[str, Callable[[Run], Trained]] = {"fit": _fit, "sft": _sft, "reward_model": _reward_model}
"""By stage: its module, and the batches that it trains on."""
