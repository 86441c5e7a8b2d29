"""The soft overlong punishment, against TRL's own."""

from __future__ import annotations

import pytest
from trl.rewards import get_soft_overlong_punishment

from r1lit.rewards.overlong import overlong


@pytest.mark.parametrize(("limit", "buffer"), [(20, 5), (64, 16), (7, 7), (10, 1)])
def test_it_is_trls(limit, buffer):
    ids = [[1] * length for length in range(1, limit + 3)]
    theirs = get_soft_overlong_punishment(max_completion_len=limit, soft_punish_cache=buffer)
    assert overlong(ids, limit, buffer) == pytest.approx(theirs(completion_ids=ids))


def test_the_buffer_is_a_fifth_by_default():
    assert overlong([[1] * 48, [1] * 54, [1] * 60], 60) == [0.0, -0.5, -1.0]


def test_a_buffer_beyond_the_limit_is_refused():
    with pytest.raises(ValueError, match="buffer=30, but it is the last part of max_tokens=20"):
        overlong([[1]], 20, 30)
