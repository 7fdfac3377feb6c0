"""Documents end to end, cut into blocks of one length: what pretraining usually means by packing.

The documents of an epoch, in their order, are one stream of tokens (each ends in EOS); block b
is its tokens b·(L−1) … b·(L−1)+L−1. Neighbours share one token, which is a target in the first and
context in the second, so that every token but a document's first is predicted exactly once an
epoch, as without blocks. A block is one segment: its tokens see the end of the document before.
The last block may be shorter; nothing is dropped.

Legend: `P` pieces (items of the dataset in the order of the stream), `D` documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tunesmith.data.store import Dataset
from tunesmith.types import Example


def documents(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(first item, number of items) of each document, int64, shape (D,): neighbouring items of one
    row are the blocks of one document."""
    if not len(data):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    changes = np.diff(data.file_N) != 0
    changes |= np.diff(data.line_N) != 0
    first = np.concatenate([[0], np.flatnonzero(changes) + 1])
    return first, np.diff(np.append(first, len(data)))


class Block(NamedTuple):
    """Tokens start … stop of a stream."""

    plan: Plan
    start: int
    stop: int

    @property
    def rows(self) -> np.ndarray:
        """The items it has tokens of."""
        first, last = self.plan.span(self.start, self.stop)
        return self.plan.item_P[first:last]

    def example(self) -> Example:
        """Its ids and weights; the first token is context."""
        ids, weights = self.plan.tokens(self.start, self.stop)
        weights[0] = 0.0
        return Example(ids, weights)


@dataclass(frozen=True)
class Plan:
    """The stream of one epoch."""

    data: Dataset
    item_P: np.ndarray
    start_P: np.ndarray
    """int64, position of each piece in the stream."""
    skip_P: np.ndarray
    """int64, tokens at its beginning that the piece before has too: 1 within a document, else 0."""
    total: int

    @classmethod
    def of(cls, data: Dataset, order_D: np.ndarray) -> Plan:
        """The stream of these documents in this order; one may stand in it twice."""
        first_D, count_D = documents(data)
        first, count = first_D[order_D], count_D[order_D]
        ends = np.cumsum(count)
        within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - count, count)
        item = np.repeat(first, count) + within
        skip = (within > 0).astype(np.int64)
        length = data.lengths[item].astype(np.int64) - skip
        stop = np.cumsum(length)
        return cls(data, item, stop - length, skip, int(stop[-1]) if len(stop) else 0)

    def blocks(self, length: int) -> list[Block]:
        """All blocks of `length` tokens, the last one perhaps shorter."""
        starts = range(0, max(self.total - 1, 0), length - 1)
        return [Block(self, start, min(start + length, self.total)) for start in starts]

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Pieces that hold the tokens start … stop−1."""
        first = int(np.searchsorted(self.start_P, start, side="right")) - 1
        return first, int(np.searchsorted(self.start_P, stop, side="left"))

    def tokens(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """ids (int32) and weights (float32) of a part of the stream, both (stop − start,)."""
        ids = np.empty(stop - start, np.int32)
        weights = np.empty(stop - start, np.float32)
        for piece in range(*self.span(start, stop)):
            example = self.data[int(self.item_P[piece])][0]
            skip, at = int(self.skip_P[piece]), int(self.start_P[piece])
            begin, end = max(start, at), min(stop, at + len(example.ids_T) - skip)
            source, target = (
                slice(begin - at + skip, end - at + skip),
                slice(begin - start, end - start),
            )
            ids[target] = example.ids_T[source]
            weights[target] = example.weights_T[source]
        return ids, weights
