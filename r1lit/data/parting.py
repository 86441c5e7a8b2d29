"""Rows of several sources made into items, and parted into those that are trained on and those held out."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from r1lit.data.files import DataError, HubError, Row
from r1lit.data.report import LoadReport, SourceReport
from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.data.sources import Derive, read_rows
from r1lit.data.splits import hash_fraction

Item = TypeVar("Item")

Fault = tuple[str, str]
"""Why a row is no item: a reason to count under, and what was found."""


@dataclass(frozen=True)
class Made(Generic[Item]):
    """What a row was made into.

    Attributes:
        item: what it is to the rest of r1lit.
        identity: equal for items that are the same to a model.
        text: its hash decides the item's place among the held-out ones.
        asked: the prompts that it teaches answers to, as `r1lit.data.prompts.prompt_key` writes them.
    """

    item: Item
    identity: Hashable
    text: str
    asked: tuple[str, ...] = ()


Make = Callable[[Row], Made[Item] | Fault]


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """The items of a run.

    Attributes:
        sources: the training items by source, in the order of their rows.
        weights: each source's relative share of the training items.
        validation: the held-out items, no two alike, none of them among the training items; in the order of their
            hashes, so that the first so many are a fair sample of all sources.
        report: how many rows were read, kept and left out.
    """

    sources: Mapping[str, list[Item]]
    weights: Mapping[str, float]
    validation: list[Item]
    report: LoadReport

    @property
    def train(self) -> list[Item]:
        """The training items of all sources."""
        return [item for items in self.sources.values() for item in items]


@dataclass(frozen=True)
class _Candidate(Generic[Item]):
    made: Made[Item]
    key: str
    """What the split goes by."""


def load_items(
    settings: DataSettings,
    make: Make[Item],
    measured: Mapping[str, SourceSettings] | None = None,
    derive: Derive | None = None,
    noun: str = "prompt",
    make_measured: Make[Item] | None = None,
    held_prompts: Collection[str] = (),
) -> Loaded[Item]:
    """Read every source, leave out what cannot be used, and hold out a part for validation.

    Args:
        settings: what to read, and how.
        make: makes a row's item, or says what is wrong with it.
        measured: sources that the model is measured on instead of the part held out.
        derive: what `read_rows` takes.
        noun: what an item is called in the report.
        make_measured: makes the item of a row of ``measured``, where another way than ``make``.
        held_prompts: keys of prompts that a model is measured on elsewhere; what asks one of them trains nothing.

    Raises:
        DataError: for a source that cannot be read, has more bad rows than allowed, or leaves nothing to train on.
    """
    sources = settings.training_sources
    held_sources = _held_sources(settings, measured or {})
    reports = {name: SourceReport("data.path" if settings.path else f"data.sources.{name}") for name in sources}
    found = _collect_all(sources, reports, settings, make, derive)
    held: dict[str, list[_Candidate[Item]]] = {}
    if settings.validation_source is None:
        keys = {candidate.key for candidates in found.values() for candidate in candidates}
        held_keys = _held_out(keys, settings.validation)
        held = {name: [c for c in candidates if c.key in held_keys] for name, candidates in found.items()}
        found = {name: [c for c in candidates if c.key not in held_keys] for name, candidates in found.items()}
    if held_sources:
        for name, candidates in held.items():
            reports[name].left_out["held out"] += len(candidates)
        reports |= {name: SourceReport(name) for name in held_sources}
        held_make = make_measured if measured and make_measured else make
        held = _collect_all(held_sources, reports, settings, held_make, derive)
    report = LoadReport(tuple(reports.values()))
    report.refuse(settings.max_bad_rows)
    validation = _validation(held, reports, noun)
    found = _unasked(found, held_prompts, reports)
    train = _training(found, {made.identity for made in validation}, reports, noun)
    return Loaded(train, _weights(sources), [made.item for made in validation], report)


def load_held_out(
    settings: DataSettings,
    make: Make[Item],
    measured: Mapping[str, SourceSettings],
    derive: Derive | None = None,
    noun: str = "prompt",
) -> Loaded[Item]:
    """What a model is measured on alone, nothing to train on; arguments as of `load_items`.

    Raises:
        DataError: for a source that cannot be read or has more bad rows than allowed.
    """
    sources = _held_sources(settings, measured)
    reports = {name: SourceReport(name) for name in sources}
    held = _collect_all(sources, reports, settings, make, derive)
    report = LoadReport(tuple(reports.values()))
    report.refuse(settings.max_bad_rows)
    return Loaded({}, {}, [made.item for made in _validation(held, reports, noun)], report)


def text_of(value: Any) -> str:
    """A column's value as one text, the same wherever it is met."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _weights(sources: Mapping[str, SourceSettings]) -> dict[str, float]:
    return {name: source.weight for name, source in sources.items()}


