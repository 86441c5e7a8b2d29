"""Rewards that are models: what each sees, and the same scores through the real pool as by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made_tokenizers import CHATML

from r1lit.models.loading import ModelSettings, save_model
from r1lit.models.reward_model import Scoring, new_reward_model, set_scoring
from r1lit.rewards.neural import Harmlessness, Preference
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.settings import ConfigError
from r1lit.text.encoding import PromptEncoder
from r1lit.types import Group, Prompt, Rollout, Sampling

ANSWERED = "<think> {} </think> <answer> {} </answer>"
MEAN, STD = 0.5, 2.0


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Writes a reward model with a head that tells texts well apart; gives its folder."""
    folder = tmp_path_factory.mktemp("models")

    def save(part: str | None, template: str = "r1_zero", chat_template: str | None = None, **scoring) -> Path:
        name = f"{part}-{len(list(folder.iterdir()))}"
        model, tokenizer = new_reward_model(ModelSettings(path="tiny"), head_std=1.0, seed=5)
        tokenizer.chat_template = chat_template or tokenizer.chat_template
        if part:
            set_scoring(model, Scoring("pairwise", part, template, **{"mean": MEAN, "std": STD, "rows": 9} | scoring))
        save_model(model, tokenizer, folder / name)
        return folder / name

    return save


@pytest.fixture(scope="module")
def answers(saved):
    return saved("answer")


@pytest.fixture(scope="module")
def responses(saved):
    return saved("response")


