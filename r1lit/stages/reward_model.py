"""Train a reward model: measure it on held-out replies, train, measure again, export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r1lit.callbacks.evaluation import PeriodicEvaluation
from r1lit.data.parting import Loaded
from r1lit.data.preferences import LENGTHS, Judgement, load_judgements
from r1lit.data.prompts import measured_keys
from r1lit.data.stream import epochs
from r1lit.models.reward_model import Scoring, new_reward_model, set_scoring
from r1lit.modules.reward_model import RewardModel, shared_scores
from r1lit.settings import ConfigError
from r1lit.stages.export import write_model
from r1lit.stages.loggers import build_loggers, logged
from r1lit.stages.reward_figures import reward_figures
from r1lit.stages.run import Run
from r1lit.stages.setup import arithmetic, placed, ranks_of
from r1lit.stages.summary import Summary
from r1lit.stages.training import begin, mark, resume_point, train

SHOWN = {
    "loss": ("loss", ".3f"),
    "accuracy": ("accuracy", ".2f"),
    "reward": ("mean_reward", ".2f"),
    "tok/s": ("perf/tokens_per_second", ",.0f"),
    "MFU": ("perf/mfu", ".0%"),
}


def train_reward_model(run: Run, summary: Summary) -> None:
    """Leaves a model directory for transformers' sequence-classification class, metrics and a summary.

    Raises:
        ConfigError: where model or data cannot be used.
    """
    checkpoint = resume_point(run, summary)
    loggers = build_loggers(run, checkpoint)
    model, tokenizer = load_scorer(run)
    judgements = load(run, model, tokenizer)
    with logged(loggers, summary):
        steps = run.reward_model.updates(len(judgements.train))
        begin(summary, checkpoint, steps)
        summary.show_parameters(model)
        _show(judgements, run, summary)
        measured = (judgements.validation or judgements.train)[: run.evaluation.prompts]
        held_out = bool(judgements.validation)
        if held_out:
            own = mark([run.reward_model.kind, *((row.rows, row.lengths, row.target) for row in measured)])
            if summary.lacks_before("held_out.before", own, checkpoint is not None) and run.evaluation.before:
                _measure("before", run, _scores(run, model, measured), measured, summary)
        every = run.evaluation.every if held_out else 0
        train(
            run,
            summary,
            RewardModel(model, run.reward_model, run.optimizer, steps, ranks_of(run)),
            epochs(judgements, run.data, run.reward_model.batch_size),
            loggers,
            checkpoint,
            shown=SHOWN,
            measuring=[PeriodicEvaluation(lambda: _scalars(run, model, measured), every)],
        )
        with summary.timed("evaluate"):
            scores = _scores(run, model, measured)
        if held_out:
            _measure("after", run, scores, measured, summary)
        set_scoring(model, _scoring(run, scores))
        write_model(model, tokenizer, run)


def load_scorer(run: Run) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model that is to be trained, on its device.

    Raises:
        ConfigError: with the reason, where it cannot be loaded.
    """
    try:
        model, tokenizer = new_reward_model(run.model, run.reward_model.head_std, run.command.seed)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from error
    return placed(run, model), tokenizer


def load(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Loaded[Judgement]:
    """The judged replies of a run.

    Raises:
        ConfigError: where the tokenizer cannot mark a reply's end, or rows are longer than the model's positions.
        DataError: where the data cannot be used.
    """
    settings = run.reward_model
    if tokenizer.eos_token_id is None:
        raise ConfigError([f"model.path={run.model.path}: its tokenizer has no eos token, which ends a reply; set one"])
    held = measured_keys(run.data, run.evaluation.sources)
    judgements = load_judgements(
        run.data, tokenizer, settings.kind, settings.part, settings.max_tokens, settings.balance_lengths, held
    )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    everything = [*judgements.train, *judgements.validation]
    longest = max(len(row) for judgement in everything for row in judgement.rows)
    if positions and longest > positions:
        raise ConfigError(
            [
                f"the longest row has {longest} tokens, more than the model's {positions} positions; set "
                f"reward_model.max_tokens={positions} or less, which leaves such rows out"
            ]
        )
    return judgements


def _show(judgements: Loaded[Judgement], run: Run, summary: Summary) -> None:
    """How many rows there are, how many were left out for what, and how long the replies are."""
    rows = "".join(f"\n  {line}" for line in str(judgements.report).splitlines())
    parts = {"train": judgements.train, "held_out": judgements.validation}
    lengths = {name: LENGTHS[run.reward_model.kind](part) for name, part in parts.items() if part}
    summary.add(lengths=lengths)
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in lengths["train"].items())
    summary.say(
        f"judged replies: {len(judgements.train)} to train on, {len(judgements.validation)} held out{rows}\n"
        f"lengths in tokens: {figures}"
    )


def _scores(run: Run, model: PreTrainedModel, judgements: Sequence[Judgement]) -> Tensor:
    """float32 [K, P] on the CPU: the scores of the K replies of each of P judgements."""
    rows = [row for replies in zip(*(judgement.rows for judgement in judgements), strict=True) for row in replies]
    training = model.training
    with arithmetic(run):
        scores = shared_scores(model.eval(), rows, run.reward_model.micro_batch_rows, ranks_of(run))
    model.train(training)
    return scores.view(-1, len(judgements))


def _measure(when: str, run: Run, scores: Tensor, judgements: Sequence[Judgement], summary: Summary) -> None:
    figures = reward_figures(run.reward_model.kind, scores, judgements)
    summary.add(held_out=summary.figures.get("held_out", {}) | {when: figures})
    low, high = figures["ci95"]
    summary.say(
        f"{when} training: accuracy {figures['accuracy']:.3f} [{low:.3f}, {high:.3f}], loss {figures['loss']:.3f}, "
        f"margin {_shown(figures['margin'])}, calibration error {figures['calibration_error']:.3f}, correlation with "
        f"length {_shown(figures['length_correlation'])}, on {figures['judgements']} held out"
    )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _scalars(run: Run, model: PreTrainedModel, judgements: Sequence[Judgement]) -> dict[str, float]:
    figures: dict[str, Any] = reward_figures(run.reward_model.kind, _scores(run, model, judgements), judgements)
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


def _scoring(run: Run, scores: Tensor) -> Scoring:
    settings = run.reward_model
    return Scoring(
        kind=settings.kind,
        part=settings.part,
        template=run.data.template,
        mean=scores.mean().item(),
        std=scores.std(correction=0).item(),
        rows=scores.numel(),
    )
