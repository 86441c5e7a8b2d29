from __future__ import annotations

import threading

import pytest

from r1lit.callbacks.hardware import Peak
from r1lit.modules.timing import PhaseTimer
from r1lit.stages.performance import performance, table

STEPS = [
    {"time/step": 2.0, "time/update": 1.0, "time/sample": 0.5, "perf/flops": 1.0, "perf/tokens_per_second": 30.0,
     "perf/trained_tokens_per_second": 100.0, "perf/peak_rss_gb": 0.5, "perf/padding_sample": 0.1, "perf/mfu": 0.2},
    {"time/step": 6.0, "time/update": 3.0, "time/sample": 1.5, "perf/flops": 1.0, "perf/tokens_per_second": 10.0,
     "perf/trained_tokens_per_second": 20.0, "perf/peak_rss_gb": 0.3, "perf/padding_sample": 0.3, "perf/mfu": None},
]  # fmt: skip


def test_figures_of_a_training_are_those_of_all_its_seconds():
    assert performance(STEPS) == pytest.approx(
        {
            "tokens_per_second": (30 * 2 + 10 * 6) / 8,
            "trained_tokens_per_second": (100 * 1 + 20 * 3) / 4,
            "peak_rss_gb": 0.5,
            "padding_sample": (0.1 * 0.5 + 0.3 * 1.5) / 2,
            "mfu": 0.2,
        }
    )


def test_the_table_says_where_the_time_went():
    seconds = {"fit": 10.0, "step": 8.0, "update": 4.0, "sample": 2.0, "evaluate": 99.0, "preflight": 9.0}
    lines = table(seconds, performance(STEPS), Peak("here", 2.0)).splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["where", "the", "time", "went", "seconds", "share"],
        ["update", "4.0", "40%"],
        ["sample", "2.0", "20%"],
        ["rest", "of", "the", "step", "2.0", "20%"],
        ["between", "steps", "2.0", "20%"],
    ]
    assert lines[5:] == [
        "  tokens/s 15, trained 40",
        "  peak memory 0.50 GB (resident, the whole process)",
        "  padding sample 25%",
        "  MFU 20.0% of 2 TFLOP/s",
    ]


def test_what_goes_on_beside_the_steps_is_in_no_sum():
    timer = PhaseTimer()
    for _ in range(2):
        with timer.phase("sample"):
            pass
        thread = threading.Thread(target=in_phase, args=(timer, "sample"))
        thread.start()
        thread.join()
    times = timer.pop()
    assert times.keys() == {"time/sample", "time/beside/sample"} and times["time/beside/sample"] < times["time/sample"]

    seconds = {"fit": 9.0, "step": 8.0, "update": 5.0, "wait": 2.0, "sample": 7.0, "beside/sample": 6.0}
    lines = table(seconds | {"beside/score": 0.5, "score": 0.5}, {"tokens_per_second": 1.0}, Peak("cpu")).splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["update", "5.0", "56%"],
        ["wait", "for", "rollouts", "2.0", "22%"],
        ["sample", "1.0", "11%"],
        ["between", "steps", "1.0", "11%"],
    ]
    assert [line.split() for line in lines[5:8]] == [
        ["beside", "these,", "in", "a", "thread", "of", "its", "own"],
        ["sample", "6.0"],
        ["score", "0.5"],
    ]


def in_phase(timer: PhaseTimer, name: str) -> None:
    with timer.phase(name):
        pass


def test_what_is_not_known_is_said_and_not_invented():
    figures = {"tokens_per_second": 15.0}
    # The first part of a run that was killed: how long it took beside its steps is not known.
    text = table({"fit": 1.0, "step": 8.0, "update": 8.0}, figures, Peak("cpu"))
    assert "no MFU: the peak of cpu is not known; set trainer.peak_tflops" in text and "between" not in text
