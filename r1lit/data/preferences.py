"""Judgement replies ready for a reward model: pairs of a better and a worse one, or single ones with a label."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1lit.data.files import DataError, Row
from r1lit.data.parting import Fault, Loaded, Made, load_items, text_of
from r1lit.data.prompts import prompt_key, question
from r1lit.data.settings import DataSettings
from r1lit.text.replies import PARTS, ReplyEncoder
from r1lit.types import Message

LABELS = {"safe": 1.0, "unsafe": 0.0, "true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}
"""Labels that are words; 1 is the good end."""


@dataclass(frozen=True)
class Judgement:
    """One or two replies to a prompt, with what was thought of them.

    Attributes:
        rows: token ids of prompt, reply and end: the chosen and the rejected reply, or the labelled one.
        lengths: tokens of each reply, without prompt and end.
        target: of a pair, the margin by which the chosen reply should score higher; else the label in [0, 1].
        origin: where the row came from, ``file:line``.
    """

    rows: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    target: float
    origin: str = ""


@dataclass(frozen=True)
class _Reading:
    """What a row's making goes by."""

    encoder: ReplyEncoder
    part: str
    max_tokens: int


def load_judgements(
    settings: DataSettings,
    tokenizer: Any,
    kind: str = "pairwise",
    part: str = "answer",
    max_tokens: int = 8192,
    balance_lengths: bool = False,
    held_prompts: Collection[str] = (),
) -> Loaded[Judgement]:
    """Read every source, leave out what cannot be used, and hold out a part for validation.

    Rows of ``pairwise`` data have prompt, chosen and rejected, optionally margin; the prompt may be implicit in lists
    of messages that begin alike, as TRL has it. Rows of ``pointwise`` data have prompt, response (or completion) and
    label: a number in [0, 1], true or false, safe or unsafe. Replies are texts, or lists of one assistant message.

    Args:
        settings: what to read, and how.
        tokenizer: of the reward model.
        kind: ``pairwise`` or ``pointwise``.
        part: what of a reply is seen, a key of `PARTS`.
        max_tokens: longer rows are left out.
        balance_lengths: leave out pairs until the longer reply is chosen as often as the shorter one.
        held_prompts: keys of prompts that answers are measured on, from `r1lit.data.prompts.measured_keys`; rows of
            them are left out.

    Raises:
        DataError: for a source that cannot be read, has more bad rows than allowed, or leaves nothing to train on.
    """
    reading, make = _Reading(ReplyEncoder(tokenizer, settings.template), part, max_tokens), MAKERS[kind]
    loaded = load_items(
        settings, lambda row: make(row, reading), derive=explicit, noun="row", held_prompts=held_prompts
    )
    return _balance(loaded, settings.seed) if balance_lengths and kind == "pairwise" else loaded


def length_figures(pairs: Sequence[Judgement]) -> dict[str, float]:
    """How long the replies of some pairs are, in tokens, and how often the longer one is chosen.

    >>> pairs = [Judgement(((1,), (2,)), lengths, 0.0) for lengths in ((8, 4), (6, 2), (1, 3), (5, 5))]
    >>> length_figures(pairs)  # doctest: +NORMALIZE_WHITESPACE
    {'mean_chosen_length': 5.0, 'mean_rejected_length': 3.5, 'longer_chosen': 0.5, 'shorter_chosen': 0.25,
     'equally_long': 0.25}
    """
    chosen, rejected = zip(*(pair.lengths for pair in pairs), strict=True)
    count, signs = len(pairs), [_sign(pair) for pair in pairs]
    return {
        "mean_chosen_length": sum(chosen) / count,
        "mean_rejected_length": sum(rejected) / count,
        "longer_chosen": signs.count(1) / count,
        "shorter_chosen": signs.count(-1) / count,
        "equally_long": signs.count(0) / count,
    }


def label_lengths(points: Sequence[Judgement]) -> dict[str, float]:
    """How long good and bad replies are, in tokens, and the share of good ones; a side that is empty is left out.

    >>> label_lengths([Judgement(((1,),), (8,), 1.0), Judgement(((2,),), (4,), 1.0), Judgement(((3,),), (2,), 0.0)])
    {'mean_good_length': 6.0, 'mean_bad_length': 2.0, 'good': 0.6666666666666666}
    """
    good = [point.lengths[0] for point in points if point.target > 0.5]
    bad = [point.lengths[0] for point in points if point.target <= 0.5]
    sides = {"mean_good_length": good, "mean_bad_length": bad}
    means = {name: sum(lengths) / len(lengths) for name, lengths in sides.items() if lengths}
    return means | {"good": len(good) / len(points)}


LENGTHS: Mapping[str, Callable[[Sequence[Judgement]], dict[str, float]]] = {
    "pairwise": length_figures,
    "pointwise": label_lengths,
}
"""How long replies are, by the kind of reward model."""


