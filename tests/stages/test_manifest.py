from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from r1lit.settings import UserError
from r1lit.stages.manifest import Manifest, alone
from r1lit.stages.plan import Step


def step(root: Path, name: str = "one", fingerprint: str = "f1", inputs: tuple[str, ...] = ()) -> Step:
    return Step(name, 0, root / name, (), inputs, {"stage": "fit"}, fingerprint)


def made(one: Step) -> None:
    """What a finished training leaves."""
    (one.directory / "model").mkdir(parents=True, exist_ok=True)
    (one.directory / "overrides.yaml").write_text("[]")
    (one.directory / "checkpoints").mkdir(exist_ok=True)
    (one.directory / "checkpoints" / "step_000001.ckpt").write_text("")


def test_a_step_is_done_once_it_is_noted_and_its_output_is_there(tmp_path):
    manifest, one = Manifest(tmp_path), step(tmp_path)
    assert not manifest.done(one) and not manifest.begun(one)
    manifest.begin(one)
    made(one)
    assert manifest.begun(one) and not manifest.done(one), "a process may have been killed after its last write"
    manifest.finish(one, seconds=3.21)
    again = Manifest(tmp_path)
    assert again.done(one)
    (entry,) = json.loads((tmp_path / "manifest.json").read_text()).values()
    assert len(entry.pop("mark")) == 8
    assert entry == {"fingerprint": "f1", "done": True, "seconds": 3.2, "inputs": {}}
    (one.directory / "model").rmdir()
    assert not again.done(one), "somebody removed its model"


def test_what_cannot_be_gone_on_with_is_begun_anew(tmp_path):
    manifest, one = Manifest(tmp_path), step(tmp_path)
    one.directory.mkdir()
    (one.directory / "half").write_text("killed before it wrote its settings")
    manifest.begin(one)
    assert not one.directory.exists()
    made(one)
    manifest.begin(one)
    assert (one.directory / "model").exists()


def test_steps_of_another_configuration_are_refused_or_by_force_removed(tmp_path):
    manifest, one, two = Manifest(tmp_path), step(tmp_path), step(tmp_path, "two")
    for each in (one, two):
        manifest.begin(each)
        made(each)
        manifest.finish(each, 1.0)
    changed = step(tmp_path, "two", "f2")
    with pytest.raises(UserError, match=r"another configuration: two.*force=true"):
        Manifest(tmp_path).check([one, changed], force=False)
    assert two.directory.exists()
    forced = Manifest(tmp_path)
    forced.check([one, changed], force=True)
    assert not two.directory.exists() and one.directory.exists()
    assert forced.done(one) and not forced.done(changed)


def test_what_was_made_from_an_earlier_making_is_made_anew(tmp_path):
    manifest, one, two = Manifest(tmp_path), step(tmp_path), step(tmp_path, "two", inputs=("one",))
    for each in (one, two):
        manifest.begin(each)
        made(each)
        manifest.finish(each, 1.0)
    assert manifest.done(one) and manifest.done(two)
    (one.directory / "model").rmdir()
    manifest.begin(one)
    made(one)
    manifest.finish(one, 1.0)
    again = Manifest(tmp_path)
    assert again.done(one) and not again.done(two)
    again.begin(two)
    assert not two.directory.exists(), "nothing of it is gone on with"


def test_a_finished_step_without_a_checkpoint_is_begun_anew(tmp_path):
    manifest, one = Manifest(tmp_path), step(tmp_path)
    manifest.begin(one)
    made(one)
    (one.directory / "checkpoints" / "step_000001.ckpt").unlink()
    assert not manifest.begun(one), "it could not be resumed"
    manifest.begin(one)
    assert not one.directory.exists()


def test_a_damaged_manifest_is_told(tmp_path):
    (tmp_path / "manifest.json").write_text("")
    with pytest.raises(UserError, match=r"manifest.json is damaged .*; remove it"):
        Manifest(tmp_path)


def test_two_processes_never_work_on_one_chain(tmp_path):
    code = "\n".join(
        (
            "from pathlib import Path",
            "from r1lit.stages.manifest import alone",
            f"with alone(Path({str(tmp_path)!r})): pass",
        )
    )
    with alone(tmp_path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert second.returncode != 0 and "being worked on by another process" in second.stderr
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
