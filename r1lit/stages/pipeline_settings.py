"""Settings of a chain of stages, of the table that compares its models, and of the claims that it should bear out."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, model_validator

from r1lit.settings import JOINT, Settings, suggest

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


class StepSettings(Settings):
    """One stage of a chain: a command of its own.

    Attributes:
        title: the model's name in the table; a step without one does not appear there.
        use: config groups to choose: ``{experiment: sft, model: tiny}``.
        set: settings, nested as in the configuration; ``{steps.NAME}`` in a text is the directory of an earlier step:
            ``{model: {path: "{steps.dev1}/model"}}``.
    """

    title: str | None = None
    use: dict[str, Any] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)


class MeasureSettings(Settings):
    """One column of the table: a figure of an evaluation.

    Attributes:
        figure: its name in ``summary.json``, such as ``pass@1``, ``language`` or ``rewards.helpful``.
        task: of these prompts alone; all prompts without it.
        digits: after the point.
    """

    figure: str
    task: str | None = None
    digits: int = Field(2, ge=0)


class ClaimSettings(Settings):
    """What the chain should show: one model above another by a measure.

    Attributes:
        says: the claim in words.
        measure: the table's column; for a comparison within one model, ``than`` may name another column.
        model: the step that should be above.
        above: the step that it is compared with; without it the measure is compared with 0.
        than: the other side's measure, where it is another one.
        by: the least difference (negative: it may be so much below).
    """

    says: str
    measure: str
    model: str
    above: str | None = None
    than: str | None = None
    by: float = 0.0


class PipelineSettings(Settings):
    """A chain of stages whose inputs are earlier outputs.

    Attributes:
        seeds: run the whole chain once for each; without any, once with the run's ``seed``.
        at_once: steps that run side by side where their ``{steps.NAME}`` allow it. Each computes with its share of the
            cores: the same bits come out with the same ``at_once`` on as many cores, or under OMP_NUM_THREADS.
        only: run these steps alone.
        skip: run all steps but these.
        common: what every step uses and sets, unless it says otherwise.
        steps: the stages by name, in their order.
        measures: the columns of the table.
        claims: what the table should show.
    """

    seeds: list[int] = Field(default_factory=list)
    at_once: int = Field(1, ge=1)
    only: list[str] = Field(default_factory=list)
    skip: list[str] = Field(default_factory=list)
    common: StepSettings = Field(default_factory=StepSettings)
    steps: dict[str, StepSettings] = Field(default_factory=dict)
    measures: dict[str, MeasureSettings] = Field(default_factory=dict)
    claims: dict[str, ClaimSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _claims_speak_of_what_is_there(self) -> PipelineSettings:
        problems = []
        titled = [name for name, step in self.steps.items() if step.title]
        for key in ("only", "skip"):
            problems += [
                f"pipeline.{key} names {name}, which is no step; {suggest(name, self.steps)}"
                for name in getattr(self, key)
                if name not in self.steps
            ]
        for name, claim in self.claims.items():
            for key, value, known in (
                ("model", claim.model, titled),
                ("above", claim.above, titled),
                ("measure", claim.measure, self.measures),
                ("than", claim.than, self.measures),
            ):
                if value is not None and value not in known:
                    problems.append(f"pipeline.claims.{name}.{key}={value}: {suggest(value, known)}")
        for name, step in self.steps.items():
            if not _NAME.fullmatch(name) or name.startswith("seed_"):
                problems.append(
                    f"pipeline.steps.{name}: a step's name is that of its folder: letters, digits, _ and -, a letter "
                    "first, and not seed_..."
                )
            elif not (step.title or step.use or "stage" in step.set):
                known = [other for other in self.steps if other != name]
                problems.append(
                    f"pipeline.steps.{name} has no title, no use and no set.stage, so it is no step; "
                    f"{suggest(name, known)}"
                )
        if len(set(self.seeds)) < len(self.seeds):
            problems.append(f"pipeline.seeds={self.seeds} names a seed twice; name each once")
        if problems:
            raise ValueError(JOINT.join(problems))
        return self

    @property
    def chosen(self) -> dict[str, StepSettings]:
        """The steps that run."""
        wanted = self.only or self.steps
        return {name: step for name, step in self.steps.items() if name in wanted and name not in self.skip}

    @property
    def models(self) -> dict[str, str]:
        """The steps that appear in the table, with their titles."""
        return {name: step.title for name, step in self.chosen.items() if step.title}

    @property
    def testable(self) -> dict[str, ClaimSettings]:
        """The claims about models that the chain makes."""
        return {
            name: claim
            for name, claim in self.claims.items()
            if claim.model in self.models and (claim.above is None or claim.above in self.models)
        }
