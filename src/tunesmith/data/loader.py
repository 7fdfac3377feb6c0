"""Steps as a pure function of their number: which rows, in which micro-batch, on which rank.

Nothing but the step's number is state. Rows of a step are the same for every number of ranks as
long as rows per step (batch size × accumulation × ranks) are; every row is in exactly one step of
an epoch; the last, shorter step of an epoch is a step like any other.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from tunesmith.data.collate import collate_items, filler
from tunesmith.data.order import permutation
from tunesmith.data.pack import best_fit
from tunesmith.data.store import Dataset
from tunesmith.types import Batch, Step

PREFETCH = 2
"""Steps built ahead; a step is built much faster than it is trained."""


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Steps of one rank.

    A *unit* is what the batch size counts: a row (`packing: none`) or a bin (`packing: pack`).
    """

    dataset: Dataset
    seed: int
    batch_size: int
    """Units of one micro-batch of one rank."""
    accumulation: int = 1
    """Micro-batches of a step."""
    max_length: int = 0
    """Tokens of a bin; used only with `packing: pack`."""
    packing: Literal["none", "pack"] = "none"
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    padded: bool = False
    """One example a row, for models and tuners that can't take examples end to end."""
    share_prompts: bool = False
    """What the examples of a row begin with alike is laid out once."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """Values of each row that are no tokens, such as log-probabilities under a reference."""

    _units: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_units", lru_cache(maxsize=2)(self._plan))

    # ------------------------------------------------------------ how many

    @property
    def units_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.world

    def steps_in_epoch(self, epoch: int = 0) -> int:
        """Steps of an epoch, the last one perhaps shorter. The same for every epoch: how many bins
        best fit needs depends on the lengths only."""
        if self.packing == "none":
            return math.ceil(len(self.dataset) / self.units_per_step)
        return math.ceil(len(self._units(0)) / self.units_per_step)

    def total_steps(self, num_train_epochs: float, max_steps: int | None = None) -> int:
        """Steps of a run: max_steps, or so many epochs, rounded up."""
        if max_steps is not None:
            return max_steps
        # Rounded first: 0.1 + 0.2 epochs must not become one more step than 0.3.
        return math.ceil(round(num_train_epochs * self.steps_in_epoch(), 6))

    def epoch_of(self, index: int) -> float:
        """Epochs done when `index` steps are done."""
        return index / self.steps_in_epoch()

    def ends_epoch(self, index: int) -> bool:
        """Whether an epoch is complete after `index` steps."""
        return index > 0 and index % self.steps_in_epoch() == 0

    # ------------------------------------------------------------ which rows

    def row_ids(self, index: int) -> list[int]:
        """Rows of step `index` (from 0) on all ranks, in order."""
        return [int(row) for unit in self._units_of(index) for row in unit]

    def describe(self, index: int) -> list[str]:
        """`file:line` of each row of a step."""
        return [self.dataset.where(row) for row in self.row_ids(index)]

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """All units of an epoch, in order, each an array of rows; the same on every rank."""
        n = len(self.dataset)
        rows = permutation(n, self.seed, epoch) if self.shuffle else np.arange(n)
        if self.packing == "none":
            return list(rows.reshape(-1, 1))
        bins = best_fit(self.dataset.lengths, self.max_length, rows)
        if not self.shuffle:
            return bins
        # Bins sorted by their first row would put fullest (earliest-filled) ones unevenly.
        return [bins[i] for i in permutation(len(bins), self.seed, epoch, "bins")]

    def _units_of(self, index: int) -> list[np.ndarray]:
        epoch, step = divmod(index, self.steps_in_epoch())
        start = step * self.units_per_step
        return self._units(epoch)[start : start + self.units_per_step]

    # ------------------------------------------------------------ batches

    def step(self, index: int) -> Step:
        """The micro-batches of this rank in step `index` (from 0).

        Unit j of a step goes to micro-batch j // (world · batch size), whose units the ranks share
        evenly, in order. Every rank has the same number of micro-batches; one that has no row left
        gets a filler with units 0.
        """
        units = self._units_of(index)
        per_micro = self.batch_size * self.world
        batches: list[Batch] = []
        for start in range(0, len(units), per_micro):
            micro = units[start : start + per_micro]
            share = math.ceil(len(micro) / self.world)
            mine = micro[self.rank * share : (self.rank + 1) * share]
            batches.append(self._batch([int(row) for unit in mine for row in unit]))
        return batches

    def _batch(self, rows: list[int]) -> Batch:
        if not rows:
            return filler()
        columns = {name: values[rows] for name, values in self.columns.items()}
        items = [self.dataset[row] for row in rows]
        return collate_items(
            items, columns=columns, padded=self.padded, share_prompts=self.share_prompts
        )

    def with_column(self, name: str, values: np.ndarray) -> Loader:
        """The loader with one more value or vector for each row; batches carry it in `extra`."""
        return replace(self, columns={**self.columns, name: values})

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Steps start … stop-1, built ahead in a thread (which draws nothing at random)."""
        ready: queue.Queue[Step | BaseException | None] = queue.Queue(PREFETCH)
        closed = threading.Event()
        thread = threading.Thread(
            target=self._produce, args=(start, stop, ready, closed), daemon=True
        )
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            closed.set()

    def _produce(self, start: int, stop: int, ready: queue.Queue, closed: threading.Event) -> None:
        try:
            for index in range(start, stop):
                if not _put(ready, self.step(index), closed):
                    return
            _put(ready, None, closed)
        except BaseException as error:  # raised where the steps are asked for
            _put(ready, error, closed)


def _put(ready: queue.Queue, item: object, closed: threading.Event) -> bool:
    """Waits for room; False once nobody asks any more."""
    while not closed.is_set():
        try:
            ready.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
