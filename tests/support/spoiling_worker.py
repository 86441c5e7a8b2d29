"""A worker of vLLM that fails in the next push, where and how a test asks for it through ``collective_rpc``."""

from __future__ import annotations

import json
import os
from typing import Any

from r1lit.rollout.vllm_worker import WeightReceiver

RECEIVER = "spoiling_worker.SpoilingReceiver"


class SpoilingReceiver(WeightReceiver):
    _r1lit_spoils: dict[str, Any] | None = None
    _r1lit_last: list | None = None

    def r1lit_spoil(self, how: str) -> dict[str, Any]:
        """``how``, a JSON object: which ``worker``, and that it gets the first element of a ``row`` of ``name`` wrong,
        loads a ``stale`` push, ``raises``, or ``dies``."""
        asked = json.loads(how)
        self._r1lit_spoils = asked if asked.pop("worker") == self.rank else None
        return {"worker": self.rank}

    def r1lit_load(self, weights, version: str) -> dict[str, Any]:
        how, self._r1lit_spoils = self._r1lit_spoils or {}, None
        # Where it raises, the rest of the push is to be left for the caller.
        held = list(_spoilt(weights, how))
        last, self._r1lit_last = self._r1lit_last, held
        return super().r1lit_load(last if how.get("stale") else held, version)


def _spoilt(weights, how):
    for number, (name, tensor) in enumerate(weights):
        if number == 3 and how.get("raises"):
            raise KeyError("a worker of the test's")
        if number == 3 and how.get("dies"):
            os._exit(9)
        if name == how.get("name"):
            tensor = tensor.clone()
            tensor[how["row"]].view(-1)[0] += 0.5
        yield name, tensor
