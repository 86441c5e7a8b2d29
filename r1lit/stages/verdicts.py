"""Who says whether a sample is right: the metric's rule, or where it is silent a generative judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from r1lit.curation.samples import Sample
from r1lit.curation.settings import JudgeSettings
from r1lit.models.files import path_problem
from r1lit.rewards.chat import Chat, ChatSettings, Usage
from r1lit.rewards.endpoints import Endpoint
from r1lit.rewards.generative import GenerativeJudge, Question, reference_text
from r1lit.rewards.local_chat import LocalChat
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.settings import ConfigError, UserError
from r1lit.stages.run import Run
from r1lit.stages.setup import Workbench, load_model, settle
from r1lit.types import Prompt, Sampling

BY_JUDGE, BY_FORM = "judge", "form"

ENOUGH = 20
"""Verdicts after which their share of failures says something."""


class JudgeError(UserError):
    """A generative judge gave no verdict more often than its settings allow."""


def build_chat(settings: ChatSettings, run: Run, bench: Workbench) -> Chat | None:
    """Whom ``settings.kind`` names; None where it is nobody.

    Raises:
        ConfigError: where an endpoint's key is not set, or a local model cannot be loaded.
    """
    return CHATS[settings.kind](settings, run, bench)


def _local(settings: ChatSettings, run: Run, bench: Workbench) -> Chat:
    policy, tokenizer, sampler = bench.policy, bench.tokenizer, bench.sampler
    if settings.model is not None and settings.model != run.model.path:
        if problem := path_problem(settings.model):
            raise ConfigError([problem])
        policy, tokenizer = load_model(run.model.model_copy(update={"path": settings.model}))
        settle(run, policy)
        sampler = TransformersSampler(policy, tokenizer, max_batch_rows=run.rollout.max_batch_rows)
    return LocalChat(
        sampler,
        tokenizer,
        Sampling(settings.temperature, 1.0, settings.max_tokens),
        seed=run.command.seed,
        positions=getattr(policy.config.get_text_config(), "max_position_embeddings", None),
    )


CHATS: Mapping[str, Callable[[ChatSettings, Run, Workbench], Chat | None]] = {
    "none": lambda settings, run, bench: None,
    "endpoint": lambda settings, run, bench: Endpoint(settings),
    "local": _local,
}


@dataclass
class Verdicts:
    """Decides on samples that no rule has judged.

    Args:
        settings: of the judge.
        judge: the judge; without one such samples stay undecided.
    """

    settings: JudgeSettings
    judge: GenerativeJudge | None = None
    _asked: Counter[bool] = field(default_factory=Counter)

    def decide(self, samples: Sequence[Sample], prompts: Sequence[Prompt]) -> list[Sample]:
        """The samples, each with a verdict where somebody can give one; ``prompts`` has one a sample."""
        decided = [self._by_form(sample, prompt) for sample, prompt in zip(samples, prompts, strict=True)]
        open_places = [
            place
            for place, (sample, prompt) in enumerate(zip(decided, prompts, strict=True))
            if sample.judged_by is None and reference_text(prompt.columns) is not None
        ]
        if self.judge is None or not open_places:
            return decided
        questions = [
            Question(prompts[place].raw, decided[place].parts.answer, reference_text(prompts[place].columns))
            for place in open_places
        ]
        for place, ruling in zip(open_places, self.judge.agree(questions), strict=True):
            usage = Usage()
            usage.add(ruling.replies)
            decided[place] = replace(
                decided[place],
                correct=None if ruling.verdict is None else ruling.verdict == "correct",
                judged_by=None if ruling.verdict is None else BY_JUDGE,
                failure=ruling.failure,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
                requests=usage.requests,
                retries=usage.retries,
            )
        return decided

    def count(self, samples: Sequence[Sample]) -> None:
        """Take note of samples that have been kept.

        Raises:
            JudgeError: where too many of the judge's verdicts failed.
        """
        self._asked.update(sample.failure is not None for sample in samples if _was_asked(sample))
        failed, asked = self._asked[True], self._asked.total()
        if asked >= ENOUGH and failed > self.settings.max_failures * asked:
            reasons = Counter(sample.failure for sample in samples if sample.failure)
            raise JudgeError(
                f"the judge gave no verdict on {failed} of {asked} samples ({failed / asked:.0%}; of late: "
                f"{', '.join(f'{reason} {count}' for reason, count in reasons.most_common())}), more than "
                f"judge.max_failures={self.settings.max_failures:g} allows; mend what it is asked (judge.template, "
                "judge.max_tokens) or by whom (judge.model), or raise judge.max_failures"
            )

    def _by_form(self, sample: Sample, prompt: Prompt) -> Sample:
        if sample.judged_by is None and sample.parts.answer is None and reference_text(prompt.columns) is not None:
            return replace(sample, correct=False, judged_by=BY_FORM)
        return sample


def _was_asked(sample: Sample) -> bool:
    return sample.failure is not None or sample.judged_by == BY_JUDGE


def judge_figures(samples: Sequence[Sample], settings: JudgeSettings) -> dict[str, object]:
    """What the judge was asked, what that took and cost, and how often it gave no verdict."""
    asked = [sample for sample in samples if _was_asked(sample)]
    usage = Usage(
        requests=sum(sample.requests for sample in asked),
        retries=sum(sample.retries for sample in asked),
        prompt_tokens=sum(sample.prompt_tokens for sample in asked),
        completion_tokens=sum(sample.completion_tokens for sample in asked),
        failures=Counter(sample.failure for sample in asked if sample.failure),
    )
    return {
        "asked": len(asked),
        "requests": usage.requests,
        "retries": usage.retries,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost": settings.cost(usage),
        "failures": dict(usage.failures),
    }
