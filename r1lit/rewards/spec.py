"""What a configuration says about one reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from r1lit.settings import Settings

Scalar = str | int | float | bool


class RewardSettings(Settings):
    """One reward: what to call, what it weighs, which rows it judges, what it may cost.

    Keys that are no setting here are keyword arguments of the target.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    dotted_path: str = Field(alias="_target_")
    """``_target_``: the path of a function, or of a class whose instance is the reward."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Its factor in a row's sum; with 0 the reward is a metric only."""
    when: dict[str, Scalar | list[Scalar]] | None = None
    """Columns and the values they must have for a row to be judged: ``{task: [math, code]}``."""
    timeout: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Seconds a call may take; with ``rowwise`` a call is one row."""
    rowwise: bool = False
    """Judge one row at a time, so that a hang or a crash costs one row instead of its group."""
    messages: bool = False
    """Hand prompts and completions over as lists of chat messages, as TRL does for conversational data."""
    factory: bool = False
    """The target makes the reward: it is called once with the keyword arguments, and what it returns is called."""
    max_failures: float = Field(0.2, ge=0, le=1)
    """Share of a rollout's judged rows that may fail before the run stops."""
    memory_mb: int = Field(4096, ge=64)
    """MiB of address space that calls may add to what the loaded reward occupies."""

    @field_validator("dotted_path")
    @classmethod
    def _is_dotted(cls, target: str) -> str:
        if not all(part.isidentifier() for part in target.split(".")) or "." not in target:
            raise ValueError(f"_target_={target!r} is no dotted path; write module.function")
        return target

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments bound to the target."""
        return dict(self.model_extra or {})

    def for_worker(self) -> dict[str, Any]:
        """What the worker needs to load and call the reward, in plain values."""
        return {
            "target": self.dotted_path,
            "keywords": self.keywords,
            "factory": self.factory,
            "messages": self.messages,
            "timeout": self.timeout,
            "memory_mb": self.memory_mb,
        }

    def applies(self, columns: Mapping[str, Any]) -> bool:
        """True where a row with these columns is this reward's to judge; a column it lacks never matches."""
        return all(
            key in columns and str(columns[key]) in map(str, wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in (self.when or {}).items()
        )
