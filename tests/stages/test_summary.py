from __future__ import annotations

import io
import json
import resource
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from r1lit.settings import ConfigError, UserError
from r1lit.stages.summary import Summary

FIGURES = {"pass@1": 0.5, "ci95": [0.4, 0.6], "mean_length": 9.0, "format": 1.0}


def summary(folder: Path) -> Summary:
    return Summary(folder, Console(file=io.StringIO(), width=200))


def saved(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_each_addition_is_saved_whole(tmp_path):
    first = summary(tmp_path)
    assert not list(tmp_path.iterdir())
    first.add(a=1)
    first.evaluation("before", FIGURES)
    assert saved(tmp_path)["a"] == 1 and saved(tmp_path)["before"] == FIGURES
    assert saved(tmp_path)["versions"]["torch"] == metadata.version("torch")
    assert "before training: pass@1 0.500 [0.400, 0.600], mean length 9.0, format 1.00" in first.console.file.getvalue()
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_disk_that_fills_up_leaves_the_earlier_file(tmp_path):
    mine = summary(tmp_path)
    mine.add(a=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(OSError):
            mine.add(b="x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved(tmp_path)["a"] == 1 and "b" not in saved(tmp_path)


def test_a_resumed_run_keeps_its_figures(tmp_path):
    summary(tmp_path).evaluation("before", FIGURES)
    again = summary(tmp_path)
    assert again.figures["before"] == FIGURES
    again.evaluation("after", FIGURES | {"pass@1": 0.9})
    assert saved(tmp_path)["before"] == FIGURES and saved(tmp_path)["after"]["pass@1"] == 0.9


def test_how_it_ended_is_kept(tmp_path):
    first = summary(tmp_path)
    with pytest.raises(UserError), first.recording():
        first.add(a=1)
        assert saved(tmp_path)["status"] == "running"
        raise UserError("no more room")
    assert (saved(tmp_path)["status"], saved(tmp_path)["reason"]) == ("stopped", "no more room")
    with pytest.raises(KeyboardInterrupt), first.recording():
        raise KeyboardInterrupt
    assert saved(tmp_path)["reason"] == "KeyboardInterrupt"
    with summary(tmp_path).recording():
        pass
    assert saved(tmp_path)["status"] == "finished" and "reason" not in saved(tmp_path)


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError), summary(tmp_path).recording():
        raise ConfigError(["no"])
    assert not list(tmp_path.iterdir())


def test_a_refusal_after_the_beginning_is_an_end(tmp_path):
    first = summary(tmp_path)
    with pytest.raises(ConfigError), first.recording():
        first.begin(trains=True)
        assert saved(tmp_path)["status"] == "running"
        raise ConfigError(["no"])
    assert saved(tmp_path)["status"] == "stopped" and "no" in saved(tmp_path)["reason"]
    # What refuses to go on says nothing of how the run ended.
    summary(tmp_path).add(status="finished")
    with pytest.raises(ConfigError), summary(tmp_path).recording():
        raise ConfigError(["never"])
    assert saved(tmp_path)["status"] == "finished"


def test_going_on_takes_back_the_figures_of_the_end(tmp_path):
    end = {"after": FIGURES, "steps": 2, "tokens": 9, "flops": 1.0, "updates_skipped": 0.0}
    kept = {"before": FIGURES, "metric": "accuracy", "seconds": {"fit": 1.0}}
    summary(tmp_path).add(**end, **kept, held_out={"before": {"loss": 2.0}, "after": {"loss": 1.0}}, status="finished")
    summary(tmp_path).begin(trains=False)
    assert end.items() <= saved(tmp_path).items() and saved(tmp_path)["held_out"]["after"] == {"loss": 1.0}
    summary(tmp_path).begin(trains=True)
    versions = saved(tmp_path)["versions"]
    assert saved(tmp_path) == kept | {
        "held_out": {"before": {"loss": 2.0}}, "status": "running", "versions": versions
    }  # fmt: skip
    summary(tmp_path).add(held_out={"after": {"loss": 1.0}})
    summary(tmp_path).begin(trains=True)
    assert "held_out" not in saved(tmp_path)


@pytest.mark.parametrize("name", ["before", "held_out.before"])
def test_a_measure_is_kept_while_what_it_depends_on_is_the_same(tmp_path, name):
    def found() -> dict | None:
        figures = saved(tmp_path)
        return (figures.get("held_out", {}) if "." in name else figures).get("before")

    def measured() -> None:
        summary(tmp_path).add(**({"held_out": {"before": FIGURES}} if "." in name else {"before": FIGURES}))

    assert summary(tmp_path).lacks_before(name, "a", trained=False)
    measured()
    for trained in (False, True):
        assert not summary(tmp_path).lacks_before(name, "a", trained) and found() == FIGURES
    # Nothing is trained yet: it is made anew, and nobody need know.
    mine = summary(tmp_path)
    assert mine.lacks_before(name, "b", trained=False) and found() is None and not mine.console.file.getvalue()
    measured()
    mine = summary(tmp_path)
    assert not mine.lacks_before(name, "c", trained=True) and found() is None
    assert mine.console.file.getvalue().count("\n") == 1 and f"{name}: left out" in mine.console.file.getvalue()
    # Nor is it made, or told of, when the run goes on once more.
    mine = summary(tmp_path)
    assert not mine.lacks_before(name, "c", trained=True) and not mine.console.file.getvalue()


def test_a_measure_that_nothing_is_known_of_is_not_kept(tmp_path):
    summary(tmp_path).add(before=FIGURES)
    assert not summary(tmp_path).lacks_before("before", "a", trained=True) and "before" not in saved(tmp_path)


def test_training_adds_up_over_the_steps(tmp_path):
    mine = summary(tmp_path)
    steps = [
        {"num_tokens": 10, "time/step": 2.0, "time/sample": 1.0, "updates_skipped": 1.0},
        {"num_tokens": 20.0, "time/step": 3.0, "time/sample": 1.5, "time/update": 0.5, "updates_skipped": None},
    ]
    with mine.timed("fit"):
        pass
    mine.figures["seconds"]["fit"] = 6.0
    mine.training(steps)
    figures = saved(tmp_path)
    assert (figures["steps"], figures["tokens"], figures["updates_skipped"]) == (2, 30, 1.0)
    assert figures["seconds"] == {"fit": 6.0, "step": 5.0, "sample": 2.5, "update": 0.5}
