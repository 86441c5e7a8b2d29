"""A folder for runs that cannot be had."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("runs", ["/proc/nope", "a_file"])
def test_it_is_said_without_a_traceback(r1lit, tmp_path, runs):
    (tmp_path / "a_file").touch()
    done = r1lit(f"runs={runs}", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"runs={runs}: " in done.stderr and "set runs=ANOTHER_FOLDER" in done.stderr
