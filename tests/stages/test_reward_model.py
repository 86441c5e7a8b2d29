"""Reward models through the command, and the stage in this process."""

from __future__ import annotations

import io
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from rich.console import Console

from r1lit.__main__ import config_directory
from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.storage import StorageError
from r1lit.data.files import DataError
from r1lit.models.loading import ModelSettings
from r1lit.models.reward_model import load_reward_model
from r1lit.settings import ConfigError
from r1lit.stages.export import export
from r1lit.stages.reward_model import train_reward_model
from r1lit.stages.run import Run, read
from r1lit.stages.summary import Summary

LOADED = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
scores = []
for text in json.loads(sys.argv[2]):
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
    with torch.no_grad():
        scores.append(model(ids).logits.item())
print(json.dumps({"scores": scores, "r1lit": model.config.r1lit, "class": type(model).__name__}))
"""


def pairs(count: int, offset: int = 0) -> list[dict]:
    """An easy rule: the polite reply is chosen; each of them is the longer one every other time."""
    kind, rude = "Please wash it", "Go away now"
    return [
        {
            "prompt": f"How do I clean item {n}?",
            "chosen": f"{kind}{' with soap' * (n % 2)}, item {n}.",
            "rejected": f"{rude}{' and stop' * ((n + 1) % 2)}, item {n}.",
        }
        for n in range(offset, offset + count)
    ]


def labelled(count: int) -> list[dict]:
    return [
        {"prompt": pair["prompt"], "response": pair[name], "label": label}
        for pair in pairs(count)
        for name, label in (("chosen", "safe"), ("rejected", "unsafe"))
    ]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(folder: Path, *overrides: str) -> Run:
    folder.mkdir(exist_ok=True)
    GlobalHydra.instance().clear()
    short = ("data.template=none", "logger=none", "reward_model.steps=4", "optimizer.lr=1e-3")
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", ["experiment=preference_model", *short, *overrides])
    return read(OmegaConf.to_container(config, resolve=True), folder)


def trained(folder: Path, rows: list[dict], *overrides: str) -> str:
    """What training shows in the terminal."""
    out = Console(file=io.StringIO(), width=120)
    data = write(folder.with_suffix(".jsonl"), rows)
    train_reward_model(run_of(folder, f"data.path={data}", *overrides), Summary(folder, out))
    return out.file.getvalue()


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_the_command_trains_a_model_that_plain_transformers_loads(r1lit, tmp_path):
    data = write(tmp_path / "pairs.jsonl", pairs(120))
    options = ("data.validation=0.25", "data.template=none", "reward_model.steps=40", "evaluation.every=20")
    done = r1lit("experiment=preference_model", f"data.path={data}", "optimizer.lr=1e-3", *options)
    (folder,) = tmp_path.glob("runs/preference_model/*")
    figures = summary_of(folder)
    before, after = figures["held_out"]["before"], figures["held_out"]["after"]
    assert figures["status"] == "finished" and figures["steps"] == 40
    assert after["accuracy"] > 0.9 > before["accuracy"] and after["judgements"] > 15
    assert after["calibration_error"] < 0.1 and after["margin"] > before["margin"]
    lengths = figures["lengths"]["train"]
    assert 0.3 < lengths["longer_chosen"] < 0.7 and lengths["mean_chosen_length"] > 3
    for part in ("lengths in tokens", "before training: accuracy", "after training: accuracy"):
        assert part in done.stderr
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation/accuracy" in row] == [19, 39]
    assert rows[39]["validation/accuracy"] == after["accuracy"] and {"accuracy", "margin", "lr"} <= rows[0].keys()
    texts = ["How do I clean item 3? Please wash it, item 3.", "How do I clean item 3? Go away now, item 3."]
    command = [sys.executable, "-I", "-c", LOADED, str(folder / "model"), json.dumps(texts)]
    loaded = json.loads(subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[-1])
    assert loaded["class"] == "LlamaForSequenceClassification"
    assert loaded["scores"][0] > loaded["scores"][1] + 1
    kept = loaded["r1lit"]
    assert (kept["kind"], kept["part"], kept["template"]) == ("pairwise", "answer", "none")
    assert (kept["mean"], kept["std"]) == pytest.approx((after["mean_reward"], after["std_reward"]), abs=1e-4)
    assert kept["rows"] == 2 * after["judgements"]


def test_labelled_replies_make_a_safety_model(tmp_path):
    shown = trained(
        tmp_path / "run", labelled(60), "reward_model.kind=pointwise", "reward_model.part=response",
        "reward_model.steps=40", "data.validation=0.25",
    )  # fmt: skip
    figures = summary_of(tmp_path / "run")
    assert figures["held_out"]["after"]["accuracy"] > 0.9 and figures["lengths"]["train"]["good"] == 0.5
    assert "mean good length" in shown
    _, _, scoring = load_reward_model(ModelSettings(path=str(tmp_path / "run" / "model")))
    assert (scoring.kind, scoring.part) == ("pointwise", "response")


def test_a_resumed_run_ends_in_the_same_bits(tmp_path):
    rows = pairs(60)
    trained(tmp_path / "whole", rows, "reward_model.steps=6", "trainer.checkpoint_every=3")
    trained(tmp_path / "parts", rows, "reward_model.steps=3", "trainer.checkpoint_every=3")
    half = (tmp_path / "parts" / "model" / "model.safetensors").read_bytes()
    trained(
        tmp_path / "parts", rows, "reward_model.steps=6", "trainer.checkpoint_every=3", f"resume={tmp_path / 'parts'}"
    )
    whole, parts = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts != half
    for name in ("loss", "accuracy", "mean_reward"):
        first, second = ([row[name] for row in read_metrics(tmp_path / run / "metrics.jsonl")] for run in
                         ("whole", "parts"))  # fmt: skip
        assert first == second and len(first) == 6
    first, second = (summary_of(tmp_path / run)["held_out"] for run in ("whole", "parts"))
    assert first == second


def test_before_and_after_are_of_one_evaluation(tmp_path):
    run, rows = tmp_path / "run", pairs(60)
    again = ("data.validation=0.25", f"resume={run}")
    trained(run, rows, "data.validation=0.25", "reward_model.steps=1", "evaluation.prompts=4")
    before = summary_of(run)["held_out"]["before"]
    shown = trained(run, rows, *again, "reward_model.steps=2", "evaluation.prompts=4")
    assert summary_of(run)["held_out"]["before"] == before and "left out" not in shown
    shown = trained(run, rows, *again, "reward_model.steps=3", "evaluation.prompts=6")
    assert "held_out.before: left out" in shown and "before training" not in shown
    assert summary_of(run)["held_out"].keys() == {"after"} and summary_of(run)["held_out"]["after"]["judgements"] == 6
    for name in ("checkpoints", "model"):
        shutil.rmtree(run / name)
    shown = trained(run, rows, *again, "reward_model.steps=1", "evaluation.prompts=4")
    assert "before training" in shown and summary_of(run)["held_out"]["before"] == before


def test_a_longer_run_that_is_cut_off_keeps_no_figure_of_the_earlier_end(tmp_path):
    run, rows = tmp_path / "run", pairs(40)
    trained(run, rows, "data.validation=0.25", "reward_model.steps=1")
    first = summary_of(run)
    assert {"steps", "tokens", "flops", "updates_skipped"} <= first.keys() and "after" in first["held_out"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(StorageError):
            trained(run, rows, "data.validation=0.25", "reward_model.steps=2", f"resume={run}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = summary_of(run)
    assert found["status"] == "running" and found["held_out"] == {"before": first["held_out"]["before"]}
    assert not {"steps", "tokens", "flops", "updates_skipped"} & found.keys()


def test_the_last_checkpoint_can_be_exported(tmp_path):
    trained(tmp_path / "run", pairs(40), "trainer.checkpoint_every=4")
    written = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "model" / "model.safetensors").unlink()
    run = run_of(tmp_path / "run", f"data.path={tmp_path / 'run.jsonl'}", "stage=export", f"resume={tmp_path / 'run'}")
    export(run, Summary(run.directory, Console(file=io.StringIO())))
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == written
    _, _, scoring = load_reward_model(ModelSettings(path=str(tmp_path / "run" / "model")))
    assert (scoring.part, scoring.template, scoring.mean) == ("answer", "none", None)


def test_without_held_out_rows_the_scores_are_those_of_the_training(tmp_path):
    trained(tmp_path / "run", pairs(20), "data.validation=0", "evaluation.every=2")
    assert "held_out" not in summary_of(tmp_path / "run")
    _, _, scoring = load_reward_model(ModelSettings(path=str(tmp_path / "run" / "model")))
    assert scoring.rows == 40 and scoring.std > 0


def test_balanced_lengths_and_bad_rows_are_told(tmp_path):
    rows = [*pairs(60), {"prompt": "x", "chosen": "", "rejected": "y"}]
    rows += [{"prompt": f"More {n}?", "chosen": "Please, please.", "rejected": "No."} for n in range(30)]
    shown = trained(tmp_path / "run", rows, "reward_model.balance_lengths=true", "data.validation=0")
    assert "empty reply 1" in shown and "length balance" in shown
    lengths = summary_of(tmp_path / "run")["lengths"]["train"]
    assert lengths["longer_chosen"] == lengths["shorter_chosen"] > 0


def test_every_row_comes_once_an_epoch_unless_a_source_has_a_weight(tmp_path):
    write(tmp_path / "a.jsonl", pairs(30))
    write(tmp_path / "b.jsonl", pairs(10, offset=100))
    sources = [f"+data.sources.{name}.path={tmp_path / name}.jsonl" for name in "ab"]
    common = [*sources, "~data.sources.curt", "~data.sources.beside", "data.path=null", "data.validation=0"]
    common += ["reward_model.steps=null", "reward_model.batch_size=8"]

    def tokens(folder: Path, *overrides: str) -> tuple[int, float]:
        train_reward_model(run_of(folder, *common, *overrides), Summary(folder, Console(file=io.StringIO())))
        return summary_of(folder)["steps"], summary_of(folder)["tokens"]

    steps, once = tokens(tmp_path / "plain")
    twice_steps, twice = tokens(tmp_path / "epochs", "reward_model.epochs=2")
    assert (steps, twice_steps) == (5, 10) and twice == 2 * once
    _, weighted = tokens(tmp_path / "weighted", "+data.sources.a.weight=0.001")
    assert weighted != once


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ("reward_model.max_tokens=2000", "model.path=tiny"),
            ConfigError,
            r"positions; set reward_model.max_tokens=512",
        ),
        (("model.path=nowhere/at/all",), ConfigError, "no such folder"),
        (("reward_model.kind=pointwise",), DataError, "missing column"),
        (("reward_model.kind=pointwise", "reward_model.balance_lengths=true"), ConfigError, "has no pairs"),
    ],
)
def test_mistakes_are_told_before_the_training(tmp_path, overrides, error, message):
    rows = [*pairs(10), {"prompt": "x", "chosen": "soap " * 700, "rejected": "y"}]
    with pytest.raises(error, match=message):
        trained(tmp_path / "run", rows, "data.max_bad_rows=0.5", *overrides)
    assert not (tmp_path / "run" / "model").exists()


def test_the_experiments_are_the_papers(tmp_path):
    """arXiv 2501.12948, section 2.2.2 and its appendix: batch 256, learning rate 6e-6, one epoch, 8,192 tokens."""
    for name, kind, part in (("preference", "pairwise", "answer"), ("safety", "pointwise", "response")):
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_directory(), version_base="1.3"):
            config = compose("config", [f"experiment={name}_model", "model=local", "model.path=some/policy"])
        run = read(OmegaConf.to_container(config, resolve=True), tmp_path)
        settings = run.reward_model
        assert (run.command.stage, settings.kind, settings.part) == ("reward_model", kind, part)
        assert (settings.batch_size, settings.epochs, settings.steps, settings.max_tokens) == (256, 1, None, 8192)
        assert run.optimizer.lr == 6e-6


@pytest.mark.parametrize("experiment", ["preference_model", "safety_model"])
def test_the_embedded_data_makes_a_model_that_tells_unseen_replies_apart(tmp_path, experiment):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", [f"experiment={experiment}", "logger=none", "reward_model.steps=30"])
    run = read(OmegaConf.to_container(config, resolve=True), tmp_path)
    train_reward_model(run, Summary(tmp_path, Console(file=io.StringIO())))
    assert summary_of(tmp_path)["held_out"]["after"]["accuracy"] > 0.9


def test_prompts_that_answers_are_measured_on_are_not_learnt_from(tmp_path):
    asked = write(tmp_path / "asked.jsonl", pairs(3))
    options = (f"+evaluation.sources.asked.path={asked}", "data.validation=0", "reward_model.steps=1")
    shown = trained(tmp_path / "run", pairs(20), *options)
    assert "17 to train on" in shown and "is a held-out prompt 3" in shown
