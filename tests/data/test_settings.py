from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from r1lit.data.settings import DataSettings, SourceSettings
from r1lit.settings import ConfigError, parse

CONF = Path(__file__).parents[2] / "conf"


def problems(values):
    with pytest.raises(ConfigError) as error:
        parse({"data": DataSettings}, {"data": values})
    return error.value.problems


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "data has neither path nor sources; set data.path=FILE.jsonl or choose data=tiny"),
        ({"path": "absent.jsonl"}, "data.path: absent.jsonl does not exist"),
        ({"path": "a/b", "validation_path": "absent.jsonl"}, "data.validation_path: absent.jsonl does not exist"),
        ({"path": "a/b", "template": "r1_zer"}, "data.template: template='r1_zer' is none of r1_zero, none and"),
        ({"path": "a/b", "template": "{prompt} {prompt}"}, "does not hold {prompt} once"),
        ({"path": "a/b", "validation": 1.0}, "data.validation=1.0: input should be less than 1"),
        ({"path": "a/b", "max_bad_rows": 2}, "data.max_bad_rows=2: input should be less than or equal to 1"),
        ({"path": "a/b", "max_prompt_token": 5}, "did you mean max_prompt_tokens?"),
        ({"sources": {"x": {"generator": "arithmetic"}}, "columns": {"prompt": "q"}}, "data.sources.NAME.columns"),
        ({"sources": {"x": {}}}, "data.sources.x: nothing given, but a source is one of path, reasoning_gym and"),
        ({"sources": {"x": {"path": "a/b", "generator": "arithmetic"}}}, "path=a/b and generator=arithmetic given"),
        ({"sources": {"x": {"path": "a/b", "size": 3}}}, "size have no meaning with path=a/b"),
        ({"sources": {"x": {"generator": "arithmetic", "split": "test"}}}, "split have no meaning with generator"),
        ({"sources": {"x": {"path": "absent.jsonl"}}}, "data.sources.x.path: absent.jsonl does not exist"),
        ({"sources": {"x": {"reasoning_gym": "rush_hours"}}}, "did you mean rush_hour?"),
        ({"sources": {"x": {"reasoning_gym": "chain_sum", "params": {"min_term": 3}}}}, "did you mean min_terms"),
        ({"sources": {"x": {"reasoning_gym": "chain_sum", "params": {"min_terms": 0}}}}, "min_terms must be positive"),
        ({"sources": {"x": {"reasoning_gym": "chain_sum", "params": {"min_terms": "a"}}}}, "do not suit chain_sum"),
        ({"sources": {"x": {"generator": "arithmetic", "params": {"languages": ["fr"]}}}}, "'fr'"),
        ({"sources": {"x": {"generator": "arithmetic", "weight": 0}}}, "data.sources.x.weight=0: input should be gre"),
        ({"sources": {"x": {"generator": "arithmetic", "weight": float("inf")}}}, "data.sources.x.weight=inf"),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(values, said):
    assert any(said in problem for problem in problems(values)), problems(values)


def test_all_mistakes_come_at_once():
    sources = {"x": {"path": "absent.jsonl"}, "y": {"reasoning_gym": "nope"}}
    assert len(problems({"sources": sources, "template": "nope", "limit": 0})) == 4


def test_a_path_takes_the_place_of_the_sources(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "1+1"}))
    settings = DataSettings(
        path=str(path), columns={"prompt": "q"}, sources={"other": {"generator": "arithmetic"}}, split_by="id"
    )
    assert settings.training_sources == {"path": SourceSettings(path=str(path), columns={"prompt": "q"}, split_by="id")}


def composed(*overrides):
    with initialize_config_dir(str(CONF / "data"), version_base="1.3"):
        group = next(override.split("=")[1] for override in overrides if override.startswith("group="))
        rest = [override for override in overrides if not override.startswith("group=")]
        return OmegaConf.to_container(compose(group, rest), resolve=True, throw_on_missing=True)


def test_the_shipped_groups_are_valid_settings_and_complete(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "1+1"}))
    mine = composed("group=prompts", f"path={path}", "seed=0")
    assert set(mine) == set(DataSettings.model_fields)
    assert DataSettings.model_validate(mine) == DataSettings(path=str(path))
    tiny = DataSettings.model_validate(composed("group=tiny", "sources.chain_sum.weight=3", "seed=0"))
    assert {name: source.weight for name, source in tiny.training_sources.items()} == {"arithmetic": 2, "chain_sum": 3}
    taken = DataSettings.model_validate(composed("group=tiny", f"path={path}", "seed=0"))
    assert taken.training_sources == {"path": SourceSettings(path=str(path))}
