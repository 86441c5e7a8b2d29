"""The client of a chat endpoint, against a real server on this machine."""

from __future__ import annotations

import json
import threading
import time

import pytest
from chat_server import Said, serving

from r1lit.rewards.chat import ChatSettings, Usage
from r1lit.rewards.endpoints import Endpoint, EndpointError
from r1lit.settings import ConfigError, parse

KEY = "sk-secret-123"


def settings(url: str, **changes) -> ChatSettings:
    given = {"kind": "endpoint", "base_url": url, "model": "judge", "backoff": 0.01, "timeout": 5.0, "concurrency": 4}
    return ChatSettings.model_validate(given | changes)


def conversations(count: int) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": f"question {number}"}] for number in range(count)]


def test_replies_come_in_the_order_of_the_questions():
    def answer(body, number):
        text = body["messages"][0]["content"]
        return Said(f"to {text}", sleep=0.05 if text.endswith(("0", "3")) else 0)

    with serving(answer) as server:
        replies = Endpoint(settings(server.url)).complete(conversations(10))
    assert [reply.text for reply in replies] == [f"to question {number}" for number in range(10)]
    assert set(server.paths) == {"/v1/chat/completions"}
    assert server.requests[0]["model"] == "judge"
    assert (server.requests[0]["temperature"], server.requests[0]["max_tokens"]) == (0, 1024)
    assert not any("Authorization" in headers for headers in server.headers)


def test_no_more_requests_at_a_time_than_allowed():
    with serving(lambda body, number: Said(sleep=0.05)) as server:
        Endpoint(settings(server.url, concurrency=3)).complete(conversations(12))
    assert server.most_at_once == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_refusal_for_the_moment_is_overcome(status):
    with serving(lambda body, number: Said("fine") if number >= 2 else Said(status=status, body=b"busy")) as server:
        (reply,) = Endpoint(settings(server.url)).complete(conversations(1))
    assert (reply.text, reply.retries, len(server.requests)) == ("fine", 2, 3)


def test_the_back_off_doubles_and_heeds_the_endpoint():
    waits = {0: {}, 1: {}, 2: {"Retry-After": "0.9"}}
    with serving(lambda b, n: Said(status=429, headers=waits[n], body=b"") if n in waits else Said()) as server:
        (reply,) = Endpoint(settings(server.url, backoff=0.2)).complete(conversations(1))
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert reply.text == "ok"
    assert 0.1 <= gaps[0] < 0.3 and 0.2 <= gaps[1] < 0.5 and 0.9 <= gaps[2] < 1.2


def test_what_stays_refused_is_a_failure_with_its_reason():
    with serving(lambda body, number: Said(status=500, body=b"out of\n  order")) as server:
        (reply,) = Endpoint(settings(server.url, retries=2)).complete(conversations(1))
    assert (reply.text, reply.failure, reply.detail, reply.retries) == (None, "http 500", "out of order", 2)
    assert len(server.requests) == 3


def test_a_bad_request_is_not_repeated():
    with serving(lambda body, number: Said(status=400, body=b"context too long")) as server:
        (reply,) = Endpoint(settings(server.url)).complete(conversations(1))
    assert (reply.failure, reply.retries, len(server.requests)) == ("http 400", 0, 1)


@pytest.mark.parametrize("slow", [{"sleep": 3.0}, {"drip": 0.04}])
def test_a_slow_reply_times_out_even_where_it_comes_byte_by_byte(slow):
    with serving(lambda body, number: Said(**slow)) as server:
        start = time.monotonic()
        (reply,) = Endpoint(settings(server.url, timeout=0.4, retries=1)).complete(conversations(1))
        assert (reply.failure, reply.retries) == ("timeout", 1)
        assert time.monotonic() - start < 2.8
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (Said(body=b"<html>"), "malformed reply"),
        (Said(body=b'{"choices": []}'), "malformed reply"),
        (Said(body=b"[1]"), "malformed reply"),
        (Said(text=None), "empty reply"),
        (Said(text="  "), "empty reply"),
        (Said(text="VERDICT: correct", finish="length"), "truncated"),
    ],
)
def test_what_is_no_reply_is_a_failure(said, failure):
    with serving(lambda body, number: said) as server:
        (reply,) = Endpoint(settings(server.url)).complete(conversations(1))
    assert (reply.text, reply.failure, len(server.requests)) == (None, failure, 1)


