"""Run a few steps of a training to see where its time and memory go; no model is kept, and none is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from r1lit.stages import reward_model, sft
from r1lit.stages.fit import build_module
from r1lit.stages.performance import performance
from r1lit.stages.profile_advice import Profile
from r1lit.stages.profile_page import page
from r1lit.stages.run import Run
from r1lit.stages.setup import load_model, placed, workbench
from r1lit.stages.summary import Summary
from r1lit.stages.training import build_trainer, peak

Trained = AbstractContextManager[tuple[lightning.LightningModule, Stream]]


def profile(run: Run, summary: Summary) -> None:
    """Leaves ``profile.md``, ``trace.json.gz`` and the same figures in the summary.

    Raises:
        ConfigError: where model or data cannot be used.
    """
    run = shortened(run)
    settings = run.profile
    tracing = Tracing(settings.warmup + settings.steps, settings.traced, str(run.directory / "trace.json.gz"))
    with TRAININGS[settings.of](run) as (module, stream):
        trainer = build_trainer(run, summary, [], settings.total_steps, {}, [tracing], saves=False)
        trainer.fit(module, datamodule=StepDataModule(stream, settings.total_steps))
        steps = read_metrics(run.directory / "metrics.jsonl")[settings.warmup :][: settings.steps]
    found = Profile(
        run=run,
        seconds={
            name.removeprefix("time/"): sum(step[name] for step in steps) / len(steps)
            for name in steps[0]
            if name.startswith("time/")
        },
        performance=performance(steps),
        trace=tracing.trace,
        peak=peak(run),
    )
    text = page(found)
    with replacing(run.directory / "profile.md") as part:
        part.write_text(text)
    trace = asdict(tracing.trace)
    trace["operators"] = dict(found.top(30))
    summary.add(seconds_a_step=found.seconds, performance=found.performance, trace=trace)
    summary.say(text)


def shortened(run: Run) -> Run:
    """The run as the stage that is profiled sees it: a few steps, and nothing before or after them."""
    steps = {"steps": run.profile.total_steps}
    return replace(
        run,
        command=run.command.model_copy(update={"stage": run.profile.of}),
        algorithm=run.algorithm.model_copy(update=steps),
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
    module = SFT(policy, run.sft, run.optimizer, run.profile.total_steps, len(demonstrations.train), run.model.packing)
    yield module, epochs(demonstrations, run.data, run.sft.batch_size)


@contextmanager
def _reward_model(run: Run) -> Iterator[tuple[lightning.LightningModule, Stream]]:
    model, tokenizer = reward_model.load_scorer(run)
    judgements = reward_model.load(run, model, tokenizer)
    module = RewardModel(model, run.reward_model, run.optimizer, run.profile.total_steps)
    yield module, epochs(judgements, run.data, run.reward_model.batch_size)


TRAININGS: Mapping[str, Callable[[Run], Trained]] = {"fit": _fit, "sft": _sft, "reward_model": _reward_model}
"""By stage: its module, and the batches that it trains on."""
