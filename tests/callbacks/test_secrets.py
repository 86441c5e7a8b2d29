from __future__ import annotations

import pytest

from r1lit.callbacks.secrets import HIDDEN, secret_variables, without_secrets


@pytest.mark.parametrize(
    "name", ["api_key", "apikey", "judge.api_key", "hf_token", "password", "client_secret", "Authorization", "auth"]
)
def test_names_give_secrets_away(name):
    assert without_secrets({name: "x"}, []) == {name: HIDDEN}
    assert without_secrets([f"++{name}=x"], []) == [f"++{name}={HIDDEN}"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 64),
        ("max_prompt_tokens", 256),
        ("key_env", "OPENAI_API_KEY"),
        ("keywords", "a"),
        ("authority", "b"),
        ("path", "Qwen/Qwen3-0.6B"),
        ("api_key", None),
        ("api_key", ""),
        ("url", "http://127.0.0.1:8000/v1"),
        ("template", "ask-me: {prompt} = ?"),
    ],
)
def test_what_is_no_secret_stays(name, value):
    assert without_secrets({name: value}, []) == {name: value}


def test_known_values_and_shapes_wherever_they_stand():
    values = {"deep": [{"header": "Bearer s3cr3t-value"}, ("s3cr3t-value",)], "hub": "hf_" + "a" * 20, "n": 1.5}
    hidden = {"deep": [{"header": f"Bearer {HIDDEN}"}, [HIDDEN]], "hub": HIDDEN, "n": 1.5}
    assert without_secrets(values, ["s3cr3t-value"]) == hidden
    assert without_secrets("http://me:pw@host:1/x@y", []) == f"http://{HIDDEN}@host:1/x@y"


def test_the_environments_secrets():
    found = secret_variables({"A_KEY": "12345678", "B_TOKEN": " abcdefgh ", "C_PASSWORD": "short", "HOME": "/there"})
    assert found == {"12345678", "abcdefgh"}


def test_by_default_the_environment_is_asked(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "0123456789")
    assert without_secrets({"note": "it is 0123456789"}) == {"note": f"it is {HIDDEN}"}
