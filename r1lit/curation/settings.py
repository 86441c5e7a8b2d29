"""Settings of the stages that make demonstrations out of what models say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from r1lit.data.files import path_problem
from r1lit.data.settings import SourceSettings
from r1lit.rewards.chat import ChatSettings
from r1lit.rewards.format import format as format_reward
from r1lit.rewards.generative import AGREE, template_problem
from r1lit.settings import JOINT, Settings
from r1lit.text.forms import form_problem
from r1lit.text.readable import Readability
from r1lit.text.templates import R1_ZERO

FORM = "<think> {thought} </think> <answer> {answer} </answer>"

LAYOUTS = {
    "few_shot": R1_ZERO.replace("User: {prompt}", "{examples}User: {prompt}"),
    "direct": "{template}",
    "outputs": "{template}",
}
"""How a method puts its question where nothing else is set."""

STYLES = ("r1_zero", "r1")
"""The forms of the format reward of which ``style=any`` accepts either."""


class JudgeSettings(ChatSettings):
    """A model that decides where no rule can.

    Attributes:
        template: how it is asked; see `r1lit.rewards.generative.AGREE`.
        max_failures: share of its verdicts that may fail before the run stops.
    """

    template: str = AGREE
    max_failures: float = Field(0.2, ge=0, le=1)

    @field_validator("template")
    @classmethod
    def _has_its_places(cls, template: str) -> str:
        if problem := template_problem("agree", template):
            raise ValueError(problem)
        return template

    def fingerprint(self) -> dict[str, Any]:
        """What verdicts depend on."""
        return super().fingerprint() | {"template": self.template}


class SelectionSettings(Settings):
    """Which samples become demonstrations; both stages have these settings.

    Attributes:
        prompts: at most so many distinct training prompts are asked, drawn by the seed; all of them without it.
        batch_prompts: prompts sampled together. What has been sampled is kept batch by batch.
        n_per_prompt: demonstrations of one prompt at most.
        prefer: which are kept where there are more: the ``shortest``, the ``longest``, ``random`` ones, or those of the
            ``highest_reward``.
        min_words: words that the reasoning has at least; with 0 there need be no reasoning.
        readable: what reasoning must be like.
        near_duplicates: similarity (Jaccard's, of word groups) from which a sample repeats one kept of the same
            prompt; null keeps all.
        drop_always_solved: leave out prompts all of whose samples are right: they teach nothing new.
        drop_never_solved: count the samples of prompts that are never solved by this name, apart from other wrong ones.
        judge: decides where no rule can.
        candidates: write every sample with its status to ``candidates.jsonl``.
    """

    prompts: int | None = Field(None, ge=1)
    batch_prompts: int = Field(32, ge=1)
    n_per_prompt: int = Field(1, ge=1)
    prefer: Literal["shortest", "longest", "random", "highest_reward"] = "random"
    min_words: int = Field(1, ge=0)
    readable: Readability = Field(default_factory=Readability)
    near_duplicates: float | None = Field(0.9, gt=0, le=1)
    drop_always_solved: bool = False
    drop_never_solved: bool = False
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    candidates: bool = True


class MethodSettings(Settings):
    """One way of getting cold-start samples.

    Attributes:
        kind: ``few_shot``, examples before the question; ``direct``, an instruction beside it; ``outputs``, the
            question as the model was trained on it.
        k: samples a prompt of each model; 0 switches the method off.
        model: whom to ask: a path or several; without it the run's own model.
        layout: how a text prompt is put: ``{prompt}`` is the question, ``{template}`` is ``data.template`` with the
            question in it, ``{examples}`` what is set below. A prompt of chat messages gets the examples as earlier
            turns.
        instruction: of ``direct``: put behind the question.
        examples: of ``few_shot``: prompts, each with its whole response, reasoning included.
        examples_path: a JSONL or Parquet file of more of them.
        shots: examples before one question; with more of them the prompts get them in turn.
        example: how one example is put.
        cut_after: a sample ends with the first of these texts.
        cut_before: and before the first of these: where a base model goes on with a question of its own.
    """

    kind: Literal["few_shot", "direct", "outputs"]
    k: int = Field(4, ge=0)
    model: str | list[str] | None = None
    layout: str | None = None
    instruction: str = ""
    examples: list[dict[str, str]] = Field(default_factory=list)
    examples_path: str | None = None
    shots: int = Field(2, ge=1)
    example: str = "User: {prompt}. Assistant: {response}\n\n"
    cut_after: list[str] = Field(default_factory=list)
    cut_before: list[str] = Field(default_factory=list)

    @field_validator("examples_path")
    @classmethod
    def _path_exists(cls, path: str | None) -> str | None:
        return _existing(path)

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> MethodSettings:
        problems = [
            f"examples[{number}] has {', '.join(example) or 'nothing'}; an example has a prompt and a response"
            for number, example in enumerate(self.examples)
            if set(example) != {"prompt", "response"} or not all(text.strip() for text in example.values())
        ]
        needs = {
            "few_shot": ("examples or examples_path", self.examples or self.examples_path),
            "direct": ("an instruction", self.instruction.strip()),
            "outputs": ("nothing", True),
        }
        what, there = needs[self.kind]
        if self.k and not there:
            problems.append(f"kind={self.kind} needs {what}; set it, or k=0 to leave the method out")
        if self.chosen_layout.count("{template}") + self.chosen_layout.count("{prompt}") != 1:
            problems.append(f"layout={self.layout!r} needs one place for the question; put {{template}} or {{prompt}}")
        if problems:
            raise ValueError(JOINT.join(problems))
        return self

    @property
    def chosen_layout(self) -> str:
        """The layout in force."""
        return self.layout or LAYOUTS[self.kind]

    @property
    def models(self) -> list[str | None]:
        """Whom to ask; None is the run's own model."""
        return self.model if isinstance(self.model, list) else [self.model]


class SummarySettings(ChatSettings):
    """What is finally said after the reasoning: the sample's own answer, or a summary that a model writes.

    Attributes:
        template: how a model is asked for it, with ``{question}``, ``{reasoning}`` and ``{answer}``.
    """

    template: str = ""

    @model_validator(mode="after")
    def _can_be_asked_for(self) -> SummarySettings:
        missing = [place for place in ("{question}", "{reasoning}", "{answer}") if place not in self.template]
        if self.kind != "none" and missing:
            raise ValueError(f"summary.template has no {', '.join(missing)}; put each where its text goes")
        return self


class CollectSettings(SelectionSettings):
    """Cold-start demonstrations.

    Attributes:
        methods: ways of getting samples, by name.
        form: what a demonstration looks like: ``{thought}``, then ``{answer}`` or ``{summary}``, what is finally said;
            ``\\n`` is a line break.
        summary: who writes what is finally said.
        edited: a ``candidates.jsonl`` after people have worked on it: nothing is sampled, it is checked and made the
            demonstrations.
    """

    methods: dict[str, MethodSettings] = Field(default_factory=dict)
    min_words: int = Field(3, ge=1)
    form: str = FORM
    summary: SummarySettings = Field(default_factory=SummarySettings)
    edited: str | None = None

    @field_validator("form")
    @classmethod
    def _is_a_form(cls, form: str) -> str:
        # A command line has no other way to write a line break.
        form = form.replace("\\n", "\n")
        if problem := form_problem(form):
            raise ValueError(f"form={form!r}: {problem}")
        return form

    @field_validator("edited")
    @classmethod
    def _path_exists(cls, path: str | None) -> str | None:
        return _existing(path)

    @property
    def active(self) -> dict[str, MethodSettings]:
        """The methods that sample anything."""
        return {name: method for name, method in self.methods.items() if method.k}


def _existing(path: str | None) -> str | None:
    if path is not None and (problem := path_problem(path)):
        raise ValueError(problem)
    return path


class MixSettings(Settings):
    """Non-reasoning rows among the demonstrations.

    Attributes:
        sources: where they come from, by name; rows have a prompt and a ``response``, or ``chosen`` in its place. Null
            takes back what a preset names, all of them or one.
        ratio: so many reasoning rows to one of these.
    """

    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    ratio: float = Field(3.0, gt=0, allow_inf_nan=False)

    @field_validator("sources", mode="before")
    @classmethod
    def _null_is_none(cls, sources: Any) -> Any:
        # What a preset names can be taken back on the command line: by null alone, for {} adds nothing.
        given = {} if sources is None else sources
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given


class RejectSettings(SelectionSettings):
    """Rejection sampling.

    Attributes:
        k: samples a prompt.
        style: the form that a response must have, as the format reward's; ``any`` of them, or null for no matter which.
        mix: rows without reasoning to mix in.
    """

    k: int = Field(4, ge=1)
    style: str | None = "any"
    mix: MixSettings = Field(default_factory=MixSettings)

    @field_validator("style")
    @classmethod
    def _is_a_style(cls, style: str | None) -> str | None:
        if style not in (None, "any"):
            format_reward([""], style)
        return style
