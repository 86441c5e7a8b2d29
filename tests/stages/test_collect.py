"""Cold-start data with the real tiny model: through the command, in its forms, and after people's edits."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import pytest
from chat_server import Said, serving
from composing import run_of
from rich.console import Console

import r1lit
from r1lit.curation.edited import EditedError
from r1lit.data.arithmetic import generate
from r1lit.rewards.format import format as format_reward
from r1lit.settings import ConfigError
from r1lit.stages.collect import collect
from r1lit.stages.summary import Summary
from r1lit.text.languages import consistency
from r1lit.text.thinking import split

TINY = Path(r1lit.__file__).parent / "assets" / "tiny"
QUICK = ("experiment=collect", "collect.batch_prompts=8", "collect.prompts=24", "rollout.max_tokens=48")
EXAMPLE = "[{prompt: '1 + 1 = ?', response: '<think> one plus one is two </think> <answer> 2 </answer>'}]"


def collected(folder: Path, *overrides: str, quick: Sequence[str] = QUICK) -> tuple[dict, str]:
    """Run the stage in this process; gives the summary and what the terminal shows."""
    out = Console(file=io.StringIO(), width=120)
    collect(run_of(folder, *quick, *overrides), Summary(folder, out))
    return json.loads((folder / "summary.json").read_text()), out.file.getvalue()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def in_order(found: Iterable[dict]) -> list[str]:
    return sorted(json.dumps(row) for row in found)


def test_the_command_then_the_edits_then_the_final_file(r1lit, tmp_path):
    """Every method, the account, a file that people can edit, and what comes of it."""
    methods = [
        "collect.methods.few_shot.k=1",
        f"collect.methods.few_shot.examples={EXAMPLE}",
        "collect.methods.outputs.model=[tiny,tiny-student]",
    ]
    done = r1lit(*QUICK, *methods)
    (run,) = (tmp_path / "runs" / "collect").iterdir()
    account = json.loads((run / "summary.json").read_text())["collection"]
    candidates, kept = rows(run / "candidates.jsonl"), rows(run / "demonstrations.jsonl")
    assert {name: counts["samples"] for name, counts in account["by_source"].items()} == {
        "few_shot:tiny": 24,
        "direct:tiny": 48,
        "outputs:tiny": 96,
        "outputs:tiny-student": 96,
    }
    assert account["samples"] == len(candidates) == 264 and account["kept"] == len(kept) >= 3
    assert account["kept"] + sum(account["dropped"].values()) == 264
    assert "dropped: wrong" in done.stderr and "kept from outputs:tiny" in done.stderr
    assert in_order(row for row in candidates if row["status"] == "kept") == in_order(kept)
    for row in kept:
        parts = split(row["response"])
        assert row["response"] == f"<think> {parts.thought} </think> <answer> {parts.answer} </answer>"
        assert consistency(parts.thought, row["language"]) >= 0.9 and row["rewards/accuracy"] == 1
    assert {row["status"] for row in candidates} > {"kept", "dropped: wrong"}
    for name in ("candidates", "demonstrations", "samples"):
        files, cache = str(run / f"{name}.jsonl"), str(tmp_path / "cache")
        assert len(datasets.load_dataset("json", data_files=files, split="train", cache_dir=cache))

    edited = [dict(row) for row in candidates]
    numbers = [n for n, row in enumerate(edited) if row["status"] == "kept"]
    taken = {edited[n]["prompt"] for n in numbers[:3]}
    wrong = next(n for n, row in enumerate(edited) if row["status"] == "dropped: wrong" and row["prompt"] not in taken)
    edited[numbers[0]]["status"] = "dropped: dull"
    shorter = f"<think>  Step by step.</think>\n<answer> {edited[numbers[1]]['answer']} </answer>"
    edited[numbers[1]] |= {"status": "edited", "response": shorter}
    edited[wrong] |= {"status": "approved", "response": "<think> I know better. </think> <answer> 99 </answer>"}
    edited[numbers[2]] |= {"response": "<think> So it is. </think> <answer> 99 </answer>"}
    path = tmp_path / "edited.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in edited))
    wrong_by_rule = rf"(?s)1 of 264 lines cannot.*edited\.jsonl:{numbers[2] + 1}: the answer is wrong by rule"
    with pytest.raises(EditedError, match=wrong_by_rule):
        collected(tmp_path / "final", f"collect.edited={path}")
    edited[numbers[2]]["response"] = candidates[numbers[2]]["response"]
    path.write_text("".join(json.dumps(row) + "\n" for row in edited))
    figures, _ = collected(tmp_path / "final", f"collect.edited={path}")
    found = rows(tmp_path / "final" / "demonstrations.jsonl")
    assert len(found) == len(kept), "one was dropped, one approved"
    assert edited[numbers[0]]["prompt"] not in {row["prompt"] for row in found}
    assert [row["response"] for row in found if row["status"] == "edited"] == [shorter]
    assert [row["prompt"] for row in found if row["status"] == "approved"] == [edited[wrong]["prompt"]]
    statuses = figures["edited"]["statuses"]
    assert statuses["approved"] == statuses["edited"] == 1 and figures["edited"]["unjudged"] == 0


def test_what_was_sampled_is_not_sampled_again(tmp_path):
    collected(tmp_path, "collect.methods.direct.k=0")
    before = (tmp_path / "samples.jsonl").read_bytes()
    demonstrations = (tmp_path / "demonstrations.jsonl").read_bytes()
    lines = before.splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_bytes(b"".join(lines[:50]) + lines[50][:40])
    collected(tmp_path, "collect.methods.direct.k=0")
    assert (tmp_path / "samples.jsonl").read_bytes() == before
    assert (tmp_path / "demonstrations.jsonl").read_bytes() == demonstrations
    with pytest.raises(ConfigError, match=r"other settings: methods"):
        collected(tmp_path, "collect.methods.direct.k=1")


def test_the_draws_depend_on_the_seed_and_not_on_where_the_model_lies(tmp_path):
    said = []
    for place in (tmp_path / "here", tmp_path / "there"):
        shutil.copytree(TINY, place / "policy")
        collected(place, f"collect.methods.outputs.model={place / 'policy'}")
        said.append([row["text"] for row in rows(place / "samples.jsonl")])
    assert said[0] == said[1] and len(set(said[0])) > 24


def test_r1s_form_with_the_answer_as_its_summary(tmp_path):
    form = 'collect.form="<think>\\n{thought}\\n</think>\\n\\n{summary}"'
    collected(tmp_path, form, "collect.methods.direct.k=0")
    found = rows(tmp_path / "demonstrations.jsonl")
    assert found and format_reward([row["response"] for row in found], "r1") == [1.0] * len(found)
    assert all(row["response"].startswith("<think>\n") and "\n</think>\n\n" in row["response"] for row in found)


def test_summaries_by_a_model_are_judged_again(tmp_path):
    """One that changes the answer does not get through, nor one that says nothing."""

    def summarise(body: dict, number: int) -> Said:
        asked = body["messages"][0]["content"]
        answer = asked.split("[BEGIN ANSWER ")[1].split("\n")[1]
        right = f"The answer is {answer}."
        return Said(["It is 4242.", " ", f"<think> short? </think> We add up. {right}", right][number % 4])

    with serving(summarise) as server:
        figures, _ = collected(
            tmp_path,
            'collect.form="<think> {thought} </think> {summary}"',
            "collect.summary.kind=endpoint",
            "collect.summary.model=gpt",
            f"collect.summary.base_url={server.url}",
            "collect.methods.direct.k=0",
        )
        asked = len(server.requests)
    account, found = figures["collection"], rows(tmp_path / "demonstrations.jsonl")
    spoilt, none = (asked + 3) // 4, (asked + 2) // 4
    assert account["summary"]["requests"] == asked and account["summary"]["failures"] == {"empty reply": none}
    assert (account["dropped"]["wrong in its form"], account["dropped"]["no summary"]) == (spoilt, none)
    assert len(found) == account["kept"] == asked - spoilt - none > 0
    for row in found:
        assert row["response"].endswith(f"The answer is {row['answer']}.") and "short?" not in row["response"]


def test_prompts_that_leave_no_room_are_not_asked_and_said(tmp_path):
    long = "[{prompt: '1 + 1 = ?', response: '" + "one plus one is two, " * 150 + "'}]"
    examples = f"collect.methods.few_shot.examples={long}"
    figures, shown = collected(tmp_path, "collect.methods.few_shot.k=1", examples, "collect.methods.direct.k=0")
    assert figures["collection"]["not_asked"] == {"few_shot:tiny": 24, "outputs:tiny": 0}
    assert "few_shot:tiny: 24 of 24 prompts left no room for an answer, and were not asked" in shown


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["collect.methods.outputs.k=0", "collect.methods.direct.k=0"], r"no method samples anything"),
        (["collect.methods.outputs.model=./nowhere"], r"collect\.methods\.outputs\.model: model\.path=\./nowhere"),
        (["collect.edited=./nowhere.jsonl"], r"nowhere\.jsonl does not exist"),
        (["collect.form=hello"], r"it needs \{answer\} or \{summary\} after \{thought\}"),
        (["collect.summary.template=hello", "collect.summary.kind=local"], r"summary\.template has no"),
    ],
)
def test_mistakes_are_said_before_anything_is_sampled(tmp_path, overrides, expected):
    with pytest.raises(ConfigError, match=expected):
        collected(tmp_path, *overrides)
    assert not (tmp_path / "samples.jsonl").exists()


def test_an_edited_file_is_checked_against_the_form(tmp_path):
    path = tmp_path / "edited.jsonl"
    row = {"prompt": "2?", "response": "<think> a </think> 2", "status": "kept", "answer": "2"}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(EditedError, match=r"edited\.jsonl:1: the response is not of the form"):
        collected(tmp_path / "run", f"collect.edited={path}")
    form = 'collect.form="<think> {thought} </think> {summary}"'
    figures, shown = collected(tmp_path / "other", f"collect.edited={path}", form)
    assert figures["edited"]["demonstrations"] == 1 and "1 demonstrations (kept 1" in shown


def test_what_is_measured_elsewhere_is_not_asked(tmp_path):
    lines = list(generate(24, seed=3, languages=["en"], terms=(3, 3), split="train"))
    for name, made in {"own": lines, "held": lines[:8]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
    data = ("model=tiny", f"data.path={tmp_path}/own.jsonl", "data.validation=0")
    _, shown = collected(tmp_path / "run", *data, f"+evaluation.sources.held.path={tmp_path}/held.jsonl")
    left = {line["prompt"] for line in lines[8:]} - {line["prompt"] for line in lines[:8]}
    assert {row["prompt"] for row in rows(tmp_path / "run" / "candidates.jsonl")} == left
    assert "is a held-out prompt 8" in shown
