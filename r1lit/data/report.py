"""What loading kept and what it left out, row for row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from r1lit.data.files import DataError

EXAMPLES = 3
"""Examples shown for each reason."""

LONGEST = 300
"""Characters shown of what is wrong with a row."""


@dataclass
class SourceReport:
    """The account of one source: ``read == train + validation + bad + left_out``, every row in one of them.

    Attributes:
        name: where the source is set, such as ``data.sources.mine``.
        read: rows read.
        train: rows to train on.
        validation: rows held out.
        repeats: rows to train on whose prompt had come before; they stay.
        bad: rows that cannot be used, by reason.
        left_out: good rows that are not used, by reason.
        examples: the first bad rows of each reason, by file and line.
    """

    name: str
    read: int = 0
    train: int = 0
    validation: int = 0
    repeats: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add_bad(self, origin: str, reason: str, detail: str) -> None:
        """Count a bad row and keep it as an example if it is among the first of its reason."""
        self.bad[reason] += 1
        if self.bad[reason] <= EXAMPLES:
            shown = detail if len(detail) <= LONGEST else f"{detail[:LONGEST]}..."
            self.examples.append(f"{origin}: {reason}: {shown}")

    def problem(self, max_bad_rows: float) -> str | None:
        """Why the source cannot be used: more bad rows than allowed, or none that is good."""
        bad, examples = self.bad.total(), "".join(f"\n    {example}" for example in self.examples)
        if self.read == 0:
            return f"{self.name} has no rows; give it some or remove it"
        if bad == self.read:
            return f"{self.name} has no usable row: {_counts(self.bad)}; mend them:{examples}"
        if bad > max_bad_rows * self.read:
            enough = math.ceil(100 * bad / self.read) / 100
            return (
                f"{self.name}: {bad} of {self.read} rows are unusable ({_counts(self.bad)}), more than "
                f"data.max_bad_rows={max_bad_rows:g}; mend them, or leave them out by data.max_bad_rows={enough:g}:"
                f"{examples}"
            )
        return None

    def __str__(self) -> str:
        line = f"{self.name}: {self.read} rows: {self.train} to train on, {self.validation} held out"
        out = self.bad + self.left_out
        line += f"; left out: {_counts(out)}" if out else ""
        line += f"; {self.repeats} repeat an earlier one" if self.repeats else ""
        return line + "".join(f"\n    {example}" for example in self.examples)


@dataclass(frozen=True)
class LoadReport:
    """The accounts of all sources; as a text, one line a source and the first bad rows of each."""

    sources: tuple[SourceReport, ...]

    def refuse(self, max_bad_rows: float) -> None:
        """Stop where any source cannot be used.

        Raises:
            DataError: with the problems of every source.
        """
        problems = [problem for source in self.sources if (problem := source.problem(max_bad_rows))]
        if problems:
            raise DataError("\n".join(["the data cannot be used:", *(f"  - {problem}" for problem in problems)]))

    def __str__(self) -> str:
        return "\n".join(map(str, self.sources))


def _counts(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())
