from __future__ import annotations

import json

import datasets
import pytest

from r1lit.curation.demonstrations import OWN, require_one_kind, row_of, write_rows
from r1lit.curation.samples import Sample
from r1lit.curation.selection import Candidate
from r1lit.settings import UserError
from r1lit.types import Prompt


def candidate(columns: dict, **known) -> Candidate:
    sample = Sample(0, "tiny", "text", 3, False, {"accuracy": 1.0, "format": None}, 1.0, True, "accuracy")
    defaults = {"status": "kept", "pass_rate": 0.5, "language": "en"}
    return Candidate(Prompt((1,), "What?", columns), sample, **defaults | known)


def loaded(path, cache) -> datasets.Dataset:
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(cache))


def test_a_row_has_its_own_columns_the_rewards_and_the_prompts():
    columns = {"answer": "5", "task": "arithmetic", "level": 3, "tags": ["a"], "source": "book", "status": 1, "x": None}
    row = row_of(candidate(columns), "so 5")
    assert tuple(row)[: len(OWN)] == OWN
    assert (row["prompt"], row["response"], row["answer"], row["task"]) == ("What?", "so 5", "5", "arithmetic")
    assert (row["language"], row["source"], row["status"], row["pass_rate"]) == ("en", "tiny", "kept", 0.5)
    assert (row["rewards/accuracy"], row["rewards/format"], row["reward"]) == (1.0, None, 1.0)
    assert {k: row[k] for k in ("level", "prompt_source", "prompt_status", "x")} == {
        "level": 3,
        "prompt_source": "book",
        "prompt_status": 1,
        "x": None,
    }
    assert "tags" not in row
    assert row_of(candidate({"language": "zh"}), "x")["language"] == "zh"


def test_files_load_whatever_the_rows_hold(tmp_path):
    """A column that comes late, one of several types, whole numbers beside others, and numbers that JSON has not."""
    base = {"prompt": "p", "response": "r", "task": None, "reward": 1.0}
    rows = [base | {"n": n, "size": n, "padding": "x" * 500} for n in range(40_000)]
    rows[7] |= {"size": 2.5, "answer": 5, "gone": float("nan")}
    rows[9] |= {"answer": "five", "flag": True, "big": 2**70, "gone": float("inf")}
    rows[39_998] |= {"late": "here", "task": "math"}
    rows[39_999] |= {"flag": 1, "late": "there"}
    write_rows(tmp_path / "rows.jsonl", rows)
    assert (tmp_path / "rows.jsonl").stat().st_size > 20 << 20, "more than a reader takes in at once"
    data = loaded(tmp_path / "rows.jsonl", tmp_path / "cache")
    assert len(data) == 40_000 and set(OWN) <= set(data.column_names)
    order = data["n"]
    assert sorted(order) == list(range(40_000))
    stayed = [n for n in order if n not in (7, 9, 39_998, 39_999)]
    assert stayed == sorted(stayed)
    by_number = {row["n"]: row for row in data.select([order.index(n) for n in (0, 7, 9, 39_998, 39_999)])}
    assert (by_number[7]["size"], by_number[7]["answer"], by_number[9]["answer"]) == (2.5, "5", "five")
    assert (by_number[9]["big"], by_number[7]["gone"], by_number[9]["gone"]) == (str(2**70), None, None)
    assert (by_number[9]["flag"], by_number[39_999]["flag"]) == ("true", "1")
    assert (by_number[39_998]["late"], by_number[39_998]["task"], by_number[0]["late"]) == ("here", "math", None)


def test_messages_stay_messages(tmp_path):
    prompt = [{"role": "user", "content": "你好"}]
    write_rows(tmp_path / "rows.jsonl", [{"prompt": prompt, "response": "好"}])
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["prompt"] == prompt and row["answer"] is None
    assert "你好" in (tmp_path / "rows.jsonl").read_text()
    assert loaded(tmp_path / "rows.jsonl", tmp_path / "cache")[0]["prompt"] == prompt


def test_texts_and_messages_do_not_go_into_one_file():
    require_one_kind(["a", "b"])
    require_one_kind([])
    with pytest.raises(UserError, match="some prompts are texts and others lists of chat messages"):
        require_one_kind(["a", [{"role": "user", "content": "b"}]])


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, [{"prompt": "old"}])
    with pytest.raises(UnicodeEncodeError):
        write_rows(path, [{"prompt": "new"}, {"prompt": "\ud800"}])
    assert json.loads(path.read_text())["prompt"] == "old"
