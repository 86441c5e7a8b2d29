"""Train a policy with GRPO: pre-flight, measure, train, measure again, export."""

from __future__ import annotations

from contextlib import closing

from r1lit.callbacks.alarms import HackingAlarms
from r1lit.callbacks.completions import CompletionsTable
from r1lit.callbacks.evaluation import PeriodicEvaluation
from r1lit.data.stream import PromptStream
from r1lit.modules.grpo import GRPO
from r1lit.stages.attending import show_attention
from r1lit.stages.evaluate import summarize
from r1lit.stages.export import write_model
from r1lit.stages.loggers import build_loggers, logged
from r1lit.stages.measure import measure
from r1lit.stages.preflight import preflight, require_signal
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, workbench
from r1lit.stages.summary import Summary
from r1lit.stages.training import answers_mark, begin, resume_point, train


def fit(run: Run, summary: Summary) -> None:
    """Run R1-Zero's loop; leaves a model directory, metrics, completions and a summary in the run's directory."""
    checkpoint = resume_point(run, summary)
    loggers = build_loggers(run, checkpoint)
    with workbench(run) as bench, logged(loggers, summary):
        summary.show_prompts(bench.prompts)
        show_attention(run, bench.policy, summary)
        begin(summary, checkpoint, run.algorithm.steps)
        summary.show_parameters(bench.policy)
        summary.add(metric=run.evaluation.metric, sampler=bench.sampler.description)
        summary.say(f"sampling: {bench.sampler.description}")
        if bench.gathered is not None:
            summary.add(gathered_for_sampling=bench.gathered)
            how = "the whole model, gathered for each batch" if bench.gathered else "layers gathered one by one"
            summary.say(f"sampling from {how}")
        if run.preflight.enabled and checkpoint is None:
            with summary.timed("preflight"):
                found = preflight(run, bench)
            summary.preflight(found)
            require_signal(found, run.command.force)
        prompts = bench.prompts
        if run.evaluation.enabled:
            mark = answers_mark(run, prompts.validation)
            if summary.lacks_before("before", mark, checkpoint is not None) and run.evaluation.before:
                _evaluate("before", run, bench, summary)
        stream = PromptStream(prompts.sources, prompts.weights, run.algorithm.prompts_per_step, run.data.seed)
        module = build_module(run, bench, stream)
        with closing(module.ahead):
            train(
                run,
                summary,
                module,
                stream,
                loggers,
                checkpoint,
                shown=_shown(run.evaluation.metric),
                measuring=[
                    PeriodicEvaluation(lambda: _meanwhile(module, run, bench, summary), run.evaluation.every),
                    HackingAlarms(run.directory, run.rewards, run.alarms),
                    CompletionsTable(run.directory, run.completions.every),
                ],
            )
        write_model(bench.policy, bench.tokenizer, run)
        if run.evaluation.enabled:
            module.ahead.settle()
            _evaluate("after", run, bench, summary)


def build_module(run: Run, bench: Workbench, stream: PromptStream) -> GRPO:
    """The algorithm on this run's model; further prompts, where it asks for them, come from the stream."""
    return GRPO(
        policy=bench.policy,
        sampler=bench.sampler.apart() if run.rollout.staleness else bench.sampler,
        rewards=bench.rewards,
        algorithm=run.algorithm,
        optimizer=run.optimizer,
        sampling=run.rollout.sampling,
        extra_prompts=stream.extra,
        packing=run.model.packing,
        seed=run.command.seed,
        staleness=run.rollout.staleness,
        prompts_at=stream.batch,
        ranks=bench.ranks,
    )


def _evaluate(when: str, run: Run, bench: Workbench, summary: Summary) -> None:
    judged = measure(run, bench, summary)
    summary.evaluation(when, summarize(judged))
    # The first held-out prompt's first sample, whatever it is: the same prompt before and after.
    first = judged[0].group
    summary.say(f"    {_shortened(first.prompt.raw)} -> {_shortened(first.completions[0])}")


def _shortened(text: object, limit: int = 300) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]} ..."


def _shown(metric: str) -> dict[str, tuple[str, str]]:
    """What the progress bar shows: label to metric and format."""
    return {
        "reward": ("reward", ".2f"),
        metric: (f"rewards/{metric}/mean", ".2f"),
        "length": ("completions/mean_length", ".1f"),
        "tok/s": ("perf/tokens_per_second", ",.0f"),
        "MFU": ("perf/mfu", ".0%"),
    }


def _meanwhile(module: GRPO, run: Run, bench: Workbench, summary: Summary) -> dict[str, float]:
    """Figures of the policy between two steps."""
    module.ahead.settle()
    figures = summarize(measure(run, bench, summary))
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}
