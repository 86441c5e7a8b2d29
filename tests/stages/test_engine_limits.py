"""What a vLLM engine cannot do is told from the settings, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory
from r1lit.settings import ConfigError
from r1lit.stages.run import Run, read
from r1lit.stages.setup import _check_lengths
from r1lit.types import Prompt

ROOM, PROMPTS = "rollout.engine.max_model_len", "data.max_prompt_tokens"


def composed(*overrides: str) -> Run:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    return read(config, Path("unused"))


def found(*overrides: str) -> list[str]:
    try:
        composed(*overrides)
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


def test_a_server_with_too_little_room_is_told_before_it_is_asked():
    """Its engine's length is known once it is met, and the prompts' once they are loaded."""
    run = composed("rollout=vllm_server", "rollout.max_tokens=200", "evaluation.enabled=false", "evaluation.every=0")
    prompts = SimpleNamespace(train=[Prompt(ids=(1,) * 40, raw="")], validation=[])
    _check_lengths(run, prompts, 240, "the engine's")
    _check_lengths(run, prompts, None, "the engine's")
    with pytest.raises(ConfigError, match=r"max_tokens=200 beside the longest prompt of 40 tokens .* engine's 239"):
        _check_lengths(run, prompts, 239, "the engine's")
