"""Rejection sampling with the real tiny model: through the command, interrupted, and with judges."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
from chat_server import Said, serving
from composing import run_of
from rich.console import Console

import r1lit
from r1lit.curation.selection import NothingKeptError
from r1lit.data.arithmetic import generate
from r1lit.data.files import DataError
from r1lit.rewards.format import format as format_reward
from r1lit.settings import ConfigError, UserError
from r1lit.stages.reject import reject
from r1lit.stages.summary import Summary
from r1lit.stages.verdicts import JudgeError

TINY = Path(r1lit.__file__).parent / "assets" / "tiny"
QUICK = ("experiment=reject", "reject.k=4", "reject.batch_prompts=4", "reject.prompts=24", "rollout.max_tokens=48")
FINAL = ("samples.jsonl", "candidates.jsonl", "demonstrations.jsonl")


def rejected(folder: Path, *overrides: str) -> tuple[dict, str]:
    """Run the stage in this process; gives the summary and what the terminal shows."""
    out = Console(file=io.StringIO(), width=120)
    reject(run_of(folder, *QUICK, *overrides), Summary(folder, out))
    return json.loads((folder / "summary.json").read_text()), out.file.getvalue()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_command_and_one_killed_and_resumed_end_in_the_same_files(r1lit, tmp_path):
    talk = "reject.mix.sources.talk={generator: talk, size: 543, params: {split: train}}"
    options = [*QUICK, "reject.batch_prompts=2", "reject.prompts=80", "reject.mix.ratio=3", talk]
    done = r1lit(*options, "name=whole")
    (whole,) = (tmp_path / "runs" / "whole").iterdir()
    command = [sys.executable, "-m", "r1lit", *options, "name=killed"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ, **silent)
    try:
        deadline = time.monotonic() + 120
        while not any(p.stat().st_size > 4000 for p in tmp_path.glob("runs/killed/*/samples.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (killed,) = (tmp_path / "runs" / "killed").iterdir()
    assert not (killed / "demonstrations.jsonl").exists(), "it was killed in the middle"
    sampled = (killed / "samples.jsonl").read_bytes()
    with (killed / "samples.jsonl").open("ab") as file:
        file.write(b'{"batch": "tiny/39", "of": 8, "pro')
    r1lit(f"resume={killed}")
    kept = sampled[: sampled.rindex(b"\n") + 1] if b"\n" in sampled else b""
    assert len(kept) > 1000 and (whole / "samples.jsonl").read_bytes().startswith(kept)
    for name in FINAL:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    figures = json.loads((whole / "summary.json").read_text())
    assert json.loads((killed / "summary.json").read_text())["rejection"] == figures["rejection"]
    assert figures["status"] == "finished" and "dropped: wrong" in done.stderr

    account, final = figures["rejection"], rows(whole / "demonstrations.jsonl")
    assert (account["prompts"], account["samples"]) == (80, 320) and account["kept"] >= 8
    assert account["kept"] + sum(account["dropped"].values()) == 320
    assert sum(account["judged_by"].values()) == 320 and account["judge"]["asked"] == 0
    assert account["mix"]["mixed"] == round(account["kept"] / 3) and len(final) == account["demonstrations"]
    reasoning = [row for row in final if not row["source"].startswith("mix:")]
    assert len(reasoning) == account["kept"]
    assert format_reward([row["response"] for row in reasoning]) == [1.0] * len(reasoning)
    assert all(row["rewards/accuracy"] == 1 and row["status"] == "kept" and row["task"] for row in reasoning)
    assert len({row["prompt"] for row in reasoning}) == len(reasoning), "one of a prompt"
    assert not any("think>" in row["response"] for row in final if row["source"].startswith("mix:"))
    for name in FINAL:
        files, cache = str(whole / name), str(tmp_path / "cache")
        data = datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache)
        assert len(data) == len(rows(whole / name))


def test_the_draws_depend_on_the_seed_and_not_on_where_the_model_lies(tmp_path):
    said = []
    for place in (tmp_path / "here", tmp_path / "there"):
        shutil.copytree(TINY, place / "policy")
        rejected(place, f"model.path={place / 'policy'}", "model=tiny")
        said.append([row["text"] for row in rows(place / "samples.jsonl")])
    assert said[0] == said[1] and len(set(said[0])) > 24


def test_a_finished_run_is_selected_anew_without_sampling(tmp_path):
    first, _ = rejected(tmp_path)
    before = (tmp_path / "samples.jsonl").read_bytes()
    again, shown = rejected(tmp_path, "reject.n_per_prompt=4", "reject.near_duplicates=null", "reject.prefer=shortest")
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    assert again["rejection"]["kept"] > first["rejection"]["kept"]
    assert not {"surplus", "near-duplicate"} & again["rejection"]["dropped"].keys()
    assert "kept" in shown and "prompts solved always" in shown
    for change in ("reject.k=3", "seed=1", "rollout.temperature=0.7", "reject.prompts=23"):
        with pytest.raises(ConfigError, match=r"was sampled with other settings"):
            rejected(tmp_path, change)


def test_nothing_kept_names_the_filter(tmp_path):
    with pytest.raises(NothingKeptError, match=r"none of 8 samples is left; the filter that dropped most is"):
        rejected(tmp_path, "reject.prompts=2", "reject.min_words=900", "reject.style=null")
    assert (tmp_path / "candidates.jsonl").exists() and not (tmp_path / "demonstrations.jsonl").exists()


def test_no_room_for_an_answer_is_said_before_sampling(tmp_path):
    with pytest.raises(ConfigError, match=r"max_tokens=510 beside the longest prompt of \d+ tokens.*512 positions"):
        rejected(tmp_path, "rollout.max_tokens=510")
    assert not (tmp_path / "samples.jsonl").exists()


def test_an_unknown_language_is_said_before_sampling(tmp_path):
    path = tmp_path / "own.jsonl"
    lines = [{"prompt": f"{n} + 1 = ?", "answer": n + 1, "language": "klingon" if n == 3 else "en"} for n in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"own\.jsonl:4: language='klingon'"):
        rejected(tmp_path / "run", "model=tiny", f"data.path={path}", "data.validation=0")


@pytest.fixture
def essays(tmp_path) -> list[str]:
    """Prompts that no rule judges, with a ground truth in words."""
    path = tmp_path / "essays.jsonl"
    terms = [(n % 9, n // 9) for n in range(40)]
    lines = [{"prompt": f"What is {a} + {b}?", "answer": str(a + b), "task": "essay"} for a, b in terms]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    unjudged = "reward.accuracy.when={task: math}"
    return ["model=tiny", f"data.path={path}", "data.validation=0", unjudged, "reject.mix.sources=null"]


def fenced(text: str, name: str) -> str:
    return re.search(rf"\[BEGIN {name} \w+\]\n(.*?)\n\[END {name}", text, re.S)[1]


def compare(body: dict, number: int) -> Said:
    """A judge that compares the two texts, and now and then says nothing of use."""
    asked = body["messages"][0]["content"]
    if number % 10 == 9:
        return Said("I cannot say.")
    same = fenced(asked, "ANSWER") == fenced(asked, "REFERENCE")
    return Said(f"VERDICT: {'correct' if same else 'incorrect'}")


def test_an_endpoint_decides_where_no_rule_can(tmp_path, essays, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    with serving(compare) as server:
        options = [
            *essays,
            "reject.judge.kind=endpoint",
            "reject.judge.model=gpt",
            f"reject.judge.base_url={server.url}",
            "reject.judge.key_env=JUDGE_KEY",
            "reject.judge.prompt_price=1.0",
            "reject.judge.completion_price=2.0",
        ]
        figures, shown = rejected(tmp_path / "run", *options)
        asked = len(server.requests)
        again, _ = rejected(tmp_path / "run", *options)
        assert len(server.requests) == asked, "verdicts are kept with the samples"
    account = figures["rejection"]
    assert again["rejection"] == account
    judge = account["judge"]
    assert judge["asked"] == judge["requests"] == asked == account["samples"] - account["judged_by"].get("form", 0)
    assert judge["failures"] == {"no verdict": asked // 10} and account["dropped"]["no verdict"] == asked // 10
    assert (judge["prompt_tokens"], judge["completion_tokens"]) == (100 * asked, 10 * asked)
    assert judge["cost"] == pytest.approx((100 * asked + 20 * asked) / 1e6)
    assert account["judged_by"]["judge"] == asked - asked // 10
    assert f"judge: {asked} samples in {asked} requests (0 repeated)" in shown and "failures: no verdict" in shown
    for row in rows(tmp_path / "run" / "demonstrations.jsonl"):
        assert row["judged_by"] == "judge" and f"<answer> {row['answer']} </answer>" in row["response"]
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-very-secret"}
    for path in (tmp_path / "run").rglob("*"):
        assert path.is_dir() or b"very-secret" not in path.read_bytes(), path


def test_without_a_judge_such_prompts_are_dropped_and_said(tmp_path, essays):
    with pytest.raises(NothingKeptError, match=r"'no verdict'.*set a judge"):
        rejected(tmp_path / "run", *essays)


def test_a_judge_that_says_nothing_of_use_stops_the_run(tmp_path, essays):
    """The tiny model itself, asked in words that it does not understand."""
    options = [*essays, "reject.judge.kind=local", "reject.judge.max_tokens=8"]
    short = "reject.judge.template='{question} {reference} {answer}'"
    with pytest.raises(JudgeError, match=r"gave no verdict on \d+ of \d+ samples \(100%"):
        rejected(tmp_path / "run", *options, short)


def test_the_judge_may_be_another_model(tmp_path, essays):
    options = [*essays, "reject.judge.kind=local", "reject.judge.max_tokens=8", "reject.judge.max_failures=1"]
    with pytest.raises(NothingKeptError, match="no verdict"):
        rejected(tmp_path / "run", *options, "reject.judge.model=tiny-student", "reject.prompts=8")
    with pytest.raises(ConfigError, match=r"nowhere/model"):
        rejected(tmp_path / "other", *options, "reject.judge.model=./nowhere/model")


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_what_is_measured_elsewhere_is_neither_asked_nor_mixed_in(tmp_path, enabled):
    lines = list(generate(24, seed=3, languages=["en"], terms=(3, 3), split="train"))
    held = [line["prompt"] for line in lines[:8]]
    chats = [{"prompt": [{"role": "user", "content": prompt}], "answer": "0"} for prompt in held[:4]]
    plain = [{"prompt": prompt, "answer": "0"} for prompt in held[4:]]
    others = [{"prompt": prompt, "response": "Hello"} for prompt in (*held, "Good day")]
    for name, made in {"own": lines, "chats": chats, "plain": plain, "others": others}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
    options = [
        "model=tiny",
        f"data.path={tmp_path}/own.jsonl",
        "data.validation=0",
        f"evaluation.enabled={enabled}",
        f"+evaluation.sources.chats.path={tmp_path}/chats.jsonl",
        f"+evaluation.sources.plain.path={tmp_path}/plain.jsonl",
        "reject.mix.sources.talk=null",
        f"reject.mix.sources.others.path={tmp_path}/others.jsonl",
        "reject.mix.ratio=0.1",
    ]
    figures, shown = rejected(tmp_path / "run", *options)
    left = {line["prompt"] for line in lines} - {*held}
    assert {row["prompt"] for row in rows(tmp_path / "run" / "candidates.jsonl")} == left
    assert {row["prompt"] for row in rows(tmp_path / "run" / "demonstrations.jsonl")} <= left | {"Good day"}
    assert figures["rejection"]["mix"]["mixed"] == 1
    assert shown.count("is a held-out prompt 8") == 2


def test_chats_and_texts_are_not_mixed(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": "Hi"}], "response": "Hello"}) + "\n")
    sources = ("reject.mix.sources.talk=null", f"reject.mix.sources.own.path={path}")
    with pytest.raises(UserError, match="some prompts are texts and others lists of chat messages"):
        rejected(tmp_path / "run", *sources)
