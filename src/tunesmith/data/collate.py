"""Examples to one Batch: end to end without padding, or padded rows for models that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

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
    import torch

    from tunesmith.types import Batch

    lengths_G = np.array([len(example.ids_T) for example in examples], np.int32)
    if any(example.weights_T[0] != 0 for example in examples):
        raise ValueError("the first token of a segment has a weight, but no predecessor")
    if padded:
        width = int(lengths_G.max())
        rows = np.arange(len(examples), dtype=np.int32) * width
        start_G = rows + (width - lengths_G if padding_side == "left" else 0)
        shape = (len(examples), width)
    else:
        start_G = np.concatenate([[0], np.cumsum(lengths_G[:-1])])
        shape = (1, int(lengths_G.sum()))
    size = shape[0] * shape[1]
    ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    weights = np.zeros(size, np.float32)
    for example, start, length in zip(examples, start_G, lengths_G, strict=True):
        ids[start : start + length] = example.ids_T
        weights[start : start + length] = example.weights_T
        positions[start : start + length] = np.arange(length)
    trained = [float(example.weights_T.sum(dtype=np.float64)) for example in examples]
    return Batch(
        *(torch.from_numpy(array.reshape(shape)) for array in (ids, weights, positions)),
        segments=Segments(
            start_G.astype(np.int32),
            lengths_G,
            np.full(len(examples), -1, np.int32),
            np.zeros(len(examples), np.int32),
        ),
        units={"tokens": sum(trained), "segments": float(sum(t > 0 for t in trained))},
    )


def collate_items(
    items: Sequence[tuple[Example, ...]],
    *,
    columns: Mapping[str, np.ndarray] | None = None,
    padded: bool = False,
    padding_side: Literal["left", "right"] = "right",
) -> Batch:
    """Lays rows, each of one or several examples, into a batch; see `collate`.

    Args:
        items: The examples of each row, at least one row.
        columns: One value or vector a row, by name; they go into `extra`.
        padded: One example a row of the batch, filled up on `padding_side`.

    Returns:
        A batch with two more units: `rows`, and `first_tokens`, Σ weights of first examples.
    """
    import torch

    flat = [example for item in items for example in item]
    batch = collate(flat, padded=padded, padding_side=padding_side)
    first = sum(float(item[0].weights_T.sum(dtype=np.float64)) for item in items)
    batch.units |= {"rows": float(len(items)), "first_tokens": first}
    batch.extra |= {name: torch.from_numpy(values) for name, values in (columns or {}).items()}
    return batch


def filler() -> Batch:
    """A batch that counts nothing, for ranks that have no row left in a step others still have."""
    empty = Example(np.zeros(2, np.int32), np.zeros(2, np.float32))
    batch = collate_items([(empty,)], padded=True)
    batch.units["rows"] = 0.0
    return batch
