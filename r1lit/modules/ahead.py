"""Sampling ahead: the next steps' rollouts are drawn while the current one is learnt from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from r1lit.distributed.plan import computing_device
from r1lit.models.loading import clone_frozen
from r1lit.modules.kept_rollouts import pack, unpack
from r1lit.modules.timing import PhaseTimer
from r1lit.rollout.sampler import Sampler
from r1lit.settings import UserError
from r1lit.types import Prompt, Scored

Draw = Callable[[int, Sequence[Prompt]], Scored]


class StaleRolloutError(UserError):
    """A rollout was sampled from weights older than ``rollout.staleness`` allows."""


@dataclass(frozen=True)
class Pending:
    """A step's rollout that is being drawn, or waits to be learnt from, and after how many steps its weights stood."""

    version: int
    scored: Future[Scored]


class Ahead:
    """Gives each step its scored rollout, drawn from weights that are ``staleness`` steps old.

    The rollout of step t is drawn from the weights as they stood after ``t - staleness`` steps (or at the run's
    beginning), always, so that a run repeats. With ``staleness`` 0 nothing runs beside the training, and the rollout
    is drawn when it is asked for.

    In several processes each has such an object, and all call it alike. What one draws ends when all have drawn it, and
    fails where it fails in one, so that they wait for the same and save the same.

    Args:
        draw: ``(step, prompts) -> scored``; with ``staleness`` above 0 it is called in a thread of its own.
        sampler: what ``draw`` samples from; with ``staleness`` above 0 it must hold weights of its own.
        policy: whose weights it is given.
        staleness: S, steps.
        prompts_at: any step's prompts.
        steps: of the whole run.
        timer: its phase ``wait`` is what the training waits for rollouts under way.
    """

    def __init__(
        self,
        draw: Draw,
        sampler: Sampler,
        policy: nn.Module,
        staleness: int,
        prompts_at: Callable[[int], Sequence[Prompt]] | None,
        steps: int,
        timer: PhaseTimer,
    ):
        if staleness and prompts_at is None:
            raise ValueError(f"staleness={staleness}, but the prompts of later steps are not known; give prompts_at")
        self.draw, self.sampler, self.policy = draw, sampler, policy
        self.staleness, self.prompts_at, self.steps, self.timer = staleness, prompts_at, steps, timer
        self._pending: dict[int, Pending] = {}
        self._given: int | None = None
        self._thread: ThreadPoolExecutor | None = None

    def take(self, step: int, prompts: Sequence[Prompt]) -> tuple[Scored, int]:
        """The rollout of a step and how many steps old the weights are that it was drawn from; meanwhile the rollout
        of step ``step + staleness`` is begun with the weights as they are now.

        Raises:
            StaleRolloutError: for weights older than ``staleness``; nothing but a mistake in this class leads to it.
        """
        if not self.staleness:
            return self.draw(step, prompts), 0
        for missing in range(step, min(step + self.staleness, self.steps)):
            if missing not in self._pending:
                self._begin(missing, step)
        pending = self._pending[step]
        with self.timer.phase("wait"):
            scored = pending.scored.result()
        del self._pending[step]
        if (age := step - pending.version) > self.staleness:
            raise StaleRolloutError(
                f"the rollout of step {step} was sampled {age} steps ago, but rollout.staleness={self.staleness}"
            )
        if step + self.staleness < self.steps:
            self._begin(step + self.staleness, step)
        return scored, age

    def follow(self) -> None:
        """After an update: the sampler takes over the weights, unless it is at work or keeps older ones."""
        if not self.staleness:
            self.sampler.load_weights(self.policy)

    def settle(self) -> None:
        """Wait until nothing is being sampled or judged any more, and give the sampler the weights as they are now, so
        that others may use it; what was drawn is kept for its step."""
        self._wait_for_all()
        self.sampler.load_weights(self.policy)
        self._given = None

    def close(self) -> None:
        """Give up what has not begun."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The rollouts that wait for their steps, as plain data for a checkpoint; one that failed will do so again."""
        return [
            {"step": step, "version": pending.version, "rollout": pack(pending.scored.result())}
            for step, pending in self._pending.items()
            if pending.scored.exception() is None
        ]

    def load_state_dict(self, state: Sequence[dict[str, Any]], prompts_of: Callable[[int, int], list[Prompt]]) -> None:
        """Take up saved rollouts, where they still answer this run's prompts and are not too old for it.

        Args:
            state: from ``state_dict``.
            prompts_of: ``(step, count) -> prompts``, all that a step may have been asked, in the order of its groups.
        """
        for kept in state:
            step, version = kept["step"], kept["version"]
            prompts = prompts_of(step, len(kept["rollout"]["prompt_ids"]))
            scored = unpack(kept["rollout"], prompts, computing_device(self.policy))
            if scored is None or step - version > self.staleness:
                continue
            done: Future[Scored] = Future()
            done.set_result(scored)
            self._pending[step] = Pending(version, done)

    def _begin(self, step: int, version: int) -> None:
        """Have a step's rollout drawn from the policy as it stands after ``version`` steps."""
        source = None
        if self._given != version:
            if self.sampler.in_step:
                # Processes that were waiting to push together beside the training would wait for each other.
                with self.timer.phase("wait"):
                    self._wait_for_all()
            # A sampler at work keeps its weights until it is done; a copy of the new ones waits for its turn.
            busy = any(not pending.scored.done() for pending in self._pending.values())
            source = clone_frozen(self.policy) if busy else None
            if not busy:
                self.sampler.load_weights(self.policy)
            self._given = version
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "rollout", *_on_this_device())
        self._pending[step] = Pending(version, self._thread.submit(self._drawn, step, source, Arithmetic.now()))

    def _wait_for_all(self) -> None:
        wait([pending.scored for pending in self._pending.values()])

    def _drawn(self, step: int, source: nn.Module | None, arithmetic: Arithmetic) -> Scored:
        with arithmetic.autocast():
            if source is not None:
                self.sampler.load_weights(source)
            return self.draw(step, self.prompts_at(step))


def _on_this_device() -> tuple[Callable[[int], None], tuple[int]] | tuple[()]:
    """What a new thread is to do at first, and with what: another would begin on the first GPU."""
    return (torch.cuda.set_device, (torch.cuda.current_device(),)) if torch.cuda.is_available() else ()


@dataclass(frozen=True)
class Arithmetic:
    """The autocast of a thread, for another thread, which does not inherit it.

    Attributes:
        enabled: by device type.
        dtypes: by device type.
    """

    enabled: dict[str, bool]
    dtypes: dict[str, torch.dtype]

    @classmethod
    def now(cls) -> Arithmetic:
        """That of the calling thread."""
        kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
        return cls(
            {kind: torch.is_autocast_enabled(kind) for kind in kinds},
            {kind: torch.get_autocast_dtype(kind) for kind in kinds},
        )

    def autocast(self) -> torch.autocast:
        """The context that sets it."""
        kind = next((kind for kind, enabled in self.enabled.items() if enabled), "cpu")
        return torch.autocast(kind, self.dtypes[kind], enabled=self.enabled[kind])
