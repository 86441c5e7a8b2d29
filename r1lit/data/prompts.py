"""Prompts ready for the model: read, checked, encoded, and parted into training and validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1lit.data.files import DataError, Row
from r1lit.data.report import LoadReport, SourceReport
from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.data.sources import read_rows
from r1lit.data.splits import hash_fraction
from r1lit.text.encoding import PromptEncoder, check_messages
from r1lit.types import Prompt

Check = Callable[[Mapping[str, Any]], str | None]
"""Looks at a row's columns and says what is wrong with them, if anything is."""


@dataclass(frozen=True)
class LoadedPrompts:
    """The prompts of a run.

    Attributes:
        sources: the training prompts by source, in the order of their rows.
        weights: each source's relative share of the training prompts.
        validation: the held-out prompts, no two alike, none of them among the training prompts; in the order of
            their hashes, so that the first so many are a fair sample of all sources.
        report: how many rows were read, kept and left out.
    """

    sources: Mapping[str, list[Prompt]]
    weights: Mapping[str, float]
    validation: list[Prompt]
    report: LoadReport

    @property
    def train(self) -> list[Prompt]:
        """The training prompts of all sources."""
        return [prompt for prompts in self.sources.values() for prompt in prompts]


@dataclass(frozen=True)
class _Candidate:
    prompt: Prompt
    key: str
    """What the split goes by."""


def load_prompts(
    settings: DataSettings,
    tokenizer: Any,
    checks: Sequence[Check] = (),
    measured: Mapping[str, SourceSettings] | None = None,
) -> LoadedPrompts:
    """Read every source, leave out what cannot be used, and hold out a part for validation.

    Args:
        settings: what to read, and how.
        tokenizer: of the model that will be given the prompts.
        checks: further conditions of a usable row, such as a gold answer that can be parsed.
        measured: sources that the model is measured on instead of the part held out.

    Raises:
        DataError: for a source that cannot be read, has more bad rows than allowed, or leaves nothing to train on.
    """
    encoder = PromptEncoder(tokenizer, settings.template)
    sources = settings.training_sources
    held_sources = _held_sources(settings, measured or {})
    reports = {name: SourceReport("data.path" if settings.path else f"data.sources.{name}") for name in sources}
    found = _collect_all(sources, reports, encoder, settings, checks)
    held: dict[str, list[_Candidate]] = {}
    if settings.validation_source is None:
        keys = {candidate.key for candidates in found.values() for candidate in candidates}
        held_keys = _held_out(keys, settings.validation)
        held = {name: [c for c in candidates if c.key in held_keys] for name, candidates in found.items()}
        found = {name: [c for c in candidates if c.key not in held_keys] for name, candidates in found.items()}
    if held_sources:
        for name, candidates in held.items():
            reports[name].left_out["held out"] += len(candidates)
        reports |= {name: SourceReport(name) for name in held_sources}
        held = _collect_all(held_sources, reports, encoder, settings, checks)
    report = LoadReport(tuple(reports.values()))
    report.refuse(settings.max_bad_rows)
    validation = _validation(held, reports)
    train = _training(found, {prompt.ids for prompt in validation}, reports)
    return LoadedPrompts(train, {name: source.weight for name, source in sources.items()}, validation, report)


def load_measured(
    settings: DataSettings, tokenizer: Any, checks: Sequence[Check], measured: Mapping[str, SourceSettings]
) -> LoadedPrompts:
    """The prompts to measure a model on alone, nothing to train on.

    Raises:
        DataError: for a source that cannot be read or has more bad rows than allowed.
    """
    sources = _held_sources(settings, measured)
    reports = {name: SourceReport(name) for name in sources}
    held = _collect_all(sources, reports, PromptEncoder(tokenizer, settings.template), settings, checks)
    report = LoadReport(tuple(reports.values()))
    report.refuse(settings.max_bad_rows)
    return LoadedPrompts({}, {}, _validation(held, reports), report)


def _held_sources(settings: DataSettings, measured: Mapping[str, SourceSettings]) -> dict[str, SourceSettings]:
    """The sources of held-out prompts that are not a part of the training sources, by the name of their setting."""
    if measured:
        return {f"evaluation.sources.{name}": source for name, source in measured.items()}
    own = settings.validation_source
    return {} if own is None else {"data.validation_path": own}


