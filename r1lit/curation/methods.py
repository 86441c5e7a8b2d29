"""How cold-start samples are asked for: by examples, by an instruction, or as the model was trained to be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1lit.curation.settings import MethodSettings
from r1lit.data.files import Row, read_path
from r1lit.settings import ConfigError
from r1lit.text.encoding import PromptEncoder
from r1lit.text.templates import TEMPLATES
from r1lit.types import Prompt

Example = Mapping[str, str]


class Method:
    """Puts questions in one way.

    Args:
        name: its name in the settings.
        settings: of the method.
        template: ``data.template``.

    Raises:
        ConfigError: where an example cannot be used, with all that are wrong.
    """

    def __init__(self, name: str, settings: MethodSettings, template: str):
        self.name, self.settings = name, settings
        self._template = TEMPLATES.get(template, template)
        self._examples = [*settings.examples, *_read(name, settings)] if settings.kind == "few_shot" else []
        if problems := [
            f"collect.methods.{name}: the example {example['prompt'][:60]!r} holds {{prompt}}, which is where the "
            "question goes; reword it"
            for example in self._examples
            if any("{prompt}" in text for text in example.values())
        ]:
            raise ConfigError(problems)

    def fingerprint(self) -> dict[str, Any]:
        """What its samples depend on, in plain values."""
        return self.settings.model_dump(mode="json") | {"examples": [dict(example) for example in self._examples]}

    def encoder(self, tokenizer: Any) -> Callable[[int, Prompt], Prompt]:
        """What puts a prompt, told its number, to the model of a tokenizer."""
        encoders: dict[int, PromptEncoder] = {}

        def encode(number: int, prompt: Prompt) -> Prompt:
            turn = number % max(1, len(self._examples))
            if turn not in encoders:
                encoders[turn] = PromptEncoder(tokenizer, self.layout(turn))
            text = isinstance(prompt.raw, str)
            ids, prefill = encoders[turn].encode(prompt.raw if text else self.messages(turn, prompt.raw))
            return Prompt(ids, prompt.raw, prompt.columns, prefill, prompt.origin)

        return encode

    def layout(self, turn: int) -> str:
        """The template of a text prompt: the examples from number ``turn`` on in place, ``{prompt}`` left open."""
        shown = "".join(
            self.settings.example.replace("{response}", example["response"]).replace("{prompt}", example["prompt"])
            for example in self._shots(turn)
        )
        layout = self.settings.chosen_layout.replace("{template}", self._template)
        if self.settings.kind == "direct":
            layout = layout.replace("{prompt}", f"{{prompt}} {self.settings.instruction.strip()}")
        return layout.replace("{examples}", shown)

    def messages(self, turn: int, raw: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The same for a prompt of chat messages."""
        examples = [
            {"role": role, "content": example[key]}
            for example in self._shots(turn)
            for role, key in (("user", "prompt"), ("assistant", "response"))
        ]
        system = [dict(message) for message in raw if message["role"] in ("system", "developer")]
        said = [dict(message) for message in raw if message["role"] not in ("system", "developer")]
        if self.settings.kind == "direct":
            said[-1]["content"] = f"{said[-1]['content']}\n\n{self.settings.instruction.strip()}"
        return [*system, *examples, *said]

    def cut(self, text: str) -> str:
        """A completion up to where it should have ended."""
        ends = [place + len(mark) for mark in self.settings.cut_after if (place := text.find(mark)) >= 0]
        ends += [place for mark in self.settings.cut_before if (place := text.find(mark)) >= 0]
        return text[: min(ends)] if ends else text

    def _shots(self, turn: int) -> list[Example]:
        count = len(self._examples)
        return [self._examples[(turn + shot) % count] for shot in range(min(self.settings.shots, count))]


def _read(name: str, settings: MethodSettings) -> list[Example]:
    if settings.examples_path is None:
        return []
    rows = list(read_path(settings.examples_path))
    problems = [f"{row.origin}: {problem}" for row in rows if (problem := _example_problem(row))]
    if problems or not rows:
        listed = problems or [f"{settings.examples_path} has no rows; write one JSON object a line"]
        raise ConfigError([f"collect.methods.{name}.examples_path: {problem}" for problem in listed])
    return [{key: row.columns[key] for key in ("prompt", "response")} for row in rows]


def _example_problem(row: Row) -> str | None:
    if row.problem:
        return ": ".join(row.problem)
    for key in ("prompt", "response"):
        text = row.columns.get(key)
        if not isinstance(text, str) or not text.strip():
            return f"{key}={text!r} is no text; an example has a prompt and a response"
    return None
