from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console

from r1lit.__main__ import config_directory
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.rewards.cases import CaseResult
from r1lit.settings import ConfigError, UserError
from r1lit.stages.run import read
from r1lit.stages.summary import Summary
from r1lit.stages.try_reward import case_table, encoder, try_reward

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
GOOD = {"prompt": "2 + 2 = ?", "completion": "<think> a </think> <answer> 4 </answer>", "answer": "4"}


def write(path: Path, *cases: dict | str) -> str:
    path.write_text("".join(f"{case if isinstance(case, str) else json.dumps(case)}\n" for case in cases))
    return f"data.path={path.name}"


def test_the_worked_example_passes(r1lit, tmp_path):
    shutil.copytree(PLUGINS, tmp_path / "plugins")
    done = r1lit("stage=try_reward", "reward=[brevity]", "data.path=plugins/brevity_cases.jsonl")
    assert "4 cases, none failed" in done.stderr
    assert done.stderr.count("│ pass │") == 4 and "FAIL" not in done.stderr
    (summary,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/summary.json")]
    assert (summary["cases"], summary["passed"], summary["failed"]) == (4, 4, 0)


def test_a_failing_case_is_shown_and_fails_the_command(r1lit, tmp_path):
    good = {"question": "2 + 2 = ?", "completion": GOOD["completion"], "answer": "4"}
    expected = {"expected": {"accuracy": 1.0, "format": 1.0}}
    cases = [good | expected, good | {"completion": "4"} | expected, good]
    done = r1lit(
        "stage=try_reward",
        "reward=[accuracy,format]",
        write(tmp_path / "cases.jsonl", *cases),
        "data.columns.prompt=question",
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "r1lit: 1 of 3 cases failed" in done.stderr
    shown = {line[2]: line for line in done.stderr.splitlines() if line.startswith("│")}
    assert "│ accuracy 1 │ pass │" in shown["1"] and "│ accuracy 1 │ FAIL │" in shown["2"]
    assert "pass" not in shown["3"] and "FAIL" not in shown["3"]


@pytest.mark.parametrize(
    ("cases", "expected"),
    [
        (["{", GOOD], ["1 of 2 cases cannot be read", "cases.jsonl:1: broken JSON"]),
        ([GOOD | {"completion": 4}], ["cases.jsonl:1: completion=4 is no text"]),
        ([GOOD | {"expected": "yes"}], ["cases.jsonl:1: expected='yes' is no number"]),
        ([{"prompt": "q"}, GOOD | {"expected": {"fromat": 1}}], ["case 1: it has no 'completion'", "did you mean for"]),
        ([], ["there are no cases"]),
    ],
)
def test_malformed_cases_are_named(tmp_path, cases, expected):
    GlobalHydra.instance().clear()
    path = write(tmp_path / "cases.jsonl", *cases).replace("cases.jsonl", str(tmp_path / "cases.jsonl"))
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", ["stage=try_reward", "reward=[format]", path])
    run = read(OmegaConf.to_container(config, resolve=True), tmp_path)
    with pytest.raises(UserError) as caught:
        try_reward(run, Summary(tmp_path))
    for part in expected:
        assert part in str(caught.value)


def test_malformed_cases_end_the_command_without_a_traceback(r1lit, tmp_path):
    done = r1lit("stage=try_reward", "reward=[format]", write(tmp_path / "cases.jsonl", "{", GOOD), check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "r1lit: 1 of 2 cases cannot be read:\ncases.jsonl:1: broken JSON" in done.stderr


def test_the_table_shows_text_as_it_stands_and_what_failed():
    results = [
        CaseResult("q", "[red] a [/nonsense] \\[b]", {"mine": None}, {"mine": None, "other": 0.5}),
        CaseResult("q", "c", {}, {"mine": None}, {"mine": "exception: KeyError: '[x]'\nmore"}),
    ]
    console = Console(width=120, file=io.StringIO())
    console.print(case_table(results, ["mine", "other"]))
    text = console.file.getvalue()
    assert "[red] a [/nonsense] \\[b]" in text and "mine none" in text and "0.5" in text
    assert "failed" in text and "mine: exception: KeyError: '[x]' more" in text and "FAIL" in text


def test_the_token_ids_are_those_of_a_run():
    _, tokenizer = load_policy(ModelSettings())
    encode = encoder(ModelSettings())
    text = GOOD["completion"]
    ids = encode(text, True)
    assert tokenizer.decode(ids) == text and tokenizer.bos_token_id not in ids
    assert encode(text, False) == [*ids, tokenizer.eos_token_id]


def test_a_tokenizer_that_adds_tokens_of_its_own_does_not_here(tmp_path):
    from tokenizers.processors import TemplateProcessing

    model, tokenizer = load_policy(ModelSettings())
    eos = tokenizer.eos_token
    plain = encoder(ModelSettings())("4", True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{eos} $A", special_tokens=[(eos, tokenizer.eos_token_id)]
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert encoder(ModelSettings(path=str(tmp_path)))("4", True) == plain


def test_a_tokenizer_that_cannot_be_loaded_is_a_mistake_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        encoder(ModelSettings(path=str(tmp_path / "nowhere")))