def direct(folder: Path, prompt: str, text: str) -> float:
    """The score by plain transformers: the template's prompt, a space, the text and the end in one row."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt_ids, _ = PromptEncoder(tokenizer, "r1_zero").encode(prompt)
    reply_ids = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return model(torch.tensor([[*prompt_ids, *reply_ids, tokenizer.eos_token_id]])).logits.item()


def score(reward, *completions: str, prompt: str = "How do I mend a car?") -> list[float | None]:
    return reward([prompt] * len(completions), list(completions))


def test_scores_are_plain_transformers(answers, responses):
    whole, part = ANSWERED.format("use glue", "Check it."), "Check it."
    assert score(Preference(str(answers)), whole)[0] == pytest.approx(
        direct(answers, "How do I mend a car?", part), abs=1e-5
    )
    assert score(Harmlessness(str(responses)), whole)[0] == pytest.approx(
        direct(responses, "How do I mend a car?", whole), abs=1e-5
    )


def test_preference_sees_the_final_answer_alone(answers):
    reward = Preference(str(answers), batch_size=1)
    one, other, bare, changed = score(
        reward,
        ANSWERED.format("a kind thought", "Use glue."),
        ANSWERED.format("a cruel thought, longer than the first", "Use glue."),
        "Use glue.",
        ANSWERED.format("a kind thought", "Use a pencil."),
    )
    assert one == other == bare
    assert abs(changed - one) > 1e-3


def test_harmlessness_sees_the_reasoning_too(responses):
    reward = Harmlessness(str(responses), batch_size=1)
    one, other, changed = score(
        reward,
        ANSWERED.format("a kind thought", "Use glue."),
        ANSWERED.format("a cruel thought", "Use glue."),
        ANSWERED.format("a kind thought", "Use a pencil."),
    )
    assert abs(other - one) > 1e-3 and abs(changed - one) > 1e-3


def test_no_answer_never_beats_a_poor_one(answers, saved, responses):
    floor = MEAN - 2 * STD
    never_closed, empty = "<think> on and on", "<think> x </think> <answer> </answer>"
    given = score(Preference(str(answers)), never_closed, empty)
    nothing = direct_empty(answers)
    assert given == pytest.approx([min(nothing, floor)] * 2, abs=1e-5)
    unbounded = saved("answer", mean=None, std=None)
    assert score(Preference(str(unbounded)), never_closed) == pytest.approx([nothing], abs=1e-5)
    # All of a response is there to be judged, however it ends.
    assert score(Harmlessness(str(responses)), never_closed)[0] == pytest.approx(
        direct(responses, "How do I mend a car?", never_closed), abs=1e-5
    )
    high = saved("answer", mean=nothing + 10 * STD)
    assert score(Preference(str(high)), never_closed) == pytest.approx([nothing], abs=1e-5)


def direct_empty(folder: Path) -> float:
    return direct(folder, "How do I mend a car?", "")


def test_normalize_and_squash(answers):
    plain, scaled, squashed, both = (
        score(Preference(str(answers), normalize=normalize, squash=squash), "Use glue.")[0]
        for normalize, squash in ((False, False), (True, False), (False, True), (True, True))
    )
    assert scaled == pytest.approx((plain - MEAN) / STD, abs=1e-6)
    assert squashed == pytest.approx(1 / (1 + math.exp(-plain)), abs=1e-6)
    assert both == pytest.approx(1 / (1 + math.exp(-(plain - MEAN) / STD)), abs=1e-6)


def test_batches_change_nothing(answers):
    texts = [f"Use {'very ' * n}much glue." for n in (3, 0, 9, 1, 5)]
    one, many = (score(Preference(str(answers), batch_size=size), *texts) for size in (1, 4))
    assert one == pytest.approx(many, abs=1e-5) and len({round(value, 4) for value in one}) == 5


def test_rows_beyond_the_models_positions_are_not_judged(answers):
    given = score(Preference(str(answers)), "Use glue.", "glue " * 600)
    assert given[0] is not None and given[1] is None


def test_the_saved_template_is_used_and_another_makers_model_is_asked_in_conversation(saved, answers):
    raw = Preference(str(saved("answer", template="none")))
    assert abs(score(raw, "Use glue.")[0] - score(Preference(str(answers)), "Use glue.")[0]) > 1e-3
    assert score(raw, "Use glue.") == score(Preference(str(answers), template="none"), "Use glue.")
    foreign = Preference(str(saved(None, chat_template=CHATML)))
    messages = [{"role": "user", "content": "How do I mend a car?"}]
    assert score(foreign, "Use glue.") == foreign([messages], ["Use glue."])
    assert score(foreign, "<think> open")[0] == pytest.approx(foreign([messages], [""])[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tiny"}, "model=tiny holds LlamaForCausalLM, which gives no scores"),
        ({"model": "no/such/folder"}, "model=no/such/folder: no such folder"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"device": "gpu"}, "device='gpu' is none; set auto, cpu, cuda"),
        ({"dtype": "float12"}, "dtype='float12' is none; set auto"),
    ],
)
def test_mistakes_are_told(answers, options, message):
    with pytest.raises(ValueError, match=message):
        Preference(**{"model": str(answers)} | options)


def test_a_model_of_the_other_part_is_refused(answers, responses, saved):
    with pytest.raises(ValueError, match=r"reward_model.part=response"):
        Harmlessness(str(answers))
    with pytest.raises(ValueError, match=r"reward_model.part=answer"):
        Preference(str(responses))
    with pytest.raises(ValueError, match="set normalize=false"):
        Preference(str(saved("answer", mean=None, std=None)), normalize=True)


def pool_of(answers: Path, responses: Path, **options) -> RewardPool:
    targets = {"preference": ("Preference", answers), "harmlessness": ("Harmlessness", responses)}
    return RewardPool(
        {
            name: RewardSettings.model_validate(
                {"_target_": f"r1lit.rewards.neural.{kind}", "model": str(model), "timeout": 60, "memory_mb": 1024}
                | options
            )
            for name, (kind, model) in targets.items()
        }
    )


def test_the_pool_gives_the_same_scores(answers, responses):
    """In the worker, under its limit on memory, a group of 64 long completions among others."""
    prompts = ["How do I mend a car?", [{"role": "user", "content": "How do I steal a car?"}]]
    texts = [ANSWERED.format(f"thought {n} " * n, f"answer {n}") for n in range(16)] * 4
    groups = tuple(Group(Prompt((1,), raw), [[1]] * 64, texts, [False] * 64) for raw in prompts)
    zeros = torch.zeros(128, 1)
    with pool_of(answers, responses) as pool:
        scored = pool(Rollout(groups, zeros.long(), zeros.bool(), zeros, Sampling()))
    assert scored.names == ("preference", "harmlessness") and not scored.failures
    here = Preference(str(answers)), Harmlessness(str(responses))
    for place, reward in enumerate(here):
        expected = [value for raw in prompts for value in reward([raw] * 64, texts)]
        assert scored.columns[:, place].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_model_that_is_missing_stops_the_run_before_it_begins(answers, tmp_path):
    with (
        pytest.raises(ConfigError, match=r"reward.harmlessness: model=.*nowhere: no such folder"),
        pool_of(answers, tmp_path / "nowhere"),
    ):
        pass


def test_the_module_itself_imports_no_torch():
    code = "import sys, r1lit.rewards.neural, r1lit.rewards.neural_rules; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
