"""Fine-tune a policy on demonstrations: measure it on held-out ones, train, measure again, export."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.callbacks.evaluation import PeriodicEvaluation
from r1lit.data.demonstrations import Demonstration, LoadedDemonstrations, load_demonstrations
from r1lit.data.prompts import measured_keys
from r1lit.data.stream import epochs
from r1lit.models.loading import stop_ids
from r1lit.modules.sft import SFT, demonstration_figures, trained_tokens
from r1lit.settings import ConfigError
from r1lit.stages.attending import show_attention
from r1lit.stages.evaluate import summarize
from r1lit.stages.export import write_model
from r1lit.stages.loggers import build_loggers, logged
from r1lit.stages.measure import measure
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, arithmetic, load_model, placed, ranks_of, workbench
from r1lit.stages.summary import Summary
from r1lit.stages.training import answers_mark, begin, mark, resume_point, train

SHOWN = {
    "loss": ("loss", ".3f"),
    "accuracy": ("mean_token_accuracy", ".2f"),
    "epoch": ("epoch", ".2f"),
    "tok/s": ("perf/tokens_per_second", ",.0f"),
    "MFU": ("perf/mfu", ".0%"),
}


def sft(run: Run, summary: Summary) -> None:
    """Leaves a model directory, metrics and a summary in the run's directory.

    Raises:
        ConfigError: where model or data cannot be used.
    """
    checkpoint = resume_point(run, summary)
    loggers = build_loggers(run, checkpoint)
    policy, tokenizer = load_model(run.model)
    policy = placed(run, policy)
    show_attention(run, policy, summary)
    demonstrations = load(run, policy, tokenizer)
    _learn_to_stop(policy, tokenizer, demonstrations.train, summary)
    # Opened before training, so that what is wrong with the prompts is not found behind it.
    with examiner(run, policy, tokenizer) as bench, logged(loggers, summary):
        rows = len(demonstrations.train)
        begin(summary, checkpoint, run.sft.updates(rows))
        summary.show_parameters(policy)
        _show(demonstrations, summary)
        held_out = demonstrations.validation[: run.evaluation.prompts]
        lacking = _lacking(run, held_out, bench, summary, checkpoint is not None)
        if run.evaluation.before and "held_out.before" in lacking:
            _foretell("before", run, policy, held_out, summary)
        if run.evaluation.before and "before" in lacking:
            evaluated("before", run, bench, summary)
        train(
            run,
            summary,
            SFT(policy, run.sft, run.optimizer, run.sft.updates(rows), rows, run.model.packing, ranks_of(run)),
            epochs(demonstrations, run.data, run.sft.batch_size),
            loggers,
            checkpoint,
            shown=SHOWN,
            measuring=[
                PeriodicEvaluation(lambda: _figures(run, policy, held_out), run.evaluation.every if held_out else 0)
            ],
        )
        write_model(policy, tokenizer, run)
        if held_out:
            _foretell("after", run, policy, held_out, summary)
        if bench:
            evaluated("after", run, bench, summary)


def load(run: Run, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoadedDemonstrations:
    """The demonstrations of a run.

    Raises:
        ConfigError: where they are longer than the model's positions.
        DataError: where the data cannot be used.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError([f"model.path={run.model.path}: its tokenizer has no eos token to end an answer; set one"])
    held = measured_keys(run.data, run.evaluation.sources)
    demonstrations = load_demonstrations(run.data, tokenizer, run.sft.loss_on, run.sft.max_tokens, held)
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(item.ids) for item in [*demonstrations.train, *demonstrations.validation])
    if positions and longest > positions:
        raise ConfigError(
            [
                f"the longest demonstration has {longest} tokens, more than the model's {positions} positions; set "
                f"sft.max_tokens={positions} or less, which leaves such ones out"
            ]
        )
    return demonstrations


def examiner(
    run: Run, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> AbstractContextManager[Workbench | None]:
    """What it takes to sample answers to the prompts of ``evaluation.sources`` and to judge them; None where the run
    does not ask for that."""
    asked = run.evaluation.enabled and run.evaluation.sources
    return workbench(run, (policy, tokenizer)) if asked else nullcontext()


def evaluated(when: str, run: Run, bench: Workbench, summary: Summary) -> None:
    """Measure the model's answers."""
    # An engine holds weights of its own.
    bench.sampler.load_weights(bench.policy)
    summary.add(metric=run.evaluation.metric)
    summary.evaluation(when, summarize(measure(run, bench, summary)))


def _lacking(
    run: Run, held_out: Sequence[Demonstration], bench: Workbench | None, summary: Summary, trained: bool
) -> list[str]:
    """The measures that are to be made before training; those that stand beside no new one are dropped."""
    marks = {"held_out.before": mark((item.ids, item.trained) for item in held_out)} if held_out else {}
    marks |= {"before": answers_mark(run, bench.prompts.validation)} if bench else {}
    return [name for name, own in marks.items() if summary.lacks_before(name, own, trained)]


def _show(demonstrations: LoadedDemonstrations, summary: Summary) -> None:
    """How many there are, how many rows were left out for what, and how much of them is to be learnt."""
    train, held_out = demonstrations.train, demonstrations.validation
    rows = "".join(f"\n  {line}" for line in str(demonstrations.report).splitlines())
    tokens, trained = sum(len(item.ids) for item in train), trained_tokens(train)
    figures = {
        "train": len(train),
        "held_out": len(held_out),
        "left_out": {report.name: dict(report.bad + report.left_out) for report in demonstrations.report.sources},
        "tokens": tokens,
        "trained_tokens": trained,
        "longest": max(len(item.ids) for item in train),
    }
    summary.add(demonstrations=figures)
    summary.say(
        f"demonstrations: {len(train)} to train on, {len(held_out)} held out{rows}\n"
        f"tokens: {tokens} to train on, {trained} of them to learn; longest demonstration {figures['longest']}"
    )


def _learn_to_stop(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration],
    summary: Summary,
) -> None:
    """What ends the demonstrations ends what the model samples: a base model's chat template has a token of its own
    for the end of a turn."""
    stops = stop_ids(policy, tokenizer)
    further = sorted({item.ids[-1] for item in demonstrations} - {*stops})
    if further:
        policy.generation_config.eos_token_id = [*stops, *further]
        names = ", ".join(map(str, tokenizer.convert_ids_to_tokens(further)))
        summary.say(f"the chat template ends a turn with {names}, which from now on ends the model's completions too")


def _figures(run: Run, policy: PreTrainedModel, demonstrations: Sequence[Demonstration]) -> dict[str, float]:
    with arithmetic(run):
        return demonstration_figures(policy, demonstrations, run.sft, run.model.packing, ranks_of(run))


def _foretell(
    when: str, run: Run, policy: PreTrainedModel, demonstrations: Sequence[Demonstration], summary: Summary
) -> None:
    with summary.timed("evaluate"):
        figures = _figures(run, policy, demonstrations)
    summary.add(held_out=summary.figures.get("held_out", {}) | {when: figures})
    summary.say(
        f"{when} training: held-out loss {figures['loss']:.4f}, perplexity {figures['perplexity']:.4g}, token accuracy "
        f"{figures['mean_token_accuracy']:.3f}, on {figures['demonstrations']} demonstrations"
    )
