"""The whole recipe, cut short: every step runs, every model loads without r1lit, every data set in `datasets`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

# Thirteen processes, one after the other, on a machine that may be busy.
pytestmark = pytest.mark.timeout(900)

SHORT = (
    "experiment=r1",
    *(f"pipeline.steps.{name}.set.algorithm.steps=2" for name in ("r1_zero", "dev2", "r1", "student_rl")),
    "pipeline.common.set.algorithm.prompts_per_step=4",
    "pipeline.common.set.algorithm.group_size=4",
    "pipeline.common.set.collect.prompts=32",
    "pipeline.common.set.reject.prompts=32",
    "pipeline.common.set.reward_model.steps=2",
    "pipeline.common.set.sft.epochs=1",
    "pipeline.steps.dev3.set.sft.epochs=1",
    "pipeline.steps.distilled.set.sft.epochs=1",
    "pipeline.common.set.logger.kind=none",
)
MODELS = ("r1_zero", "dev1", "dev2", "dev3", "r1", "distilled", "student_rl")
SCORERS = ("preference_model", "safety_model")
LOAD = """
import sys, transformers
for place in sys.argv[2:]:
    kind = getattr(transformers, sys.argv[1])
    model, tokenizer = kind.from_pretrained(place), transformers.AutoTokenizer.from_pretrained(place)
    assert model(**tokenizer("What is 3+4?", return_tensors="pt")).logits.isfinite().all()
assert "r1lit" not in sys.modules
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("recipe")
    done = subprocess.run([sys.executable, "-m", "r1lit", *SHORT], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (run,) = (place / "runs" / "r1").iterdir()
    return run


def test_all_models_stand_in_the_table_with_all_measures(run):
    table = json.loads((run / "table.json").read_text())
    titles = ["base", "R1-Zero", "Dev1", "Dev2", "Dev3", "R1", "student", "student, distilled", "student, RL alone"]
    assert list(table["models"]) == titles
    for measures in table["models"].values():
        assert all(value is not None and value["mean"] >= 0 for name, value in measures.items() if name != "flops")
    assert len(table["claims"]) == 7 and all(claim["verdict"] for claim in table["claims"])
    made_from = json.loads((run / "results.json").read_text())["made_from"]
    assert made_from == {
        "r1_zero": "base",
        "dev1": "base",
        "dev2": "dev1",
        "dev3": "base",
        "r1": "dev3",
        "distilled": "student",
        "student_rl": "student",
    }


@pytest.mark.parametrize(
    ("kind", "names"), [("AutoModelForCausalLM", MODELS), ("AutoModelForSequenceClassification", SCORERS)]
)
def test_every_model_loads_in_plain_transformers(run, kind, names):
    places = [str(run / name / "model") for name in names]
    loaded = subprocess.run([sys.executable, "-c", LOAD, kind, *places], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr


def test_every_data_set_loads_in_datasets(run):
    for step in ("cold_start", "samples"):
        for name in ("demonstrations.jsonl", "candidates.jsonl", "samples.jsonl"):
            rows = datasets.load_dataset("json", data_files=str(run / step / name), split="train")
            assert len(rows) > 0
    kept = datasets.load_dataset("json", data_files=str(run / "samples" / "demonstrations.jsonl"), split="train")
    tasks = set(kept["task"])
    assert {"fact", "general", "safety"} <= tasks and tasks & {"arithmetic", "chain_sum"}


def test_what_is_held_out_is_in_no_data_set(run):
    held_out = {json.loads(line)["prompt"] for line in (run / "base" / "samples.jsonl").read_text().splitlines()}
    assert len(held_out) > 150
    for step in ("cold_start", "samples"):
        rows = (run / step / "demonstrations.jsonl").read_text().splitlines()
        assert not held_out & {json.loads(row)["prompt"] for row in rows}
