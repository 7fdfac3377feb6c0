"""Examples to one Batch: end to end without padding, or padded rows for models that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from tunesmith.types import Example, Segments

if TYPE_CHECKING:
    from tunesmith.types import Batch


def collate(
    examples: Sequence[Example],
    *,
    padded: bool = False,
    padding_side: Literal["left", "right"] = "right",
) -> Batch:
    """Lays examples into a batch; each example is one segment.

    Args:
        examples: At least one, none empty.
        padded: One example a row, filled up with id 0 outside every segment; else B = 1.
        padding_side: Where the filling goes.

    Returns:
        ids (B, T) int64, weights (B, T) float32, positions (B, T) int64 from 0 in each segment,
        units {"tokens": Σ weights, "segments": number of segments with weight}.

    Raises:
        ValueError: a first token has a weight: it has no predecessor that could predict it.
    """
    pieces = [Piece(*example) for example in examples]
    return _laid(pieces, padded, padding_side)


class Piece(NamedTuple):
    """A segment before it is laid out."""

    ids_T: np.ndarray
    weights_T: np.ndarray
    parent: int = -1
    """Index of the piece it continues, a shared prompt, or -1."""
    begin: int = 0
    """Position of its first token: the length of what it continues."""


def _laid(pieces: Sequence[Piece], padded: bool, padding_side: str) -> Batch:
    import torch

    from tunesmith.types import Batch

    lengths_G = np.array([len(piece.ids_T) for piece in pieces], np.int32)
    if any(piece.weights_T[0] != 0 and piece.parent < 0 for piece in pieces):
        raise ValueError("the first token of a segment has a weight, but no predecessor")
    if padded:
        width = int(lengths_G.max())
        rows = np.arange(len(pieces), dtype=np.int32) * width
        start_G = rows + (width - lengths_G if padding_side == "left" else 0)
        shape = (len(pieces), width)
    else:
        start_G = np.concatenate([[0], np.cumsum(lengths_G[:-1])])
        shape = (1, int(lengths_G.sum()))
    size = shape[0] * shape[1]
    ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    weights = np.zeros(size, np.float32)
    for piece, start, length in zip(pieces, start_G, lengths_G, strict=True):
        ids[start : start + length] = piece.ids_T
        weights[start : start + length] = piece.weights_T
        positions[start : start + length] = np.arange(piece.begin, piece.begin + length)
    trained = [float(piece.weights_T.sum(dtype=np.float64)) for piece in pieces]
    return Batch(
        *(torch.from_numpy(array.reshape(shape)) for array in (ids, weights, positions)),
        segments=Segments(
            start_G.astype(np.int32),
            lengths_G,
            np.array([piece.parent for piece in pieces], np.int32),
            np.zeros(len(pieces), np.int32),
        ),
        units={"tokens": sum(trained), "segments": float(sum(t > 0 for t in trained))},
    )


def collate_items(
    items: Sequence[tuple[Example, ...]],
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    padded: bool = False,
    padding_side: Literal["left", "right"] = "right",
    share_prompts: bool = False,
) -> Batch:
    """Lays rows, each of one or several examples, into a batch; see `collate`.

    Args:
        items: The examples of each row, at least one row.
        columns: One value or vector a row, by name; they go into `extra`.
        padded: One example a row of the batch, filled up on `padding_side`.
        share_prompts: What the examples of a row begin with alike, and is not trained, is laid out
            and computed once: a segment that the others continue.

    Returns:
        A batch with two more units: `rows`, and `first_tokens`, Σ weights of first examples. Of
        shared prompts `extra["example"]` tells which example a segment ends, -1 for the prompts.
    """
    import torch

    if share_prompts and not padded and any(len(item) > 1 for item in items):
        pieces, owners = _shared(items)
        batch = _laid(pieces, padded, padding_side)
        batch.extra["example"] = torch.tensor(owners)
    else:
        flat = [example for item in items for example in item]
        batch = collate(flat, padded=padded, padding_side=padding_side)
    first = sum(float(item[0].weights_T.sum(dtype=np.float64)) for item in items)
    batch.units |= {"rows": float(len(items)), "first_tokens": first}
    batch.extra |= {name: torch.from_numpy(values) for name, values in (columns or {}).items()}
    return batch


def _shared(items: Sequence[tuple[Example, ...]]) -> tuple[list[Piece], list[int]]:
    """Pieces of rows whose prompts are laid out once, and which example each piece ends."""
    pieces: list[Piece] = []
    owners: list[int] = []
    count = 0
    for item in items:
        shared = _shared_length(item) if len(item) > 1 else 0
        parent = -1
        if shared:
            parent = len(pieces)
            first = next(iter(item))
            pieces.append(Piece(first.ids_T[:shared], first.weights_T[:shared]))
            owners.append(-1)
        for example in item:
            pieces.append(Piece(example.ids_T[shared:], example.weights_T[shared:], parent, shared))
            owners.append(count)
            count += 1
    return pieces, owners


def _shared_length(item: tuple[Example, ...]) -> int:
    """Tokens that all examples of a row begin with, none of them trained, each keeping one."""
    longest = min(len(example.ids_T) for example in item) - 1
    first = item[0]
    for example in item:
        trained = np.flatnonzero(example.weights_T[:longest])
        longest = min(longest, int(trained[0])) if len(trained) else longest
        differs = np.flatnonzero(example.ids_T[:longest] != first.ids_T[:longest])
        longest = min(longest, int(differs[0])) if len(differs) else longest
    return longest


def filler() -> Batch:
    """A batch that counts nothing, for ranks that have no row left in a step others still have."""
    empty = Example(np.zeros(2, np.int32), np.zeros(2, np.float32))
    batch = collate_items([(empty,)], padded=True)
    batch.units["rows"] = 0.0
    return batch
