from __future__ import annotations

import json
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from r1lit.callbacks.storage import StorageError
from r1lit.report.pictures import draw


def figures(accuracy: float) -> dict:
    return {"pass@1": accuracy, "ci95": [accuracy - 0.05, accuracy + 0.05], "mean_length": 21.0}


def a_run(folder: Path, summary: dict, metric: str = "accuracy", steps: int = 30, **values) -> Path:
    rows = [
        {"step": n, f"rewards/{metric}/mean": n / steps, "completions/mean_length": 20.0 + n}
        | {name: of(n) for name, of in values.items() if of(n) is not None}
        for n in range(steps)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def ink(path: Path) -> np.ndarray:
    """The picture's pixels; one that is blank or of another size is no picture of a run."""
    pixels = imread(path)
    assert pixels.shape[:2] == (480, 1320) and (pixels[..., :3] < 0.9).any()
    return pixels


def test_the_picture_is_drawn_with_and_without_held_out_figures(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        without = ink(draw(a_run(tmp_path, {})))
        both = {"before": figures(0.4), "after": figures(0.9)}
        with_both = ink(draw(a_run(tmp_path, both)))
        between = {"validation/pass@1": lambda n: 0.7 if n == 14 else None}
        between["validation/mean_length"] = lambda n: 30.0 if n == 14 else None
        with_three = ink(draw(a_run(tmp_path, both, **between)))
    assert not np.array_equal(without, with_both) and not np.array_equal(with_both, with_three)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "progress.png", "summary.json"]


def test_another_metric_is_drawn_under_its_name(tmp_path):
    a_run(tmp_path, {"metric": "mine"}, metric="mine")
    mine = ink(draw(tmp_path))
    (tmp_path / "summary.json").write_text("{}")
    assert not np.array_equal(mine, ink(draw(tmp_path))), "accuracy was not measured: nothing to draw"


def test_a_metric_beyond_0_and_1_stays_in_the_picture(tmp_path):
    a_run(tmp_path, {"metric": "mine"}, **{"rewards/mine/mean": lambda n: -n / 10})
    pixels = ink(draw(tmp_path))
    left = pixels[40:420, 80:640, :3]
    blue = (left[..., 2] > 0.5) & (left[..., 0] < 0.4)
    assert np.ptp(np.nonzero(blue)[0]) > 100, "the curve falls through the picture"


def test_nothing_recorded_nothing_drawn(tmp_path):
    assert draw(tmp_path) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = [{"step": 0, "rewards/accuracy/mean": None, "completions/mean_length": None}]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "summary.json").write_text("{}")
        draw(tmp_path)


def test_no_half_a_picture_is_left_on_a_full_disk(tmp_path):
    a_run(tmp_path, {})
    whole = draw(tmp_path).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(StorageError, match=r"progress\.png could not be written"):
            draw(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "progress.png").read_bytes() == whole and not list(tmp_path.glob("*.part"))
