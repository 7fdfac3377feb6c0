"""Steps as a pure function of their number: which rows, in which micro-batch, on which rank.

Nothing but the step's number is state: mixing, shuffling and packing are functions of the seed and
the epoch. Rows of a step are the same for every number of ranks as
long as rows per step (batch size × accumulation × ranks) are; every row is in exactly one step of
an epoch; the last, shorter step of an epoch is a step like any other.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from tunesmith.data import mix
from tunesmith.data.blocks import Block, Plan, documents
from tunesmith.data.collate import collate_items, filler
from tunesmith.data.order import permutation
from tunesmith.data.pack import best_fit
from tunesmith.data.store import Dataset
from tunesmith.types import Batch, Example, Step

Unit = np.ndarray | Block
"""What the batch size counts: rows of the dataset, or a block of the joined documents."""

PREFETCH = 2
"""Steps built ahead; a step is built much faster than it is trained."""


class Mixture(NamedTuple):
    """How several sources become one epoch; see `data.mix`."""

    strategy: mix.Strategy = "concat"
    probs: tuple[float, ...] | None = None


CONCAT = Mixture()


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Steps of one rank.

    A *unit* is what the batch size counts: a row (`packing: none`), a bin (`pack`) or a block.
    """

    dataset: Dataset
    seed: int
    batch_size: int
    """Units of one micro-batch of one rank."""
    accumulation: int = 1
    """Micro-batches of a step."""
    max_length: int = 0
    """Tokens of a bin or block; not used with `packing: none`."""
    packing: Literal["none", "pack", "blocks"] = "none"
    shuffle: bool = True
    buffer_size: int | None = None
    """Shuffle with a buffer of so many rows; None: draw from all."""
    mixture: Mixture = CONCAT
    rank: int = 0
    world: int = 1
    padded: bool = False
    """One example a row, for models and tuners that can't take examples end to end."""
    share_prompts: bool = False
    """What the examples of a row begin with alike is laid out once."""
    max_forward_tokens: int | None = None
    """A micro-batch of more tokens is cut into several at borders of rows; None: never."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """Values of each row that are no tokens, such as log-probabilities under a reference."""

    _units: Any = field(init=False, repr=False, compare=False)
    _sizes: Any = field(init=False, repr=False, compare=False)
    """Steps of each epoch, kept: counting them means to fill its bins."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_units", lru_cache(maxsize=2)(self._plan))
        object.__setattr__(self, "_sizes", lru_cache(maxsize=None)(self.steps_in_epoch))
        mix.check(int(self.dataset.source_N.max(initial=0)) + 1, *self.mixture)

    # ------------------------------------------------------------ how many

    @property
    def units_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.world

    def steps_in_epoch(self, epoch: int = 0) -> int:
        """Steps of an epoch, the last one perhaps shorter.

        The same for every epoch but where bins are filled with a mixture of which each epoch takes
        other rows."""
        if self.packing == "none" and self.mixture.strategy == "concat":
            return math.ceil(len(self.dataset) / self.units_per_step)
        return math.ceil(len(self._units(epoch if self._varies else 0)) / self.units_per_step)

    @property
    def _varies(self) -> bool:
        return self.packing != "none" and self.mixture.strategy != "concat"

    def total_steps(self, num_train_epochs: float, max_steps: int | None = None) -> int:
        """Steps of a run: max_steps, or so many epochs, rounded up."""
        if max_steps is not None:
            return max_steps
        # Rounded first: 0.1 + 0.2 epochs must not become one more step than 0.3.
        if not self._varies:
            return math.ceil(round(num_train_epochs * self.steps_in_epoch(), 6))
        whole = int(num_train_epochs)
        rest = (num_train_epochs - whole) * self.steps_in_epoch(whole)
        return self._first_step(whole) + math.ceil(round(rest, 6))

    def epoch_of(self, index: int) -> float:
        """Epochs done when `index` steps are done."""
        epoch, step = self._place(index)
        return epoch + step / self.steps_in_epoch(epoch)

    def ends_epoch(self, index: int) -> bool:
        """Whether an epoch is complete after `index` steps."""
        return index > 0 and self._place(index)[1] == 0

    def _first_step(self, epoch: int) -> int:
        return sum(self._sizes(number) for number in range(epoch))

    def _place(self, index: int) -> tuple[int, int]:
        """(epoch, step within it) of step `index`."""
        if not self._varies:
            return divmod(index, self.steps_in_epoch())
        epoch = 0
        while index >= (size := self._sizes(epoch)):
            epoch, index = epoch + 1, index - size
        return epoch, index

    # ------------------------------------------------------------ which rows

    def row_ids(self, index: int) -> list[int]:
        """Rows of step `index` (from 0) on all ranks, in order."""
        units = self._units_of(index)
        rows = [unit.rows if isinstance(unit, Block) else unit for unit in units]
        return [int(row) for one in rows for row in one]

    def describe(self, index: int) -> list[str]:
        """`file:line` of each row of a step."""
        return [self.dataset.where(row) for row in self.row_ids(index)]

    def _plan(self, epoch: int) -> list[Unit]:
        """All units of an epoch, in order; the same on every rank."""
        if self.packing == "blocks":
            return self._blocks(epoch)
        rows = self._order(self.dataset.source_N, epoch)
        if self.packing == "none":
            return list(rows.reshape(-1, 1))
        # Places, not rows: a row of a mixture may stand in an epoch twice, or not at all.
        places = best_fit(self.dataset.lengths[rows], self.max_length, np.arange(len(rows)))
        bins: list[Unit] = [rows[place] for place in places]
        if not self.shuffle:
            return bins
        # Bins sorted by their first row would put fullest (earliest-filled) ones unevenly.
        return [bins[i] for i in permutation(len(bins), self.seed, epoch, "bins")]

    def _order(self, source_N: np.ndarray, epoch: int) -> np.ndarray:
        """Rows (or documents) of an epoch by the number of each one's source."""
        strategy, probs = self.mixture
        if self.buffer_size is not None and self.shuffle and strategy == "concat":
            return mix.buffered(len(source_N), self.buffer_size, self.seed, epoch)
        return mix.rows(
            source_N, strategy, probs, seed=self.seed, epoch=epoch, shuffle=self.shuffle
        )

    def _blocks(self, epoch: int) -> list[Unit]:
        first_D, _ = documents(self.dataset)
        order_D = self._order(self.dataset.source_N[first_D], epoch)
        blocks = Plan.of(self.dataset, order_D).blocks(self.max_length)
        if not self.shuffle or self.buffer_size is not None:
            return list(blocks)
        # Neighbouring blocks are of one document: drawn, a step holds parts of many.
        return [blocks[i] for i in permutation(len(blocks), self.seed, epoch, "blocks")]

    def _units_of(self, index: int) -> list[Unit]:
        epoch, step = self._place(index)
        start = step * self.units_per_step
        return self._units(epoch)[start : start + self.units_per_step]

    # ------------------------------------------------------------ batches

    def step(self, index: int) -> Step:
        """The micro-batches of this rank in step `index` (from 0).

        Unit j of a step goes to micro-batch j // (world · batch size), whose units the ranks share
        evenly, in order; `max_forward_tokens` cuts it further. Every rank has the same number of
        micro-batches; one that has no row left gets a filler with units 0.
        """
        batches: list[Batch] = []
        for shares in self._shares(index):
            cut = [self._cut(share) for share in shares]
            mine, most = cut[self.rank], max(map(len, cut))
            batches += [self._batch(part) for part in mine] + [filler()] * (most - len(mine))
        return batches

    def micro_rows(self, index: int) -> list[list[int]]:
        """Rows of this rank in step `index`, by micro-batch, which is not cut; not for blocks."""
        return [
            [int(row) for unit in shares[self.rank] if not isinstance(unit, Block) for row in unit]
            for shares in self._shares(index)
        ]

    def _shares(self, index: int) -> list[list[list[Unit]]]:
        """Each rank's units of each micro-batch of a step."""
        units = self._units_of(index)
        per_micro = self.batch_size * self.world
        found = []
        for start in range(0, len(units), per_micro):
            micro = units[start : start + per_micro]
            share = math.ceil(len(micro) / self.world)
            found.append([micro[rank * share :][:share] for rank in range(self.world)])
        return found

    def _cut(self, units: Sequence[Unit]) -> list[Sequence[Unit]]:
        """Units of a micro-batch in parts for one forward pass; nothing is one empty part."""
        if self.max_forward_tokens is None or not units:
            return [units]
        single: list[Unit] = []
        for unit in units:
            single += [unit] if isinstance(unit, Block) else list(unit.reshape(-1, 1))
        lengths = [self._length(unit) for unit in single]
        borders = cut(lengths, self.max_forward_tokens, padded=self.padded)
        return [single[part] for part in borders]

    def _length(self, unit: Unit) -> int:
        if isinstance(unit, Block):
            return unit.stop - unit.start
        return int(self.dataset.lengths[unit].sum())

    def _batch(self, units: Sequence[Unit]) -> Batch:
        if not units:
            return filler()
        items: list[tuple[Example, ...]] = []
        rows: list[int] = []
        for unit in units:
            if isinstance(unit, Block):  # parts of documents have no columns
                items.append((unit.example(),))
            else:
                rows += [int(row) for row in unit]
        items += [self.dataset[row] for row in rows]
        columns = {name: values[rows] for name, values in self.columns.items()} if rows else {}
        return collate_items(
            items, columns=columns, padded=self.padded, share_prompts=self.share_prompts
        )

    def with_column(self, name: str, values: np.ndarray) -> Loader:
        """The loader with one more value or vector for each row; batches carry it in `extra`."""
        return replace(self, columns={**self.columns, name: values})

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Steps start … stop-1, built ahead in a thread (which draws nothing at random)."""
        return prefetched(lambda: map(self.step, range(start, stop)))


def prefetched(make: Callable[[], Iterator[Step]]) -> Iterator[Step]:
    """Steps built ahead in a thread; what it raises is raised where they are asked for."""
    ready: queue.Queue[Step | BaseException | None] = queue.Queue(PREFETCH)
    closed = threading.Event()
    thread = threading.Thread(target=_produce, args=(make, ready, closed), daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()


def _produce(
    make: Callable[[], Iterator[Step]], ready: queue.Queue, closed: threading.Event
) -> None:
    try:
        for step in make():
            if not _put(ready, step, closed):
                return
        _put(ready, None, closed)
    except BaseException as error:
        _put(ready, error, closed)


def cut(lengths: Sequence[int], limit: int, *, padded: bool = False) -> list[slice]:
    """Neighbours joined while they have at most `limit` tokens, padding counted; a longer one is
    alone."""
    parts: list[slice] = []
    first = total = longest = 0
    for at, length in enumerate(lengths):
        widest = max(longest, length)
        size = widest * (at - first + 1) if padded else total + length
        if at > first and size > limit:
            parts.append(slice(first, at))
            first, total, widest = at, 0, length
        total, longest = total + length, widest
    return [*parts, slice(first, len(lengths))]


def _put(ready: queue.Queue, item: object, closed: threading.Event) -> bool:
    """Waits for room; False once nobody asks any more."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
