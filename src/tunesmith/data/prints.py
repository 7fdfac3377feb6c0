"""Hashes of what items say: rows are equal, for a check and for a holdout alike, if these are."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from tunesmith.data.store import Dataset
from tunesmith.types import Example

COMPARED = 1_000_000
"""Rows compared with each other; more would take longer than they are worth before every run."""


def of_items(data: Dataset, *, without: Collection[int] = ()) -> list[bytes]:
    """A hash of each item's tokens, and of which of them are trained, towards or away from.

    How much a token weighs doesn't count: the same row in a source of another weight is the same.

    Args:
        data: Items.
        without: Numbers of those examples of an item that say nothing of its row: in `stages.kto`
            the second is another row's answer.
    """
    if not without:
        return [of_examples(data[index]) for index in range(len(data))]
    said = lambda item: [one for number, one in enumerate(item) if number not in without]
    return [of_examples(said(data[index])) for index in range(len(data))]


def of_examples(examples: Sequence[Example]) -> bytes:
    """The hash of one item."""
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(len(example.ids_T).to_bytes(4, "little"))
        digest.update(np.ascontiguousarray(example.ids_T).data)
        digest.update(np.sign(example.weights_T).astype(np.int8).data)
    return digest.digest()
