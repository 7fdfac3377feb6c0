"""Steps of data that is streamed: the same for every number of ranks, and exact after a resume.

The state is the number of the step. A resumed run reads and encodes the epoch from its beginning
up to that step, which costs time and no exactness; tokens are not kept anywhere.

Every rank goes through the same stream and takes its share of each step, so that world size never
decides which rows a step holds.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from tunesmith.data.collate import collate_items, filler
from tunesmith.data.loader import cut, prefetched
from tunesmith.data.pack import best_fit
from tunesmith.data.stream import Item, shuffled
from tunesmith.errors import DataError
from tunesmith.types import Batch, Example, Step

PACKED = 4096
"""Rows whose bins are filled together."""
T = TypeVar("T")
REMEMBERED = 8
"""Steps whose rows can still be told: more than are built ahead."""


class Unit(NamedTuple):
    """What the batch size counts: a row, a bin of rows, or a block of joined documents."""

    items: tuple[tuple[Example, ...], ...]
    where: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StreamLoader:
    """Steps of one rank; what `Loader` is for a token store."""

    items: Iterable[Item]
    """One epoch in the order of the rows; gone through anew for each epoch."""
    seed: int
    batch_size: int
    accumulation: int = 1
    max_length: int = 0
    packing: Literal["none", "pack", "blocks"] = "none"
    buffer_size: int | None = None
    """Items in the shuffle buffer; None: the order of the rows."""
    max_steps: int
    """Steps of the run: how long an epoch is shows at its end."""
    rank: int = 0
    world: int = 1
    padded: bool = False
    share_prompts: bool = False
    max_forward_tokens: int | None = None

    _ends: list[int] = field(default_factory=list, init=False, repr=False, compare=False)
    """Steps after which an epoch was complete, as far as the stream was read."""
    _places: OrderedDict[int, list[str]] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )

    @property
    def units_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.world

    def total_steps(self, num_train_epochs: float, max_steps: int | None = None) -> int:
        """Steps of a run: max_steps."""
        return max_steps if max_steps is not None else self.max_steps

    def epoch_of(self, index: int) -> float:
        """Whole epochs done when `index` steps are done: parts of one can't be told."""
        return float(sum(end <= index for end in self._ends))

    def ends_epoch(self, index: int) -> bool:
        """Whether an epoch is complete after `index` steps."""
        return index in self._ends

    def describe(self, index: int) -> list[str]:
        """`file:line` of each row of a step that was built lately."""
        return self._places.get(index, ["(no longer known)"])

    # ------------------------------------------------------------ steps

    def row_ids(self, index: int) -> list[int]:
        """Refused: streamed rows have no numbers.

        Raises:
            DataError: D216.
        """
        raise _needs_rows()

    def with_column(self, name: str, values: np.ndarray) -> StreamLoader:
        """Refused: nothing can be kept for each row.

        Raises:
            DataError: D216.
        """
        raise _needs_rows()

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Steps start … stop-1, built ahead in a thread."""
        return prefetched(lambda: self._steps(start, stop))

    def _steps(self, start: int, stop: int) -> Iterator[Step]:
        self._ends.clear()
        index = 0
        for epoch in itertools.count():
            before = index
            for units, last in _marked(_grouped(self._units(epoch), self.units_per_step)):
                if index >= stop:
                    return
                if last:
                    self._ends.append(index + 1)
                if index >= start:
                    self._places[index] = [place for unit in units for place in unit.where]
                    while len(self._places) > REMEMBERED:
                        self._places.popitem(last=False)
                    yield self._step(units)
                index += 1
            if index == before:
                fix = "check data.train and its format"
                raise DataError("D203", "there are no rows to train on", fix=fix)

    def _step(self, units: Sequence[Unit]) -> Step:
        """The micro-batches of this rank, shared out as `Loader.step` does."""
        per_micro = self.batch_size * self.world
        batches: list[Batch] = []
        for start in range(0, len(units), per_micro):
            micro = units[start : start + per_micro]
            share = -(-len(micro) // self.world)
            shares = [self._cut(micro[rank * share :][:share]) for rank in range(self.world)]
            mine, most = shares[self.rank], max(map(len, shares))
            batches += [self._batch(part) for part in mine] + [filler()] * (most - len(mine))
        return batches

    def _cut(self, units: Sequence[Unit]) -> list[list[tuple[Example, ...]]]:
        """Items of a micro-batch in parts for one forward pass; nothing is one empty part."""
        items = [item for unit in units for item in unit.items]
        if self.max_forward_tokens is None or not items:
            return [items]
        lengths = [sum(len(example.ids_T) for example in item) for item in items]
        return [items[part] for part in cut(lengths, self.max_forward_tokens, padded=self.padded)]

    def _batch(self, items: Sequence[tuple[Example, ...]]) -> Batch:
        if not items:
            return filler()
        return collate_items(items, padded=self.padded, share_prompts=self.share_prompts)

    # ------------------------------------------------------------ units

    def _units(self, epoch: int) -> Iterator[Unit]:
        if self.packing == "blocks":
            return blocks(self._ordered(documents(self.items), epoch), self.max_length)
        items = self._ordered(self.items, epoch)
        if self.packing == "none":
            return (Unit((item.examples,), (item.where,)) for item in items)
        return self._bins(items)

    def _ordered(self, items: Iterable[T], epoch: int) -> Iterator[T]:
        if self.buffer_size is None:
            return iter(items)
        return shuffled(items, self.buffer_size, self.seed, epoch)

    def _bins(self, items: Iterator[Item]) -> Iterator[Unit]:
        while group := list(itertools.islice(items, PACKED)):
            lengths = np.array([item.length for item in group])
            for places in best_fit(lengths, self.max_length, np.arange(len(group))):
                chosen = [group[place] for place in places.tolist()]
                yield Unit(tuple(item.examples for item in chosen), tuple(i.where for i in chosen))


def _needs_rows() -> DataError:
    what = "this stage keeps a value for each row, and streamed rows are not kept"
    return DataError("D216", what, where="data.streaming", fix="data.streaming=false")


def _grouped(units: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(itertools.islice(units, size)):
        yield group


def _marked(values: Iterator[T]) -> Iterator[tuple[T, bool]]:
    """Each value, and whether it is the last one."""
    for before in values:  # the first one; what follows is read here, one ahead
        for value in values:
            yield before, False
            before = value
        yield before, True


# ---------------------------------------------------------------- documents


def documents(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Neighbouring items of one row: the blocks of one document."""
    for _, group in itertools.groupby(items, key=lambda item: item.where):
        yield list(group)


def blocks(found: Iterator[list[Item]], length: int) -> Iterator[Unit]:
    """Documents end to end, cut into blocks that share one token: see `data.blocks`."""
    ids, weights = np.zeros(0, np.int32), np.zeros(0, np.float32)
    where: list[str] = []
    for document in found:
        where.append(document[0].where)
        for number, item in enumerate(document):
            skip = int(number > 0)  # the token that the block before has too
            example = item.examples[0]
            ids = np.concatenate([ids, example.ids_T[skip:]])
            weights = np.concatenate([weights, example.weights_T[skip:]])
            while len(ids) > length:  # a whole block, and a token that follows it
                yield _block(ids[:length], weights[:length], where)
                ids, weights, where = ids[length - 1 :], weights[length - 1 :], where[-1:]
    if len(ids) > 1:
        yield _block(ids, weights, where)


def _block(ids: np.ndarray, weights: np.ndarray, where: Sequence[str]) -> Unit:
    weights = weights.copy()
    weights[0] = 0.0
    return Unit(((Example(ids, weights),),), tuple(where))
