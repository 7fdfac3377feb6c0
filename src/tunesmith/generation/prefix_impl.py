"""Beginnings that were computed before: blocks of keys and values, found by what led to them.

A block's name is a hash of its tokens and of the name of the block before it (as in
arXiv:2309.06180, section 4.3), so equal names mean equal histories. Blocks are copied in and out,
which costs a small fraction of computing them; the least recently used are dropped first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from tunesmith.generation.lanes_impl import Place

BLOCK = 32
"""Tokens of a block."""

Block = list[dict[int, Tensor]]


class Prefixes:
    """Blocks that were kept.

    Args:
        budget: Tokens that may be kept.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self._kept: OrderedDict[bytes, Block] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def names(self, ids: Sequence[int], adapter: str | None) -> list[bytes]:
        """Names of the whole blocks of a sequence."""
        name = hashlib.blake2b((adapter or "").encode(), digest_size=16).digest()
        names = []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            data = array("q", ids[start : start + BLOCK]).tobytes()
            name = hashlib.blake2b(name + data, digest_size=16).digest()
            names.append(name)
        return names

    def reach(self, names: Sequence[bytes]) -> int:
        """How many of the first blocks are kept."""
        return next((at for at, name in enumerate(names) if name not in self._kept), len(names))

    def restore(self, names: Sequence[bytes], place: Place) -> None:
        """Fills an empty place with kept blocks."""
        if not names:
            return
        blocks = [self._kept[name] for name in names]
        length = len(blocks) * BLOCK
        for side in (0, 1):
            for layer in blocks[0][side]:
                whole_KnE = torch.cat([block[side][layer] for block in blocks], dim=1)
                as_nKE = whole_KnE.transpose(0, 1)
                if side == 0:
                    values = blocks[0][1][layer].transpose(0, 1)
                    place.lane.layer(layer, as_nKE, values)
                place.lane.tables()[side][layer][place.row, :, :length] = whole_KnE
        place.length = length
        for name in reversed(names):  # the first blocks are dropped last
            self._kept.move_to_end(name)

    def keep(self, names: Sequence[bytes], place: Place) -> None:
        """Copies the blocks of a place that are not kept yet."""
        for at in range(min(len(names), self.budget // BLOCK) - 1, -1, -1):
            if names[at] in self._kept:
                self._kept.move_to_end(names[at])
                continue
            lane, start = place.lane, at * BLOCK
            self._kept[names[at]] = [
                {
                    layer: held[place.row, :, start : start + BLOCK].clone()
                    for layer, held in table.items()
                }
                for table in lane.tables()
            ]
        while len(self._kept) * BLOCK > self.budget:
            self._kept.popitem(last=False)

    def forget(self) -> None:
        """Drops all: the weights are others."""
        self._kept.clear()
