from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1lit.curation.edited import EditedError, check_edited
from r1lit.curation.settings import FORM
from r1lit.data.files import DataError
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings


@pytest.fixture(scope="module")
def rewards() -> Iterator[RewardPool]:
    spec = {"_target_": "r1lit.rewards.accuracy.accuracy", "when": {"task": "math"}, "rowwise": True}
    with RewardPool({"accuracy": RewardSettings.model_validate(spec)}) as pool:
        yield pool


def row(status: str = "kept", answer: str = "4", said: str = "4", n: int = 0, **other) -> dict:
    response = f"<think> way {n} </think> <answer> {said} </answer>"
    own = {"prompt": f"2 + 2 = ? ({n})", "response": response, "status": status, "answer": answer, "task": "math"}
    return own | other


def write(folder: Path, *rows: dict | str) -> str:
    path = folder / "edited.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def problems(path: str, rewards: RewardPool) -> list[str]:
    with pytest.raises(EditedError) as caught:
        check_edited(path, FORM, rewards, "accuracy")
    return str(caught.value).splitlines()


def test_a_sound_file_becomes_the_demonstrations(tmp_path, rewards):
    path = write(
        tmp_path,
        row(n=1, level=3, tags=["a"], note=None),
        row("edited", n=2),
        row("approved", n=3, said="5"),
        row("dropped: wrong", n=4, said="5"),
        row("dropped", n=5) | {"response": ""},
        row(n=6, task="essay", answer="anything", said="prose"),
    )
    found = check_edited(path, FORM, rewards, "accuracy")
    assert [r["status"] for r in found.rows] == ["kept", "edited", "approved", "kept"]
    assert found.statuses == {"kept": 2, "edited": 1, "approved": 1, "dropped": 2}
    assert found.unjudged == 1
    first = found.rows[0]
    assert (first["level"], first["note"], first["language"]) == (3, None, None) and "tags" not in first


def test_every_bad_line_is_named_with_its_reason(tmp_path, rewards):
    path = write(
        tmp_path,
        row(n=1),
        row(n=1),
        row("fine", n=2),
        row(n=3, said="5"),
        row("edited", n=4, said="5"),
        row(n=5) | {"response": "It is 4."},
        row(n=6) | {"response": " "},
        row(n=7) | {"prompt": " "},
        row(n=8) | {"prompt": None},
        "not json",
        row("dropped?", n=9),
        {"prompt": "x", "response": "y"},
        row("approved", n=10) | {"response": "no form"},
    )
    lines = problems(path, rewards)
    assert lines[0].startswith("12 of 13 lines cannot be used")
    expected = {
        2: "it repeats",
        3: "status='fine' is unknown",
        4: "the answer is wrong by rule (accuracy=0, answer='4')",
        5: "set its status to approved",
        6: "not of the form",
        7: "response=' ' is no text",
        8: "the prompt is empty",
        9: "a prompt is a text or a list of messages",
        10: "broken JSON",
        11: "did you mean dropped?",
        12: "status=None is unknown",
        13: "not of the form",
    }
    for line, (number, part) in zip(lines[1:], expected.items(), strict=True):
        assert f"edited.jsonl:{number}: " in line and part in line


def test_a_file_of_nothing_is_refused(tmp_path, rewards):
    assert "has no rows" in problems(write(tmp_path), rewards)[0]
    assert "all 2 rows are dropped" in problems(write(tmp_path, row("dropped"), row("dropped: wrong")), rewards)[0]
    with pytest.raises((DataError, OSError)):
        check_edited(str(tmp_path / "missing.jsonl"), FORM, rewards, "accuracy")


def test_a_long_list_is_cut(tmp_path, rewards):
    lines = problems(write(tmp_path, *(row("hm", n=n) for n in range(80))), rewards)
    assert len(lines) == 52 and lines[-1] == "  and 30 more"
