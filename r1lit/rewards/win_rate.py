"""How often an answer is better than a reference answer, by a model's judgement: for what is open-ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1lit.rewards.chat import ChatSettings
from r1lit.rewards.endpoints import Endpoint
from r1lit.rewards.generative import PREFER, GenerativeJudge, Pair
from r1lit.settings import parse
from r1lit.text.thinking import split

VALUES = {"A": 1.0, "tie": 0.5, "B": 0.0}


class JudgeFailedError(RuntimeError):
    """The judge gave no verdict on any answer of a group."""


class WinRate:
    """1.0 where the final answer is better than the reference, 0.0 where it is worse or there is none, 0.5 for a tie.

    Each pair is judged in both orders; where these disagree it is a tie. What the judge gives no verdict on is not
    judged, and counted.

    Args:
        judge: settings of the endpoint, those of `ChatSettings`; the key comes from the environment.
        template: what it is asked; it holds ``{question}``, ``{answer_a}`` and ``{answer_b}``.

    Raises:
        ValueError: where the settings are wrong, or the key is not there.
    """

    def __init__(self, judge: Mapping[str, Any], template: str | None = None):
        (settings,) = parse({"judge": ChatSettings}, {"judge": judge}).values()
        if settings.kind != "endpoint":
            raise ValueError(
                f"judge.kind={settings.kind}, but a reward asks an endpoint; serve a model of your own by an "
                "OpenAI-compatible server, and set judge.kind=endpoint judge.base_url=http://localhost:8000/v1"
            )
        self._judge = GenerativeJudge(Endpoint(settings), prefer=template or PREFER)

    def __call__(
        self,
        completions: list[str],
        prompts: list[Any],
        reference: list[str | None],
        answers: list[str | None] | None = None,
    ) -> list[float | None]:
        """Judge N completions against N references; a row without one (None) is not judged."""
        finals = [split(text).answer for text in completions] if answers is None else answers
        rows = list(zip(prompts, finals, reference, strict=True))
        pairs = [Pair(prompt, final, told) for prompt, final, told in rows if final and told]
        rulings = self._judge.prefer(pairs)
        if rulings and not any(ruling.verdict for ruling in rulings):
            raise JudgeFailedError(f"the judge gave no verdict: {rulings[0].failure} ({rulings[0].detail})")
        verdicts = iter(rulings)
        # A reply without a final answer has lost before anyone is asked.
        return [
            None if not told else VALUES.get(next(verdicts).verdict) if final else 0.0 for _, final, told in rows
        ]
