from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import islice

import pytest

from r1lit.data.stream import PromptStream, turns
from r1lit.types import Prompt


def prompts(name, count):
    return [Prompt((n,), f"{name}{n}") for n in range(count)]


def stream(sizes, weights=None, batch_size=8, seed=0):
    sources = {name: prompts(name, size) for name, size in sizes.items()}
    return PromptStream(sources, weights or dict.fromkeys(sizes, 1.0), batch_size, seed)


def raws(batches):
    return [prompt.raw for batch in batches for prompt in batch]


def test_every_prompt_comes_once_an_epoch_in_another_order():
    made = stream({"a": 24})
    epochs = [raws(made.batch(step) for step in range(3 * epoch, 3 * epoch + 3)) for epoch in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert len(set(epochs[0])) == 24
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_epochs_run_through_batches_that_they_do_not_fill():
    drawn = raws(stream({"a": 5}, batch_size=3).batch(step) for step in range(5))
    assert [sorted(drawn[start : start + 5]) for start in (0, 5, 10)] == [[f"a{n}" for n in range(5)]] * 3


def test_a_batch_depends_on_seed_and_step_alone():
    straight, jumped = stream({"a": 50, "b": 7}), stream({"a": 50, "b": 7})
    expected = [raws([straight.batch(step)]) for step in range(40)]
    assert [raws([jumped.batch(step)]) for step in reversed(range(40))] == expected[::-1]
    assert raws([stream({"a": 50, "b": 7}, seed=1).batch(3)]) != expected[3]


def test_the_order_is_the_same_on_every_machine():
    assert raws([stream({"a": 10}, batch_size=5, seed=7).batch(3)]) == ["a1", "a0", "a7", "a8", "a4"]


@pytest.mark.parametrize("weights", [{"a": 2, "b": 1}, {"a": 1, "b": 1, "c": 0.1}, {"a": 0.3, "b": 5.7, "c": 1e-3}])
def test_every_stretch_holds_the_sources_by_weight(weights):
    made = stream(dict.fromkeys(weights, 13), weights, batch_size=10)
    drawn = [raw[0] for raw in raws(made.batch(step) for step in range(60))]
    total = sum(weights.values())
    for length in (1, 7, 30, 211, 600):
        for start in range(0, 601 - length):
            counts = Counter(drawn[start : start + length])
            assert all(abs(counts[name] - length * weight / total) < 2 for name, weight in weights.items())


def test_turns_from_any_start_go_on_as_from_the_first():
    for shares in ([1], [0.5, 0.5], [0.2, 0.3, 0.5], [0.9, 0.1], [1 / 7] * 7, [0.97, 0.01, 0.02]):
        total = sum(map(Fraction, shares))
        exact = [Fraction(share) / total for share in shares]
        whole = list(islice(turns(exact, 0), 200))
        assert all(list(islice(turns(exact, start), 5)) == whole[start : start + 5] for start in range(190))
        for source in range(len(shares)):
            own = [turn for other, turn in whole if other == source]
            assert own == list(range(len(own)))


def test_extra_prompts_are_new_to_their_step():
    made = stream({"a": 30, "b": 60}, {"a": 1, "b": 2}, batch_size=9)
    drawn = [raws([made.batch(4)]), *(raws([made.extra(4, round)]) for round in range(9))]
    assert len({raw for batch in drawn for raw in batch}) == 90
    assert all(Counter(raw[0] for raw in batch) == {"a": 3, "b": 6} for batch in drawn)
    assert raws([stream({"a": 30, "b": 60}, {"a": 1, "b": 2}, batch_size=9).extra(4, 2)]) == drawn[3]
    assert raws([made.extra(5, 2)]) != drawn[3]


def test_extra_prompts_do_not_run_out():
    made = stream({"a": 3}, batch_size=8)
    assert {raw for raw in raws(made.extra(0, round) for round in range(3))} == {"a0", "a1", "a2"}


def test_a_stream_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no prompts in b"):
        stream({"a": 1, "b": 0})
    with pytest.raises(ValueError, match="no prompts in any source"):
        stream({})
    with pytest.raises(ValueError, match="batch_size=0"):
        stream({"a": 1}, batch_size=0)
