"""Rotary positions (RoPE, arXiv 2104.09864) stretched to contexts longer than a model was trained on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from transformers import PreTrainedConfig

from r1lit.settings import Settings

NEEDS: dict[str, tuple[str, ...]] = {"linear": (), "yarn": (), "llama3": ("low_freq_factor", "high_freq_factor")}
"""What a type takes beside its factor, and must be told; transformers would stop on it after the weights are read."""

TAKES: dict[str, tuple[str, ...]] = {
    "linear": (),
    "yarn": ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
    "llama3": ("original_max_position_embeddings", *NEEDS["llama3"]),
}


class RopeScaling(Settings):
    """How positions are stretched; names and defaults are those of transformers' ``rope_parameters``.

    Attributes:
        type: ``yarn`` (arXiv 2309.00071), ``linear`` (arXiv 2306.15595) or ``llama3``, that of Llama 3.1.
        factor: how many times longer the context becomes.
        original_max_position_embeddings: positions that the model was trained on; null is what its config says.
        attention_factor, beta_fast, beta_slow: of ``yarn``.
        low_freq_factor, high_freq_factor: of ``llama3``, which has no defaults for them.
    """

    type: Literal["yarn", "linear", "llama3"]
    factor: float = Field(gt=1)
    original_max_position_embeddings: int | None = Field(None, ge=1)
    attention_factor: float | None = Field(None, gt=0)
    beta_fast: float | None = Field(None, gt=0)
    beta_slow: float | None = Field(None, gt=0)
    low_freq_factor: float | None = Field(None, gt=0)
    high_freq_factor: float | None = Field(None, gt=0)

    @field_validator("type", mode="before")
    @classmethod
    def _the_same_at_every_length(cls, value: Any) -> Any:
        if value == "dynamic":
            raise ValueError(
                "type=dynamic turns a token by the length of what it stands in, so that a token that was sampled with "
                "a cache would be trained as another; set model.rope_scaling.type=yarn"
            )
        return value

    @model_validator(mode="after")
    def _has_what_its_type_takes(self) -> RopeScaling:
        given = {name for name in type(self).model_fields if getattr(self, name) is not None} - {"type", "factor"}
        missing = [name for name in NEEDS[self.type] if name not in given]
        foreign = sorted(given - {*TAKES[self.type]})
        problems = []
        if missing:
            problems.append(
                f"type={self.type} without {' and '.join(missing)}, which say what frequencies are kept and what are "
                "stretched; set model.rope_scaling.low_freq_factor=1 and high_freq_factor=4, as Llama 3.1 has them"
            )
        if foreign:
            problems.append(
                f"{foreign[0]}={getattr(self, foreign[0])} says nothing to type={self.type}; drop it"
            )
        if not missing and self.type == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            problems.append(
                f"high_freq_factor={self.high_freq_factor} is not above low_freq_factor={self.low_freq_factor}, and "
                "frequencies between the two are blended; set it higher"
            )
        if problems:
            raise ValueError("; and ".join(problems))
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of ``rope_parameters`` that are told."""
        told = {name: value for name, value in self.model_dump(exclude={"type"}).items() if value is not None}
        return {"rope_type": self.type, **told}


def stretch_positions(config: PreTrainedConfig, scaling: RopeScaling, name: str) -> None:
    """Write the scaling into a model's config, from which the model is built and with which it is saved.

    The config's ``max_position_embeddings`` becomes the stretched length, as transformers and vLLM read it for ``yarn``
    and ``llama3``. (For ``linear``, vLLM takes the factor once more for the longest request that it accepts.) A config
    that is stretched in this way already, as that of a run's own model, is left alone.

    Raises:
        ValueError: for a model without rotary positions, with several kinds of them, or stretched in another way.
    """
    text = config.get_text_config()
    held = getattr(text, "rope_parameters", None)
    if not held or text.nested_rope_parameter_keys(held):
        kind = "no rotary positions" if not held else "rotary positions that differ by kind of layer"
        raise ValueError(
            f"model.rope_scaling.type={scaling.type}, but model.path={name} ({text.model_type}) has {kind}, which this "
            "does not stretch; set model.rope_scaling=null"
        )
    if held.get("rope_type", "default") != "default":
        if any(held.get(key) != value for key, value in scaling.parameters.items()):
            raise ValueError(
                f"model.rope_scaling asks for {scaling.parameters}, but model.path={name} is stretched already "
                f"({held}); set model.rope_scaling=null"
            )
        return
    original = scaling.original_max_position_embeddings or text.max_position_embeddings
    stretched = int(original * scaling.factor)
    if stretched < text.max_position_embeddings:
        raise ValueError(
            f"model.rope_scaling makes {original} positions {stretched}, but model.path={name} has "
            f"{text.max_position_embeddings} already; set a larger model.rope_scaling.factor"
        )
    key = "original_max_position_embeddings"
    text.rope_parameters = {**held, **({key: original} if key in TAKES[scaling.type] else {}), **scaling.parameters}
    text.max_position_embeddings = stretched
    text.validate_rope()
