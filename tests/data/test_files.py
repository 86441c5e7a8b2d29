from __future__ import annotations

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from r1lit.data.files import DataError, path_problem, read_path

ROWS = [{"prompt": f"{n} + 1 = ?", "answer": n + 1} for n in range(5)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def read(path, **kwargs):
    return list(read_path(str(path), **kwargs))


def write_lines(path, rows=ROWS):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".ndjson"])
def test_lines_carry_their_number_in_the_file(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_text('{"prompt": "一加一"}\n\n   \n{"prompt": "b"}')
    assert [(row.columns["prompt"], row.origin) for row in read(path)] == [
        ("一加一", f"{path}:1"),
        ("b", f"{path}:4"),
    ]


def test_windows_files_read_as_others_do(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"prompt": "héllo"}\r\n{"prompt": "b"}\r\n'.encode())
    assert [row.columns for row in read(path)] == [{"prompt": "héllo"}, {"prompt": "b"}]


def test_line_separators_inside_strings_end_no_row(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"prompt": "a\u2028b\x85c\x0bd"}])
    assert [row.columns["prompt"] for row in read(path)] == ["a\u2028b\x85c\x0bd"]


def test_gzip(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(write_lines(tmp_path / "rows.jsonl").read_bytes()))
    assert [row.columns for row in read(path)] == ROWS
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged after line"):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a"', "broken JSON"),
        (b"prompt: a", "broken JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'["a"]', "not an object"),
        (b'"a"', "not an object"),
        (b'{"prompt": "\xff\xfe"}', "not UTF-8"),
        (b'{"prompt": "\\ud800"}', "not UTF-8"),
    ],
)
def test_a_broken_line_is_named_and_the_others_are_read(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n' + line + b'\n{"prompt": "c"}\n')
    before, broken, after = read(path)
    assert (before.columns, after.columns) == ({"prompt": "a"}, {"prompt": "c"})
    assert (broken.columns, broken.origin, broken.problem[0]) == ({}, f"{path}:2", reason)
    assert len(broken.problem[1]) < 250


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert [(row.columns, row.origin) for row in read(path)] == [(r, f"{path}:{n}") for n, r in enumerate(ROWS, 1)]
    path.write_bytes(b"PAR1 not at all")
    with pytest.raises(DataError, match="no readable Parquet file"):
        read(path)


def test_a_saved_data_set_and_a_saved_dictionary_of_splits(tmp_path):
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "two")
    assert [row.columns for row in read(tmp_path / "one")] == ROWS
    assert [row.columns for row in read(tmp_path / "two")] == ROWS
    assert [row.origin for row in read(tmp_path / "two", split="test")] == [f"{tmp_path / 'two'}[test]:1"]
    with pytest.raises(DataError, match="no split=tset; did you mean test"):
        read(tmp_path / "two", split="tset")
    with pytest.raises(DataError, match="no subset=main; leave it out"):
        read(tmp_path / "two", subset="main")


def test_folders_of_plain_files_are_data_sets(tmp_path):
    folder = tmp_path / "parquet"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "train-00000.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:2]), folder / "test-00000.parquet")
    assert [row.columns for row in read(folder)] == ROWS
    assert [row.columns for row in read(folder, split="test")] == ROWS[:2]
    lines = tmp_path / "lines"
    lines.mkdir()
    write_lines(lines / "anything.jsonl")
    assert [(row.columns, row.origin) for row in read(lines)] == [
        (r, f"{lines}[train]:{n}") for n, r in enumerate(ROWS, 1)
    ]


def test_subsets_of_a_local_data_set(tmp_path):
    for name, rows in {"easy": ROWS[:1], "hard": ROWS[1:]}.items():
        write_lines(tmp_path / f"{name}.jsonl", rows)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("easy", "hard"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert [row.columns for row in read(tmp_path, subset="hard")] == ROWS[1:]
    with pytest.raises(DataError, match=r"cannot be loaded .*easy"):
        read(tmp_path)


def test_a_folder_that_is_no_data_set_is_said(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "rows.jsonl").write_text("{broken")
    with pytest.raises(DataError, match="cannot be loaded as a Hugging Face data set"):
        read(tmp_path)


def test_a_name_that_cannot_be_fetched_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rows").mkdir()
    with pytest.raises(DataError, match=r"my_row cannot be loaded .*did you mean my_rows\?"):
        read("my_row")


def test_a_file_has_no_split(tmp_path):
    with pytest.raises(DataError, match="is one file and has no subset=None or split=test"):
        read(write_lines(tmp_path / "rows.jsonl"), split="test")


def test_paths_are_checked_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "questions.jsonl")
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.csv").write_text("a,b\n")
    assert path_problem("questions.jsonl") is None
    assert path_problem("openai/gsm8k") is None
    assert path_problem("question.jsonl") == "question.jsonl does not exist; in .: did you mean questions.jsonl?"
    assert "does not exist; there is no folder nowhere" in path_problem("nowhere/rows.parquet")
    assert "does not exist" in path_problem(str(tmp_path / "absent"))
    assert path_problem("rows.csv") == "rows.csv ends in .csv; it must be .jsonl, .json, .ndjson, .parquet"
    assert path_problem("empty") == "empty is an empty folder"