def _collect_all(
    sources: Mapping[str, SourceSettings],
    reports: Mapping[str, SourceReport],
    encoder: PromptEncoder,
    settings: DataSettings,
    checks: Sequence[Check],
) -> dict[str, list[_Candidate]]:
    return {
        name: _collect(read_rows(source, settings.limit), source, reports[name], encoder, settings, checks)
        for name, source in sources.items()
    }


def _collect(
    rows: Iterable[Row],
    source: SourceSettings,
    report: SourceReport,
    encoder: PromptEncoder,
    settings: DataSettings,
    checks: Sequence[Check],
) -> list[_Candidate]:
    candidates = []
    for row in rows:
        report.read += 1
        made = row.problem or _prompt(row, encoder, settings.max_prompt_tokens, checks)
        if isinstance(made, Prompt):
            candidates.append(_Candidate(made, _text(row.columns[source.split_by])))
        else:
            report.add_bad(row.origin, *made)
    return candidates


def _prompt(row: Row, encoder: PromptEncoder, longest: int, checks: Sequence[Check]) -> Prompt | tuple[str, str]:
    """The row as a prompt, or the reason against it and what was found."""
    raw = row.columns["prompt"]
    if raw is None or (isinstance(raw, (str, list)) and not (raw.strip() if isinstance(raw, str) else raw)):
        return "empty prompt", f"prompt={raw!r} asks nothing"
    try:
        # An unused key of a message is null where other rows of its table have one.
        if not isinstance(raw, str):
            raw = [{k: v for k, v in message.items() if v is not None} for message in check_messages(raw)]
        ids, prefill = encoder.encode(raw)
    except ValueError as error:
        return "bad prompt", str(error)
    if len(ids) > longest:
        return "over-long prompt", f"{len(ids)} tokens, more than data.max_prompt_tokens={longest}"
    columns = {name: value for name, value in row.columns.items() if name != "prompt"}
    for check in checks:
        if problem := check(columns):
            return "failed check", problem
    return Prompt(ids, raw, columns, prefill, row.origin)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _held_out(keys: set[str], share: float) -> set[str]:
    """The keys of the validation rows: the lowest hashes; at least one, and never all, however few rows there are."""
    places = {key: hash_fraction(key) for key in keys}
    count = sum(place < share for place in places.values())
    if share and not count:
        count = max(1, round(share * len(places)))
    return set(sorted(places, key=lambda key: (places[key], key))[: min(count, max(len(places) - 1, 0))])


def _validation(held: Mapping[str, list[_Candidate]], reports: Mapping[str, SourceReport]) -> list[Prompt]:
    """Each held-out prompt once: asked again it would tell nothing new, and narrow the confidence intervals."""
    kept: dict[tuple[int, ...], Prompt] = {}
    for name, candidates in held.items():
        for candidate in candidates:
            if candidate.prompt.ids in kept:
                reports[name].left_out["repeats a held-out prompt"] += 1
            else:
                kept[candidate.prompt.ids] = candidate.prompt
                reports[name].validation += 1
    return sorted(kept.values(), key=lambda prompt: hash_fraction(_text(prompt.raw)))


def _training(
    found: Mapping[str, list[_Candidate]], held: set[tuple[int, ...]], reports: Mapping[str, SourceReport]
) -> dict[str, list[Prompt]]:
    """The training prompts by source, without those that are held out under another key or in another file."""
    seen: set[tuple[int, ...]] = set()
    train: dict[str, list[Prompt]] = {}
    for name, candidates in found.items():
        report = reports[name]
        train[name] = [candidate.prompt for candidate in candidates if candidate.prompt.ids not in held]
        report.train = len(train[name])
        if report.train < len(candidates):
            report.left_out["is a held-out prompt"] += len(candidates) - report.train
        if not train[name]:
            raise DataError(
                f"{report.name} has nothing left to train on: all its {report.read} rows are held out or unusable; "
                "give it more rows, lower data.validation, or remove it"
            )
        ids = [prompt.ids for prompt in train[name]]
        report.repeats = len(ids) - len(set(ids) - seen)
        seen.update(ids)
    return train
