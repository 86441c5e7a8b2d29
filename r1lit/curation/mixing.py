"""Rows without reasoning for the demonstrations: simple queries, which are answered at once."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from r1lit.curation.demonstrations import Row, others
from r1lit.curation.selection import KEPT
from r1lit.curation.settings import MixSettings
from r1lit.data.files import Row as SourceRow
from r1lit.data.prompts import prompt_key
from r1lit.data.report import LoadReport, SourceReport
from r1lit.data.sources import read_rows
from r1lit.data.stream import turns
from r1lit.text.encoding import check_messages
from r1lit.text.thinking import CLOSE_THINK, OPEN_THINK

NO_PROMPT, NO_RESPONSE, REASONS = "bad prompt", "no response", "carries a think block"


@dataclass(frozen=True)
class Mix:
    """What can be mixed in.

    Attributes:
        rows: the usable rows by source, in seeded order.
        weights: each source's relative share.
        report: how many rows were read, kept and left out.
    """

    rows: Mapping[str, list[Row]] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    report: LoadReport = field(default_factory=lambda: LoadReport(()))

    def take(self, count: int) -> list[Row]:
        """At most ``count`` rows, the sources in proportion to their weights as long as they last."""
        picked = []
        queues = {name: iter(rows) for name, rows in self.rows.items()}
        for name in self._turns():
            if len(picked) == count:
                break
            if (row := next(queues[name], None)) is not None:
                picked.append(row)
        return picked

    def _turns(self) -> Iterator[str]:
        """Whose turn it is; every source often enough to give all it has."""
        names = list(self.rows)
        if not names:
            return
        shares = [Fraction(self.weights[name]) for name in names]
        shares = [share / sum(shares) for share in shares]
        left = [len(self.rows[name]) for name in names]
        for source, _ in turns(shares, 0):
            left[source] -= 1
            yield names[source]
            if max(left) < 0:
                return


def load_mix(settings: MixSettings, max_bad_rows: float, held_out: Collection[Any], seed: int) -> Mix:
    """Read every source of non-reasoning rows.

    Args:
        settings: the sources.
        max_bad_rows: share of a source's rows that may be unusable.
        held_out: prompts that must not be trained on, or their `prompt_key`.
        seed: of the order.

    Raises:
        DataError: for a source that cannot be read or has more bad rows than allowed.
    """
    reports = {name: SourceReport(f"reject.mix.sources.{name}") for name in settings.sources}
    held = set(map(prompt_key, held_out))
    rows: dict[str, list[Row]] = {}
    for name, source in settings.sources.items():
        report, seen = reports[name], set()
        rows[name] = []
        for read in read_rows(source):
            report.read += 1
            made = read.problem or _row(read, name)
            if isinstance(made, tuple):
                report.add_bad(read.origin, *made)
            elif prompt_key(made["prompt"]) in held:
                report.left_out["is a held-out prompt"] += 1
            elif (key := (_key(made["prompt"]), made["response"])) in seen:
                report.left_out["repeats an earlier row"] += 1
            else:
                seen.add(key)
                rows[name].append(made)
        report.train = len(rows[name])
        random.Random(f"{seed} mix {name}").shuffle(rows[name])
    report = LoadReport(tuple(reports.values()))
    report.refuse(max_bad_rows)
    return Mix(rows, {name: source.weight for name, source in settings.sources.items()}, report)


def mixed(reasoning: Sequence[Row], mix: Mix, ratio: float, seed: int) -> tuple[list[Row], dict[str, Any]]:
    """Reasoning rows and others at a ratio, in seeded order, and the account of it.

    Where the others do not suffice, all of them are taken, and the account says how many are missing.
    """
    wanted = round(len(reasoning) / ratio) if mix.rows else 0
    taken = mix.take(wanted)
    rows = [*reasoning, *taken]
    random.Random(f"{seed} demonstrations").shuffle(rows)
    by_source = {name: sum(row["source"] == _source(name) for row in taken) for name in mix.rows}
    return rows, {"reasoning": len(reasoning), "wanted": wanted, "mixed": len(taken), "by_source": by_source}


def _row(row: SourceRow, name: str) -> Row | tuple[str, str]:
    """A source's row as a demonstration, or the reason against it and what was found."""
    columns = row.columns
    prompt = columns["prompt"]
    if not (isinstance(prompt, str) and prompt.strip()):
        try:
            prompt = [{k: v for k, v in message.items() if v is not None} for message in check_messages(prompt)]
        except ValueError as error:
            return NO_PROMPT, str(error)
    response = _last_reply(columns.get("chosen") if columns.get("response") is None else columns["response"])
    if response is None:
        return NO_RESPONSE, f"neither response nor chosen holds a text; the row has {', '.join(columns)}"
    if OPEN_THINK in response or CLOSE_THINK in response:
        return REASONS, f"{response[:60]!r}; simple queries are answered without thinking"
    own = {
        "prompt": prompt,
        "response": response,
        "task": columns.get("task"),
        "language": columns.get("language"),
        "answer": columns.get("answer"),
        "source": _source(name),
        "status": KEPT,
        "judged_by": None,
        "pass_rate": None,
        "reward": None,
    }
    return own | others({k: v for k, v in columns.items() if k not in ("response", "chosen", "rejected")})


def _last_reply(said: Any) -> str | None:
    """The text of a reply, or of the last message where it is a conversation."""
    if isinstance(said, list) and said and isinstance(said[-1], Mapping):
        said = said[-1].get("content") if said[-1].get("role") == "assistant" else None
    return (said.strip() or None) if isinstance(said, str) else None


def _source(name: str) -> str:
    return f"mix:{name}"


def _key(prompt: Any) -> str:
    return json.dumps(prompt, sort_keys=True, ensure_ascii=False, default=str)