def balanced(pairs: Sequence[Judgement], seed: int) -> list[Judgement]:
    """The pairs without some whose lengths give the choice away, drawn from the seed: among pairs whose lengths differ
    alike (to a factor of two), the longer reply is then chosen as often as the shorter one; the order stays."""
    sides: defaultdict[int, dict[int, list[int]]] = defaultdict(lambda: {1: [], -1: []})
    kept = {number for number, pair in enumerate(pairs) if _sign(pair) == 0}
    for number, pair in enumerate(pairs):
        if sign := _sign(pair):
            longer, shorter = max(pair.lengths), min(pair.lengths)
            sides[(longer - shorter).bit_length()][sign].append(number)
    for size, side in sorted(sides.items()):
        fewer = min(map(len, side.values()))
        for sign, numbers in side.items():
            kept.update(random.Random(f"{seed} {size} {sign}").sample(numbers, fewer))
    return [pair for number, pair in enumerate(pairs) if number in kept]


def explicit(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose prompt is implicit in ``chosen`` and ``rejected``, or whose reply is TRL's ``completion``, with the
    columns that r1lit knows; a prompt of another form than the replies, a text beside messages, is implicit too."""
    if "response" not in columns and "completion" in columns:
        columns = {name: value for name, value in columns.items() if name != "completion"} | {
            "response": columns["completion"]
        }
    chosen, rejected = columns.get("chosen"), columns.get("rejected")
    if not (_conversation(chosen) and _conversation(rejected)) or _conversation(columns.get("prompt")):
        return columns
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        return columns
    return {**columns, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _sign(pair: Judgement) -> int:
    chosen, rejected = pair.lengths
    return (chosen > rejected) - (chosen < rejected)


def _balance(loaded: Loaded[Judgement], seed: int) -> Loaded[Judgement]:
    sources = {name: balanced(pairs, seed) for name, pairs in loaded.sources.items()}
    # The training sources' reports come first, in their order.
    for (name, kept), report in zip(sources.items(), loaded.report.sources, strict=False):
        dropped = len(loaded.sources[name]) - len(kept)
        report.train -= dropped
        if dropped:
            report.left_out["length balance"] += dropped
        if not kept:
            raise DataError(
                f"{report.name} has nothing left to train on: in all its pairs the same side is the longer one, so "
                "that lengths cannot be balanced; set reward_model.balance_lengths=false or give it other pairs"
            )
    return Loaded(sources, loaded.weights, loaded.validation, loaded.report)


def _pair(row: Row, reading: _Reading) -> Made[Judgement] | Fault:
    texts = []
    for name in ("chosen", "rejected"):
        text = _seen(row, name, reading.part)
        if isinstance(text, tuple):
            return text
        texts.append(text)
    chosen, rejected = texts
    if chosen is None:
        return "no final answer", f"chosen={row.columns['chosen']!r} ends within its reasoning"
    # That no answer is worse than one is worth learning.
    if chosen == (rejected := rejected or ""):
        return "equal replies", f"chosen and rejected are both {chosen!r}"
    margin = row.columns.get("margin") or 0.0
    if not _is_number(margin):
        return "bad margin", f"margin={margin!r} is no number"
    return _made(row, [chosen, rejected], float(margin), reading)


def _point(row: Row, reading: _Reading) -> Made[Judgement] | Fault:
    text = _seen(row, "response", reading.part)
    if isinstance(text, tuple):
        return text
    if text is None:
        return "no final answer", f"response={row.columns['response']!r} ends within its reasoning"
    label = row.columns.get("label")
    value = LABELS.get(label.strip().casefold()) if isinstance(label, str) else label
    if not _is_number(value) or not 0 <= value <= 1:
        return "bad label", f"label={label!r} is none; write a number from 0 to 1, true, false, safe or unsafe"
    return _made(row, [text], float(value), reading)


MAKERS: Mapping[str, Callable[[Row, _Reading], Made[Judgement] | Fault]] = {"pairwise": _pair, "pointwise": _point}
"""What makes a row into an item, by the kind of reward model."""


def _seen(row: Row, name: str, part: str) -> str | Fault | None:
    """The part of a reply that the model sees; None where a reply that says something has none."""
    if name not in row.columns:
        has = ", ".join(row.columns)
        return "missing column", f"no column {name}; the row has {has}; set columns={{{name}: NAME}}"
    value = row.columns[name]
    if _conversation(value):
        if len(value) != 1 or value[0].get("role") != "assistant":
            roles = ", ".join(str(message.get("role")) for message in value)
            return (
                "bad reply",
                f"{name} holds messages of {roles} after the prompt, but a reply is one of the assistant's",
            )
        value = value[0].get("content")
    if value is None or (isinstance(value, str) and not value.strip()):
        return "empty reply", f"{name}={value!r} says nothing"
    if not isinstance(value, str):
        return "bad reply", f"{name}={value!r} is neither a text nor a list of one assistant message"
    return PARTS[part](value)


def _made(row: Row, texts: list[str], target: float, reading: _Reading) -> Made[Judgement] | Fault:
    raw: str | list[Message] | Fault = question(row.columns["prompt"])
    if isinstance(raw, tuple):
        return raw
    try:
        prompt, rows = reading.encoder.encode_rows(raw, texts)
    except ValueError as error:
        return "bad text", str(error)
    longest = max(map(len, rows))
    if longest > reading.max_tokens:
        return "over-long row", f"{longest} tokens, more than reward_model.max_tokens={reading.max_tokens}"
    judgement = Judgement(rows, tuple(len(ids) - prompt - 1 for ids in rows), target, row.origin)
    return Made(judgement, (rows, target), text_of([raw, *texts]), (prompt_key(raw),))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
