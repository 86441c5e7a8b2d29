"""Samples brought into the readable form of a demonstration, with the summary that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from r1lit.curation.rejudging import rejudge
from r1lit.curation.selection import DROPPED, Candidate
from r1lit.curation.settings import CollectSettings
from r1lit.rewards.chat import Chat, Usage
from r1lit.rewards.generative import ask
from r1lit.rewards.pool import RewardPool
from r1lit.stages.verdicts import Verdicts
from r1lit.text.forms import clean, fill, parse_form
from r1lit.text.thinking import split

NO_SUMMARY, SPOILT = "no summary", "wrong in its form"


@dataclass(frozen=True)
class Former:
    """Writes demonstrations in a stated form.

    Attributes:
        settings: the form and whose summary ends it.
        writer: writes the summaries; None where the sample's own answer is what is finally said.
        rewards: judge again what came of it.
        verdicts: decide where the rules are silent.
        metric: the reward that says whether a response is right.
    """

    settings: CollectSettings
    writer: Chat | None
    rewards: RewardPool
    verdicts: Verdicts
    metric: str

    def form(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[str], dict[str, Any]]:
        """The candidates with their responses; one kept that does not survive its form is dropped.

        Returns:
            The candidates, one response each (as it was sampled where it was dropped before), and what the summaries
            took.
        """
        kept = [place for place, item in enumerate(candidates) if item.kept]
        finals, usage = self._finals([candidates[place] for place in kept])
        written = {
            place: fill(self.settings.form, clean(candidates[place].sample.parts.thought or ""), final)
            for place, final in zip(kept, finals, strict=True)
            if final is not None
        }
        sound = self._sound({place: (candidates[place], text) for place, text in written.items()})
        faults = {place: SPOILT if place in written else NO_SUMMARY for place in kept if place not in sound}
        formed = [
            replace(item, status=f"{DROPPED}{faults[place]}") if place in faults else item
            for place, item in enumerate(candidates)
        ]
        return formed, [written.get(place, item.sample.text.strip()) for place, item in enumerate(candidates)], usage

    def _sound(self, written: dict[int, tuple[Candidate, str]]) -> set[int]:
        """The places whose responses have the form, and are still right."""
        asked = [(item.prompt.raw, item.prompt.columns, text) for item, text in written.values()]
        values = dict(zip(written, rejudge(self.rewards, self.metric, asked), strict=True))
        right = {place for place, value in values.items() if value is not None and value > 0.5}
        silent = [place for place, value in values.items() if value is None]
        # What a judge found right is still there word for word, unless somebody summarised it.
        right |= self._judged_right({place: written[place] for place in silent}) if self.writer else set(silent)
        return {place for place in right if parse_form(self.settings.form, written[place][1])}

    def _judged_right(self, silent: dict[int, tuple[Candidate, str]]) -> set[int]:
        unread = [
            replace(item.sample, text=text, correct=None, judged_by=None, failure=None)
            for item, text in silent.values()
        ]
        decided = self.verdicts.decide(unread, [item.prompt for item, _ in silent.values()])
        return {place for place, sample in zip(silent, decided, strict=True) if sample.correct}

    def _finals(self, kept: Sequence[Candidate]) -> tuple[list[str | None], dict[str, Any]]:
        """What is finally said in each, None where there is nothing; and what asking for it took."""
        answers = [clean(item.sample.parts.answer or "") for item in kept]
        if self.writer is None:
            return list(answers), {}
        asked = [
            ask(
                self.settings.summary.template,
                question=_question(item.prompt.raw),
                reasoning=item.sample.parts.thought or "",
                answer=answer,
            )
            for item, answer in zip(kept, answers, strict=True)
        ]
        replies = iter(self.writer.complete([conversation for conversation in asked if conversation is not None]))
        given = [None if conversation is None else next(replies) for conversation in asked]
        usage = Usage()
        usage.add(reply for reply in given if reply is not None)
        figures = {**vars(usage), "failures": dict(usage.failures), "cost": self.settings.summary.cost(usage)}
        return [None if reply is None or reply.text is None else _summary(reply.text) for reply in given], figures


def _summary(reply: str) -> str | None:
    """What a reply says after its own reasoning."""
    return clean(split(reply).answer or "") or None


def _question(raw: Any) -> str:
    return raw if isinstance(raw, str) else "\n\n".join(message["content"] for message in raw)
