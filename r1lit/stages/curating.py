"""What the stages that make demonstrations share: whom to ask, what was sampled already, what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

import torch
from transformers import PreTrainedModel

from r1lit.curation.samples import SampleLog
from r1lit.curation.selection import Candidate, Selector, by_prompt, language_of
from r1lit.curation.settings import SelectionSettings
from r1lit.data.files import DataError
from r1lit.rewards.generative import GenerativeJudge
from r1lit.stages.curation_report import account_lines, account_table
from r1lit.stages.drawing import Drawer
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench
from r1lit.stages.summary import Summary
from r1lit.stages.verdicts import Verdicts, build_chat
from r1lit.text.codes import language_code
from r1lit.types import Prompt

SHOWN = 10
"""Rows named in an error."""


def asked_prompts(bench: Workbench, limit: int | None, seed: int) -> list[Prompt]:
    """The distinct training prompts in the order of the seed, at most ``limit`` of them.

    Raises:
        DataError: where a row's ``language`` is none.
    """
    train = reversed(bench.prompts.train)  # of prompts that repeat, the first stays
    distinct = list({json.dumps(prompt.raw, sort_keys=True): prompt for prompt in train}.values())
    generator = torch.Generator().manual_seed(seed)
    asked = [distinct[place] for place in torch.randperm(len(distinct), generator=generator).tolist()][:limit]
    if problems := [f"{prompt.origin}: {problem}" for prompt in asked if (problem := _language_problem(prompt))]:
        raise DataError("\n".join([f"{len(problems)} rows have a language that is none:", *problems[:SHOWN]]))
    return asked


def _language_problem(prompt: Prompt) -> str | None:
    try:
        language_code(language_of(prompt) or "en")
    except ValueError as error:
        return str(error)
    return None


def build_drawer(
    run: Run, bench: Workbench, settings: SelectionSettings, prompts: Sequence[Prompt], made_by: dict[str, Any]
) -> Drawer:
    """What samples, with the samples that an interrupted run has left.

    Raises:
        ConfigError: where these were made by other settings, or a judge cannot be had.
    """
    chat = build_chat(settings.judge, run, bench)
    verdicts = Verdicts(settings.judge, None if chat is None else GenerativeJudge(chat, settings.judge.template))
    common = {
        "seed": run.command.seed,
        "prompts": _fingerprint(prompts),
        "template": run.data.template,
        "batch_prompts": settings.batch_prompts,
        "sampling": vars(run.rollout.sampling),
        "metric": run.evaluation.metric,
        "rewards": {name: reward.model_dump(mode="json", by_alias=True) for name, reward in run.rewards.items()},
        "judge": settings.judge.fingerprint(),
    }
    log = SampleLog(run.directory, made_by | common)
    verdicts.count(list(log.samples()))
    return Drawer(run, bench.rewards, log, verdicts, settings.batch_prompts)


def room_for_prompts(run: Run, policy: PreTrainedModel) -> int | None:
    """The most tokens that a prompt may have beside an answer of ``rollout.max_tokens``; None without a limit."""
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    return None if positions is None else positions - run.rollout.max_tokens


def selected(log: SampleLog, prompts: Sequence[Prompt], selector: Selector) -> list[Candidate]:
    """Every sample with its status, prompt by prompt."""
    return [
        candidate
        for index, samples in by_prompt(log.samples()).items()
        for candidate in selector.select(prompts[index], samples)
    ]


def show(summary: Summary, figures: dict[str, Any], key: str) -> None:
    """Keep the account, and put it on the terminal."""
    summary.add(**{key: figures})
    summary.console.print(account_table(figures))
    for line in account_lines(figures):
        summary.say(line)


def _fingerprint(prompts: Iterable[Prompt]) -> str:
    """A word for the prompts and their columns; other prompts have another."""
    digest = sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.raw, dict(prompt.columns)], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
