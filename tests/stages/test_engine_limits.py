"""What a vLLM engine cannot do is told from the settings, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory
from r1lit.settings import ConfigError
from r1lit.stages.run import read

ROOM, PROMPTS = "rollout.engine.max_model_len", "data.max_prompt_tokens"


def found(*overrides: str) -> list[str]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    try:
        read(config, Path("unused"))
    except ConfigError as error:
        return error.problems
    return []


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["rollout.temperature=0.005"], ["rollout.temperature=0.005, but rollout.kind=vllm draws at 0.01 "]),
        (["rollout.temperature=2.5"], ["rollout.temperature=2.5, but rollout.kind=vllm takes none above 2"]),
        (["rollout.temperature=0.01"], []),
        (["rollout.temperature=2"], []),
        (["evaluation.temperature=0.001"], ["evaluation.temperature=0.001, but"]),
        (["evaluation.temperature=0"], []),
        (["evaluation.temperature=3", "evaluation.enabled=false", "evaluation.every=0"], []),
        (["stage=sft", "rollout.temperature=3"], []),
        (
            [f"{ROOM}=600", f"{PROMPTS}=512", "rollout.max_tokens=100", "evaluation.max_tokens=88"],
            [
                "rollout.engine.max_model_len=600 has no room for rollout.max_tokens=100 beside "
                "data.max_prompt_tokens=512; set rollout.engine.max_model_len=612 or more, or lower rollout.max_tokens "
                "or data.max_prompt_tokens"
            ],
        ),
        ([f"{ROOM}=612", f"{PROMPTS}=512", "rollout.max_tokens=100", "evaluation.max_tokens=100"], []),
    ],
)
def test_what_vllm_would_refuse_or_change(overrides, told):
    problems = found("rollout=vllm", *overrides)
    assert len(problems) == len(told), problems
    assert all(part in problem for part, problem in zip(told, problems, strict=True)), problems


def test_a_server_has_a_length_of_its_own_and_the_same_temperatures():
    assert len(found("rollout=vllm_server", "rollout.temperature=2.5")) == 1


def test_transformers_draws_at_any_temperature():
    assert found("rollout.temperature=0.005", "evaluation.temperature=3") == []
