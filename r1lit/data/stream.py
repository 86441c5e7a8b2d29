"""The endless order of training prompts, every batch a pure function of the seed and the step."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from heapq import heapify, heapreplace
from itertools import islice
from math import floor
from typing import Generic, TypeVar

from r1lit.data.parting import Loaded
from r1lit.data.settings import DataSettings

Item = TypeVar("Item")


class PromptStream(Generic[Item]):
    """Training prompts, or other items, in seeded order, mixed by weight.

    Batch ``i`` depends on the seed and on ``i`` alone, so that a resumed run repeats nothing and loses nothing.
    Each source gives each of its prompts once an epoch of its own, in another order every epoch; each stretch of
    the stream holds every source in proportion to its weight, to within about one prompt.

    Args:
        sources: the prompts by source.
        weights: each source's relative share.
        batch_size: B, prompts a batch.
        seed: of the orders.

    >>> from r1lit.types import Prompt
    >>> stream = PromptStream({"a": [Prompt((n,), str(n)) for n in range(4)]}, {"a": 1.0}, batch_size=2, seed=0)
    >>> sorted(prompt.raw for step in range(2) for prompt in stream.batch(step))
    ['0', '1', '2', '3']
    """

    def __init__(self, sources: Mapping[str, Sequence[Item]], weights: Mapping[str, float], batch_size: int, seed: int):
        empty = [name for name, prompts in sources.items() if not prompts]
        if empty or not sources:
            raise ValueError(f"no prompts in {', '.join(empty) or 'any source'}; give each source one at least")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}, but a batch holds prompts; set it >= 1")
        self.batch_size, self.seed = batch_size, seed
        self._names = list(sources)
        self._prompts = [list(prompts) for prompts in sources.values()]
        total = sum(Fraction(weights[name]) for name in sources)
        self._shares = [Fraction(weights[name]) / total for name in sources]
        # An order is a pure function; it is kept because the batches of an epoch share it.
        self._order = lru_cache(maxsize=4 * len(sources))(self._shuffled)

    def batch(self, step: int) -> list[Item]:
        """The prompts of a step, counted from 0."""
        return [self._prompts[source][index] for source, index in self._indices(step)]

    def extra(self, step: int, round: int) -> list[Item]:
        """Further prompts for a step, in rounds from 0: none of its batch nor of its earlier rounds while there are
        others. DAPO's dynamic sampling (arXiv 2503.14476) asks for them in place of groups that teach nothing."""
        used = set(self._indices(step))
        orders = [self._shuffled(source, f"extra {step}") for source in range(len(self._prompts))]
        fresh = [[i for i in order if (source, i) not in used] or order for source, order in enumerate(orders)]
        picked = islice(turns(self._shares, round * self.batch_size), self.batch_size)
        return [self._prompts[source][fresh[source][turn % len(fresh[source])]] for source, turn in picked]

    def _indices(self, step: int) -> list[tuple[int, int]]:
        picked = []
        for source, turn in islice(turns(self._shares, step * self.batch_size), self.batch_size):
            epoch, place = divmod(turn, len(self._prompts[source]))
            picked.append((source, self._order(source, f"epoch {epoch}")[place]))
        return picked

    def _shuffled(self, source: int, occasion: str) -> list[int]:
        order = list(range(len(self._prompts[source])))
        random.Random(f"{self.seed} {self._names[source]} {occasion}").shuffle(order)
        return order


def epochs(loaded: Loaded[Item], settings: DataSettings, batch_size: int) -> PromptStream[Item]:
    """Batches of every item once an epoch; where a source is given a weight, of the sources in their shares instead."""
    given = any("weight" in source.model_fields_set for source in settings.training_sources.values())
    sources, weights = (loaded.sources, loaded.weights) if given else ({"all": loaded.train}, {"all": 1.0})
    return PromptStream(sources, weights, batch_size, settings.seed)


def turns(shares: Sequence[Fraction], start: int) -> Iterator[tuple[int, int]]:
    """Whose turn it is from place ``start`` of a mixture on: pairs of a source and how many turns it had before.

    Turn k of a source of share w is due at (k + 1/2) / w; sources go in the order in which they are due. The shares
    sum to 1; being exact fractions they give the same order from any start.

    >>> list(islice(turns([Fraction(2, 3), Fraction(1, 3)], 0), 6))
    [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1), (0, 3)]
    >>> list(islice(turns([Fraction(2, 3), Fraction(1, 3)], 4), 2))
    [(1, 1), (0, 3)]
    """
    # Turns due by then number at most half a turn a source more than the time that has passed: not beyond start.
    behind = max(0, start - len(shares))
    given = [floor(share * behind + Fraction(1, 2)) for share in shares]
    queue = [
        (Fraction(2 * count + 1) / (2 * share), source, count)
        for source, (share, count) in enumerate(zip(shares, given, strict=True))
    ]
    heapify(queue)
    skip = start - sum(given)
    while True:
        due, source, count = queue[0]
        if skip:
            skip -= 1
        else:
            yield source, count
        heapreplace(queue, (due + 1 / shares[source], source, count + 1))
