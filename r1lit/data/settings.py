"""Settings of where prompts come from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from r1lit.data.asking import ChoicesSettings, ask_problem
from r1lit.data.files import hub_problem, path_problem
from r1lit.data.generators import generator_problem, reasoning_gym_problem
from r1lit.settings import Settings
from r1lit.text.templates import TEMPLATES


class SourceSettings(Settings):
    """One source of prompts: a path, a data set on the hub, a reasoning-gym task or a generator of r1lit's own.

    Attributes:
        path: a JSONL file (.jsonl, .json, .ndjson; also .gz), a Parquet file, a folder of a Hugging Face data set
            (data files or ``save_to_disk``'s), or its name on the hub.
        hub: the name on the hub of a data set that ``path`` may name a copy of, on this machine; ``subset``, ``split``
            and ``files`` are the data set's, and mean nothing to a copy that is one file.
        files: files of it to read instead of the whole data set, one after another.
        subset: the configuration of a Hugging Face data set.
        split: the split of a Hugging Face data set; ``train`` where it has several.
        reasoning_gym: a task of reasoning-gym, such as ``chain_sum``.
        generator: ``arithmetic``, chains of digits in English and Chinese, or ``talk``, facts, general and risky
            requests.
        size: problems to generate.
        seed: of the generated problems.
        params: further arguments of the generator.
        columns: new name of a column: its name in the source.
        constants: columns to add, the same value in every row.
        ask: a text that makes the prompt, with places for columns: ``{problem} Put the answer in \\boxed{}.``; of
            several texts the first none of whose columns is empty. Doubled braces stand for themselves.
        choices: the options of multiple choice, which go where ``ask`` has ``{choices}``; their rows get the letter of
            the right one as ``answer``.
        chat: put the prompt to the model as a user's message, by the tokenizer's chat template.
        split_by: the column whose hash decides which rows are held out; rows that agree in it stay together.
        weight: share of the training prompts, relative to the other sources.
        limit: rows read at most.
    """

    path: str | None = Field(None, min_length=1)
    hub: str | None = Field(None, min_length=1)
    files: list[str] = Field(default_factory=list)
    subset: str | None = None
    split: str | None = None
    reasoning_gym: str | None = None
    generator: Literal["arithmetic", "talk"] | None = None
    size: int = Field(1000, ge=1)
    seed: int = 0
    params: dict[str, Any] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    constants: dict[str, Any] = Field(default_factory=dict)
    ask: str | list[str] | None = None
    choices: ChoicesSettings | None = None
    chat: bool = False
    split_by: str = "prompt"
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    limit: int | None = Field(None, ge=1)

    @field_validator("path")
    @classmethod
    def _path_exists(cls, path: str | None) -> str | None:
        return _refuse(path, path_problem(path) if path else None)

    @field_validator("hub")
    @classmethod
    def _hub_has_such_names(cls, hub: str | None) -> str | None:
        return _refuse(hub, hub_problem(hub) if hub else None)

    @model_validator(mode="after")
    def _one_kind(self) -> SourceSettings:
        # A path beside a name on the hub is a copy of it.
        names = ["path" if self.path else "hub", "reasoning_gym", "generator"]
        given = [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'nothing'} given, but a source is one of path, reasoning_gym and generator; "
                "set exactly one of them"
            )
        stray = ("params", "size") if self.path or self.hub else ("subset", "split", "files")
        wrong = [name for name in stray if name in self.model_fields_set and getattr(self, name)]
        if wrong:
            raise ValueError(f"{' and '.join(wrong)} have no meaning with {given[0]}; leave them out")
        if self.files and not self.hub:
            raise ValueError(f"files={self.files} are of a data set on the hub, and hub is not set; set hub=OWNER/NAME")
        return self

    @model_validator(mode="after")
    def _asks(self) -> SourceSettings:
        return _refuse(self, ask_problem(self.ask, self.choices))

    @model_validator(mode="after")
    def _generates(self) -> SourceSettings:
        if self.reasoning_gym is not None:
            return _refuse(self, reasoning_gym_problem(self.reasoning_gym, self.params))
        if self.generator is not None:
            return _refuse(self, generator_problem(self.generator, self.params))
        return self


class DataSettings(Settings):
    """The prompts of a run.

    Attributes:
        path: a source of one's own (see `SourceSettings.path`); it takes the place of ``sources``. ``subset``,
            ``split``, ``columns``, ``constants`` and ``split_by`` are this source's.
        sources: sources by name, mixed by weight.
        template: ``r1_zero``, ``none`` or a text with ``{prompt}``, for plain prompts; message lists go through the
            tokenizer's chat template.
        validation: share of the rows held out, decided by a hash of their text.
        validation_path: held-out prompts from a path of their own instead, read as ``path`` is.
        max_prompt_tokens: longer prompts are left out, and counted.
        max_bad_rows: share of a source's rows that may be unusable; more stop the run.
        limit: rows read of each source at most.
        seed: of the order of the prompts.
    """

    path: str | None = Field(None, min_length=1)
    subset: str | None = None
    split: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    constants: dict[str, Any] = Field(default_factory=dict)
    split_by: str = "prompt"
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    template: str = "r1_zero"
    validation: float = Field(0.1, ge=0, lt=1)
    validation_path: str | None = Field(None, min_length=1)
    max_prompt_tokens: int = Field(512, ge=1)
    max_bad_rows: float = Field(0.02, ge=0, le=1)
    limit: int | None = Field(None, ge=1)
    seed: int = 0

    @field_validator("path", "validation_path")
    @classmethod
    def _path_exists(cls, path: str | None) -> str | None:
        return _refuse(path, path_problem(path) if path else None)

    @field_validator("template")
    @classmethod
    def _has_place_for_the_prompt(cls, template: str) -> str:
        if template in TEMPLATES or template.count("{prompt}") == 1:
            return template
        raise ValueError(
            f"template={template!r} is none of {', '.join(TEMPLATES)} and does not hold {{prompt}} once; "
            "name one of them or put {prompt} where the question goes"
        )

    @model_validator(mode="after")
    def _has_a_source(self) -> DataSettings:
        if self.path is None and not self.sources:
            raise ValueError("data has neither path nor sources; set data.path=FILE.jsonl or choose data=tiny")
        stray = [name for name in ("subset", "split", "columns", "constants") if getattr(self, name)]
        if self.path is None and self.validation_path is None and stray:
            raise ValueError(
                f"data.{stray[0]} belongs to data.path, which is not set; set data.sources.NAME.{stray[0]} instead"
            )
        return self

    @property
    def training_sources(self) -> dict[str, SourceSettings]:
        """The sources in force, by name."""
        return {"path": self._own(self.path)} if self.path else dict(self.sources)

    @property
    def validation_source(self) -> SourceSettings | None:
        """The source of held-out prompts, where they have one of their own."""
        return self._own(self.validation_path) if self.validation_path else None

    def _own(self, path: str) -> SourceSettings:
        return SourceSettings(
            path=path,
            subset=self.subset,
            split=self.split,
            columns=self.columns,
            constants=self.constants,
            split_by=self.split_by,
        )


def _refuse(value: Any, problem: str | None) -> Any:
    if problem:
        raise ValueError(problem)
    return value
