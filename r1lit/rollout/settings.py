"""Settings of the sampling while training."""

from __future__ import annotations

from pydantic import Field

from r1lit.settings import Settings
from r1lit.types import Sampling


class RolloutSettings(Settings):
    """How completions are drawn while training, and how many rows are decoded together.

    Attributes:
        temperature: above 0: GRPO compares different completions of one prompt.
        top_p: 1 keeps the whole distribution.
        max_tokens: T, longest completion, EOS included.
        max_batch_rows: rows decoded together; it changes memory and speed, never what is sampled.
        staleness: S: while a step is learnt from, the rollout of S steps later is sampled from the weights as they were
            before it; 0: sampling and learning take turns, and every rollout is the present policy's own.
    """

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(2048, ge=1)
    max_batch_rows: int = Field(256, ge=1)
    staleness: int = Field(0, ge=0)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens)
