from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from rich.console import Console

from r1lit.report.comparison import Results, show

VALUES = {
    "0": {"base": {"acc": 0.5, "help": 0.6}, "zero": {"acc": 0.9, "help": 0.4}},
    "1": {"base": {"acc": 0.4, "help": None}, "zero": {"acc": 0.9, "help": 0.5}},
    "2": {"base": {"acc": 0.6, "help": 0.6}, "zero": {"acc": 0.9, "help": 0.5}},
}
CLAIM = {"measure": "acc", "model": "zero", "above": "base", "than": None, "by": 0.0}


def results(directory: Path, values: dict | None = None, claims: dict | None = None) -> Results:
    stored = {
        "models": {"base": "Base", "zero": "R1-Zero"},
        "measures": {"acc": {"figure": "pass@1", "digits": 2}, "help": {"figure": "rewards.h", "digits": 1}},
        "made_from": {"zero": "base"},
        "claims": claims or {},
        "values": values or VALUES,
        "compute": {seed: {"base": {}, "zero": {"flops": 2e12}} for seed in values or VALUES},
    }
    (directory / "results.json").write_text(json.dumps(stored))
    return Results(directory)


def test_means_and_intervals_over_seeds_by_hand(tmp_path):
    found = results(tmp_path)
    mean, interval = found.cell("base", "acc")
    # Deviations -0.1, 0, 0.1: s = 0.1, t(2) = 4.303, half = 4.303 * 0.1 / sqrt(3).
    assert mean == pytest.approx(0.5)
    assert interval == pytest.approx((0.5 - 0.248434, 0.5 + 0.248434), abs=1e-5)
    change, _ = found.change("zero", "acc")
    assert change == pytest.approx(0.4)
    assert found.change("zero", "help")[0] == pytest.approx(-0.15), "a seed that one side lacks does not count"


def test_one_seed_has_no_interval_and_what_was_not_measured_is_left_open(tmp_path):
    found = results(tmp_path, {"0": {"base": {"acc": 0.5, "help": None}, "zero": {"acc": 0.9, "help": None}}})
    assert found.cell("base", "acc") == (0.5, None)
    assert found.cell("base", "help") is None


@pytest.mark.parametrize(
    ("by", "values", "verdict"),
    [
        (0.1, VALUES, "holds"),
        (0.3, VALUES, "holds on average; the interval over seeds reaches below"),
        (0.45, VALUES, "DOES NOT HOLD HERE"),
        (0.3, {"0": VALUES["0"]}, "holds (one seed)"),
        (0.3, {"0": {"base": {"acc": None}, "zero": {"acc": 1.0}}}, "could not be measured"),
        (0.0, {"0": {"base": {"acc": 0.5}, "zero": {"acc": 0.5}}}, "DOES NOT HOLD HERE"),
        (-0.1, {"0": {"base": {"acc": 0.5}, "zero": {"acc": 0.5}}}, "holds (one seed)"),
    ],
)
def test_a_claim_holds_or_it_is_said_that_it_does_not(tmp_path, by, values, verdict):
    # Differences 0.4, 0.5, 0.3: mean 0.4, interval 0.4 -+ 0.2484.
    (found,) = results(tmp_path, values, {"c": {**CLAIM, "says": "RL helps", "by": by}}).verdicts()
    assert found.verdict == verdict


def test_two_measures_of_one_model_and_a_measure_alone(tmp_path):
    claims = {
        "vote": {**CLAIM, "says": "acc above help", "above": None, "than": "help", "by": 0.2},
        "high": {**CLAIM, "says": "high", "above": None, "by": 0.95},
    }
    vote, high = results(tmp_path, None, claims).verdicts()
    assert vote.difference == pytest.approx((0.5 + 0.4 + 0.4) / 3) and vote.right == "R1-Zero help 0.467"
    assert high.difference == pytest.approx(0.9) and high.right == "0" and high.verdict == "DOES NOT HOLD HERE"


def test_the_tables_the_file_and_the_picture(tmp_path):
    results(tmp_path, None, {"c": {**CLAIM, "says": "RL helps"}})
    console = Console(file=io.StringIO(), width=160)
    show(tmp_path, console)
    text = " ".join(console.file.getvalue().split())
    assert "mean of 3 seeds" in text and "0.50 ±0.25" in text and "R1-Zero <- Base" in text and "+0.40 ±0.25" in text
    assert "TFLOP" in text and "2.00" in text
    stored = json.loads((tmp_path / "table.json").read_text())
    assert stored["models"]["R1-Zero"]["flops"]["mean"] == 2e12 and stored["models"]["Base"]["flops"] is None
    assert stored["models"]["R1-Zero"]["acc"] == {"mean": pytest.approx(0.9), "ci95": [pytest.approx(0.9)] * 2}
    assert stored["claims"][0]["verdict"] == "holds"
    picture = imread(tmp_path / "table.png")
    assert picture[..., :3].std() > 0.01 and picture.shape[1] > 500
