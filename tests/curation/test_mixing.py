from __future__ import annotations

import json
from collections import Counter

import pytest

from r1lit.curation.mixing import load_mix, mixed
from r1lit.curation.settings import MixSettings
from r1lit.data.files import DataError
from r1lit.data.settings import SourceSettings

REASONING = [{"prompt": f"sum {n}", "response": "<think> a </think> 5", "source": "tiny"} for n in range(30)]


def settings(tmp_path, ratio: float = 3, **sources) -> MixSettings:
    made = {}
    for name, (rows, weight) in sources.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made[name] = SourceSettings(path=str(path), weight=weight)
    return MixSettings(sources=made, ratio=ratio)


def simple(count: int, word: str = "hello") -> list[dict]:
    return [{"prompt": f"{word} {n}", "response": f"{word} back", "task": "talk", "stars": n} for n in range(count)]


def mix(chosen: MixSettings, bad: float = 0.5, held_out=(), seed: int = 0):
    return load_mix(chosen, bad, held_out, seed)


def test_three_to_one(tmp_path):
    chosen = settings(tmp_path, talk=(simple(50), 1))
    rows, account = mixed(REASONING, mix(chosen), chosen.ratio, seed=0)
    assert account == {"reasoning": 30, "wanted": 10, "mixed": 10, "by_source": {"talk": 10}}
    assert Counter(row["source"] for row in rows) == {"tiny": 30, "mix:talk": 10}
    talk = next(row for row in rows if row["source"] == "mix:talk")
    assert (talk["response"], talk["task"], talk["status"], talk["reward"]) == ("hello back", "talk", "kept", None)
    assert "stars" in talk
    # Not in a heap at the end: a part of the file is a fair sample.
    assert sum(row["source"] == "mix:talk" for row in rows[:20]) in range(2, 9)
    assert rows == mixed(REASONING, mix(chosen), chosen.ratio, seed=0)[0]
    assert rows != mixed(REASONING, mix(chosen, seed=1), chosen.ratio, seed=1)[0]


def test_without_sources_nothing_is_mixed_in():
    rows, account = mixed(REASONING, mix(MixSettings()), 3, seed=0)
    assert len(rows) == 30 and account == {"reasoning": 30, "wanted": 0, "mixed": 0, "by_source": {}}


def test_sources_give_in_proportion_as_long_as_they_last(tmp_path):
    chosen = settings(tmp_path, 1, a=(simple(50, "a"), 2), b=(simple(50, "b"), 1))
    assert mixed(REASONING, mix(chosen), 1, seed=0)[1]["by_source"] == {"a": 20, "b": 10}
    short = settings(tmp_path, 1, a=(simple(4, "a"), 2), b=(simple(50, "b"), 1))
    assert mixed(REASONING, mix(short), 1, seed=0)[1]["by_source"] == {"a": 4, "b": 26}
    few = settings(tmp_path, 1, a=(simple(4, "a"), 2), b=(simple(5, "b"), 1))
    assert mixed(REASONING, mix(few), 1, seed=0)[1] == {
        "reasoning": 30,
        "wanted": 30,
        "mixed": 9,
        "by_source": {"a": 4, "b": 5},
    }


def test_chosen_is_the_response_where_there_is_none(tmp_path):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": " from messages "}]
    rows = [
        {"prompt": "one", "chosen": "good", "rejected": "bad"},
        {"prompt": "two", "chosen": messages, "rejected": messages},
        {"prompt": "three", "response": "own", "chosen": "other"},
    ]
    found = mix(settings(tmp_path, talk=(rows, 1))).rows["talk"]
    assert {row["prompt"]: row["response"] for row in found} == {"one": "good", "two": "from messages", "three": "own"}
    assert not any("chosen" in row or "rejected" in row for row in found)


def test_rows_that_think_or_say_nothing_are_counted_and_left_out(tmp_path):
    bad = [
        {"prompt": "a", "response": "<think> hm </think> hello"},
        {"prompt": "b", "response": "hm </think> hello"},
        {"prompt": "c", "response": " "},
        {"prompt": "d", "other": "x"},
        {"prompt": " ", "response": "x"},
        {"prompt": "e", "chosen": [{"role": "user", "content": "x"}]},
    ]
    chosen = settings(tmp_path, talk=(simple(10) + bad + simple(2), 1))
    report = mix(chosen, held_out=["hello 3"]).report.sources[0]
    assert report.bad == {"carries a think block": 2, "no response": 3, "bad prompt": 1}
    assert report.left_out == {"repeats an earlier row": 2, "is a held-out prompt": 1}
    assert (report.read, report.train) == (18, 9)
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello 3"}]
    assert mix(chosen, held_out=[chat]).report == mix(chosen, held_out={"hello 3"}).report
    with pytest.raises(DataError, match=r"(?s)mix\.sources\.talk: 6 of 18 rows.*simple queries are answered without"):
        mix(chosen, bad=0.1)


def test_small_talk_is_a_source():
    source = SourceSettings(generator="talk", size=60, params={"split": "train"})
    found = mix(MixSettings(sources={"talk": source})).rows["talk"]
    assert len(found) == 60 and {row["task"] for row in found} <= {"fact", "general", "safety"}
