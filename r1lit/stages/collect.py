"""Cold-start demonstrations out of what models say (arXiv 2501.12948, section 2.3.1), and after people's edits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from r1lit.curation.demonstrations import CANDIDATES, DEMONSTRATIONS, require_one_kind, row_of, write_rows
from r1lit.curation.edited import check_edited
from r1lit.curation.methods import Method
from r1lit.curation.selection import Selector, require_some
from r1lit.models.files import path_problem
from r1lit.rollout.sampler import Sampler
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.settings import ConfigError
from r1lit.stages.curating import asked_prompts, build_drawer, room_for_prompts, selected, show
from r1lit.stages.curation_report import account
from r1lit.stages.drawing import Asking
from r1lit.stages.forming import Former
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, load_model, reward_pool, settle, workbench
from r1lit.stages.summary import Summary
from r1lit.stages.verdicts import build_chat
from r1lit.types import Prompt


def collect(run: Run, summary: Summary) -> None:
    """Leaves ``candidates.jsonl``, for people to edit, and ``demonstrations.jsonl``, what ``stage=sft`` reads.

    Raises:
        NothingKeptError: where no sample passes the filters.
        EditedError: where an edited file has lines that cannot be used.
    """
    if run.collect.edited is not None:
        _take_edited(run, summary)
        return
    settings = run.collect
    methods = _methods(run)
    with workbench(run) as bench:
        summary.show_prompts(bench.prompts)
        prompts = asked_prompts(bench, settings.prompts, run.command.seed)
        require_one_kind(prompt.raw for prompt in prompts)
        made_by = {"model": run.model.path, "methods": {method.name: method.fingerprint() for method in methods}}
        drawer = build_drawer(run, bench, settings, prompts, made_by)
        not_asked: dict[str, int] = {}
        with summary.timed("sample"):
            for method, number, path in _asked(methods):
                sampler, encode, room = _lent(run, bench, method, path)
                source, stream = f"{method.name}:{path or run.model.path}", f"{method.name}:{number}"
                fitting = _fitting(prompts, encode, room)
                asking = Asking(source, stream, method.settings.k, fitting, method.cut)
                not_asked[asking.source] = len(prompts) - len(asking.prompts)
                with summary.progress(asking.source, len(asking.prompts)) as advance:
                    drawer.draw(asking, sampler, advance)
        candidates = selected(drawer.log, prompts, Selector(settings, seed=run.command.seed))
        writer = build_chat(settings.summary, run, bench)
        former = Former(settings, writer, bench.rewards, drawer.verdicts, run.evaluation.metric)
        candidates, responses, usage = former.form(candidates)
    rows = [row_of(item, response) for item, response in zip(candidates, responses, strict=True)]
    if settings.candidates:
        write_rows(run.directory / CANDIDATES, rows)
    if not candidates:
        raise ConfigError([f"no prompt leaves room for an answer ({not_asked}); lower rollout.max_tokens"])
    require_some(candidates, "collect")
    kept = [row for row, item in zip(rows, candidates, strict=True) if item.kept]
    write_rows(run.directory / DEMONSTRATIONS, kept)
    beside = {"not_asked": not_asked, "summary": usage, "demonstrations": len(kept)}
    show(summary, account(candidates, settings.judge) | beside, "collection")
    for source, count in not_asked.items():
        if count:
            summary.say(f"{source}: {count} of {len(prompts)} prompts left no room for an answer, and were not asked")


def _take_edited(run: Run, summary: Summary) -> None:
    with reward_pool(run) as rewards:
        edited = check_edited(run.collect.edited, run.collect.form, rewards, run.evaluation.metric)
    write_rows(run.directory / DEMONSTRATIONS, edited.rows)
    statuses = dict(edited.statuses)
    summary.add(edited={"statuses": statuses, "unjudged": edited.unjudged, "demonstrations": len(edited.rows)})
    counts = ", ".join(f"{status} {count}" for status, count in statuses.items())
    summary.say(f"{len(edited.rows)} demonstrations ({counts}; the rule had no word on {edited.unjudged})")


def _methods(run: Run) -> list[Method]:
    """The methods in force.

    Raises:
        ConfigError: with every example that cannot be used, and every model that is not there.
    """
    made, problems = [], []
    for name, settings in run.collect.active.items():
        try:
            made.append(Method(name, settings, run.data.template))
        except ConfigError as error:
            problems += error.problems
        paths = [path for path in settings.models if path is not None]
        problems += [f"collect.methods.{name}.model: {problem}" for path in paths if (problem := path_problem(path))]
    if not (made or problems):
        problems = ["no method samples anything; set collect.methods.outputs.k, or the k of another, above 0"]
    if problems:
        raise ConfigError(problems)
    return made


def _asked(methods: Sequence[Method]) -> Iterator[tuple[Method, int, str | None]]:
    """Each method with its models, numbered."""
    for method in methods:
        yield from ((method, number, path) for number, path in enumerate(method.settings.models))


def _lent(run: Run, bench: Workbench, method: Method, path: str | None) -> tuple[Sampler, Any, int | None]:
    """The sampler of a model, what encodes a method's prompts for it, and its room for a prompt in tokens."""
    policy, tokenizer, sampler = bench.policy, bench.tokenizer, bench.sampler
    if path is not None and path != run.model.path:
        policy, tokenizer = load_model(run.model.model_copy(update={"path": path}))
        settle(run, policy)
        sampler = TransformersSampler(policy, tokenizer, max_batch_rows=run.rollout.max_batch_rows)
    return sampler, method.encoder(tokenizer), room_for_prompts(run, policy)


def _fitting(prompts: Sequence[Prompt], encode: Any, room: int | None) -> list[tuple[int, Prompt]]:
    """The prompts as a method puts them, numbered; not those that the chat template refuses or that leave no room."""
    fitting = []
    for number, prompt in enumerate(prompts):
        try:
            put = encode(number, prompt)
        except ValueError:
            continue
        if room is None or len(put.ids) <= room:
            fitting.append((number, put))
    return fitting
