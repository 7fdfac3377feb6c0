"""Keys and values of the requests in hand: lanes of slots, key heads only, within a token budget.

A lane holds rows of one capacity (a power of two); a row begins in the lane its prompt fits and
moves to the next when it is full, so short answers never pay for the room of long ones. The rows
of a lane lie side by side, so one product attends for all of them. Query heads that share a key
head look at the same memory: nothing is repeated.

Legend: `R` rows of a lane, `K` key heads, `C` capacity, `E` width of a head, `n` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tunesmith.models import pages

SMALLEST = 64
"""Capacity of the first lane."""


@dataclass(eq=False)
class Place:
    """Where a request's keys and values lie, and how many tokens of it are there."""

    lane: Lane
    row: int
    length: int = 0


@dataclass(eq=False)
class Lane:
    """Rows of `capacity` tokens; `places` are its live rows, in order, without gaps."""

    capacity: int
    rows: int = 0
    """Rows that memory is held for."""
    keys: dict[int, Tensor] = field(default_factory=dict)
    """By layer, shape (R, K, C, E)."""
    values: dict[int, Tensor] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    _views: dict[tuple[int, int], tuple[Any, Any]] = field(default_factory=dict)

    def tables(self) -> list[dict[int, Tensor]]:
        return [self.keys, self.values]

    def resize(self, rows: int) -> None:
        """Holds memory for so many rows; live ones are kept."""
        for table in self.tables():
            for layer, old in table.items():
                new = _zeros((rows, *old.shape[1:]), old)
                new[: len(self.places)] = old[: len(self.places)]
                table[layer] = new
        self.rows = rows
        self._views.clear()

    def row(self, layer: int, row: int) -> tuple[Any, Any]:
        """Keys and values of a row, (K, C, E), as NumPy has them: the same memory, on a CPU."""
        found = self._views.get((layer, row))
        if found is None:
            found = self.keys[layer][row].numpy(), self.values[layer][row].numpy()
            self._views[layer, row] = found
        return found

    def layer(self, layer: int, keys_nKE: Tensor, values_nKE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; made when it first writes, in the widths it writes."""
        if layer not in self.keys:
            for table, like in ((self.keys, keys_nKE), (self.values, values_nKE)):
                # zeros, not garbage: what is masked away is still multiplied with 0
                shape = (self.rows, like.shape[1], self.capacity, like.shape[2])
                table[layer] = _zeros(shape, like)
        return self.keys[layer], self.values[layer]


class Lanes:
    """All lanes of an engine.

    Args:
        budget: Tokens that memory may be held for, over all rows.
    """

    def __init__(self, budget: int):
        self.budget = budget
        self.lanes: dict[int, Lane] = {}

    @property
    def held(self) -> int:
        """Tokens that memory is held for."""
        return sum(lane.rows * lane.capacity for lane in self.lanes.values())

    def take(self, tokens: int) -> Place | None:
        """A new place with room for so many tokens; None if the budget has no room."""
        lane = self._lane(tokens)
        if len(lane.places) == lane.rows and not self._grow(lane):
            self._sweep()
            return None
        place = Place(lane, len(lane.places))
        lane.places.append(place)
        return place

    def ensure(self, place: Place, tokens: int) -> bool:
        """Makes room for so many tokens, in another lane if need be; False: the budget is full."""
        if tokens <= place.lane.capacity:
            return True
        new = self.take(tokens)
        if new is None:
            return False
        old, length = place.lane, place.length
        for layer, keys in old.keys.items():
            values = old.values[layer]
            made = new.lane.layer(layer, keys[0].transpose(0, 1), values[0].transpose(0, 1))
            for table, mine in zip(made, (keys, values), strict=True):
                table[new.row, :, :length] = mine[place.row, :, :length]
        self.release(place)
        new.lane.places[new.row] = place
        place.lane, place.row = new.lane, new.row
        return True

    def copy(self, source: Place, target: Place) -> None:
        """Makes a place of the same lane hold what another one holds."""
        for table in source.lane.tables():
            for held in table.values():
                held[target.row, :, : source.length] = held[source.row, :, : source.length]
        target.length = source.length

    def release(self, place: Place, *, wipe: bool = False) -> None:
        """Gives a place back; the lane's last row moves into the gap.

        Args:
            place: What is not needed any more.
            wipe: Overwrites it with zeros: NaN would spread to whoever comes after.
        """
        lane = place.lane
        last = lane.places.pop()
        for table in lane.tables():
            for held in table.values():
                if last is not place:
                    held[place.row, :, : last.length] = held[last.row, :, : last.length]
                    if wipe:
                        held[place.row, :, last.length :] = 0
                elif wipe:
                    held[place.row] = 0
        if last is not place:
            lane.places[place.row] = last
            last.row = place.row
        self._sweep()

    def _lane(self, tokens: int) -> Lane:
        capacity = max(SMALLEST, 1 << (tokens - 1).bit_length())
        capacity = min(capacity, max(self.budget, tokens))
        return self.lanes.setdefault(capacity, Lane(capacity))

    def _grow(self, lane: Lane) -> bool:
        """Room for at least one more row: twice as many, or as many as the budget allows."""
        if self.held + lane.capacity > self.budget:
            for other in self.lanes.values():  # what others hold in reserve
                if other.rows > len(other.places):
                    other.resize(len(other.places))
        free = (self.budget - self.held) // lane.capacity
        if free < 1:
            return False
        lane.resize(lane.rows + min(free, max(1, lane.rows)))
        return True

    def _sweep(self) -> None:
        """Lanes without rows give their memory back."""
        self.lanes = {c: lane for c, lane in self.lanes.items() if lane.places}


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    return pages.zeros(shape, like.dtype)


def token_bytes(lanes: Lanes) -> int:
    """Bytes a token takes in the lanes at hand: keys and values of all layers."""
    lane = next(iter(lanes.lanes.values()))
    tables = [held for table in lane.tables() for held in table.values()]
    return sum(held.shape[1] * held.shape[3] * held.element_size() for held in tables)
