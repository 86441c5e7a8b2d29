"""Rejection sampling: several samples a prompt, the right and readable ones kept (arXiv 2501.12948, section 2.3.3)."""

from __future__ import annotations

from collections.abc import Sequence

from r1lit.curation.demonstrations import CANDIDATES, DEMONSTRATIONS, require_one_kind, row_of, write_rows
from r1lit.curation.mixing import load_mix, mixed
from r1lit.curation.selection import Selector, require_some
from r1lit.data.prompts import measured_keys
from r1lit.settings import ConfigError
from r1lit.stages.curating import asked_prompts, build_drawer, room_for_prompts, selected, show
from r1lit.stages.curation_report import account
from r1lit.stages.drawing import Asking
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, workbench
from r1lit.stages.summary import Summary
from r1lit.types import Prompt


def reject(run: Run, summary: Summary) -> None:
    """Leaves ``demonstrations.jsonl``, what ``stage=sft`` reads, and beside it every sample and what became of it.

    Raises:
        NothingKeptError: where no sample passes the filters.
    """
    settings = run.reject
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        prompts = asked_prompts(bench, settings.prompts, run.command.seed)
        held_out = [prompt.raw for prompt in bench.prompts.validation]
        held_out += measured_keys(run.data, run.evaluation.sources)
        mix = load_mix(settings.mix, run.data.max_bad_rows, held_out, run.command.seed)
        others = [row["prompt"] for rows in mix.rows.values() for row in rows]
        require_one_kind([*(prompt.raw for prompt in prompts), *others])
        require_room(run, bench, prompts)
        asking = Asking(run.model.path, "reject", settings.k, list(enumerate(prompts)))
        drawer = build_drawer(run, bench, settings, prompts, {"k": settings.k, "model": run.model.path})
        with summary.timed("sample"), summary.progress("sampling", len(prompts)) as advance:
            drawer.draw(asking, bench.sampler, advance)
    for line in str(mix.report).splitlines():
        summary.say(f"  {line}")
    candidates = selected(drawer.log, prompts, Selector(settings, settings.style, run.command.seed))
    rows = [row_of(item, item.sample.text.strip()) for item in candidates]
    if settings.candidates:
        write_rows(run.directory / CANDIDATES, rows)
    require_some(candidates, "reject")
    kept = [row for row, item in zip(rows, candidates, strict=True) if item.kept]
    final, mixture = mixed(kept, mix, settings.mix.ratio, run.command.seed)
    write_rows(run.directory / DEMONSTRATIONS, final)
    show(summary, account(candidates, settings.judge) | {"mix": mixture, "demonstrations": len(final)}, "rejection")


def require_room(run: Run, bench: Workbench, prompts: Sequence[Prompt]) -> None:
    """Stop where a prompt leaves the model no room to answer.

    Raises:
        ConfigError: with the remedy.
    """
    room, tokens = room_for_prompts(run, bench.policy), run.rollout.max_tokens
    longest = max(len(prompt.ids) for prompt in prompts)
    if room is not None and longest > room:
        raise ConfigError(
            [
                f"rollout.max_tokens={tokens} beside the longest prompt of {longest} tokens is more than the model's "
                f"{room + tokens} positions; set rollout.max_tokens={room + tokens - longest} or less, or lower "
                "data.max_prompt_tokens"
            ]
        )
