"""Samples on disk, batch by batch, so that a run that was stopped goes on with what it has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from r1lit.settings import ConfigError
from r1lit.text.thinking import Answered, split

SAMPLES, MADE_BY = "samples.jsonl", "samples.settings.json"


@dataclass(frozen=True)
class Sample:
    """One completion, and what is known of it.

    Attributes:
        index: the number of its prompt among those asked.
        source: which method and model it came from.
        text: the completion.
        length: its tokens.
        truncated: True where it ran into its length limit.
        rewards: what each reward gave; None where one did not apply or failed.
        reward: their weighted sum.
        correct: True or False where somebody judged it, else None.
        judged_by: who did: the metric's name, ``judge``, or ``form`` where there is no answer to judge.
        failure: why the judge gave no verdict.
        prompt_tokens, completion_tokens, requests, retries: what the judge took.
    """

    index: int
    source: str
    text: str
    length: int
    truncated: bool
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    reward: float = 0.0
    correct: bool | None = None
    judged_by: str | None = None
    failure: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    retries: int = 0

    @cached_property
    def parts(self) -> Answered:
        """Its thought and its answer."""
        return split(self.text)


class SampleLog:
    """``samples.jsonl``: one object a sample, appended a batch at a time.

    What a crash left unfinished, a line cut short or a batch that is not whole, is cut off when the file is opened.

    Args:
        directory: the run's.
        made_by: what samples depend on, in plain values.

    Raises:
        ConfigError: where the samples there were made by other settings.
    """

    def __init__(self, directory: Path, made_by: Mapping[str, Any]):
        self.path = directory / SAMPLES
        self.finished = self._open()
        self._check(directory / MADE_BY, json.loads(json.dumps(made_by)))

    def append(self, batch: str, samples: Sequence[Sample], prompts: Sequence[Any]) -> None:
        """Add a whole batch; ``prompts`` are the samples' prompts as the data set has them."""
        lines = [
            json.dumps({"batch": batch, "of": len(samples), "prompt": raw, **asdict(sample)}, ensure_ascii=False)
            for sample, raw in zip(samples, prompts, strict=True)
        ]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self.finished.add(batch)

    def samples(self) -> Iterator[Sample]:
        """All samples, in the order in which they were made."""
        with self.path.open("rb") as file:
            for line in file:
                record = json.loads(line)
                for key in ("batch", "of", "prompt"):
                    del record[key]
                yield Sample(**record)

    def _check(self, path: Path, made_by: dict[str, Any]) -> None:
        if path.exists() and self.finished:
            before = json.loads(path.read_text())
            if changed := [
                f"{key} (now {_short(value)}, then {_short(before.get(key))})"
                for key, value in made_by.items()
                if value != before.get(key)
            ]:
                raise ConfigError(
                    [
                        f"{self.path} was sampled with other settings: {', '.join(changed)}; set them back, or start a "
                        "new run. What is kept of the samples may be set anew"
                    ]
                )
        write_whole(path, json.dumps(made_by, indent=2, ensure_ascii=False) + "\n")

    def _open(self) -> set[str]:
        """The batches that are there; the file then ends with the last of them."""
        self.path.touch()
        finished: set[str] = set()
        whole, read, seen = 0, 0, 0
        with self.path.open("r+b") as file:
            for line in file:
                record = _record(line)
                if record is None:
                    break
                read, seen = read + len(line), seen + 1
                if seen == record["of"]:
                    finished.add(record["batch"])
                    whole, seen = read, 0
            file.truncate(whole)
        return finished


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _record(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
