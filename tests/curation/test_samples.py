from __future__ import annotations

import json

import pytest

from r1lit.curation.samples import MADE_BY, SAMPLES, Sample, SampleLog
from r1lit.settings import ConfigError

SETTINGS = {"k": 2, "sampling": {"temperature": 1.0}, "names": ("a", "b")}


def sample(index: int, text: str = "<think> a </think> 4") -> Sample:
    return Sample(index, "tiny", text, 5, False, {"accuracy": 1.0, "format": None}, 1.0, True, "accuracy")


def filled(folder) -> SampleLog:
    log = SampleLog(folder, SETTINGS)
    log.append("tiny/0", [sample(0), sample(1)], ["1 + 1?", "二"])
    log.append("tiny/1", [sample(2, "第二")], [[{"role": "user", "content": "3?"}]])
    return log


def test_samples_come_back_as_they_were(tmp_path):
    log = filled(tmp_path)
    again = SampleLog(tmp_path, SETTINGS)
    assert list(again.samples()) == list(log.samples()) == [sample(0), sample(1), sample(2, "第二")]
    assert again.finished == {"tiny/0", "tiny/1"}
    first = json.loads((tmp_path / SAMPLES).read_text().splitlines()[0])
    assert (first["batch"], first["of"], first["prompt"], first["index"]) == ("tiny/0", 2, "1 + 1?", 0)


def test_halves_are_parsed_once_asked_for():
    assert (sample(0).parts.thought, sample(0).parts.answer) == ("a", "4")


@pytest.mark.parametrize("cut", range(0, 1200, 7))
def test_whatever_a_crash_left_ends_in_whole_batches(tmp_path, cut):
    """A file cut anywhere: the batches that are whole stay, byte for byte; what came after is gone."""
    filled(tmp_path)
    path = tmp_path / SAMPLES
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    log = SampleLog(tmp_path, SETTINGS)
    lines = whole.splitlines(keepends=True)
    ends = {0: set(), len(lines[0] + lines[1]): {"tiny/0"}, len(whole): {"tiny/0", "tiny/1"}}
    end = max(end for end in ends if end <= cut)
    assert path.read_bytes() == whole[:end] and log.finished == ends[end]
    for name, samples, prompts in (
        ("tiny/0", [sample(0), sample(1)], ["1 + 1?", "二"]),
        ("tiny/1", [sample(2, "第二")], [[{"role": "user", "content": "3?"}]]),
    ):
        if name not in log.finished:
            log.append(name, samples, prompts)
    assert path.read_bytes() == whole


def test_a_line_that_is_no_json_ends_it_too(tmp_path):
    filled(tmp_path)
    path = tmp_path / SAMPLES
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\x00" * 50 + b"\n" + lines[2])
    assert SampleLog(tmp_path, SETTINGS).finished == {"tiny/0"}
    assert path.read_bytes() == lines[0] + lines[1]


def test_samples_of_other_settings_are_not_mixed(tmp_path):
    filled(tmp_path)
    with pytest.raises(ConfigError, match=r"other settings: k \(now 3, then 2\); set them back, or start a new run"):
        SampleLog(tmp_path, SETTINGS | {"k": 3})
    with pytest.raises(ConfigError, match=r"extra \(now 1, then null\)"):
        SampleLog(tmp_path, SETTINGS | {"extra": 1})
    assert len(list(SampleLog(tmp_path, SETTINGS).samples())) == 3


def test_settings_may_change_as_long_as_nothing_was_sampled(tmp_path):
    SampleLog(tmp_path, SETTINGS)
    SampleLog(tmp_path, SETTINGS | {"k": 3})
    assert json.loads((tmp_path / MADE_BY).read_text())["k"] == 3
