"""Sequences in passes through a model, this process's share of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from r1lit.distributed.plan import computing_device
from r1lit.distributed.ranks import Ranks
from r1lit.models.packing import Packed, Packing, Sequenced, micro_batches


def passes(
    model: PreTrainedModel, items: Sequence[Sequenced], tokens: int, packing: Packing, ranks: Ranks
) -> Iterator[tuple[Packed, bool]]:
    """This process's items in passes of at most ``tokens`` tokens, on the model's device.

    Each comes with True; where the processes pass through the model together, and another has more of them, further
    ones come with False, which are to count for nothing. A pass's ``places`` are those among all items.
    """

    def packed(places: Sequence[int]) -> Iterator[Packed]:
        for part in micro_batches(model, [items[place] for place in places], tokens, packing):
            among_all = tuple(places[place] for place in part.places)
            yield replace(part, places=among_all).to(computing_device(model))

    lengths = [len(item.ids) for item in items]
    shortest = min(range(len(items)), key=lambda place: lengths[place])
    yield from ranks.level(packed(sorted(ranks.own(lengths))), lambda: next(packed([shortest])))
