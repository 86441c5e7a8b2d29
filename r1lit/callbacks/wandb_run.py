"""A run in Weights & Biases: the same one however often the run is resumed, and never what ends the training."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch.loggers import Logger

from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.secrets import without_secrets
from r1lit.callbacks.wandb_file import last_step

IDENTITY = "wandb_id"
"""In a run's directory: the id of its W&B run."""

AXIS = "step"
FINISH_SECONDS = 600
"""How long the end of a run waits for uploads, unless WANDB_FINISH_TIMEOUT says otherwise: W&B's own limit is none."""


class WandbRun(Logger):
    """Lightning's way to W&B.

    W&B has every step once: a resumed run sends what W&B has not got, be it lost with a killed process or a full disk,
    and leaves out what it computes again. Where W&B fails, that is said once and the training goes on without it.

    Args:
        directory: the run's directory.
        mode: ``online``, ``offline`` or ``disabled``.
        options: of ``wandb.init``: project, entity, group, tags, notes, name.
        config: the composed configuration; what looks like a secret is left out.
        start: steps that are done before this process's first.
        table_rows: how many rows of a completions table are sent at most, in whole groups.
        say: tells the user something.
    """

    def __init__(
        self,
        directory: Path,
        mode: str,
        options: Mapping[str, Any],
        config: Mapping[str, Any],
        start: int = 0,
        table_rows: int = 256,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ):
        super().__init__()
        self.directory, self.mode, self.options, self.config = directory, mode, dict(options), config
        self.start, self.table_rows, self.say = start, table_rows, say
        self._run: Any = None
        self._opened = False
        self._sent = self._validated = -1
        self._table: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self.options["project"]

    @property
    def version(self) -> str | None:
        file = self.directory / IDENTITY
        return file.read_text().strip() if file.exists() else None

    def open(self) -> None:
        """Begin the W&B run, or go on with the directory's, and send what it should have but has not."""
        self._opened = True
        if self.mode == "disabled":
            return
        with self._guarded():
            # What the files hold is read before this process adds one.
            kept, resumed = self._kept(), self.version is not None
            run = self._init()
            (self.directory / IDENTITY).write_text(f"{run.id}\n")
            run.define_metric(AXIS)
            run.define_metric("*", step_metric=AXIS)
            self._run, self._sent = run, self._known(run, kept) if resumed else -1
            self._catch_up()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send one step's metrics, unless W&B has them from before the run was resumed."""
        if not self._opened:
            self.open()
        if step is not None and step > self._sent:
            self._send({**metrics, **self._table}, step)
        self._table = {}

    def log_completions(self, table: pa.Table) -> None:
        """Send a step's completions along with the metrics of that step, which are to follow."""
        if not self._opened:
            self.open()
        with self._guarded():
            self._table = {"completions": _wandb_table(table, self.table_rows)}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the whole configuration is sent at the beginning."""

    def conclude(self, figures: Mapping[str, Any], measured: Mapping[str, float]) -> None:
        """Send the run's figures, and what the finished policy was ``measured`` to be as the last ``validation``."""
        with self._guarded():
            if self._run is None:
                return
            if measured and self._validated < self._sent:
                self._run.log({**{f"validation/{name}": value for name, value in measured.items()}, AXIS: self._sent})
            self._run.summary.update(flat(figures))

    def finish(self, exit_code: int = 0) -> None:
        """End the W&B run, so that another of this process can begin, and tell where it lies if it is not sent."""
        run, self._run = self._run, None
        if run is None:
            return
        with self._guarded():
            run.finish(exit_code=exit_code)
            if not run.settings._offline:
                return
            import wandb

            # Its process may still be writing; this waits for it.
            wandb.teardown()
            self.say(f"W&B: kept on this disk; send it with: wandb sync {self.directory}/wandb/offline-run-*-{run.id}*")
            kept = last_step(self.directory, run.id)
            if kept is not None and kept < self._sent:
                self.say(
                    f"W&B could not keep the steps after {kept} of {self._sent} (is the disk full?); they are in "
                    f"{self.directory / 'metrics.jsonl'}"
                )

    def _init(self) -> Any:
        import wandb
        from wandb.errors import CommError

        # Otherwise wandb prints a chart of every metric at the end, waits for the network for ever, and has all that is
        # printed pass through it, which fails when wandb does.
        seconds = float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_SECONDS))
        settings = wandb.Settings(quiet=True, finish_timeout=seconds, console="off")
        asked = self._place() | {"dir": str(self.directory), "resume": "allow", "settings": settings}
        asked["config"] = without_secrets(self.config)
        with _typed_without_secrets():
            try:
                return wandb.init(**asked, mode=self.mode)
            except CommError as error:
                self.say(f"W&B cannot be reached ({str(error).splitlines()[0]}); this run is kept on this disk")
                # Its process would take the run for one that is under way.
                wandb.teardown()
                return wandb.init(**asked, mode="offline")

    def _place(self) -> dict[str, Any]:
        """Which run it is, and of what project: in a sweep the agent has chosen both."""
        if os.environ.get("WANDB_SWEEP_ID"):
            return {name: value for name, value in self.options.items() if name not in ("project", "entity")}
        # Kept here, for a run that begins online may have to go on offline.
        return self.options | {"id": self.version or os.environ.get("WANDB_RUN_ID") or uuid4().hex[:8]}

    def _kept(self) -> int | None:
        return None if self.version is None else last_step(self.directory, self.version)

    def _known(self, run: Any, kept: int | None) -> int:
        """The last step that W&B has: the server's if there is one, or else what lies here."""
        if not run.settings._offline:
            return int(run.summary.get(AXIS, -1))
        rows = read_metrics(self.directory / "metrics.jsonl")
        # Without a file of it, the earlier part was sent and cleaned away.
        return kept if kept is not None else rows[-1][AXIS] if rows else -1

    def _catch_up(self) -> None:
        """Send the steps before ``start`` that W&B has not got."""
        for row in read_metrics(self.directory / "metrics.jsonl"):
            step = row[AXIS]
            if self._sent < step < self.start:
                saved = self.directory / "completions" / f"step_{step:06d}.parquet"
                if saved.exists():
                    self.log_completions(pq.read_table(saved))
                values = {name: math.nan if value is None else value for name, value in row.items()}
                self.log_metrics(values, step)

    def _send(self, row: Mapping[str, Any], step: int) -> None:
        with self._guarded():
            if self._run is not None:
                self._run.log({**row, AXIS: step})
                self._sent = step
                if any(name.startswith("validation/") for name in row):
                    self._validated = step

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Whatever wandb raises: tell it, and do without W&B from then on."""
        try:
            yield
        except (Exception, SystemExit) as error:
            self._run = None
            self.say(
                f"W&B has failed and takes no more of this run ({type(error).__name__}: {error}); it goes on, and its "
                f"figures are in {self.directory / 'metrics.jsonl'}"
            )
            import wandb

            # It fails again where its process has died; left to the end of the program it would print a traceback.
            with suppress(Exception, SystemExit):
                wandb.teardown()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers among nested figures, by path.

    >>> flat({"after": {"pass@1": 0.5, "ci95": [0.4, 0.6], "by_task": {"maths": {"pass@1": 0.25}}}, "metric": "format"})
    {'after/pass@1': 0.5, 'after/by_task/maths/pass@1': 0.25}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[f"{prefix}{name}"] = value
    return found


def _wandb_table(table: pa.Table, limit: int) -> Any:
    import wandb

    group = table["group"].to_pylist().count(0) or 1
    part = table.slice(0, max(group, limit // group * group)).to_pydict()
    rewards = {name: part[name] for name in table.column_names if name.startswith("rewards/")}
    shown = {
        "step": part["step"],
        "prompt": part["prompt"],
        "thinking": part["thought"],
        "answer": part["answer"],
        **rewards,
        **{name: part[name] for name in ("reward", "advantage", "truncated")},
    }
    return wandb.Table(columns=list(shown), data=[list(row) for row in zip(*shown.values(), strict=True)])


@contextmanager
def _typed_without_secrets() -> Iterator[None]:
    """wandb keeps the command line."""
    typed = sys.argv
    sys.argv = without_secrets(typed)
    try:
        yield
    finally:
        sys.argv = typed
