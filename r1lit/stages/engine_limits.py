"""What a run's settings ask of a vLLM engine that it would refuse, or do otherwise, once it is up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from r1lit.settings import Settings

SAMPLES = frozenset({"fit", "preflight", "collect", "reject"})
"""Stages that sample as ``rollout`` says."""

COLDEST, HOTTEST = 0.01, 2.0
"""Temperatures that vLLM takes as they are, beside 0: it raises lower ones to the least, and refuses higher ones."""

Asked = tuple[str, float, int, tuple[str, int] | None]
"""A section, its temperature, its longest completion, and what limits its prompts."""


def engine_problems(stage: str, evaluates: bool, sections: Mapping[str, Settings]) -> Iterator[str]:
    """All of it; ``sections`` are those whose settings could be read."""
    rollout = sections.get("rollout")
    if rollout is None or rollout.kind == "transformers":
        return
    # A server's engine has limits of its own, which are asked for when it is met.
    room = rollout.engine.max_model_len if rollout.kind == "vllm" else None
    for section, temperature, tokens, prompts in _asked(stage, evaluates, sections):
        yield from _temperature_problems(section, temperature, rollout.kind)
        if room is not None and (problem := _length_problem(section, tokens, prompts, room)):
            yield problem


def _asked(stage: str, evaluates: bool, sections: Mapping[str, Settings]) -> Iterator[Asked]:
    rollout, data, evaluation = (sections.get(name) for name in ("rollout", "data", "evaluation"))
    prompts = None if data is None else ("data.max_prompt_tokens", data.max_prompt_tokens)
    profile = sections.get("profile")
    stage = profile.of if stage == "profile" and profile is not None else stage
    if stage in SAMPLES:
        yield "rollout", rollout.temperature, rollout.max_tokens, prompts
    if evaluates and evaluation is not None:
        if evaluation.sources and evaluation.max_prompt_tokens is not None:
            prompts = ("evaluation.max_prompt_tokens", evaluation.max_prompt_tokens)
        yield "evaluation", evaluation.temperature, evaluation.max_tokens, prompts


def _temperature_problems(section: str, temperature: float, kind: str) -> Iterator[str]:
    asked = f"{section}.temperature={temperature:g}"
    if 0 < temperature < COLDEST:
        yield (
            f"{asked}, but rollout.kind={kind} draws at {COLDEST} in its place, and its log-probs are of that; set "
            f"{section}.temperature={COLDEST} or more, or rollout=transformers"
        )
    if temperature > HOTTEST:
        yield (
            f"{asked}, but rollout.kind={kind} takes none above {HOTTEST:g}; set {section}.temperature={HOTTEST:g} or "
            "less, or rollout=transformers"
        )


def _length_problem(section: str, tokens: int, prompts: tuple[str, int] | None, room: int) -> str | None:
    name, longest = prompts or ("", 1)
    if longest + tokens <= room:
        return None
    return (
        f"rollout.engine.max_model_len={room} has no room for {section}.max_tokens={tokens} beside "
        f"{f'{name}={longest}' if prompts else 'a prompt'}; set rollout.engine.max_model_len={longest + tokens} or "
        f"more, or lower {section}.max_tokens{f' or {name}' if prompts else ''}"
    )