def test_tokens_are_counted_and_priced_also_where_the_reply_is_of_no_use():
    odd = Said(usage={"prompt_tokens": "x"})
    said = [Said(), Said(finish="length"), Said(usage=None), Said(status=400, body=b""), odd]
    with serving(lambda body, number: said[number]) as server:
        chosen = settings(server.url, concurrency=1, prompt_price=2.0, completion_price=10.0)
        replies = Endpoint(chosen).complete(conversations(5))
    usage = Usage()
    usage.add(replies)
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (5, 200, 20)
    assert usage.failures == {"truncated": 1, "http 400": 1}
    assert chosen.cost(usage) == pytest.approx((200 * 2 + 20 * 10) / 1e6)
    assert settings(server.url).cost(usage) is None


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_mistake_in_the_settings_stops_at_once(status, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with (
        serving(lambda body, number: Said(status=status, body=f"Incorrect key {KEY}".encode())) as server,
        pytest.raises(EndpointError, match=f"answered {status}: Incorrect key \\*\\*\\*; check") as caught,
    ):
        Endpoint(settings(server.url, key_env="MY_KEY", backoff=30)).complete(conversations(100))
    assert KEY not in str(caught.value)
    assert len(server.requests) < 20


def test_an_endpoint_that_is_down_is_given_up_soon():
    with serving(lambda body, number: Said()) as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"gave no reply to \d+ conversations in a row.*unreachable.*resume=RUN"):
        Endpoint(settings(url, retries=1)).complete(conversations(500))
    assert time.monotonic() - start < 5


def test_failures_among_replies_do_not_stop_it():
    with serving(lambda body, number: Said() if number % 3 == 0 else Said(status=400, body=b"")) as server:
        replies = Endpoint(settings(server.url, concurrency=1)).complete(conversations(60))
    assert sum(reply.failure is None for reply in replies) == 20


def test_an_interrupted_wait_ends_at_once():
    """Another conversation's mistake ends the waiting of those that are to be repeated much later."""

    def answer(body, number):
        return Said(status=401, body=b"", sleep=0.2) if body["messages"][0]["content"][-1] == "0" else Said(status=429)

    with serving(answer) as server:
        start = time.monotonic()
        with pytest.raises(EndpointError):
            Endpoint(settings(server.url, backoff=40)).complete(conversations(4))
    assert time.monotonic() - start < 5


def test_the_key_goes_to_the_endpoint_alone(monkeypatch, capfd):
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    with serving(lambda body, number: Said()) as elsewhere:
        moved = Said(status=307, headers={"Location": f"{elsewhere.url}/chat/completions"}, body=KEY.encode())
        with serving(lambda body, number: moved if number else Said()) as server:
            chosen = settings(server.url, key_env="MY_KEY", concurrency=1)
            endpoint = Endpoint(chosen)
            first, second = endpoint.complete(conversations(2))
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert elsewhere.requests == [], "a redirection is not followed"
    assert (first.text, second.failure, second.detail) == ("ok", "http 307", "***")
    shown = [repr(chosen), repr(vars(chosen)), json.dumps(chosen.fingerprint()), repr(endpoint), *capfd.readouterr()]
    assert KEY not in "".join(shown)


@pytest.mark.parametrize("value", [None, "", "sk\nother", "schlüssel"])
def test_a_key_that_cannot_be_one_is_said_at_the_start(monkeypatch, value):
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(ConfigError, match="MY_KEY") as caught:
        Endpoint(settings("http://127.0.0.1:9/v1", key_env="MY_KEY"))
    assert not value or value not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "endpoint"}, ["kind=endpoint needs base_url", "kind=endpoint needs model"]),
        ({"key_env": KEY}, ["judge.key_env: key_env is the name of an environment variable"]),
        ({"base_url": "https://me:pw@host/v1"}, ["base_url holds a password"]),
        ({"base_url": "host:8000"}, ["is no address; write it like https://api.openai.com/v1"]),
    ],
)
def test_mistakes_name_their_remedy_and_no_secret(values, expected):
    with pytest.raises(ConfigError) as caught:
        parse({"judge": ChatSettings}, {"judge": values})
    assert len(caught.value.problems) == len(expected)
    for problem, part in zip(caught.value.problems, expected, strict=True):
        assert part in problem
    assert KEY not in str(caught.value) and "pw" not in str(caught.value)


def test_further_keys_of_the_request_are_set_and_taken_out():
    extra = {"max_tokens": None, "max_completion_tokens": 7, "temperature": None, "reasoning_effort": "low"}
    with serving(lambda body, number: Said()) as server:
        Endpoint(settings(server.url, extra=extra)).complete(conversations(1))
    (body,) = server.requests
    assert set(body) == {"model", "messages", "max_completion_tokens", "reasoning_effort"}


def test_nothing_asked_is_nothing_sent():
    before = threading.active_count()
    assert Endpoint(settings("http://127.0.0.1:9/v1")).complete([]) == []
    assert threading.active_count() == before
