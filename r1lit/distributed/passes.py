"""A batch's sequences shared out among processes, and each process's part in passes through the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from r1lit.distributed.plan import computing_device
from r1lit.distributed.ranks import Ranks
from r1lit.models.packing import Packed, Packing, Sequenced, micro_batches


def own_passes(
    model: PreTrainedModel, items: Sequence[Sequenced], tokens: int, packing: Packing, ranks: Ranks
) -> Iterator[tuple[Packed, bool]]:
    """This process's sequences in passes of at most ``tokens`` tokens, on the model's device; with False, one that is
    only made because other processes make one. ``places`` are those among all items.

    All processes are to call it with the same items.
    """
    lengths = [len(item.ids) for item in items]

    def batched(places: Sequence[int]) -> Iterator[Packed]:
        for part in micro_batches(model, [items[place] for place in places], tokens, packing):
            yield replace(part, places=tuple(places[place] for place in part.places)).to(computing_device(model))

    shortest = min(range(len(items)), key=lengths.__getitem__, default=0)
    yield from ranks.level(batched(ranks.own(lengths)), lambda: next(batched([shortest])))