def _held_sources(settings: DataSettings, measured: Mapping[str, SourceSettings]) -> dict[str, SourceSettings]:
    """The sources of held-out items that are not a part of the training sources, by the name of their setting."""
    if measured:
        return {f"evaluation.sources.{name}": source for name, source in measured.items()}
    own = settings.validation_source
    return {} if own is None else {"data.validation_path": own}


def _collect_all(
    sources: Mapping[str, SourceSettings],
    reports: Mapping[str, SourceReport],
    settings: DataSettings,
    make: Make[Item],
    derive: Derive | None,
) -> dict[str, list[_Candidate[Item]]]:
    return {
        name: _collect(read_rows(source, settings.limit, derive), source, reports[name], make)
        for name, source in sources.items()
    }


def _collect(
    rows: Iterable[Row], source: SourceSettings, report: SourceReport, make: Make[Item]
) -> list[_Candidate[Item]]:
    candidates = []
    try:
        for row in rows:
            report.read += 1
            made = row.problem or make(row)
            if isinstance(made, Made):
                candidates.append(_Candidate(made, text_of(row.columns[source.split_by])))
            else:
                report.add_bad(row.origin, *made)
    except HubError as error:
        key = report.name if report.name.endswith("path") else f"{report.name}.path"
        raise DataError(f"{error}; if there is a copy of it on this machine, set {key}=FILE_OR_FOLDER") from error
    return candidates


def _held_out(keys: set[str], share: float) -> set[str]:
    """The keys of the validation rows: the lowest hashes; at least one, and never all, however few rows there are."""
    places = {key: hash_fraction(key) for key in keys}
    count = sum(place < share for place in places.values())
    if share and not count:
        count = max(1, round(share * len(places)))
    return set(sorted(places, key=lambda key: (places[key], key))[: min(count, max(len(places) - 1, 0))])


def _validation(
    held: Mapping[str, list[_Candidate[Item]]], reports: Mapping[str, SourceReport], noun: str
) -> list[Made[Item]]:
    """Each held-out item once: met again it would tell nothing new, and narrow the confidence intervals."""
    kept: dict[Hashable, Made[Item]] = {}
    for name, candidates in held.items():
        for candidate in candidates:
            if candidate.made.identity in kept:
                reports[name].left_out[f"repeats a held-out {noun}"] += 1
            else:
                kept[candidate.made.identity] = candidate.made
                reports[name].validation += 1
    return sorted(kept.values(), key=lambda made: hash_fraction(made.text))


def _unasked(
    found: Mapping[str, list[_Candidate[Item]]], held_prompts: Collection[str], reports: Mapping[str, SourceReport]
) -> dict[str, list[_Candidate[Item]]]:
    """The candidates that ask nothing that a model is measured on."""
    held = frozenset(held_prompts)
    kept = {name: [c for c in candidates if held.isdisjoint(c.made.asked)] for name, candidates in found.items()}
    for name, candidates in found.items():
        if len(kept[name]) < len(candidates):
            reports[name].left_out["is a held-out prompt"] += len(candidates) - len(kept[name])
    return kept


def _training(
    found: Mapping[str, list[_Candidate[Item]]], held: set[Hashable], reports: Mapping[str, SourceReport], noun: str
) -> dict[str, list[Item]]:
    """The training items by source, without those that are held out under another key or in another file."""
    seen: set[Hashable] = set()
    train: dict[str, list[Item]] = {}
    for name, candidates in found.items():
        report, kept = reports[name], [c.made for c in candidates if c.made.identity not in held]
        report.train = len(kept)
        if report.train < len(candidates):
            report.left_out[f"is a held-out {noun}"] += len(candidates) - report.train
        if not kept:
            raise DataError(
                f"{report.name} has nothing left to train on: all its {report.read} rows are unusable or held out, "
                "as the prompts of evaluation.sources are; give it more rows, lower data.validation, or remove it"
            )
        identities = [made.identity for made in kept]
        report.repeats = len(identities) - len(set(identities) - seen)
        seen.update(identities)
        train[name] = [made.item for made in kept]
    return train
