"""Scored rollouts as plain tensors, numbers and texts, which a checkpoint may hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from r1lit.types import Group, Prompt, Rollout, Sampling, Scored


def pack(scored: Scored) -> dict[str, Any]:
    """A scored rollout without its prompts, but for their token ids, by which they are known again."""
    rollout = scored.rollout
    return {
        "prompt_ids": [list(group.prompt.ids) for group in rollout.groups],
        "completions": [list(group.completions) for group in rollout.groups],
        "truncated": [list(group.truncated) for group in rollout.groups],
        "completion_ids": rollout.completion_ids,
        "completion_mask": rollout.completion_mask,
        "logprobs": rollout.logprobs,
        "sampling": asdict(rollout.sampling),
        "names": list(scored.names),
        "weights": scored.weights,
        "columns": scored.columns,
        "failures": {name: dict(reasons) for name, reasons in scored.failures.items()},
    }


def unpack(kept: dict[str, Any], prompts: Sequence[Prompt], device: torch.device | str = "cpu") -> Scored | None:
    """The rollout that was packed, on a device; None where it answers other prompts than these."""
    if kept["prompt_ids"] != [list(prompt.ids) for prompt in prompts]:
        return None
    tables = tuple(kept[name].to(device) for name in ("completion_ids", "completion_mask", "logprobs"))
    rows = [row[mask].tolist() for row, mask in zip(*tables[:2], strict=True)]
    size = len(rows) // len(prompts)
    groups = tuple(
        Group(prompt, rows[b * size : (b + 1) * size], kept["completions"][b], kept["truncated"][b])
        for b, prompt in enumerate(prompts)
    )
    rollout = Rollout(groups, *tables, sampling=Sampling(**kept["sampling"]))
    return Scored(rollout, tuple(kept["names"]), kept["weights"], kept["columns"], kept["failures"])
