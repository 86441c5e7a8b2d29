from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from chat_server import Said, serving

from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.win_rate import JudgeFailedError, WinRate
from r1lit.settings import ConfigError
from r1lit.types import Group, Prompt

CONF = Path(__file__).parents[2] / "conf" / "reward" / "win_rate.yaml"


def longer(body, number):
    """A judge that prefers the longer of the two answers, and the first where they are as long."""
    text = body["messages"][0]["content"]
    first, second = (re.search(rf"\[BEGIN ANSWER {name} \w+\]\n(.*?)\n\[END", text, re.S)[1] for name in "AB")
    return Said(f"I counted.\nVERDICT: {'A' if len(first) >= len(second) else 'B'}")


def settings(url, **more):
    return {"kind": "endpoint", "base_url": url, "model": "judge", "backoff": 0.01, "retries": 0, **more}


def test_wins_ties_and_losses():
    completions = ["<think> much ado </think> a long answer", "<think> </think> tiny", "a text", "<think> open", ""]
    with serving(longer) as server:
        values = WinRate(settings(server.url))(completions, ["q"] * 5, ["answer", "answer", "answer", "answer", "a"])
    # As long as the reference, the judge takes whichever comes first: the two orders disagree.
    assert values == [1.0, 0.0, 0.5, 0.0, 0.0]
    assert len(server.requests) == 6, "two orders each; a reply without an answer is not asked about"
    assert not any("much ado" in body["messages"][0]["content"] for body in server.requests)


def test_rows_without_a_reference_are_not_judged():
    with serving(longer) as server:
        reward = WinRate(settings(server.url))
        assert reward(["long", "long"], ["q"] * 2, [None, "a"]) == [None, 1.0]
        assert reward(["long"], ["q"], [""]) == [None]
    assert len(server.requests) == 2


def test_a_conversation_is_asked_about_too():
    prompt = [{"role": "user", "content": "Say hello."}]
    with serving(longer) as server:
        assert WinRate(settings(server.url))(["Hello there"], [prompt], ["Hi"]) == [1.0]
    assert "user: Say hello." in server.requests[0]["messages"][0]["content"]


def test_no_verdict_is_none_and_none_at_all_is_a_failure():
    def moody(body, number):
        return Said("I cannot say.") if "strange" in body["messages"][0]["content"] else longer(body, number)

    with serving(moody) as server:
        reward = WinRate(settings(server.url))
        assert reward(["strange thing", "good answer"], ["q"] * 2, ["ref"] * 2) == [None, 1.0]
        with pytest.raises(JudgeFailedError, match="no verdict"):
            reward(["strange thing"], ["q"], ["ref"])


def test_the_judge_may_be_asked_in_other_words():
    with serving(longer) as server:
        WinRate(settings(server.url), template="Pick.\n{question}\n{answer_a}\n{answer_b}")(["a"], ["q"], ["b"])
        with pytest.raises(ValueError, match=r"the template has no \{answer_b\}"):
            WinRate(settings(server.url), template="{question} {answer_a}")
    assert server.requests[0]["messages"][0]["content"].startswith("Pick.\n[BEGIN QUESTION")


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"kind": "local", "model": "m"}, "judge.kind=local, but a reward asks an endpoint; serve a model of your own"),
        ({}, "judge.kind=none, but a reward asks an endpoint"),
        ({"kind": "endpoint", "model": "m"}, "kind=endpoint needs base_url"),
        (settings("http://localhost/v1", key_env="NO_SUCH_KEY"), "key_env=NO_SUCH_KEY, but that environment variable"),
        (settings("http://localhost/v1", modell="x"), "judge.modell is no setting; did you mean model?"),
    ],
)
def test_mistakes_are_told_before_the_run(judge, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        RewardPool({"win_rate": shipped(judge)}).start()


def shipped(judge, **more):
    (values,) = yaml.safe_load(CONF.read_text()).values()
    return RewardSettings.model_validate({**values, "judge": judge, **more})


def test_the_shipped_reward_runs_in_the_workers_and_keeps_the_key(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    group = Group(Prompt((1,), "q", {"reference": "short"}), [[1]] * 2, ["a longer one", "tiny"], [False] * 2)
    with serving(longer) as server:
        reward = shipped(settings(server.url, key_env="JUDGE_KEY"))
        assert reward.weight == 0.0 and reward.neural
        with RewardPool({"win_rate": reward}) as pool:
            (score,) = pool.score([group])
    assert score.values == {"win_rate": [1.0, 0.0]} and not score.messages
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret"}


def test_an_endpoint_that_refuses_everything_is_a_failure():
    group = Group(Prompt((1,), "q", {"reference": "short"}), [[1]], ["a longer one"], [False])
    with (
        serving(lambda body, number: Said(status=401, body=b"no such key")) as server,
        RewardPool({"win_rate": shipped(settings(server.url))}) as pool,
    ):
        (score,) = pool.score([group])
    assert score.values == {"win_rate": [None]}
    assert "answered 401: no such key" in score.messages["win_rate", "exception"]
